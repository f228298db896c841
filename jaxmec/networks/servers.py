"""A diffusion actor over servers: one network for all of them, whatever their number.

Renumbering the servers renumbers the scores and changes nothing else (permutation
equivariance), so what is learned of one server holds for all, the number of parameters
does not depend on B, and a decision costs O(B). Each layer is that of Zaheer et al. 2017,
"Deep sets", and Qi et al. 2017, "PointNet": a server's own part and a summary over all
servers, here their mean and their maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.networks.chain import Denoiser, ReverseChainActor, step_embedding
from jaxmec.networks.mlp import ACTIVATIONS, EVERY_COPY_ALIKE, KERNEL_INIT, Params
from jaxmec.struct import pytree, static

Layout = tuple[tuple[str, int], ...]  # (name, length) of an observation's parts, in their order


class ServerMLP(nn.Module):
    """Dense layers shared over the servers, joined by summaries; the output is linear.

    The first layer takes a part of each server and a part that all have in common; the
    later ones the servers' own values and their mean and maximum over the servers.
    """

    hidden: Sequence[int]  # width of each hidden layer, at least one
    outputs: int  # numbers a server
    activation: str = "relu"  # a name in ACTIVATIONS

    def setup(self) -> None:
        def dense(width: int, use_bias: bool = True) -> nn.Dense:
            return nn.Dense(width, use_bias=use_bias, kernel_init=KERNEL_INIT)

        after = (*self.hidden[1:], self.outputs)
        self.of_servers = dense(self.hidden[0], use_bias=False)
        self.of_noisy = dense(self.hidden[0], use_bias=False)
        self.of_shared = dense(self.hidden[0])
        self.own = [dense(width) for width in after]
        self.pooled = [dense(width, use_bias=False) for width in after]

    def __call__(self, servers: jax.Array, shared: jax.Array, noisy: jax.Array) -> jax.Array:
        """[..., B, F], [..., G] and [..., B, outputs] -> [..., B, outputs]."""
        return self.after_first(self.first(servers, shared) + self.of_noisy(noisy))

    def first(self, servers: jax.Array, shared: jax.Array) -> jax.Array:
        """[..., B, hidden[0]] what the observation adds to the first layer's sums."""
        return self.of_servers(servers) + self.of_shared(shared)[..., None, :]

    def of_x(self, noisy: jax.Array) -> jax.Array:
        """[..., B, hidden[0]] what x_k [..., B, outputs] adds to them."""
        return self.of_noisy(noisy)

    def after_first(self, first: jax.Array) -> jax.Array:
        """The rest of the network, given the first layer's sums [..., B, hidden[0]]."""
        x = first
        for own, pooled in zip(self.own, self.pooled, strict=True):
            x = ACTIVATIONS[self.activation](x)
            summary = jnp.concatenate([jnp.mean(x, axis=-2), jnp.max(x, axis=-2)], axis=-1)
            x = own(x) + pooled(summary)[..., None, :]
        return x


def without_output(params: Params, layers: int) -> Params:
    """Parameters of a :class:`ServerMLP` of so many hidden layers, the last one's all 0."""

    def of_last(path: tuple[jax.tree_util.KeyEntry, ...], leaf: jax.Array) -> jax.Array:
        last = f"_{layers - 1}']" in jax.tree_util.keystr(path)
        return jnp.zeros_like(leaf) if last else leaf

    return jax.tree_util.tree_map_with_path(of_last, params)


def split_layout(
    observation: jax.Array, layout: Sequence[tuple[str, int]], num_servers: int
) -> tuple[jax.Array, jax.Array]:
    """[..., B, F] the servers' parts of observations [..., S], [..., G] all the others."""
    parts = jnp.split(observation, np.cumsum([length for _, length in layout])[:-1], axis=-1)
    own = [part for part in parts if part.shape[-1] == num_servers]
    shared = [part for part in parts if part.shape[-1] != num_servers]
    return jnp.stack(own, axis=-1), jnp.concatenate([observation[..., :0], *shared], axis=-1)


def shared_layout(layout: Layout, num_actions: int) -> Layout:
    """The layout, if a network shared over the actions can read it.

    Raises:
        ValueError: no part of it has a number for each action.
    """
    if not any(length == num_actions for _, length in layout):
        raise ValueError(
            f"network 'servers' needs observations with a part of length {num_actions}, "
            f"one number a server, got {layout!r}"
        )
    return layout


class ServerValues(nn.Module):
    """One value a server from an observation whose parts ``layout`` names."""

    hidden: Sequence[int]  # width of each hidden layer, at least one
    layout: Sequence[tuple[str, int]]  # (name, length) of an observation's parts
    num_servers: int  # B
    activation: str = "relu"  # a name in ACTIVATIONS

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        """[..., S] -> [..., B]."""
        servers, shared = split_layout(observation, self.layout, self.num_servers)
        noisy = jnp.zeros((*observation.shape[:-1], self.num_servers, 1), observation.dtype)
        return ServerMLP(self.hidden, 1, self.activation)(servers, shared, noisy)[..., 0]


class StackedServerValues(nn.Module):
    """Independent copies of one :class:`ServerValues`, parameters stacked on a leading axis."""

    hidden: Sequence[int]
    layout: Sequence[tuple[str, int]]
    num_servers: int
    activation: str = "relu"
    copies: int = 2

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        """[..., S] -> [copies, ..., B]; every copy sees the same observations."""
        stacked = nn.vmap(
            ServerValues,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=EVERY_COPY_ALIKE,
            axis_size=self.copies,
        )
        return stacked(self.hidden, self.layout, self.num_servers, self.activation)(observation)


@pytree
class EquivariantDiffusionActor(ReverseChainActor):
    """Scores of B servers made by a reverse chain whose network is shared over the servers.

    An action is ``outputs`` numbers a server, all servers' first ones and then all servers'
    second ones (the offsets and log-factors of the action mode "score"), A = B · outputs in
    all. ``layout`` says what an observation consists of: parts of length B belong to the
    servers, one number each; all others to the task and the station. Nothing else tells the
    network which server is which: their speed must be among the parts, as in
    ``features="times"``.

    With ``steps`` 0 there is no chain and no noise: the network's output at x = 0, bounded, is
    the action.

    Raises:
        ValueError: a layout that is empty or names no server's part.
    """

    num_servers: int = static()  # B
    layout: tuple[tuple[str, int], ...] = static()  # (name, length) of an observation's parts
    outputs: int = static(default=2)  # numbers a server
    hidden: tuple[int, ...] = static(default=(32, 32), kw_only=True)  # at least one layer

    def __post_init__(self) -> None:
        if not any(length == self.num_servers for _, length in self.layout):
            raise ValueError(
                f"layout must have a part of length {self.num_servers}, one number a server, "
                f"got {self.layout!r}"
            )

    @property
    def num_actions(self) -> int:
        """A = B · outputs."""
        return self.num_servers * self.outputs

    @property
    def network(self) -> ServerMLP:
        """The network shared over the servers; its parameters are the actor's."""
        return ServerMLP(self.hidden, self.outputs, self.activation)

    def init(self, key: jax.Array, observation_size: int) -> Params:
        """Fresh parameters.

        Raises:
            ValueError: an observation of another size than the layout's.
        """
        expected = sum(length for _, length in self.layout)
        if observation_size != expected:
            raise ValueError(f"observation_size must be {expected}, got {observation_size}")
        servers, shared = self._split(jnp.zeros(observation_size))
        shared = self._with_step(shared, np.zeros(self.embedding_size))
        return self.network.init(key, servers, shared, jnp.zeros((self.num_servers, self.outputs)))

    def _size(self) -> int:
        return self.num_actions

    def _denoiser(self, params: Params, state: jax.Array) -> Denoiser:
        """(x_k, k) -> what the network says of x_k, for observations [..., S].

        What the observation adds to the first layer is the same at every step and computed
        once, but for the step's embedding.
        """
        network, (servers, shared) = self.network, self._split(state)
        embedding = step_embedding(max(self.steps, 1), self.embedding_size)
        of_steps = params["params"]["of_shared"]["kernel"][-self.embedding_size :]
        shifts = jnp.asarray(embedding, of_steps.dtype) @ of_steps  # [K, H]
        shared = self._with_step(shared, np.zeros(self.embedding_size))
        fixed: jax.Array = network.apply(params, servers, shared, method="first")  # [..., B, H]

        def denoise(x: jax.Array, k: int | jax.Array) -> jax.Array:
            noisy = jnp.moveaxis(x.reshape(*x.shape[:-1], self.outputs, -1), -2, -1)
            sums: jax.Array = fixed + network.apply(params, noisy, method="of_x") + shifts[k - 1]
            output: jax.Array = network.apply(params, sums, method="after_first")
            return jnp.moveaxis(output, -1, -2).reshape(x.shape)

        return denoise

    def _split(self, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., B, F] the servers' parts of an observation, [..., G] all the others."""
        return split_layout(state, self.layout, self.num_servers)

    def _with_step(self, shared: jax.Array, embedding: np.ndarray) -> jax.Array:
        """[..., G + embedding_size], the embedding last."""
        row = jnp.broadcast_to(
            jnp.asarray(embedding, shared.dtype), (*shared.shape[:-1], self.embedding_size)
        )
        return jnp.concatenate([shared, row], axis=-1)
