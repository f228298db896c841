"""The transformer against the same written in float64 NumPy."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from jaxmec_testbed import network
from jaxmec_testbed.network import Size


@pytest.fixture
def tiny(monkeypatch):
    """Two variants of a small network: names, and weights away from where they start."""
    monkeypatch.setitem(network.SIZES, "tiny", Size(8, 1, heads=2))
    monkeypatch.setitem(network.SIZES, "taller", Size(8, 3, heads=2))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda array: np.float32(rng.normal(0, 0.3, array.shape)),
        network.init("tiny", jax.random.key(0)),
    )


def seen_and_time():
    rng = np.random.default_rng(1)
    return rng.normal(size=(32, 32, 7)).astype(np.float32), np.float32(0.37)


def dense(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(weights, x, of_time, heads):
    scale_shift = of_time + weights["gates"]
    y = norm(x) * (1 + scale_shift[1]) + scale_shift[0]
    width = x.shape[1] // heads
    mixed = []
    for head in range(heads):
        of_head = slice(head * width, (head + 1) * width)
        q, k, v = (dense(weights[name], y)[:, of_head] for name in ("query", "key", "value"))
        mixed.append(softmax(q @ k.T / np.sqrt(width), axis=1) @ v)
    mixed = dense(weights["out"], np.concatenate(mixed, axis=1))
    x = x + weights["open"][0] * (1 + scale_shift[2]) * mixed
    y = norm(x) * (1 + scale_shift[4]) + scale_shift[3]
    y = dense(weights["down"], gelu(dense(weights["up"], y)))
    return x + weights["open"][1] * (1 + scale_shift[5]) * y


def oracle(weights, seen, time, heads):
    weights = jax.tree.map(np.float64, weights)
    rates = np.exp(np.arange(32) * np.log(1000) / 31)
    waves = dense(weights["time"], np.concatenate([np.sin(time * rates), np.cos(time * rates)]))
    embedded = waves / (1 + np.exp(-waves))
    tokens = [
        seen[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(-1) for i in range(8) for j in range(8)
    ]
    x = dense(weights["patches"], np.array(tokens)) + weights["places"]
    x = block(weights["block_0"], x, dense(weights["gates"], embedded).reshape(6, -1), heads)
    shift, scale = dense(weights["last"], embedded).reshape(2, -1)
    tokens = dense(weights["pixels"], norm(x) * (1 + scale) + shift)
    image = np.empty((32, 32, 3))
    for place, token in enumerate(tokens):
        i, j = 4 * (place // 8), 4 * (place % 8)
        image[i : i + 4, j : j + 4] = token.reshape(4, 4, 3)
    return image


def test_it_computes_what_the_equations_say(tiny):
    seen, time = seen_and_time()
    got = network.velocity("tiny", tiny, seen, time)
    np.testing.assert_allclose(got, oracle(tiny, seen, float(time), 2), rtol=1e-3, atol=1e-4)


def test_a_grown_network_begins_as_the_smaller_one(tiny):
    seen, time = seen_and_time()
    grown = network.grown("taller", tiny, jax.random.key(1))
    assert set(grown) - set(tiny) == {"block_1", "block_2"}
    np.testing.assert_array_equal(
        network.velocity("taller", grown, seen, time), network.velocity("tiny", tiny, seen, time)
    )


def test_patches_are_put_back():
    image = np.arange(32 * 32 * 2).reshape(32, 32, 2)
    tokens = network.patches(image)
    np.testing.assert_array_equal(tokens[9], image[4:8, 4:8].reshape(-1))
    np.testing.assert_array_equal(network.whole(tokens), image)


def test_the_loss_is_that_of_the_velocity_inside_the_mask(tiny):
    rng = np.random.default_rng(2)
    images = rng.uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    masks = rng.random((3, 32, 32)) < np.array([0.02, 0.3, 0.9])[:, None, None]
    got = network.loss("tiny", tiny, images, masks, jax.random.key(5))
    key_time, key_noise = jax.random.split(jax.random.key(5))
    times = np.asarray(jax.random.uniform(key_time, (3,)))
    noise = np.asarray(jax.random.normal(key_noise, images.shape))
    errors = []
    for image, mask, time, random in zip(images, masks, times, noise, strict=True):
        c, s = np.cos(np.pi / 2 * time), np.sin(np.pi / 2 * time)
        hidden = mask[..., None]
        seen = np.concatenate([hidden * (c * image + s * random), ~hidden * image, hidden], axis=-1)
        off = oracle(tiny, seen, time, 2) - (c * random - s * image)
        errors.append(np.mean(off[mask] ** 2))
    assert float(got) == pytest.approx(np.mean(errors), rel=1e-3)


def test_the_variants_differ_in_depth_alone():
    counts = [
        sum(array.size for array in jax.tree.leaves(jax.eval_shape(
            lambda key, name=variant: network.init(name, key), jax.random.key(0)
        )))
        for variant in network.SIZES
    ]  # fmt: skip
    assert list(network.SIZES) == ["S", "M", "L"]
    assert counts == sorted(counts) and 2 * sum(counts) < 5e6  # bytes in half precision
