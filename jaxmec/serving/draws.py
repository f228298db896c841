"""Random numbers of requests, drawn at every decision: JAX's own hash with its rounds written out.

On a CPU, JAX rolls the rounds of Threefry-2x32 (Salmon et al. 2011) up in a loop that writes to
memory in between, and takes one number of each hash, which has two. Written out, the same bits
cost a tenth. Keys of other kinds are left to JAX.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _hash(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[...] uint32 each: Threefry-2x32 of 20 rounds of the counter (high, low) under key [2]."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    high, low = high + keys[0], low + keys[1]
    for five in range(5):
        for turn in _ROTATIONS[five % 2]:
            high = high + low
            low = (low << turn) | (low >> (32 - turn))
            low = low ^ high
        high = high + keys[(five + 1) % 3]
        low = low + keys[(five + 2) % 3] + jnp.uint32(five + 1)
    return high, low


def _is_threefry(key: jax.Array) -> bool:
    return jax.random.key_impl(key) == "threefry2x32"


def fold_in(key: jax.Array, number: Any) -> jax.Array:
    """``jax.random.fold_in``, the same bits."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, number)
    low = jnp.asarray(number).astype(jnp.uint32)
    words = jnp.stack(_hash(jax.random.key_data(key), jnp.zeros_like(low), low))
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(words) if typed else words


def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``jax.random.split`` in two."""
    return fold_in(key, 0), fold_in(key, 1)


def uniform(key: jax.Array, count: int, dtype: Any) -> jax.Array:
    """[count] in [0, 1), in steps of 2⁻²⁴."""
    if not _is_threefry(key):
        return jax.random.uniform(key, (count,), dtype)
    half = (count + 1) // 2
    high, low = jnp.arange(half, dtype=jnp.uint32), jnp.arange(half, 2 * half, dtype=jnp.uint32)
    words = jnp.concatenate(_hash(jax.random.key_data(key), high, low))[:count]
    return (words >> 8).astype(dtype) * 2.0**-24


def exponential(key: jax.Array, dtype: Any) -> jax.Array:
    """[] of mean 1."""
    return -jnp.log1p(-uniform(key, 1, dtype)[0])
