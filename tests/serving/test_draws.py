"""Random numbers of requests: JAX's own bits, and keys that are not Threefry's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from jaxmec.serving import draws


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_the_bits_are_those_of_jax(seed):
    key = jax.random.key(seed)
    data = jax.random.key_data
    for number in (0, 5, 2**31 - 1):
        np.testing.assert_array_equal(
            data(draws.fold_in(key, number)), data(jax.random.fold_in(key, number))
        )
    words = threefry_2x32(data(key), jnp.arange(6, dtype=jnp.uint32))
    np.testing.assert_array_equal(
        draws.uniform(key, 6, jnp.float32), np.asarray(words >> 8, np.float32) / 2**24
    )
    np.testing.assert_array_equal(
        data(draws.fold_in(jax.random.PRNGKey(seed), 5)),
        data(jax.random.fold_in(jax.random.PRNGKey(seed), 5)),
    )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_numbers_are_uniform_and_exponential(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 4000)
    numbers = np.asarray(jax.vmap(lambda key: draws.uniform(key, 3, jnp.float32))(keys))
    assert numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(numbers.T)[np.triu_indices(3, 1)]).max() < 0.06
    gaps = np.asarray(jax.vmap(lambda key: draws.exponential(key, jnp.float32))(keys))
    assert gaps.mean() == pytest.approx(1, rel=0.06) and gaps.std() == pytest.approx(1, rel=0.08)
    first, second = jax.vmap(draws.split)(keys)
    assert np.any(jax.random.key_data(first) != jax.random.key_data(second))
