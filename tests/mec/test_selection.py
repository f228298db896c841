"""How an index names a set of servers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.mec.selection import local_plus_one, one_server, subset, subset_index, top_k


def test_the_first_subsets_are_in_the_documented_order():
    expected = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
    got = jax.vmap(lambda index: subset(index, 3))(jnp.arange(7))
    np.testing.assert_array_equal(got, np.array(expected, bool))


@pytest.mark.parametrize("servers", [1, 2, 5, 10])
def test_every_non_empty_subset_has_one_index(servers):
    indices = jnp.arange(2**servers - 1)
    masks = np.asarray(jax.vmap(lambda index: subset(index, servers))(indices))
    assert masks.any(axis=1).all()
    assert len(np.unique(masks, axis=0)) == 2**servers - 1
    np.testing.assert_array_equal(jax.vmap(subset_index)(masks), indices)


def test_one_server_outside_the_network_is_the_empty_set():
    np.testing.assert_array_equal(one_server(1, 3), [False, True, False])
    for index in (-1, 3):
        assert not np.any(one_server(index, 3))


def test_local_plus_one_is_the_own_server_and_the_one_named():
    own = np.array([False, True, False])
    for index, expected in ((0, [1, 1, 0]), (1, [0, 1, 0]), (2, [0, 1, 1]), (3, [0, 1, 0])):
        np.testing.assert_array_equal(local_plus_one(index, own), np.array(expected, bool))


def test_top_k_names_its_servers_whatever_their_order():
    np.testing.assert_array_equal(top_k(jnp.array([3, 0]), 4), [True, False, False, True])
    np.testing.assert_array_equal(top_k(jnp.array([0, 3]), 4), [True, False, False, True])
    np.testing.assert_array_equal(top_k(jnp.array([2, 2, 9]), 4), [False, False, True, False])
