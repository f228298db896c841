"""How an action names a set of servers. Each function returns the set as a mask [B] bool."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

MAX_SUBSET_SERVERS = 10  # 2^10 − 1 sets are as many as a table of values can hold in practice


def one_server(index: ArrayLike, num_servers: int) -> jax.Array:
    """The server of that index, 0..B−1; the empty set for any other index."""
    return jnp.arange(num_servers) == index


def subset(index: ArrayLike, num_servers: int) -> jax.Array:
    """The non-empty subset of that index, 0..2^B − 2.

    Server i is in the subset iff bit i of ``index + 1`` is set: index 0 is {0}, 1 is {1},
    2 is {0, 1}, and 2^B − 2 is all servers.
    """
    bits = jnp.asarray(index, jnp.int32) + 1
    return (bits >> jnp.arange(num_servers)) & 1 == 1


def local_plus_one(index: ArrayLike, own: ArrayLike) -> jax.Array:
    """The task's own server, ``own`` [B] bool, and the server of that index, 0..B−1.

    The index of the own server names it alone; so does any index outside the range.
    """
    own = jnp.asarray(own, bool)
    return own | one_server(index, own.shape[-1])


def top_k(indices: ArrayLike, num_servers: int) -> jax.Array:
    """The servers of those indices [k]; what is named twice or out of range counts once or not."""
    return jnp.any(jnp.asarray(indices)[..., None] == jnp.arange(num_servers), axis=-2)


def subset_index(selected: ArrayLike) -> jax.Array:
    """[] int32, the index of a non-empty set [B] bool: the inverse of :func:`subset`."""
    selected = jnp.asarray(selected, bool)
    return (
        jnp.sum(jnp.where(selected, 1 << jnp.arange(selected.shape[-1]), 0)).astype(jnp.int32) - 1
    )
