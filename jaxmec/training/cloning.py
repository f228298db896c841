"""Learning to do as is shown: behaviour cloning, in the same pieces as ``training.loop``.

An environment that can (``env.demonstrate``) shows decisions before training; the agent is then
trained to give their actions at their observations (``agent.imitate``). Some of the windows shown
are held back. They tell the best policy.

Everything is pure, may be vmapped over keys, and keeps its keys as ``training.loop`` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Learner, Metrics, PathwiseAgent
from jaxmec.training import devices, pathwise, rollout
from jaxmec.training.rollout import Environment, make_spec

evaluation_point = pathwise.evaluation_point


@dataclass(frozen=True)
class CloningConfig(pathwise.InUpdates):
    """How much is shown, and how long it is learned; hashable, static under ``jit``."""

    steps: int = 3_000_000  # decisions imitated, each time that it is counting
    windows: int = 256  # slots that are shown to learn from
    validation_windows: int = 32  # slots that decide which policy is kept
    window: int = 96  # decisions of a slot at most; a slot's later ones are left out
    batch_size: int = 512  # decisions in a gradient update
    eval_every: int = 300_000  # decisions in a chunk, which an evaluation follows
    eval_episodes: int = 1  # episodes at each evaluation point

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a positive integer")
        if self.total_steps >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    def shortened(self, share: float) -> CloningConfig:
        """A share of it, at most the whole: fewer slots shown, fewer decisions imitated."""
        share = min(1.0, share)
        return replace(
            self,
            steps=math.ceil(share * self.steps),
            windows=math.ceil(share * self.windows),
            validation_windows=math.ceil(share * self.validation_windows),
            eval_every=math.ceil(share * self.eval_every),
        )

    @property
    def update_steps(self) -> int:
        """Decisions of one update."""
        return self.batch_size


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


def init(
    agent: PathwiseAgent, env: Environment, params: Any, config: CloningConfig, key: jax.Array
) -> CloningState:
    """A fresh learner, and demonstrations.

    Raises:
        TypeError: an agent that cannot imitate, or an environment that cannot demonstrate.
    """
    if not hasattr(agent, "imitate"):
        raise TypeError(f"{type(agent).__name__} cannot imitate; give it a TrainConfig instead")
    if not hasattr(env, "demonstrate"):
        raise TypeError(f"{type(env).__name__} cannot demonstrate")
    key_learner, key_train, key_evaluation, key_shown = jax.random.split(key, 4)
    shown, held_back = _show(env, params, config, key_shown)
    return CloningState(
        learner=rollout.strong(agent.init(key_learner, make_spec(env, params))),
        shown=shown,
        held_back=held_back,
        key=key_train,
        key_evaluation=key_evaluation,
        env_steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def prefill(
    agent: PathwiseAgent, env: Environment, params: Any, config: CloningConfig, state: CloningState
) -> CloningState:
    """Nothing is left to collect: the state as it is."""
    return state


def train_chunk(
    agent: PathwiseAgent, env: Environment, params: Any, config: CloningConfig, state: CloningState
) -> tuple[CloningState, Metrics]:
    """``config.chunk_steps`` decisions imitated, then the verdict of what was held back.

    Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
    agent's; "validation", the loss on what was held back.
    """
    imitating: Any = agent

    def update(state: CloningState, _: None) -> tuple[CloningState, Metrics]:
        key_rows, key_update = jax.random.split(jax.random.fold_in(state.key, state.updates))
        shown = state.shown
        rows = jax.random.randint(key_rows, (config.batch_size,), 0, shown.number)
        batch = devices.spread((shown.observation[rows], shown.action[rows]))
        learner, metrics = imitating.imitate(state.learner, *batch, key_update, config.updates)
        state = state._replace(
            learner=learner,
            env_steps=state.env_steps + config.batch_size,
            updates=state.updates + 1,
        )
        return state, metrics

    length = config.chunk_steps // config.batch_size
    state, metrics = jax.lax.scan(update, state, length=length)
    held = state.held_back
    key = jax.random.fold_in(state.key_evaluation, pathwise.PLACES)  # the same at every chunk
    loss = imitating.imitation_loss(state.learner, held.observation, held.action, key)
    counts = jnp.arange(loss.shape[0]) < held.number
    validation = jnp.sum(jnp.where(counts, loss, 0)) / held.number
    learner = agent.judge(state.learner, validation)
    metrics = {name: jnp.mean(value) for name, value in metrics.items()}
    return state._replace(learner=learner), {**metrics, "validation": validation}


def _show(env: Any, params: Any, config: CloningConfig, key: jax.Array) -> tuple[Shown, Shown]:
    """What is learned from and what is held back.

    Windows are planned one after the other, so that memory does not grow with their number, and
    by one program, since a planner takes long to compile.
    """
    keys = jax.random.split(key, config.windows + config.validation_windows)
    windows = jax.lax.map(lambda key: env.demonstrate(key, params, config.window), keys)

    def flat(first: int, last: int) -> Shown:
        rows = jax.tree.map(lambda leaf: leaf[first:last].reshape(-1, *leaf.shape[2:]), windows)
        order = jnp.argsort(~rows.counts)  # stable: those that count first
        return Shown(rows.observation[order], rows.action[order], jnp.sum(rows.counts))

    return flat(0, config.windows), flat(config.windows, len(keys))
