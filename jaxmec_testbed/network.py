"""The denoising network: a transformer over patches (DiT, Peebles and Xie 2023, arXiv:2212.09748).

One example in, one out; callers vmap. No convolutions, which are slow on a CPU, and operations
that :mod:`jaxmec.deploy.graph` writes as ONNX.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmec_testbed.diffusion import CHANNELS, SEEN
from jaxmec_testbed.robots import SIDE

PATCH = 4  # pixels a side
TOKENS = (SIDE // PATCH) ** 2
FREQUENCIES = 32  # of the embedding of the time
GATES = 6  # shift, scale and gate of attention, and of the two dense layers

Params = Any


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the network of a variant is."""

    width: int
    blocks: int
    heads: int = 4


# All of one width, so that the weights of one are a start for the next: a block that is added
# does nothing at first.
SIZES = {"S": Size(96, 2), "M": Size(96, 5), "L": Size(96, 10)}


def patches(image: jax.Array) -> jax.Array:
    """[32, 32, C] as [64, 16 C]."""
    side = SIDE // PATCH
    cut = image.reshape(side, PATCH, side, PATCH, -1)
    return cut.transpose(0, 2, 1, 3, 4).reshape(TOKENS, -1)


def whole(tokens: jax.Array) -> jax.Array:
    """[64, 16 C] as [32, 32, C]."""
    side = SIDE // PATCH
    cut = tokens.reshape(side, side, PATCH, PATCH, -1)
    return cut.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, -1)


def normal(x: jax.Array) -> jax.Array:
    """Layer norm without weights: the time gives shift and scale."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


class Block(nn.Module):
    """Attention over the patches, then two dense layers on each, both gated by the time."""

    size: Size

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """``x`` [64, W] and what the time says to all blocks [6, W] -> [64, W]."""
        width, heads = self.size.width, self.size.heads
        # Of its own a block has only what it adds to that: far fewer weights than a dense layer.
        own = self.param("gates", nn.initializers.zeros, (GATES, width))
        opened = self.param("open", nn.initializers.zeros, (2, width))
        shift_a, scale_a, gate_a, shift_d, scale_d, gate_d = time + own
        y = normal(x) * (1 + scale_a) + shift_a
        query, key, value = (
            nn.Dense(width, name=name)(y).reshape(TOKENS, heads, width // heads)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("qhd,khd->hqk", query, key) / np.sqrt(width // heads)
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value).reshape(TOKENS, width)
        x = x + opened[0] * (1 + gate_a) * nn.Dense(width, name="out")(mixed)
        y = normal(x) * (1 + scale_d) + shift_d
        y = nn.Dense(width, name="down")(jax.nn.gelu(nn.Dense(4 * width, name="up")(y)))
        return x + opened[1] * (1 + gate_d) * y


class Denoiser(nn.Module):
    """The velocity of the noisy image, given what is known of it."""

    size: Size

    @nn.compact
    def __call__(self, seen: jax.Array, time: jax.Array) -> jax.Array:
        """``seen`` [32, 32, 7] (diffusion.py: `seen`), ``time`` [] in [0, 1] -> [32, 32, 3]."""
        width = self.size.width
        rates = np.exp(np.linspace(0, np.log(1000), FREQUENCIES)).astype(np.float32)
        waves = jnp.concatenate([jnp.sin(time * rates), jnp.cos(time * rates)])
        embedded = jax.nn.silu(nn.Dense(width, name="time")(waves))
        small = nn.initializers.zeros
        of_time = nn.Dense(GATES * width, kernel_init=small, name="gates")(embedded)
        of_time = of_time.reshape(GATES, width)
        places = self.param("places", nn.initializers.normal(0.02), (TOKENS, width))
        x = nn.Dense(width, name="patches")(patches(seen)) + places
        for i in range(self.size.blocks):
            x = Block(self.size, name=f"block_{i}")(x, of_time)
        shift, scale = nn.Dense(2 * width, kernel_init=small, name="last")(embedded).reshape(2, -1)
        x = normal(x) * (1 + scale) + shift
        return whole(nn.Dense(PATCH * PATCH * CHANNELS, kernel_init=small, name="pixels")(x))


def init(variant: str, key: jax.Array) -> Params:
    """First weights of a variant's network."""
    network = Denoiser(SIZES[variant])
    return network.init(key, jnp.zeros((SIDE, SIDE, SEEN)), jnp.zeros(()))["params"]


def grown(variant: str, smaller: Params, key: jax.Array) -> Params:
    """First weights that compute what a smaller variant does: the new blocks do nothing."""
    return {**init(variant, key), **smaller}


def velocity(variant: str, params: Params, seen: jax.Array, time: jax.Array) -> jax.Array:
    """What :class:`Denoiser` gives with these weights."""
    return Denoiser(SIZES[variant]).apply({"params": params}, seen, time)


def loss(
    variant: str, params: Params, images: jax.Array, masks: jax.Array, key: jax.Array
) -> jax.Array:
    """The mean squared error of the velocity inside the masks, every image counting the same.

    Args:
        images: [M, 32, 32, 3] in [-1, 1].
        masks: [M, 32, 32] bool.
        key: of the times and the noise.
    """
    key_time, key_noise = jax.random.split(key)
    times = jax.random.uniform(key_time, images.shape[:1])
    noise = jax.random.normal(key_noise, images.shape)
    angle = (jnp.pi / 2 * times)[:, None, None, None]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    hidden = masks[..., None].astype(images.dtype)
    noisy = cosine * images + sine * noise
    shown = jnp.concatenate([noisy * hidden, images * (1 - hidden), hidden], axis=-1)
    found = jax.vmap(lambda one, time: velocity(variant, params, one, time))(shown, times)
    errors = jnp.square(found - (cosine * noise - sine * images)) * hidden
    return jnp.mean(errors.sum((1, 2, 3)) / (CHANNELS * hidden.sum((1, 2, 3))))
