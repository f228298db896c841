"""Multilayer perceptrons: one, and a stack of several that are evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def mish(x: jax.Array) -> jax.Array:
    """x · tanh(log(1 + eˣ)), elementwise, at the price of one exponential.

    With n = eˣ (eˣ + 2) the tangent is n/(n + 2). Above 20 that is 1 in either precision.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


# A network's parameters: a tree of arrays as flax names them, or of copies stacked on an axis.
Params = Any

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jax.nn.tanh,
    "silu": jax.nn.silu,
    "mish": mish,
    "gelu": jax.nn.gelu,
}


# Kernels uniform within ±1/√inputs and biases zero. The published actors start like this
# (PyTorch's default); three times less variance than flax's default, so first outputs are small.
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# ``in_axes`` of `flax.linen.vmap`: all copies get the same inputs (its type does not allow None).
EVERY_COPY_ALIKE: Any = None


class MLP(nn.Module):
    """Dense layers with an activation between them; the output is linear.

    The first layer can be computed by the caller (:meth:`after_first`): where a part of the
    input stays the same over many calls, its product with the kernel need be taken once.
    """

    hidden: Sequence[int]  # width of each hidden layer
    outputs: int
    activation: str = "relu"  # a name in ACTIVATIONS
    layer_norm: bool = False  # normalise each hidden layer before its activation

    def setup(self) -> None:
        self.layers = [
            nn.Dense(width, kernel_init=KERNEL_INIT) for width in (*self.hidden, self.outputs)
        ]
        self.norms = [nn.LayerNorm() for _ in self.hidden] if self.layer_norm else ()

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., outputs]."""
        return self.after_first(self.layers[0](inputs))

    def after_first(self, first: jax.Array) -> jax.Array:
        """The rest of the network, given the first layer's sums [..., hidden[0]]."""
        activate = ACTIVATIONS[self.activation]
        x = first
        for index, layer in enumerate(self.layers[1:]):
            if self.layer_norm:
                x = self.norms[index](x)
            x = layer(activate(x))
        return x


class StackedMLP(nn.Module):
    """Independent copies of one MLP, their parameters stacked on a leading axis.

    Every layer is one batched matrix product over the copies: twin critics cost one call.
    """

    hidden: Sequence[int]
    outputs: int
    activation: str = "relu"
    layer_norm: bool = False
    copies: int = 2

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[..., inputs] -> [copies, ..., outputs]; every copy sees the same inputs."""
        stacked = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=EVERY_COPY_ALIKE,
            axis_size=self.copies,
        )
        return stacked(self.hidden, self.outputs, self.activation, self.layer_norm)(inputs)
