"""Off-policy training: transitions into a replay buffer, gradient updates out of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Agent, Learner, Memory, Metrics, Transition
from jaxmec.core import checks
from jaxmec.core.types import EnvParams, PyTree
from jaxmec.training import devices, n_step, rollout
from jaxmec.training.replay import ReplayBuffer, ReplayState
from jaxmec.training.rollout import Environment, Episodes, RolloutState, Staggering, make_spec
from jaxmec.training.trainer import EPISODE_METRICS, Trainer, denoising_steps

STAGGER = 2**31  # beyond any count of steps: draws of the play before them


class TrainState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    rollout: RolloutState  # [E] environments, observations, the policy's memories
    replay: ReplayState  # [rows, E] of rollout.Transition
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    env_steps: jax.Array  # [] int32, over all environments, prefill included
    updates: jax.Array  # [] int32, gradient updates


@dataclass(frozen=True)
class TrainConfig(Trainer[Agent, TrainState]):
    """How long to train, on how much; hashable, static under ``jit``.

    A vectorised step takes one step in each environment; what is not a multiple of
    ``num_envs`` is rounded up to whole vectorised steps, and training to whole chunks.
    """

    state_type: ClassVar[type[TrainState]] = TrainState

    steps: int = 100_000  # environment steps, over all environments, prefill included
    num_envs: int = 16  # environments side by side
    prefill: int = 5_000  # environment steps with uniformly random actions, before any update
    buffer_size: int = 100_000  # transitions
    batch_size: int = 128  # transitions in a gradient update
    updates_per_step: int = 2  # gradient updates per vectorised step
    n_step: int = 1  # steps that a value looks ahead before it relies on a later one
    eval_every: int = 5_000  # environment steps in a chunk, which an evaluation follows
    eval_episodes: int = 16  # episodes at each evaluation point
    staggered: bool | None = None  # begin apart in an episode; None: where each sees below two

    def __post_init__(self) -> None:
        self.check_counts()
        checks.fields(self, staggered=checks.either(checks.flag, None))
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
    def stride(self) -> int:
        """Environment steps of a vectorised step."""
        return self.num_envs

    @property
    def prefill_steps(self) -> int:
        """Environment steps of the prefill: ``prefill`` in whole vectorised steps."""
        return math.ceil(self.prefill / self.num_envs) * self.num_envs

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer of these sizes."""
        return ReplayBuffer(self.buffer_size, self.num_envs)

    def scaled(self, share: float) -> TrainConfig:
        """Training ``share`` times as long, with as many evaluation points; a shorter one has a
        shorter prefill too."""
        if share == 1:
            return self
        prefill = max(self.batch_size, math.ceil(self.prefill * min(1.0, share)))
        every = max(1, math.ceil(self.eval_every * share))
        steps = max(prefill + every, math.ceil(self.steps * share))
        return dataclasses.replace(self, steps=steps, prefill=prefill, eval_every=every)

    def work(self, agent: Agent) -> float:
        """Gradient updates, times the steps of denoising in each."""
        vectorised = (self.total_steps - self.prefill_steps) / self.num_envs
        return vectorised * self.updates_per_step * denoising_steps(agent)

    def init(self, agent: Agent, env: Environment, params: EnvParams, key: jax.Array) -> TrainState:
        """A fresh learner, environments at their start, an empty replay buffer."""
        key_learner, key_reset, key_train, key_evaluation = jax.random.split(key, 4)
        spec = make_spec(env, params)
        learner = rollout.strong(agent.init(key_learner, spec))
        state = rollout.reset(env, params, agent.init_memory(spec), self.num_envs, key_reset)
        decide = _uniformly_random(agent, learner, env, params)
        transitions = jax.eval_shape(lambda: rollout.step(decide, env, params, state, key_train)[1])
        transitions = n_step.stored(transitions, self.n_step)
        transition = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), transitions)
        return TrainState(
            learner=learner,
            rollout=state,
            replay=self.buffer.init(transition),
            key=key_train,
            key_evaluation=key_evaluation,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
        )

    def prepare(
        self, agent: Agent, env: Environment, params: EnvParams, state: TrainState
    ) -> TrainState:
        """Fill the buffer with ``prefill_steps`` uniformly random decisions; learn nothing.

        Environments are staggered first, as the config says (:func:`rollout.stagger`).

        Raises:
            ValueError: they are to be staggered, in an environment that cannot be.
        """
        state = self._staggered(env, params, state)
        decide = _uniformly_random(agent, state.learner, env, params)

        def step(state: TrainState, _: None) -> tuple[TrainState, None]:
            key = jax.random.fold_in(state.key, state.env_steps)
            return self._collect(decide, env, params, state, key)[0], None

        return jax.lax.scan(step, state, length=self.prefill_steps // self.num_envs)[0]

    def chunk(
        self, agent: Agent, env: Environment, params: EnvParams, state: TrainState
    ) -> tuple[TrainState, Metrics]:
        """``chunk_steps`` environment steps, each vectorised one followed by its updates.

        Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
        agent's, so that one NaN makes the mean NaN; "episode_return" and "episode_length", means
        over the episodes that ended in the chunk (0 if none did: see :func:`trainer.known`);
        "episodes", how many ended; "reward", the mean over its steps.
        """

        def update(
            learner: Learner, inputs: tuple[Transition, jax.Array]
        ) -> tuple[Learner, Metrics]:
            batch, key = inputs
            return agent.update(learner, batch, key)

        def step(state: TrainState, _: None) -> tuple[TrainState, tuple[Metrics, Episodes]]:
            key = jax.random.fold_in(state.key, state.env_steps)
            key_collect, key_sample, key_update = jax.random.split(key, 3)

            def decide(
                key: jax.Array, observation: jax.Array, memory: Memory
            ) -> tuple[jax.Array, Memory, PyTree]:
                return agent.act(state.learner, memory, observation, key, True)

            state, episodes = self._collect(decide, env, params, state, key_collect)
            shape = (self.updates_per_step, self.batch_size)
            batches = n_step.sample(
                self.buffer, state.replay, key_sample, shape, self.n_step, agent.discount
            )
            batches = devices.spread(batches, axis=1)
            keys = jax.random.split(key_update, self.updates_per_step)
            learner, metrics = jax.lax.scan(update, state.learner, (batches, keys))
            state = state._replace(learner=learner, updates=state.updates + self.updates_per_step)
            return state, (metrics, episodes)

        length = self.chunk_steps // self.num_envs
        state, (metrics, episodes) = jax.lax.scan(step, state, length=length)
        if clash := sorted(set(metrics) & set(EPISODE_METRICS)):
            raise ValueError(f"the agent's metrics {clash} are named as the trainer's own")
        means = {name: jnp.mean(value) for name, value in metrics.items()}
        return state, means | _of_episodes(episodes)

    def _staggered(self, env: Environment, params: EnvParams, state: TrainState) -> TrainState:
        """Environments apart: e of E has played e/E of an episode of average length."""
        if self.staggered is False:
            return state
        if not isinstance(env, Staggering):
            if self.staggered:
                raise ValueError(
                    f"staggered is True; expected None or False, since {type(env).__name__} has no "
                    "fair_step to begin an episode with"
                )
            return state
        episode = env.expected_steps(params)
        steps = jnp.arange(self.num_envs) / self.num_envs * episode
        if self.staggered is None:
            steps = jnp.where(self.total_steps / self.num_envs < 2 * episode, steps, 0)
        key = jax.random.fold_in(state.key, STAGGER)
        apart = rollout.stagger(env, params, state.rollout, steps.astype(jnp.int32), key)
        return state._replace(rollout=apart)

    def _collect(
        self,
        decide: rollout.Decide,
        env: Environment,
        params: EnvParams,
        state: TrainState,
        key: jax.Array,
    ) -> tuple[TrainState, Episodes]:
        """One vectorised step, stored in the buffer."""
        moved, transitions, episodes = rollout.step(decide, env, params, state.rollout, key)
        state = state._replace(
            rollout=moved,
            replay=self.buffer.add(state.replay, n_step.stored(transitions, self.n_step)),
            env_steps=state.env_steps + self.num_envs,
        )
        return state, episodes


def _of_episodes(episodes: Episodes) -> Metrics:
    """``EPISODE_METRICS`` of what a chunk's steps ended."""
    finished = jnp.sum(episodes.finished)
    counted = jnp.maximum(finished, 1)  # of none the sums are 0; who hunts a NaN finds none here
    return {
        "episode_return": jnp.sum(episodes.total_return) / counted,
        "episode_length": jnp.sum(episodes.total_length) / counted,
        "episodes": finished.astype(jnp.float32),
        "reward": jnp.mean(episodes.reward),
    }


def _uniformly_random(
    agent: Agent, learner: Learner, env: Environment, params: EnvParams
) -> rollout.Decide:
    """Uniformly random actions beside the memory and extras that the agent would have given.

    Of an agent with neither, nothing is left to compute but the random action.
    """

    def decide(
        key: jax.Array, observation: jax.Array, memory: Memory
    ) -> tuple[jax.Array, Memory, PyTree]:
        key_act, key_random = jax.random.split(key)
        action, memory, extras = agent.act(learner, memory, observation, key_act, True)
        sample = env.action_space(params).sample(key_random)
        return sample.astype(action.dtype), memory, extras

    return decide
