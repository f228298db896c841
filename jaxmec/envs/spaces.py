"""The spaces of actions that gymnax does not have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

LARGEST_SCORE = 1e30  # what an infinite score counts as


class BinaryVector(spaces.Box):
    """[B] zeros and ones."""

    def __init__(self, size: int) -> None:
        super().__init__(0, 1, (size,), jnp.int8)

    def sample(self, key: jax.Array) -> jax.Array:
        """Every vector with the same probability."""
        return jax.random.bernoulli(key, shape=self.shape).astype(self.dtype)


class Simplex(spaces.Box):
    """[B] non-negative numbers that sum to 1."""

    def __init__(self, size: int) -> None:
        super().__init__(0.0, 1.0, (size,), jnp.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform on the simplex."""
        return jax.random.dirichlet(key, jnp.ones(self.shape, self.dtype))


class Ranking(spaces.Box):
    """[k] different indices below ``size``, the best first."""

    def __init__(self, k: int, size: int) -> None:
        super().__init__(0, size - 1, (k,), jnp.int32)
        self.size = size

    def sample(self, key: jax.Array) -> jax.Array:
        """Every ranking with the same probability."""
        return jax.random.permutation(key, self.size)[: self.shape[0]].astype(self.dtype)


class Scores(spaces.Box):
    """[2 B] real numbers of order 1, or [B] where a task takes one server."""

    def __init__(self, size: int) -> None:
        limit = float(jnp.finfo(jnp.float32).max)
        super().__init__(-limit, limit, (size,), jnp.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Standard normal: a box without ends has no uniform draw."""
        return jax.random.normal(key, self.shape, self.dtype)
