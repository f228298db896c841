"""Rules that split one task among the selected servers (docs/model.md: "Allocation rules").

A rule maps the wait and the whole-task service time of every server and the selected set
to fractions that are non-negative and sum to 1 over the set. All three work on one
decision; their callers vmap them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.struct import is_concrete, pytree, static

Array = Any

# Up to this many servers water-filling compares all pairs, which vectorises and needs no loop;
# with more, it iterates. The results agree; only the time differs (benchmarks/NOTES.md).
PAIRWISE_LIMIT = 32


@pytree
class AllocationRule:
    """A named way to split a task; call it with (wait, serve, selected).

    ``counts_idle`` says whether a selected server that is given nothing still counts in
    the make-span with its wait. It does for CWA, as in the published code; under
    water-filling only servers with a positive fraction take part.
    """

    name: str = static()
    split: Callable[[Array, Array, Array], Array] = static()
    counts_idle: bool = static(default=True)

    def __call__(self, wait: Array, serve: Array, selected: Array) -> jax.Array:
        """Fractions of one task.

        Args:
            wait: [B] s until each server could start on it.
            serve: [B] s that the whole task would take at each server, positive.
            selected: [B] bool, the set S.

        Returns:
            [B] fractions, 0 outside S, summing to 1. An empty set that is only known
            when the program runs gives zeros.

        Raises:
            ValueError: shapes that disagree, or a set known to be empty.
        """
        wait, serve, selected = check_split(wait, serve, selected)
        return self.split(wait, serve, selected)


def check_split(wait: Array, serve: Array, selected: Array) -> tuple[Array, Array, Array]:
    """The three vectors of an allocation, converted and checked as far as they are known."""
    selected_known = is_concrete(selected)
    if selected_known and not np.any(np.asarray(selected)):
        raise ValueError("selected must name at least one server, got an empty set")
    wait, serve, selected = jnp.asarray(wait), jnp.asarray(serve), jnp.asarray(selected, bool)
    for name, vector in (("serve", serve), ("selected", selected)):
        if vector.shape != wait.shape:
            raise ValueError(
                f"{name} must have the shape of wait, {wait.shape}, got {vector.shape}"
            )
    dtype = jnp.result_type(wait, serve, jnp.result_type(float))
    return wait.astype(dtype), serve.astype(dtype), selected


def _speed(serve: Array, selected: Array) -> Array:
    """1/serve on the set and 0 outside it."""
    return jnp.where(selected, 1 / jnp.where(selected, serve, 1), 0)


def _normalised(weight: Array) -> Array:
    total = jnp.sum(weight)
    return weight / jnp.where(total > 0, total, 1)


def _shares(wait: Array, speed: Array) -> Array:
    """Fractions at which the servers with a speed finish together, negative ones cut.

    L = (1 + Σ wait_j/serve_j) / Σ 1/serve_j and x_i = (L − wait_i)/serve_i. A common shift
    of the waits changes no fraction; counted from the wait of the fastest server, whose
    share suffers most from rounding, they cancel least.
    """
    wait = wait - jax.lax.stop_gradient(wait[jnp.argmax(speed)])
    total = jnp.sum(speed)
    level = (1 + jnp.sum(wait * speed)) / jnp.where(total > 0, total, 1)
    return _normalised(jnp.maximum(level - wait, 0) * speed)


def _cwa(wait: Array, serve: Array, selected: Array) -> Array:
    return _shares(wait, _speed(serve, selected))


def _hecwa(wait: Array, serve: Array, selected: Array) -> Array:
    del wait
    return _normalised(_speed(serve, selected))


def _busy(wait: Array, speed: Array, loop: bool) -> Array:
    """[B] bool: a server gets work iff filling all others up to its wait takes less than the task.

    ``speed`` is 0 outside the set, where ``wait`` is that of a server in it.
    """
    if not loop:
        poured = jnp.maximum(wait[:, None] - wait[None, :], 0) * speed[None, :]
        return jnp.sum(poured, axis=1) < 1
    # The level at which the servers of any subset finish together is at least the one sought:
    # leave out who waits longer than that, until nobody does (Michelot 1986, for projection onto
    # a simplex). At most B turns, about log B in practice. Counted from the shortest wait, all
    # terms are positive and nothing cancels.
    wait = wait - jnp.min(wait)

    def lower(levels: tuple[Array, Array]) -> tuple[Array, Array]:
        level, _ = levels
        below = wait < level
        speed_below = jnp.where(below, speed, 0)
        filled = jnp.sum(jnp.where(below, wait, 0) * speed_below)
        return jnp.minimum((1 + filled) / jnp.sum(speed_below), level), level

    alone = jnp.min(wait + 1 / speed)  # one server takes it all
    level, _ = jax.lax.while_loop(
        lambda levels: levels[0] < levels[1], lower, (alone, jnp.full_like(alone, jnp.inf))
    )
    return wait < level


def _water_filling(wait: Array, serve: Array, selected: Array, loop: bool | None = None) -> Array:
    loop = wait.shape[0] > PAIRWISE_LIMIT if loop is None else loop
    # Servers outside the set must not set the level: they wait as long as the last in it.
    last = jnp.max(jnp.where(selected, wait, -jnp.inf), initial=0)
    wait = jnp.where(selected, wait, last)
    speed = _speed(serve, selected)
    active = selected & _busy(jax.lax.stop_gradient(wait), jax.lax.stop_gradient(speed), loop)
    return _shares(wait, jnp.where(active, speed, 0))


cwa = AllocationRule("cwa", _cwa)
"""Closed-form workload allocation: all selected servers finish together at the level
L = (1 + Σ wait_j/serve_j) / Σ 1/serve_j; negative fractions are set to 0 and the rest
rescaled (AMCoEdge; called SE in SMCoEdge). Linear in B."""

hecwa = AllocationRule("hecwa", _hecwa)
"""Fractions proportional to 1/serve_i; ignores the waits (HEWA in SMCoEdge). Linear in B."""

water_filling = AllocationRule("water_filling", _water_filling, counts_idle=False)
"""The exact minimiser of max_i (wait_i + x_i serve_i) over the simplex on the set."""

unlooped_water_filling = AllocationRule(
    "water_filling", partial(_water_filling, loop=False), counts_idle=False
)
"""The same by comparing all pairs, however many servers: for graphs that have no loops."""

ALLOCATIONS = {rule.name: rule for rule in (cwa, hecwa, water_filling)}
