"""Numbers of a rule of serving, found over the simulator: many candidates side by side."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core import checks
from jaxmec.core.types import PyTree
from jaxmec.envs.serving import GenerativeServing
from jaxmec.serving.rules import NUMBERS, ServingRule, index_rule, tuned
from jaxmec.serving.scenario import ServingParams
from jaxmec.training.rollout import strong

KEPT = 0.3  # of the spread of the round before


class TunedRule(NamedTuple):
    """What was found."""

    rule: ServingRule
    numbers: tuple[float, ...]  # [8], as in ``jaxmec.serving.rules.NUMBERS``
    history: np.ndarray  # [rounds, candidates] mean reward a request


def tune_rule(
    params: ServingParams,
    *,
    information: str = "local",
    candidates: int = 64,
    rounds: int = 8,
    episodes: int = 64,
    seed: int = 0,
    name: str = "tuned",
) -> TunedRule:
    """The index rule whose numbers gather the most reward a request, by cross-entropy.

    Each round draws candidates from a normal distribution, plays them in the same episodes, and
    moves the distribution to the best eighth (Rubinstein 1999).

    Args:
        params: the world that it is tuned for.
        information: what the rule sees.
        candidates, rounds, episodes: how many candidates a round, rounds, and episodes a candidate.
        seed: of the candidates and the episodes; no evaluation uses them.

    Raises:
        ValueError: a number that is not positive, or too few candidates.
    """
    checks.require("candidates", candidates, checks.whole(8))
    checks.require("rounds", rounds, checks.whole(1))
    checks.require("episodes", episodes, checks.whole(1))
    env = GenerativeServing(params, information=information)
    score = jax.jit(lambda numbers, key: _score(env, params, numbers, episodes, key))
    mean, spread = (np.array(column) for column in zip(*NUMBERS.values(), strict=True))
    rng, history = np.random.default_rng(seed), []
    for number in range(rounds):
        drawn = mean + spread * rng.standard_normal((candidates, len(mean)))
        drawn[0] = mean
        key = jax.random.fold_in(jax.random.key(seed), number)
        scores = np.asarray(score(jnp.asarray(drawn, jnp.float32), key))
        best = drawn[np.argsort(-scores)[: max(2, candidates // 8)]]
        mean, spread = best.mean(axis=0), KEPT * spread + (1 - KEPT) * best.std(axis=0)
        history.append(scores)
    numbers = tuple(round(float(value), 4) for value in mean)
    return TunedRule(tuned(numbers, name), numbers, np.stack(history))


def _score(
    env: GenerativeServing,
    params: ServingParams,
    numbers: jax.Array,
    episodes: int,
    key: jax.Array,
) -> jax.Array:
    """[P] the mean reward a request of each candidate [P, 8], all in the same episodes."""
    keys = jnp.tile(jax.random.split(key, episodes), numbers.shape[0])
    each = jnp.repeat(numbers, episodes, axis=0)  # [P · episodes, 8]

    def one(numbers: jax.Array, state: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array]:
        choice, _ = index_rule(numbers)(params, env.view(state, params), (), key)
        _, state, reward, _, over, info = env.step(key, state, env.action_of(*choice), params)
        return state, jnp.stack([reward, info["requests"], over.astype(reward.dtype)])

    def step(carry: tuple[PyTree, jax.Array, jax.Array]) -> tuple[PyTree, jax.Array, jax.Array]:
        state, totals, done = carry
        state, gained = jax.vmap(one)(each, state, keys)
        totals = totals + jnp.where(done[:, None], 0, gained[:, :2])
        return strong(state), totals, done | (gained[:, 2] > 0)

    _, state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    begun = (strong(state), jnp.zeros((len(each), 2)), jnp.zeros(len(each), bool))
    _, totals, _ = jax.lax.while_loop(lambda carry: ~jnp.all(carry[2]), step, begun)
    gained = totals.reshape(numbers.shape[0], episodes, 2).sum(axis=1)
    return gained[:, 0] / gained[:, 1]
