"""The critic over servers, and the split that it judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.mec import water_filling
from jaxmec.networks.pooled import PooledMLP, StackedPooledMLP, sparse_split

NETWORK = PooledMLP((16, 16))


def inputs(servers, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    weight = jax.random.dirichlet(keys[2], jnp.ones(servers))
    return jax.random.normal(keys[0], (servers, 6)), jax.random.normal(keys[1], (3,)), weight


@pytest.mark.parametrize("network", [NETWORK, PooledMLP((16,), layer_norm=True)])
def test_renumbering_the_servers_changes_nothing(network):
    servers, shared, weight = inputs(7)
    params = network.init(jax.random.key(1), servers, shared, weight)
    order = jax.random.permutation(jax.random.key(2), 7)
    value = network.apply(params, servers, shared, weight)
    renumbered = network.apply(params, servers[order], shared, weight[order])
    np.testing.assert_allclose(renumbered, value, rtol=1e-5, atol=1e-6)
    mixed = network.apply(params, servers[order], shared, weight)  # another split of the task
    assert jnp.abs(mixed - value).max() > 1e-4


def test_every_input_counts():
    arguments = inputs(4)
    params = NETWORK.init(jax.random.key(1), *arguments)
    gradient = jax.grad(lambda *x: NETWORK.apply(params, *x)[0], argnums=(0, 1, 2))(*arguments)
    for part in gradient:
        assert jnp.all(jnp.abs(part).sum(axis=-1) > 0)


def test_parameters_do_not_depend_on_the_number_of_servers():
    few, many = (
        jax.eval_shape(NETWORK.init, jax.random.key(1), *inputs(servers)) for servers in (3, 50)
    )
    assert jax.tree.map(jnp.shape, few) == jax.tree.map(jnp.shape, many)


def test_copies_are_networks_of_their_own():
    arguments = inputs(4)
    stack = StackedPooledMLP((16, 16), copies=3)
    params = stack.init(jax.random.key(1), *arguments)
    together = stack.apply(params, *arguments)
    assert together.shape == (3, 1)
    assert len(np.unique(np.asarray(together).round(6))) == 3
    (name,) = params["params"]
    for copy in range(3):
        own = jax.tree.map(lambda leaf, copy=copy: leaf[copy], params["params"][name])
        np.testing.assert_allclose(
            NETWORK.apply({"params": own}, *arguments), together[copy], rtol=1e-5
        )


def test_value_and_its_gradient_cost_in_proportion_to_the_servers():
    def value(params, servers, shared, weight):
        wait, serve = servers[:, 0], jnp.exp(servers[:, 1])
        return NETWORK.apply(params, servers, shared, weight + sparse_split(wait, serve))[0]

    def flops(servers):
        arguments = jax.eval_shape(lambda: inputs(servers))
        params = jax.eval_shape(NETWORK.init, jax.random.key(1), *arguments)
        compiled = jax.jit(jax.grad(value)).lower(params, *arguments).compile()
        return compiled.cost_analysis()["flops"]

    first, second, third = flops(16), flops(64), flops(112)
    assert (third - second) / (second - first) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("servers", [1, 2, 5, 40])
def test_split_is_water_filling(servers):
    @jax.jit
    @jax.vmap
    def both(key):
        key_wait, key_serve = jax.random.split(key)
        wait = 2 * jax.random.normal(key_wait, (servers,))  # an offset can make it negative
        serve = jnp.exp(jax.random.normal(key_serve, (servers,)))
        return sparse_split(wait, serve), water_filling(wait, serve, jnp.ones(servers, bool))

    mine, physics = both(jax.random.split(jax.random.key(0), 200))
    np.testing.assert_allclose(mine, physics, atol=1e-5)
    np.testing.assert_allclose(mine.sum(axis=-1), 1, atol=1e-5)
    if servers > 2:
        assert 1 < jnp.mean((mine > 0).sum(axis=-1)) < servers - 1  # some take part, some do not


def test_split_of_many_is_the_split_of_each():
    wait = jax.random.normal(jax.random.key(0), (3, 2, 5))
    serve = jnp.exp(jax.random.normal(jax.random.key(1), (3, 2, 5)))
    together = sparse_split(wait, serve)
    np.testing.assert_allclose(together[2, 1], sparse_split(wait[2, 1], serve[2, 1]), atol=1e-6)


def test_gradient_of_the_split_is_that_of_the_equations():
    wait, serve = jnp.array([0.0, 0.1, 5.0]), jnp.array([1.0, 2.0, 1.0])  # the last takes no part
    jacobian = jax.jacobian(sparse_split)(wait, serve)
    speed = np.array([1.0, 0.5, 0.0])
    expected = np.outer(speed, speed) / speed.sum() - np.diag(speed)
    np.testing.assert_allclose(jacobian, expected, atol=1e-6)
