"""Learning to do as is shown: behaviour cloning.

An environment that can (``env.demonstrate``) shows decisions before training; the agent is then
trained to give their actions at their observations (``agent.imitate``). Some of the windows shown
are held back. They tell the best policy.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.agents.base import ImitatingAgent, Learner, Metrics
from jaxmec.core.types import EnvParams
from jaxmec.training import devices, rollout
from jaxmec.training.rollout import Environment, make_spec
from jaxmec.training.trainer import Trainer, as_functions

PLANNED_AT_ONCE = 32  # windows at most; each takes half as long as alone (benchmarks/NOTES.md)
VALIDATION = 2**31  # beyond any count of steps: the noise of every validation


class Shown(NamedTuple):
    """Decisions, all windows' one after the other; those that count come first."""

    observation: jax.Array  # [n, observation_size]
    action: jax.Array  # [n, A]
    number: jax.Array  # [] int32, how many count


class CloningState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    shown: Shown
    held_back: Shown
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    env_steps: jax.Array  # [] int32, decisions imitated
    updates: jax.Array  # [] int32


@dataclass(frozen=True)
class CloningConfig(Trainer[ImitatingAgent, CloningState]):
    """How much is shown, and how long it is learned; hashable, static under ``jit``."""

    state_type: ClassVar[type[CloningState]] = CloningState
    needs_demonstrations: ClassVar[bool] = True

    steps: int = 3_000_000  # decisions imitated, each time that it is counting
    windows: int = 256  # slots that are shown to learn from
    validation_windows: int = 32  # slots that decide which policy is kept
    window: int = 96  # decisions of a slot at most; a slot's later ones are left out
    batch_size: int = 512  # decisions in a gradient update
    eval_every: int = 300_000  # decisions in a chunk, which an evaluation follows
    eval_episodes: int = 1  # episodes at each evaluation point

    def __post_init__(self) -> None:
        self.check_counts()
        if self.total_steps >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    @classmethod
    def trains(cls, agent: object) -> bool:
        """Agents that can imitate."""
        return isinstance(agent, ImitatingAgent)

    @property
    def stride(self) -> int:
        """Decisions of one update."""
        return self.batch_size

    def scaled(self, share: float) -> CloningConfig:
        """A share of it, at most the whole: fewer slots shown, fewer decisions imitated."""
        share = min(1.0, share)
        return dataclasses.replace(
            self,
            steps=math.ceil(share * self.steps),
            windows=math.ceil(share * self.windows),
            validation_windows=math.ceil(share * self.validation_windows),
            eval_every=math.ceil(share * self.eval_every),
        )

    def work(self, agent: ImitatingAgent) -> float:
        """A plan costs as much as some hundred gradient updates."""
        return self.total_steps / 512 + 200 * self.windows

    def init(
        self, agent: ImitatingAgent, env: Environment, params: EnvParams, key: jax.Array
    ) -> CloningState:
        """A fresh learner, and demonstrations.

        Raises:
            TypeError: an agent that cannot imitate, or an environment that cannot demonstrate.
        """
        if not self.trains(agent):
            raise TypeError(f"{type(agent).__name__} cannot imitate; give it a TrainConfig instead")
        if not hasattr(env, "demonstrate"):
            raise TypeError(f"{type(env).__name__} cannot demonstrate")
        key_learner, key_train, key_evaluation, key_shown = jax.random.split(key, 4)
        shown, held_back = _show(env, params, self, key_shown)
        return CloningState(
            learner=rollout.strong(agent.init(key_learner, make_spec(env, params))),
            shown=shown,
            held_back=held_back,
            key=key_train,
            key_evaluation=key_evaluation,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
        )

    def chunk(
        self, agent: ImitatingAgent, env: Environment, params: EnvParams, state: CloningState
    ) -> tuple[CloningState, Metrics]:
        """``chunk_steps`` decisions imitated, then the verdict of what was held back.

        Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
        agent's; "validation", the loss on what was held back.
        """

        def update(state: CloningState, _: None) -> tuple[CloningState, Metrics]:
            key_rows, key_update = jax.random.split(jax.random.fold_in(state.key, state.updates))
            shown = state.shown
            rows = jax.random.randint(key_rows, (self.batch_size,), 0, shown.number)
            seen, done = devices.spread((shown.observation[rows], shown.action[rows]))
            learner, metrics = agent.imitate(
                state.learner, seen, done, key_update, self.progress(state.updates)
            )
            state = state._replace(
                learner=learner,
                env_steps=state.env_steps + self.batch_size,
                updates=state.updates + 1,
            )
            return state, metrics

        state, metrics = jax.lax.scan(update, state, length=self.chunk_steps // self.batch_size)
        held = state.held_back
        key = jax.random.fold_in(state.key_evaluation, VALIDATION)  # the same at every chunk
        loss = agent.imitation_loss(state.learner, held.observation, held.action, key)
        counts = jnp.arange(loss.shape[0]) < held.number
        validation = jnp.sum(jnp.where(counts, loss, 0)) / held.number
        learner = agent.judge(state.learner, validation)
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        return state._replace(learner=learner), {**metrics, "validation": validation}


def _show(
    env: Any, params: EnvParams, config: CloningConfig, key: jax.Array
) -> tuple[Shown, Shown]:
    """What is learned from and what is held back.

    Windows are planned a few at once, so that memory does not grow with their number, and by one
    program, since a planner takes long to compile.
    """
    keys = jax.random.split(key, config.windows + config.validation_windows)
    # Without a rest, which would be a second program.
    at_once = max(size for size in range(1, PLANNED_AT_ONCE + 1) if len(keys) % size == 0)
    windows = jax.lax.map(
        lambda key: env.demonstrate(key, params, config.window), keys, batch_size=at_once
    )

    def flat(first: int, last: int) -> Shown:
        rows = jax.tree.map(lambda leaf: leaf[first:last].reshape(-1, *leaf.shape[2:]), windows)
        order = jnp.argsort(~rows.counts)  # stable: those that count first
        return Shown(rows.observation[order], rows.action[order], jnp.sum(rows.counts))

    return flat(0, config.windows), flat(config.windows, len(keys))


__getattr__ = as_functions(__name__)
