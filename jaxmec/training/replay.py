"""A uniform ring buffer of any pytree, on the device.

Bound once to its sizes, the buffer is a set of pure functions over a :class:`ReplayState`.
Memory: ``capacity`` times the bytes of one item, and nothing that grows beside it; a
transition of CartPole (two observations of 4 numbers, a reward, an action, a flag) takes
41 bytes, so 100,000 of them take 4.1 MB, for every seed.

The writes cost O(``num_added``) and the samples O(batch), whatever the capacity: the
capacity is a multiple of what is added at a time, so that a write never wraps and is one
row written in place. The rows have a column for each environment, so that a buffer whose
columns are shared out among devices (``training.devices``) is written where the
environments are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.core import checks
from jaxmec.core.types import PyTree


class ReplayState(NamedTuple):
    """What a buffer holds."""

    items: PyTree  # [rows, num_added] of every leaf of an item
    position: jax.Array  # [] int32, where the next items go; a multiple of num_added
    size: jax.Array  # [] int32, how many items are stored


@dataclass(frozen=True)
class ReplayBuffer:
    """A first-in, first-out buffer of at least ``min_capacity`` items, sampled uniformly."""

    min_capacity: int  # items
    num_added: int  # items added at a time: one for each environment

    def __post_init__(self) -> None:
        checks.fields(self, min_capacity=checks.whole(1), num_added=checks.whole(1))

    @property
    def capacity(self) -> int:
        """Items: ``min_capacity`` rounded up to a multiple of ``num_added``."""
        return self.rows * self.num_added

    @property
    def rows(self) -> int:
        """Times that items are added before the oldest are overwritten."""
        return math.ceil(self.min_capacity / self.num_added)

    def memory(self, item: PyTree) -> int:
        """Bytes on the device for items like ``item``, given as in :meth:`init`."""
        leaves = jax.tree.leaves(item)
        return self.capacity * sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

    def init(self, item: PyTree) -> ReplayState:
        """An empty buffer for items with the shapes and dtypes of ``item``.

        ``item`` is one item without a leading axis: arrays or ``jax.ShapeDtypeStruct``.
        """
        shape = (self.rows, self.num_added)
        items = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), item)
        return ReplayState(items, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, state: ReplayState, items: PyTree) -> ReplayState:
        """Store items, whose leaves lead with [num_added], over the oldest ones.

        Raises ``ValueError`` when the structure, a shape or a dtype is not what the buffer
        was made for.
        """
        self._check(state, items)

        row = state.position // self.num_added

        def write(stored: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(stored, new[None], row, 0)

        return ReplayState(
            items=jax.tree.map(write, state.items, items),
            position=(state.position + self.num_added) % self.capacity,
            size=jnp.minimum(state.size + self.num_added, self.capacity),
        )

    def sample(self, state: ReplayState, key: jax.Array, shape: tuple[int, ...]) -> PyTree:
        """Items drawn uniformly, with replacement, among those stored; leaves lead with ``shape``.

        The buffer must not be empty: an empty one gives zeros.
        """
        return self.read(state, *self.draw(state, key, shape))

    def draw(
        self, state: ReplayState, key: jax.Array, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """Rows and columns [*shape] of such items."""
        for place, size in enumerate(shape):
            checks.require(f"shape[{place}]", size, checks.whole(1))
        index = jax.random.randint(key, shape, 0, state.size)
        return index // self.num_added, index % self.num_added

    def read(self, state: ReplayState, row: jax.Array, column: jax.Array) -> PyTree:
        """The items there; leaves lead with the shape of ``row`` and ``column``."""
        return jax.tree.map(lambda x: x.at[row, column].get(mode="clip"), state.items)

    def _check(self, state: ReplayState, items: PyTree) -> None:
        structure: Any = jax.tree.structure(state.items)
        if jax.tree.structure(items) != structure:
            raise ValueError(
                f"items have the structure {jax.tree.structure(items)}; expected {structure}"
            )
        stored, new = jax.tree.leaves_with_path(state.items), jax.tree.leaves_with_path(items)
        for (path, old), (_, leaf) in zip(stored, new, strict=True):
            name = "items" + jax.tree_util.keystr(path)
            if old.shape[:2] != (self.rows, self.num_added):
                raise ValueError(
                    f"the state of {name} holds {list(old.shape[:2])}, "
                    f"not {[self.rows, self.num_added]}"
                )
            expected = old.shape[1:]
            if leaf.shape != expected or leaf.dtype != old.dtype:
                raise ValueError(
                    f"{name} is {leaf.dtype}{list(leaf.shape)}; "
                    f"expected {old.dtype}{list(expected)}"
                )
