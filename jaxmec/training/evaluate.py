"""How good a policy is, on episodes of its own and the same for every policy.

The environment's random stream depends on the key alone: decision i of episode e is given
``fold_in(fold_in(key_env, e), i)`` whatever the policy does, so two policies evaluated with
one key meet the same arrivals (common random numbers). The policy's keys are derived apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.agents.base import Actor, Learner, Memory, SamplingAgent
from jaxmec.core import checks
from jaxmec.core.types import EnvParams, EnvState
from jaxmec.training import devices
from jaxmec.training.rollout import Environment, strong

# (key, observation, env_state, memory) -> (action, memory), for one environment
Policy = Callable[[jax.Array, jax.Array, EnvState, Memory], tuple[jax.Array, Memory]]
QUANTILES = (50, 95, 99)  # percent


class _Carry(NamedTuple):
    decision: jax.Array  # [] int32
    observation: jax.Array  # [episodes, observation_size]
    env_state: EnvState  # [episodes]
    memory: Memory  # [episodes]
    done: jax.Array  # [episodes] bool
    length: jax.Array  # [episodes] int32
    totals: dict[str, jax.Array]  # [episodes] sums over the decisions of the episode
    spread: jax.Array  # [episodes, max_steps] what quantiles are of, NaN where nothing; or [.., 0]


def greedy(agent: Actor, learner: Learner) -> Policy:
    """The agent's policy without chance."""

    def policy(
        key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
    ) -> tuple[jax.Array, Memory]:
        del state
        action, memory, _ = agent.act(learner, memory, observation, key, False)
        return action, memory

    return policy


def sampled(agent: Actor, learner: Learner) -> Policy:
    """The agent's policy, drawn from.

    Raises:
        TypeError: an agent that cannot be drawn from.
    """
    if not isinstance(agent, SamplingAgent):
        raise TypeError(f"{type(agent).__name__} has no policy to draw from: it lacks sample()")

    def policy(
        key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
    ) -> tuple[jax.Array, Memory]:
        del state
        return agent.sample(learner, memory, observation, key)

    return policy


def evaluate(
    policy: Policy,
    memory: Memory,
    env: Environment,
    params: EnvParams,
    episodes: int,
    key: jax.Array,
    max_steps: ArrayLike | None = None,
) -> dict[str, jax.Array]:
    """Play whole episodes side by side.

    Args:
        policy: decides for one environment; it may look at the environment's state.
        memory: the policy's memory before the first decision of an episode.
        episodes: how many.
        key: what the arrivals depend on.
        max_steps: a bound on the length of an episode, in decisions; by default
            ``params.max_steps_in_episode``.

    Returns:
        "return" (sum of rewards), "length" (decisions) and, for each name in
        ``env.metric_names``, the mean over the episode's decisions of that entry of
        ``info``; each [episodes] float32. An environment with ``summary(totals, length)`` makes
        its figures of the sums itself, and one with ``distributed``, two entries of ``info``, has
        also the ``QUANTILES`` of the first where the second is not 0. An episode not finished
        within ``max_steps`` gives NaN, since its figures would be those of another problem.
    """
    episodes = checks.integer("episodes", episodes)
    if max_steps is None:
        max_steps = getattr(params, "max_steps_in_episode", None)
    if max_steps is None:
        raise ValueError(
            f"{type(params).__name__} has no max_steps_in_episode; "
            "expected max_steps, a bound on the length of an episode"
        )
    names: tuple[str, ...] = tuple(getattr(env, "metric_names", ()))
    index = devices.spread(jnp.arange(episodes))
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys_reset, keys_env, keys_policy = (fold(each, index) for each in jax.random.split(key, 3))
    observation, env_state = jax.vmap(env.reset, in_axes=(0, None))(keys_reset, params)
    start = _Carry(
        decision=jnp.zeros((), jnp.int32),
        observation=strong(observation),
        env_state=strong(env_state),
        memory=strong(
            jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *jnp.shape(x))), memory)
        ),
        done=jnp.zeros(episodes, bool),
        length=jnp.zeros(episodes, jnp.int32),
        totals={name: jnp.zeros(episodes) for name in ("return", *names)},
        spread=jnp.full((episodes, max_steps if hasattr(env, "distributed") else 0), jnp.nan),
    )
    end = jax.lax.while_loop(
        lambda carry: ~jnp.all(carry.done) & (carry.decision < max_steps),
        lambda carry: _after_one_more(carry, policy, env, params, (keys_env, keys_policy)),
        start,
    )
    return _episode_figures(env, end, names)


def _episode_figures(env: Environment, end: _Carry, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """What `evaluate` returns, of the episodes' sums."""
    results = {"return": end.totals["return"], "length": end.length.astype(jnp.float32)}
    if hasattr(env, "summary"):
        results |= env.summary(end.totals, end.length)
    else:
        results |= {name: end.totals[name] / end.length for name in names}
    if hasattr(env, "distributed"):
        levels = jnp.asarray([percent / 100 for percent in QUANTILES])
        for percent, value in zip(
            QUANTILES, jnp.nanquantile(end.spread, levels, axis=1), strict=True
        ):
            results[f"{env.distributed[0]}_p{percent}"] = value
    return {name: jnp.where(end.done, value, jnp.nan) for name, value in results.items()}


def _after_one_more(
    carry: _Carry,
    policy: Policy,
    env: Environment,
    params: EnvParams,
    keys: tuple[jax.Array, jax.Array],
) -> _Carry:
    """A decision more in each episode; ``keys`` are the environments' and the policies', [n].

    Episodes that are over go on in the next one, unseen, until the last is over.
    """

    def decide(
        key_env: jax.Array,
        key_policy: jax.Array,
        observation: jax.Array,
        state: EnvState,
        memory: Memory,
    ) -> tuple[jax.Array, EnvState, Memory, jax.Array, dict[str, jax.Array]]:
        key_policy = jax.random.fold_in(key_policy, carry.decision)
        action, memory = policy(key_policy, observation, state, memory)
        observation, state, reward, terminated, truncated, info = env.step(
            jax.random.fold_in(key_env, carry.decision), state, action, params
        )
        scores = {name: reward if name == "return" else info[name] for name in carry.totals}
        return observation, state, memory, terminated | truncated, scores

    observation, env_state, memory, done, scores = jax.vmap(decide)(
        *keys, carry.observation, carry.env_state, carry.memory
    )
    spread = carry.spread
    if hasattr(env, "distributed"):
        value, counts = (scores[name] for name in env.distributed)
        seen = jnp.where(carry.done | (counts == 0), jnp.nan, value)
        spread = spread.at[:, carry.decision].set(seen.astype(spread.dtype))
    return _Carry(
        decision=carry.decision + 1,
        observation=observation,
        env_state=env_state,
        memory=memory,
        done=carry.done | done,
        length=carry.length + ~carry.done,
        totals={
            name: total + jnp.where(carry.done, 0.0, scores[name])
            for name, total in carry.totals.items()
        },
        spread=spread,
    )
