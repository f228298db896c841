"""A critic over servers: a value that renumbering the servers does not change.

Each server is encoded by the same layers; what is known of the set is the mean, the maximum
and a weighted sum of the codes (Zaheer et al. 2017, "Deep sets"; Qi et al. 2017, "PointNet").
A make-span is a maximum over servers and a price of congestion a sum weighted by the
fractions, so both are near at hand. The number of parameters does not depend on B and a
value costs O(B); :func:`sparse_split`, which gives a critic the fractions, O(B log B).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmec.networks.mlp import ACTIVATIONS, KERNEL_INIT, MLP


class PooledMLP(nn.Module):
    """Layers shared over the servers, three summaries, and an MLP on them; linear output."""

    hidden: Sequence[int]  # widths, at least one: of the servers' layers, and of those after
    outputs: int = 1
    activation: str = "relu"  # a name in ACTIVATIONS
    layer_norm: bool = False  # normalise each hidden layer after the summaries

    @nn.compact
    def __call__(self, servers: jax.Array, shared: jax.Array, weight: jax.Array) -> jax.Array:
        """[..., B, F] of the servers, [..., G] of all and [..., B] weights -> [..., outputs]."""
        activate = ACTIVATIONS[self.activation]
        first, *later = self.hidden
        of_servers = nn.Dense(first, use_bias=False, kernel_init=KERNEL_INIT, name="of_servers")
        of_shared = nn.Dense(first, kernel_init=KERNEL_INIT, name="of_shared")
        x = activate(of_servers(servers) + of_shared(shared)[..., None, :])
        for index, width in enumerate(later):
            x = activate(nn.Dense(width, kernel_init=KERNEL_INIT, name=f"own_{index}")(x))
        weighted = jnp.einsum("...b,...bf->...f", weight, x)
        summary = (jnp.mean(x, axis=-2), jnp.max(x, axis=-2), weighted, shared)
        value: jax.Array = MLP(
            self.hidden, self.outputs, self.activation, self.layer_norm, name="of_summary"
        )(jnp.concatenate(summary, axis=-1))
        return value


class StackedPooledMLP(nn.Module):
    """Independent copies of one :class:`PooledMLP`, their parameters stacked on a leading axis."""

    hidden: Sequence[int]
    outputs: int = 1
    activation: str = "relu"
    layer_norm: bool = False
    copies: int = 2

    @nn.compact
    def __call__(self, servers: jax.Array, shared: jax.Array, weight: jax.Array) -> jax.Array:
        """[..., B, F], [..., G] and [..., B] -> [copies, ..., outputs]."""
        stacked = nn.vmap(
            PooledMLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # type: ignore[arg-type]
            axis_size=self.copies,
        )
        return stacked(self.hidden, self.outputs, self.activation, self.layer_norm)(
            servers, shared, weight
        )


def sparse_split(wait: jax.Array, serve: jax.Array) -> jax.Array:
    """[..., B] the point x of the simplex that minimises Σ (wait_i x_i + serve_i x_i²/2).

    It is x_i = max(L − wait_i, 0)/serve_i at the level L where they sum to 1: a sparsemax
    (Martins and Astudillo 2016) with a weight ``serve`` > 0 for each entry, and the same
    equations as water-filling. Differentiable almost everywhere.
    """
    # Which servers take part is piecewise constant: it is found apart, and not differentiated.
    still_wait, still_speed = jax.lax.stop_gradient((wait, 1 / serve))
    order = jnp.argsort(still_wait, axis=-1)
    sorted_wait = jnp.take_along_axis(still_wait, order, axis=-1)
    sorted_speed = jnp.take_along_axis(still_speed, order, axis=-1)
    # The level, were those up to each server the ones to take part. It falls as long as the
    # next one waits less than that, and its minimum is L.
    filled = 1 + jnp.cumsum(sorted_wait * sorted_speed, axis=-1)
    levels = filled / jnp.cumsum(sorted_speed, axis=-1)
    speed = jnp.where(still_wait < jnp.min(levels, axis=-1, keepdims=True), 1 / serve, 0)
    level = (1 + jnp.sum(wait * speed, axis=-1, keepdims=True)) / jnp.sum(
        speed, axis=-1, keepdims=True
    )
    return jnp.maximum(level - wait, 0) * speed
