"""The diffusion actor: logits made from noise by a learned reverse chain (docs/model.md).

Sources: the chain is that of Ho et al. 2020, "Denoising diffusion probabilistic models",
with a policy's logits in the picture's place, as in D2SAC (Du et al. 2023). Steps count
k = 1..K; index k − 1 of an array of length K belongs to step k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core import checks
from jaxmec.networks.mlp import MLP, Params
from jaxmec.struct import pytree, static

SCHEDULES = ("vp", "linear", "cosine")
PREDICTIONS = ("x0", "noise")
CLIPS = ("soft", "hard", "none")

# (x_k, k) -> what the network says of x_k [..., A]; k in 1..K, a number or an array [].
Denoiser = Callable[[jax.Array, int | jax.Array], jax.Array]


class NoiseSchedule(NamedTuple):
    """The noise of each step of the chain: constants, in float64, never traced."""

    beta: np.ndarray  # [K] variance added by step k, 1 − α_k
    alpha: np.ndarray  # [K]
    alpha_bar: np.ndarray  # [K] Π_{j≤k} α_j
    posterior_variance: np.ndarray  # [K] σ² of x_{k−1} given x_k and x_0; 0 at k = 1


def noise_schedule(name: str, steps: int) -> NoiseSchedule:
    """The schedule called ``name`` for a chain of ``steps`` = K ≥ 1 steps.

    - ``"vp"``: the variance-preserving schedule of docs/model.md, β_min = 0.1 and β_max = 10.
    - ``"linear"``: β from 1e-4 to 0.02 whatever K, as published for 1000 steps (Ho et al.).
      With few steps x_K then keeps most of x_0, and the chain starts far from its own prior.
    - ``"cosine"``: ᾱ_k = f(k)/f(0), f(k) = cos²((k/K + 0.008)/1.008 · π/2), β at most 0.999
      (Nichol and Dhariwal 2021).

    Raises:
        ValueError: an unknown name, or steps below 1.
    """
    steps = checks.integer("steps", steps)
    k = np.arange(1, steps + 1, dtype=np.float64)
    if name == "vp":
        least, most = 0.1, 10.0
        alpha = np.exp(-least / steps - (most - least) * (2 * k - 1) / (2 * steps**2))
    elif name == "linear":
        alpha = 1 - np.linspace(1e-4, 0.02, steps)
    elif name == "cosine":
        level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        alpha = np.maximum(level[1:] / level[:-1], 1 - 0.999)
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    beta = 1 - alpha
    alpha_bar = np.cumprod(alpha)
    before = np.append(1.0, alpha_bar[:-1])  # ᾱ_{k−1}, with ᾱ_0 = 1
    return NoiseSchedule(beta, alpha, alpha_bar, beta * (1 - before) / (1 - alpha_bar))


def step_embedding(steps: int, size: int) -> np.ndarray:
    """[K, size] sinusoidal embedding of k = 1..K; ``size`` is even.

    The first half holds sin(k ω_i), the second cos(k ω_i), ω from 1 down to 1e-4
    geometrically (Vaswani et al. 2017).
    """
    frequency = np.geomspace(1.0, 1e-4, size // 2)
    angle = np.arange(1, steps + 1)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def clip_prediction(x0: jax.Array, clip: str, bound: float) -> jax.Array:
    """x̂_0 held within ±``bound`` c: ``"soft"`` by x/√(1 + (x/c)²), ``"hard"``, or ``"none"``.

    The soft bound has a gradient everywhere, which falls as (c/x)³. The hard one has none
    outside, and a policy whose logits have reached it cannot come back; nor, in float32,
    from c·tanh(x/c), which is c itself from 9 c on: several actions then tie at the bound,
    the worst one perhaps among them, for good.
    """
    if clip == "soft":
        return x0 * jax.lax.rsqrt(1 + jnp.square(x0 / bound))
    if clip == "hard":
        return jnp.clip(x0, -bound, bound)
    return x0


def reverse_chain(
    denoise: Denoiser,
    noise: jax.Array,
    schedule: NoiseSchedule,
    *,
    predict: str = "x0",
    clip: str = "soft",
    bound: float = 10.0,
) -> jax.Array:
    """[..., A] x_0, the end of the reverse chain (docs/model.md: "The diffusion actor").

    ``denoise(x_k, k)`` is what the network says of x_k [..., A]: the noise ε in it, or x_0
    itself, as ``predict`` tells. ``noise`` [K, ..., A] is standard normal: its row 0 is x_K
    and row j the z added by step k = K − j + 1; zeros give the deterministic chain. The K
    steps are unrolled, and the gradient passes through all of them.
    """
    *_, x0 = _chain(denoise, noise, schedule, predict, clip, bound)
    return x0


def reverse_path(
    denoise: Denoiser,
    noise: jax.Array,
    schedule: NoiseSchedule,
    *,
    predict: str = "x0",
    clip: str = "soft",
    bound: float = 10.0,
) -> jax.Array:
    """[K + 1, ..., A] all that :func:`reverse_chain` goes through: x_K, x_{K−1}, ..., x_0."""
    return jnp.stack(list(_chain(denoise, noise, schedule, predict, clip, bound)))


def _chain(
    denoise: Denoiser,
    noise: jax.Array,
    schedule: NoiseSchedule,
    predict: str,
    clip: str,
    bound: float,
) -> Iterator[jax.Array]:
    """x_K, x_{K−1}, ..., x_0, each [..., A]."""
    beta, alpha, alpha_bar, variance = schedule
    steps = len(beta)
    x = noise[0]
    for k in range(steps, 0, -1):
        yield x
        i = k - 1
        before = alpha_bar[i - 1] if k > 1 else 1.0  # ᾱ_{k−1}
        output = denoise(x, k)
        if predict == "noise":
            scale, share = 1 / np.sqrt(alpha_bar[i]), np.sqrt(1 / alpha_bar[i] - 1)
            output = float(scale) * x - float(share) * output
        x0 = clip_prediction(output, clip, bound)
        if k == 1:
            yield x0  # what the mean gives with ᾱ_0 = 1, without the rounding
            return
        of_x0 = beta[i] * np.sqrt(before) / (1 - alpha_bar[i])
        of_x = (1 - before) * np.sqrt(alpha[i]) / (1 - alpha_bar[i])
        mean = float(of_x0) * x0 + float(of_x) * x
        x = mean + float(np.sqrt(variance[i])) * noise[steps - k + 1]


def denoising_loss(
    denoise: Denoiser,
    target: jax.Array,
    key: jax.Array,
    schedule: NoiseSchedule,
    *,
    predict: str = "x0",
    clip: str = "soft",
    bound: float = 10.0,
) -> jax.Array:
    """[] how badly noise is told from a ``target`` x_0 [A] at one step of the forward process.

    With k uniform on 1..K and ε ~ N(0, I), x_k = √ᾱ_k x_0 + √(1 − ᾱ_k) ε; the mean squared error
    is that of ε where the network predicts the noise (Ho et al. 2020), and else that of x_0, with
    its estimate bounded as in the chain. Wang et al. 2023 ("Diffusion-QL") clone behaviour by it.
    """
    key_step, key_noise = jax.random.split(key)
    k = jax.random.randint(key_step, (), 1, len(schedule.alpha_bar) + 1)
    alpha_bar = jnp.asarray(schedule.alpha_bar, target.dtype)[k - 1]
    noise = jax.random.normal(key_noise, target.shape, target.dtype)
    output = denoise(jnp.sqrt(alpha_bar) * target + jnp.sqrt(1 - alpha_bar) * noise, k)
    if predict == "noise":
        return jnp.mean(jnp.square(output - noise))
    return jnp.mean(jnp.square(clip_prediction(output, clip, bound) - target))


@pytree
class ReverseChainActor:
    """An actor whose logits are x_0 of a reverse chain, whatever the network in it.

    It holds no parameters: ``init`` makes them, ``logits`` uses them. A subclass says what the
    network is, by ``init``, ``_size`` and ``_denoiser``. Fields are checked by their owner.
    """

    hidden: tuple[int, ...] = static(default=(128, 128), kw_only=True)  # at least one layer
    activation: str = static(default="relu", kw_only=True)  # a name in ACTIVATIONS
    steps: int = static(default=5, kw_only=True)  # K; 0: no chain, the output at x = 0, bounded
    schedule: str = static(default="vp", kw_only=True)  # a name in SCHEDULES
    predict: str = static(default="x0", kw_only=True)  # what the network says, in PREDICTIONS
    clip: str = static(default="soft", kw_only=True)  # how x̂_0 is bounded, a name in CLIPS
    embedding_size: int = static(default=16, kw_only=True)  # of the step's embedding, even
    bound: float = dataclasses.field(default=10.0, kw_only=True)  # c, the bound of x̂_0

    def init(self, key: jax.Array, observation_size: int) -> Params:
        """Fresh parameters."""
        raise NotImplementedError

    def sample_noise(self, key: jax.Array, *batch: int) -> jax.Array:
        """[K, *batch, A] the standard normal noise that one chain of each example takes."""
        return jax.random.normal(key, (self.steps, *batch, self._size()))

    def logits(self, params: Params, state: jax.Array, noise: jax.Array) -> jax.Array:
        """[..., A] x_0 for states [..., S], from ``noise`` [K, ..., A]."""
        denoise = self._denoiser(params, state)
        if self.steps == 0:
            zeros = jnp.zeros((*state.shape[:-1], self._size()), state.dtype)
            return clip_prediction(denoise(zeros, 1), self.clip, self.bound)
        return reverse_chain(
            denoise,
            noise,
            noise_schedule(self.schedule, self.steps),
            predict=self.predict,
            clip=self.clip,
            bound=self.bound,
        )

    def path(self, params: Params, state: jax.Array, noise: jax.Array) -> jax.Array:
        """[K + 1, ..., A] the whole chain that ends in :meth:`logits`; K >= 1."""
        return reverse_path(
            self._denoiser(params, state),
            noise,
            noise_schedule(self.schedule, self.steps),
            predict=self.predict,
            clip=self.clip,
            bound=self.bound,
        )

    def greedy_logits(self, params: Params, state: jax.Array) -> jax.Array:
        """[..., A] x_0 of the chain without noise: x_K = 0 and z = 0."""
        shape = (self.steps, *state.shape[:-1], self._size())
        return self.logits(params, state, jnp.zeros(shape, state.dtype))

    def imitation_loss(
        self, params: Params, state: jax.Array, target: jax.Array, key: jax.Array
    ) -> jax.Array:
        """[] how far the actor is from giving ``target`` [A] at a state [S].

        :func:`denoising_loss`; without a chain the mean squared error of the logits.
        """
        if self.steps == 0:
            return jnp.mean(jnp.square(self.greedy_logits(params, state) - target))
        return denoising_loss(
            self._denoiser(params, state),
            target,
            key,
            noise_schedule(self.schedule, self.steps),
            predict=self.predict,
            clip=self.clip,
            bound=self.bound,
        )

    def _size(self) -> int:
        """A, how many logits there are."""
        raise NotImplementedError

    def _denoiser(self, params: Params, state: jax.Array) -> Denoiser:
        """What the network says of x_k, for states [..., S]."""
        raise NotImplementedError


@pytree
class DiffusionActor(ReverseChainActor):
    """A policy over A actions whose logits are x_0 of a reverse chain, given a state s.

    The network is an MLP on [x_k, embedding of k, s].
    """

    num_actions: int = static()  # A

    @property
    def network(self) -> MLP:
        """The MLP on [x_k, embedding of k, s]; its parameters are the actor's."""
        return MLP(self.hidden, self.num_actions, self.activation)

    def init(self, key: jax.Array, observation_size: int) -> Params:
        """Fresh parameters."""
        size = self.num_actions + self.embedding_size + observation_size
        return self.network.init(key, jnp.zeros(size))

    def _size(self) -> int:
        return self.num_actions

    def _denoiser(self, params: Params, state: jax.Array) -> Denoiser:
        """(x_k, k) -> what the network says of x_k, for states [..., S].

        The first layer's product with [x_k, embedding, s] is the sum of three, of which only
        the one with x_k changes from step to step; the others are taken once.
        """
        first = params["params"]["layers_0"]
        ends = (self.num_actions, self.num_actions + self.embedding_size)
        of_x, of_step, of_state = jnp.split(first["kernel"], ends)
        embedding = step_embedding(max(self.steps, 1), self.embedding_size)
        of_steps = jnp.asarray(embedding, of_step.dtype) @ of_step + first["bias"]  # [K, H]
        of_states = state @ of_state  # [..., H]

        def denoise(x: jax.Array, k: int | jax.Array) -> jax.Array:
            sums = x @ of_x + of_states + of_steps[k - 1]
            output: jax.Array = self.network.apply(params, sums, method="after_first")
            return output

        return denoise
