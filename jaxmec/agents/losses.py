"""The equations that agents are made of, as pure functions on minibatches.

Axes: M the minibatch, A the actions, C the critics. Nothing here stops a gradient or takes
a mean that a name does not say.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def chosen(values: jax.Array, action: jax.Array) -> jax.Array:
    """[..., M] the entry of ``values`` [..., M, A] at each row's ``action`` [M]."""
    index = jnp.broadcast_to(action[:, None], (*values.shape[:-1], 1))
    return jnp.take_along_axis(values, index, axis=-1)[..., 0]


def td_target(
    reward: jax.Array,
    terminated: jax.Array,
    next_value: jax.Array,
    discount: float,
    steps: Any = (),
) -> jax.Array:
    """[M] R + γ^n (1 − terminated) V(s'), R being the discounted rewards of n ``steps`` [M].

    Nothing follows a termination. After a time limit something would have, so there V(s')
    counts, s' being the episode's final observation. ``steps`` () is one each.
    """
    if not isinstance(steps, tuple):
        discount = discount**steps
    return reward + discount * jnp.where(terminated, 0.0, next_value)


def double_q_value(target_q: jax.Array, online_q: jax.Array) -> jax.Array:
    """[M] Q̂(s', argmax_a Q(s', a)): double Q-learning (van Hasselt et al. 2016).

    ``target_q`` and ``online_q`` [M, A] are both of s'. With the same array twice it is the
    plain maximum.
    """
    return chosen(target_q, jnp.argmax(online_q, axis=-1))


def expected_value(probability: jax.Array, values: jax.Array) -> jax.Array:
    """[M] Σ_a π(a|s) f(s, a), of π and f [M, A]."""
    return jnp.sum(probability * values, axis=-1)


def entropy(log_probability: jax.Array) -> jax.Array:
    """[M] −Σ_a π(a|s) log π(a|s), nats, of log π [M, A]."""
    return -expected_value(jnp.exp(log_probability), log_probability)


def soft_value(
    log_probability: jax.Array, q: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """[M] V(s) = Σ_a π(a|s) (min_j Q_j(s, a) − α log π(a|s)) (Christodoulou 2019, eq. 10).

    ``log_probability`` is [M, A] and ``q`` [C, M, A]. The actor's loss is −V(s).
    """
    soft_q = jnp.min(q, axis=0) - temperature * log_probability
    return expected_value(jnp.exp(log_probability), soft_q)


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """½ (prediction − target)², elementwise."""
    return 0.5 * jnp.square(prediction - target)


def huber_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """½ e² where |e| ≤ 1, else |e| − ½, elementwise: gradients are within ±1."""
    error = jnp.abs(prediction - target)
    inner = jnp.minimum(error, 1.0)
    return 0.5 * inner**2 + (error - inner)


def temperature_loss(
    log_temperature: jax.Array, mean_entropy: jax.Array, target: float
) -> jax.Array:
    """[] log α · (H − H̄): its descent raises α where the entropy is below the target.

    Of log α and not of α, so that the rate of change does not die with α.
    """
    return log_temperature * (mean_entropy - target)
