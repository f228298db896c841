"""Multilayer perceptrons against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.networks.mlp import ACTIVATIONS, MLP, StackedMLP

INPUTS = 5


def numpy_activation(name, x):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "tanh":
        return np.tanh(x)
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "mish":
        return x * np.tanh(np.log1p(np.exp(x)))
    # GELU in its tanh form, JAX's default (Hendrycks and Gimpel 2016).
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_gradient_equal_numpy(name):
    x = np.linspace(-30, 30, 601) + 0.03  # no point at relu's corner
    with jax.enable_x64(True):
        value = ACTIVATIONS[name](jnp.asarray(x))
        slope = jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(x))
    h = 1e-6
    expected = (numpy_activation(name, x + h) - numpy_activation(name, x - h)) / (2 * h)
    np.testing.assert_allclose(value, numpy_activation(name, x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_finite_far_out(name):
    far = jnp.array([-1e4, 1e4], jnp.float32)
    assert np.all(np.isfinite(ACTIVATIONS[name](far)))
    assert np.all(np.isfinite(jax.vmap(jax.grad(ACTIVATIONS[name]))(far)))


@pytest.mark.parametrize("hidden", [(7,), (7, 6), (3, 4, 8)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_mlp_equals_numpy(hidden, activation):
    network = MLP(hidden, 3, activation)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(INPUTS))
    inputs = np.random.default_rng(1).normal(size=(4, INPUTS))

    x = inputs
    for index in range(len(hidden) + 1):
        layer = params["params"][f"layers_{index}"]
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        if index < len(hidden):
            x = numpy_activation(activation, x)
    np.testing.assert_allclose(jax.jit(network.apply)(params, inputs), x, rtol=1e-5, atol=1e-5)


def test_layer_norm_makes_hidden_layers_blind_to_scale():
    network = MLP((16,), 3, layer_norm=True)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(INPUTS))
    inputs = 10 * jax.random.normal(jax.random.key(1), (INPUTS,))
    np.testing.assert_allclose(
        network.apply(params, inputs), network.apply(params, 10 * inputs), rtol=1e-4, atol=1e-5
    )
    plain = MLP((16,), 3)
    params = plain.init(jax.random.key(0), jnp.zeros(INPUTS))
    assert not np.allclose(plain.apply(params, inputs), plain.apply(params, 10 * inputs))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_stack_equals_its_members_one_by_one(layer_norm):
    stack = StackedMLP((7, 6), 3, layer_norm=layer_norm, copies=2)
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros(INPUTS))
    inputs = jax.random.normal(jax.random.key(1), (4, INPUTS))
    together = jax.jit(stack.apply)(params, inputs)
    assert together.shape == (2, 4, 3)
    (members,) = params["params"].values()
    for copy in range(2):
        alone = {"params": jax.tree.map(lambda x, copy=copy: x[copy], members)}
        expected = jax.jit(MLP((7, 6), 3, layer_norm=layer_norm).apply)(alone, inputs)
        np.testing.assert_allclose(together[copy], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0], together[1])


def test_stack_is_one_product_per_layer():
    stack = StackedMLP((7, 6), 3)
    inputs = jnp.zeros((4, INPUTS))
    params = stack.init(jax.random.key(0), inputs)
    program = str(jax.make_jaxpr(stack.apply)(params, inputs))
    assert program.count("dot_general") == 3
