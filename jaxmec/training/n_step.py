"""Several steps as one: what follows a stored transition in its own environment.

The n-step return (Sutton and Barto 2018, chapter 7) tells a value in one update what single
steps hand down in n. The steps were taken by the policies that filled the buffer, and nothing
corrects for that, as in Rainbow (Hessel et al. 2018): keep n small, and the buffer young. A soft
actor-critic's entropy counts at the last step alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.agents.base import Transition
from jaxmec.training.replay import ReplayBuffer, ReplayState

# What the last of several steps says of them.
LAST = ("next_observation", "terminated")


def stored(transition: Transition, n: int) -> Transition:
    """The transition as the buffer keeps it: where an episode ended matters for n > 1 alone."""
    return transition if n > 1 else transition._replace(ended=())


def sample(
    buffer: ReplayBuffer,
    state: ReplayState,
    key: jax.Array,
    shape: tuple[int, ...],
    n: int,
    discount: ArrayLike,
) -> Transition:
    """Uniformly drawn transitions of up to n steps each, whose leaves lead with ``shape``.

    From step t on they are the steps t, t + 1, ... of one environment, at most n, none beyond
    the end of t's episode or the newest in the buffer. The result has

    * ``observation``, ``action`` and ``extras`` of the first step,
    * ``reward`` Σ_k γ^k r_{t+k},
    * what is called next, and ``terminated``, of the last step,
    * ``steps``, their number; () for n = 1, where the result is what ``buffer.sample`` gives.
    """
    row, column = buffer.draw(state, key, shape)
    first: Transition = buffer.read(state, row, column)
    if n == 1:
        return first
    newer = (state.position // buffer.num_added - 1 - row) % buffer.rows  # rows after this one
    going = jnp.ones(shape, bool)
    steps = jnp.ones(shape, jnp.int32)
    reward, ended = first.reward, first.ended
    each = state._replace(items=(state.items.reward, state.items.ended))
    for k in range(1, n):
        going = going & ~ended & (k <= newer)
        following, ended = buffer.read(each, (row + k) % buffer.rows, column)
        reward += jnp.where(going, discount**k * following, 0)
        steps += going
    items = {name: getattr(state.items, name) for name in LAST}
    last = buffer.read(state._replace(items=items), (row + steps - 1) % buffer.rows, column)
    return first._replace(reward=reward, ended=(), steps=steps, **last)
