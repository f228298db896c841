"""When servers are up, slowed and down (docs/serving.md: "Availability").

A server's speed is piecewise constant. Time at which it has done an amount of work, and work
done by a time, are sums over the pieces: O(K) each, without a search.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.mec import checks
from jaxmec.struct import is_concrete, pytree


@pytree
class Availability:
    """The speed of each of B servers, in K pieces.

    Piece p of server i begins at ``breaks[i, p]`` and lasts until the next one begins; the last
    goes on for ever. A piece that begins at infinity never does (padding, where servers have
    different numbers of pieces).

    Raises:
        ValueError: breaks that do not begin at 0 or do not increase, a speed that is negative
            or not finite, a server whose last piece is an outage.
    """

    breaks: Any  # [B, K] s
    speed: Any  # [B, K] of the nominal speed: 1, between 0 and 1 slowed, 0 down
    work: Any = dataclasses.field(init=False, repr=False)
    """[B, K] s at nominal speed, done by the time a piece begins: F_i(breaks)"""

    def __post_init__(self) -> None:
        breaks = checks.real("breaks", self.breaks, ndim=2, at_least=0, finite=False)
        speed = checks.real("speed", self.speed, ndim=2, at_least=0)
        checks.same_length(breaks=breaks, speed=speed)
        if is_concrete(breaks, speed):
            _check_pieces(np.asarray(breaks), np.asarray(speed))
        length = jnp.where(jnp.isinf(breaks[:, 1:]), 0, breaks[:, 1:] - breaks[:, :-1])
        length = jnp.where(jnp.isinf(breaks[:, :-1]), 0, length)
        done = jnp.cumsum(length * speed[:, :-1], axis=1)
        work = jnp.concatenate([jnp.zeros_like(breaks[:, :1]), done], axis=1)
        work = jnp.where(jnp.isinf(breaks), jnp.inf, work)
        for name, value in (("breaks", breaks), ("speed", speed), ("work", work)):
            object.__setattr__(self, name, value)

    @property
    def num_servers(self) -> int:
        """B."""
        return self.breaks.shape[-2]

    def draw(self, key: Any, steady: Any) -> Availability:
        """Itself: the law of what is known beforehand (:mod:`jaxmec.serving.scenario`)."""
        del key, steady
        return self


@pytree
class Pieces:
    """One server's speed; what may be asked of it."""

    breaks: Any  # [K] s
    speed: Any  # [K]
    work: Any  # [K] s at nominal speed

    @property
    def ends(self) -> jax.Array:
        """[K] s, when each piece ends."""
        return jnp.append(self.breaks[1:], jnp.inf)

    @property
    def falls(self) -> jax.Array:
        """[K] bool: an outage begins with the piece."""
        before = jnp.concatenate([jnp.ones_like(self.speed[:1]), self.speed[:-1]])
        return (self.speed == 0) & (before > 0)

    def work_by(self, time: Any) -> jax.Array:
        """[] s at nominal speed that is done by ``time``, F(t) = ∫₀ᵗ s."""
        begun = self.breaks <= time
        spent = jnp.where(begun, jnp.minimum(time, self.ends) - self.breaks, 0)
        return jnp.max(jnp.where(begun, self.work + spent * self.speed, 0))

    def time_of(self, work: Any) -> jax.Array:
        """[] s, the smallest t with F(t) ≥ ``work``, which is positive."""
        up = self.speed > 0
        times = self.breaks + jnp.maximum(work - self.work, 0) / jnp.where(up, self.speed, 1)
        return jnp.min(jnp.where(up & (times <= self.ends), times, jnp.inf))

    def up_from(self, time: Any) -> jax.Array:
        """[] s: ``time`` where the server is up then, else the end of that outage."""
        serves = (self.speed > 0) & (time < self.ends)
        return jnp.min(jnp.where(serves, jnp.maximum(time, self.breaks), jnp.inf))

    def next_outage(self, time: Any) -> jax.Array:
        """[] s, when the first outage after ``time`` begins; infinite where there is none."""
        return jnp.min(jnp.where(self.falls & (self.breaks > time), self.breaks, jnp.inf))

    def fell_in(self, after: Any, until: Any) -> jax.Array:
        """[] bool: an outage began in (``after``, ``until``]."""
        return jnp.any(self.falls & (self.breaks > after) & (self.breaks <= until))


def _check_pieces(breaks: np.ndarray, speed: np.ndarray) -> None:
    """Raise ``ValueError`` for pieces that are no speed for all time."""
    if breaks.shape[0] == 0 or breaks.shape[1] == 0:
        raise ValueError(f"breaks must have a server and a piece at least, got {breaks.shape}")
    late = np.flatnonzero(breaks[:, 0] != 0)
    if late.size:
        raise ValueError(f"breaks[{late[0]}, 0] must be 0, got {breaks[late[0], 0]:g}")
    steps = np.diff(np.where(np.isinf(breaks), np.finfo(float).max, breaks), axis=1)
    back = np.argwhere((steps <= 0) & np.isfinite(breaks[:, 1:]))
    back = np.concatenate(
        [back, np.argwhere(np.isinf(breaks[:, :-1]) & np.isfinite(breaks[:, 1:]))]
    )
    if back.size:
        i, p = back[0]
        raise ValueError(
            f"breaks[{i}, {p + 1}] must be above breaks[{i}, {p}], {breaks[i, p]:g}, "
            f"got {breaks[i, p + 1]:g}"
        )
    last = np.isfinite(breaks).sum(axis=1) - 1
    dead = np.flatnonzero(speed[np.arange(len(last)), last] <= 0)
    if dead.size:
        i = dead[0]
        raise ValueError(
            f"speed[{i}, {last[i]}] must be above 0, since the last piece goes on for ever, "
            f"got {speed[i, last[i]]:g}"
        )
