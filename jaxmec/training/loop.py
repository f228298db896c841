"""Off-policy training as pure functions: init, prefill, chunks, evaluation points, train.

``train`` composes the others and does nothing else, so a host loop that calls them one by
one, to show progress and save checkpoints, computes the same. Nothing here is jitted. All
are pure in (agent, params, key or state) and may be vmapped over any of them: over keys for
seeds, over the agent's numbers for a sweep, over the environment's parameters.

Randomness: a training state holds two keys that never change. Step n of training folds
the count of environment steps into the first, the evaluation at a point folds it into the
second. Evaluation therefore never touches the training stream; every point has new
episodes; and agents trained from the same key are evaluated on the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.agents.base import Agent, Learner, Memory, Metrics
from jaxmec.training import devices, n_step, rollout
from jaxmec.training.evaluate import evaluate, greedy
from jaxmec.training.replay import ReplayBuffer, ReplayState
from jaxmec.training.rollout import Environment, Episodes, RolloutState, make_spec

# Metrics of a chunk that are not the agent's. The first two are NaN, and rightly so, when no
# episode ended in the chunk.
EPISODE_MEANS = ("episode_return", "episode_length")
EPISODE_METRICS = (*EPISODE_MEANS, "episodes", "reward")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, on how much; hashable, static under ``jit``.

    A vectorised step takes one step in each environment; what is not a multiple of
    ``num_envs`` is rounded up to whole vectorised steps, and training to whole chunks.
    """

    steps: int = 100_000  # environment steps, over all environments, prefill included
    num_envs: int = 16  # environments side by side
    prefill: int = 5_000  # environment steps with uniformly random actions, before any update
    buffer_size: int = 100_000  # transitions
    batch_size: int = 128  # transitions in a gradient update
    updates_per_step: int = 2  # gradient updates per vectorised step
    n_step: int = 1  # steps that a value looks ahead before it relies on a later one
    eval_every: int = 5_000  # environment steps in a chunk, which an evaluation follows
    eval_episodes: int = 16  # episodes at each evaluation point

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a positive integer")
        if self.prefill < self.batch_size:
            raise ValueError(
                f"prefill is {self.prefill}; expected at least batch_size, {self.batch_size}"
            )
        if self.buffer_size < self.batch_size:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; "
                f"expected at least batch_size, {self.batch_size}"
            )
        if self.n_step > self.buffer.rows:
            raise ValueError(
                f"n_step is {self.n_step}; expected at most {self.buffer.rows}, the steps of each "
                f"environment that a buffer_size of {self.buffer_size} holds"
            )
        if self.steps <= self.prefill:
            raise ValueError(f"steps is {self.steps}; expected more than prefill, {self.prefill}")
        if self.total_steps * max(1, self.updates_per_step / self.num_envs) >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    @property
    def prefill_steps(self) -> int:
        """Environment steps of the prefill: ``prefill`` in whole vectorised steps."""
        return math.ceil(self.prefill / self.num_envs) * self.num_envs

    @property
    def chunk_steps(self) -> int:
        """Environment steps of a chunk: ``eval_every`` in whole vectorised steps."""
        return math.ceil(self.eval_every / self.num_envs) * self.num_envs

    @property
    def num_chunks(self) -> int:
        """Chunks of training, the fewest that reach ``steps``."""
        return max(1, math.ceil((self.steps - self.prefill_steps) / self.chunk_steps))

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole training: ``steps`` in whole chunks after the prefill."""
        return self.prefill_steps + self.num_chunks * self.chunk_steps

    @property
    def num_points(self) -> int:
        """P, evaluation points: one after the prefill and one after each chunk."""
        return self.num_chunks + 1

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer of these sizes."""
        return ReplayBuffer(self.buffer_size, self.num_envs)


class TrainState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    rollout: RolloutState  # [E] environments, observations, the policy's memories
    replay: ReplayState  # [rows, E] of rollout.Transition
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    env_steps: jax.Array  # [] int32, over all environments, prefill included
    updates: jax.Array  # [] int32, gradient updates


class History(NamedTuple):
    """What training showed, at P points: after the prefill and after each chunk."""

    env_steps: jax.Array  # [P] int32
    evaluation: dict[str, jax.Array]  # [P] means over episodes: "return", "length", ...
    training: dict[str, jax.Array]  # [P] means over the chunk before; 0 at point 0


def init(
    agent: Agent, env: Environment, params: Any, config: TrainConfig, key: jax.Array
) -> TrainState:
    """A fresh learner, environments at their start, an empty replay buffer."""
    key_learner, key_reset, key_train, key_evaluation = jax.random.split(key, 4)
    spec = make_spec(env, params)
    learner = rollout.strong(agent.init(key_learner, spec))
    state = rollout.reset(env, params, agent.init_memory(spec), config.num_envs, key_reset)
    transitions = jax.eval_shape(
        lambda: rollout.step(_random(agent, learner, env, params), env, params, state, key_train)[1]
    )
    transitions = n_step.stored(transitions, config.n_step)
    transition = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), transitions)
    return TrainState(
        learner=learner,
        rollout=state,
        replay=config.buffer.init(transition),
        key=key_train,
        key_evaluation=key_evaluation,
        env_steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def prefill(
    agent: Agent, env: Environment, params: Any, config: TrainConfig, state: TrainState
) -> TrainState:
    """Fill the buffer with ``config.prefill_steps`` uniformly random decisions; learn nothing."""
    decide = _random(agent, state.learner, env, params)

    def step(state: TrainState, _: None) -> tuple[TrainState, None]:
        key = jax.random.fold_in(state.key, state.env_steps)
        return _collect(decide, env, params, config, state, key)[0], None

    return jax.lax.scan(step, state, length=config.prefill_steps // config.num_envs)[0]


def train_chunk(
    agent: Agent, env: Environment, params: Any, config: TrainConfig, state: TrainState
) -> tuple[TrainState, Metrics]:
    """``config.chunk_steps`` environment steps, each vectorised one followed by its updates.

    Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
    agent's, so that one NaN makes the mean NaN; "episode_return" and "episode_length", means
    over the episodes that ended in the chunk (0 if none did: see :func:`known`); "episodes", how
    many ended; "reward", the mean over its steps.
    """

    def update(learner: Learner, inputs: tuple[Any, jax.Array]) -> tuple[Learner, Metrics]:
        batch, key = inputs
        return agent.update(learner, batch, key)

    def step(state: TrainState, _: None) -> tuple[TrainState, tuple[Metrics, Episodes]]:
        key = jax.random.fold_in(state.key, state.env_steps)
        key_collect, key_sample, key_update = jax.random.split(key, 3)

        def decide(
            key: jax.Array, observation: jax.Array, memory: Memory
        ) -> tuple[jax.Array, Memory, Any]:
            return agent.act(state.learner, memory, observation, key, True)

        state, episodes = _collect(decide, env, params, config, state, key_collect)
        shape = (config.updates_per_step, config.batch_size)
        discount = _discount(agent, state.learner)
        batches = n_step.sample(
            config.buffer, state.replay, key_sample, shape, config.n_step, discount
        )
        batches = devices.spread(batches, axis=1)
        keys = jax.random.split(key_update, config.updates_per_step)
        learner, metrics = jax.lax.scan(update, state.learner, (batches, keys))
        state = state._replace(learner=learner, updates=state.updates + config.updates_per_step)
        return state, (metrics, episodes)

    state, (metrics, episodes) = jax.lax.scan(
        step, state, length=config.chunk_steps // config.num_envs
    )
    clash = sorted(set(metrics) & set(EPISODE_METRICS))
    if clash:
        raise ValueError(f"the agent's metrics {clash} are named as the loop's own")
    finished = jnp.sum(episodes.finished)
    counted = jnp.maximum(finished, 1)  # of none the sums are 0; who hunts a NaN finds none here
    return state, {
        **{name: jnp.mean(value) for name, value in metrics.items()},
        "episode_return": jnp.sum(episodes.total_return) / counted,
        "episode_length": jnp.sum(episodes.total_length) / counted,
        "episodes": finished.astype(jnp.float32),
        "reward": jnp.mean(episodes.reward),
    }


def evaluation_point(
    agent: Agent, env: Environment, params: Any, config: TrainConfig, state: TrainState
) -> Metrics:
    """The greedy policy's mean over ``config.eval_episodes`` episodes kept for this point.

    Scalars "return", "length" and each of ``env.metric_names``.
    """
    results = evaluate(
        greedy(agent, state.learner),
        agent.init_memory(make_spec(env, params)),
        env,
        params,
        config.eval_episodes,
        jax.random.fold_in(state.key_evaluation, state.env_steps),
    )
    return {name: jnp.mean(value) for name, value in results.items()}


def train(
    agent: Agent, env: Environment, params: Any, config: TrainConfig, key: jax.Array
) -> tuple[TrainState, History]:
    """One whole training run; pure, to be jitted and vmapped by the caller.

    Args:
        agent: what learns.
        env: a gymnax 1.x environment with a vector observation and discrete actions.
        params: its parameters, with ``max_steps_in_episode``.
        config: the sizes.
        key: what everything random in the run depends on.
    """
    state = prefill(agent, env, params, config, init(agent, env, params, config, key))
    start = evaluation_point(agent, env, params, config, state)

    def point(state: TrainState, _: None) -> tuple[TrainState, tuple[Any, Metrics, Metrics]]:
        state, training = train_chunk(agent, env, params, config, state)
        evaluation = evaluation_point(agent, env, params, config, state)
        return state, (state.env_steps, evaluation, training)

    start_steps = state.env_steps
    state, (env_steps, evaluation, training) = jax.lax.scan(point, state, length=config.num_chunks)
    return state, History(
        env_steps=jnp.concatenate([start_steps[None], env_steps]),
        evaluation={
            name: jnp.concatenate([start[name][None], value]) for name, value in evaluation.items()
        },
        training={
            name: jnp.concatenate([jnp.zeros(1, value.dtype), value])
            for name, value in training.items()
        },
    )


def known(metrics: dict[str, Any]) -> dict[str, Any]:
    """A chunk's metrics on the host, where a mean over episodes of which none ended is NaN.

    Not before: a program that computes a NaN on purpose stops under ``jax_debug_nans``.
    """
    return {
        name: np.where(metrics["episodes"] == 0, np.nan, value) if name in EPISODE_MEANS else value
        for name, value in metrics.items()
    }


def failures(metrics: dict[str, Any]) -> tuple[str, ...]:
    """The agent's metrics of a chunk that are not finite, on the host; () when all is well.

    ``metrics`` are concrete; with a leading axis of runs, one bad run is enough.
    """
    return tuple(
        name
        for name, value in metrics.items()
        if name not in EPISODE_METRICS and not bool(jnp.all(jnp.isfinite(jnp.asarray(value))))
    )


def _discount(agent: Agent, learner: Learner) -> Any:
    """[] the γ that this learner learns with: in a sweep each has its own (``discount_of``)."""
    of_learner = getattr(agent, "discount_of", None)
    return agent.discount if of_learner is None else of_learner(learner)


def _random(agent: Agent, learner: Learner, env: Environment, params: Any) -> rollout.Decide:
    """Uniformly random actions beside the memory and extras that the agent would have given.

    Of an agent with neither, nothing is left to compute but the random action.
    """

    def decide(
        key: jax.Array, observation: jax.Array, memory: Memory
    ) -> tuple[jax.Array, Memory, Any]:
        key_act, key_random = jax.random.split(key)
        action, memory, extras = agent.act(learner, memory, observation, key_act, True)
        sample = env.action_space(params).sample(key_random)
        return sample.astype(action.dtype), memory, extras

    return decide


def _collect(
    decide: rollout.Decide,
    env: Environment,
    params: Any,
    config: TrainConfig,
    state: TrainState,
    key: jax.Array,
) -> tuple[TrainState, Episodes]:
    """One vectorised step, stored in the buffer."""
    moved, transitions, episodes = rollout.step(decide, env, params, state.rollout, key)
    state = state._replace(
        rollout=moved,
        replay=config.buffer.add(state.replay, n_step.stored(transitions, config.n_step)),
        env_steps=state.env_steps + config.num_envs,
    )
    return state, episodes
