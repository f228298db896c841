"""The edge network and its queues (docs/model.md: "The network and its queues")."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.core.checks import fields, flag
from jaxmec.mec import checks
from jaxmec.struct import Leaf, leaf, pytree, replace, static


@pytree
class EdgeNetwork:
    """B base stations, each hosting one edge server, joined by a wired core network.

    ``uplink_contention`` says whether the tasks that a station sends in one slot wait for
    one another on its uplink. ``uplink_cap`` bounds the time a station's uplink can be
    committed by tasks that are split, and ``max_wait`` bounds a queue's wait; both are
    infinite unless a published setting says otherwise.

    Raises:
        ValueError: a capacity, rate or length that is not positive, or shapes that disagree.
    """

    capacity: Leaf  # [B] Gcycles/s, f
    rate: Leaf  # [B] Mbit/s, r
    slot_length: Leaf = leaf(default=1.0)  # s, Δ
    uplink_contention: bool = static(default=True)
    uplink_cap: Leaf = leaf(default=float("inf"))  # s
    max_wait: Leaf = leaf(default=float("inf"))  # s

    def __post_init__(self) -> None:
        checks.reals(self, "capacity", "rate", ndim=1, above=0)
        checks.reals(self, "slot_length", ndim=0, above=0)
        checks.reals(self, "uplink_cap", "max_wait", ndim=0, at_least=0, finite=False)
        checks.same_length(capacity=self.capacity, rate=self.rate)
        if self.num_servers == 0:
            raise ValueError("capacity must name at least one server, got none")
        fields(self, uplink_contention=flag)

    @property
    def num_servers(self) -> int:
        """B."""
        return self.capacity.shape[-1]


@pytree
class QueueState:
    """What lies in the queues within one slot."""

    backlog: Leaf  # [B] Gcycles queued when the slot began, Q
    inflight: Leaf  # [B] Gcycles added by this slot's decisions so far, q
    uplink: Leaf  # [B] s for which each station's uplink is committed in this slot, u

    def __post_init__(self) -> None:
        checks.reals(self, "backlog", "inflight", "uplink", ndim=1, at_least=0)
        checks.same_length(backlog=self.backlog, inflight=self.inflight, uplink=self.uplink)

    @classmethod
    def empty(cls, num_servers: int) -> QueueState:
        """Nothing queued anywhere."""
        return cls(
            backlog=jnp.zeros(num_servers),
            inflight=jnp.zeros(num_servers),
            uplink=jnp.zeros(num_servers),
        )


def check_queues(name: str, queues: QueueState, network: EdgeNetwork) -> None:
    """Raise ``ValueError`` unless there is a queue for each server: one would broadcast."""
    expected = (network.num_servers,)
    for field in ("backlog", "inflight", "uplink"):
        shape = jnp.shape(getattr(queues, field))
        if shape != expected:
            raise ValueError(f"{name}.{field} must have shape {expected}, got {shape}")


def advance_slot(network: EdgeNetwork, queues: QueueState, slots: ArrayLike = 1) -> QueueState:
    """The queues after the current slot has ended and ``slots - 1`` slots without tasks.

    Q ← max(Q + q − f Δ, 0) once, and max(Q − f Δ, 0) for each slot after it, which
    together is max(Q + q − slots f Δ, 0). With ``slots`` 0 the slot goes on and nothing
    changes.

    Raises:
        ValueError: queues of another number of servers.
    """
    check_queues("queues", queues, network)
    ended = jnp.asarray(slots) > 0
    served = slots * network.slot_length * network.capacity
    left = jnp.maximum(queues.backlog + queues.inflight - served, 0)
    zero = jnp.zeros_like(queues.inflight)
    return replace(
        queues,
        backlog=jnp.where(ended, left, queues.backlog),
        inflight=jnp.where(ended, zero, queues.inflight),
        uplink=jnp.where(ended, zero, queues.uplink),
    )
