"""What a policy did, decision by decision: one episode as NumPy arrays.

`record` plays one of the episodes that `jaxmec.evaluate` plays, so what a picture shows is part
of what a table says.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.agents.base import Learner
from jaxmec.core import checks
from jaxmec.core.types import EnvParams, PyTree
from jaxmec.envs.cartpole import CartPoleParams
from jaxmec.envs.table import find_environment
from jaxmec.experiment import (
    PathLike,
    Player,
    Policy,
    Setting,
    TrainResult,
    evaluation_key,
    player_of,
)
from jaxmec.mec.workload import Task
from jaxmec.schedulers import Scheduler
from jaxmec.traces import TraceFile
from jaxmec.training.rollout import strong

CHUNK = 1024  # decisions that one call of the compiled program makes


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of an offloading environment: n decisions among B servers, in their order.

    A slot's tasks are decided one after the other at no cost in time: a decision knows of the
    earlier ones by the work that they added, and wait and service count from the slot's start.
    """

    name: str  # who decided
    setting: Setting
    capacity: np.ndarray  # [B] Gcycles/s
    rate: np.ndarray  # [B] Mbit/s
    slot_length: float  # s
    slots: int  # T
    deadline: float | np.ndarray  # s, infinite where there is none; [n] where a trace has its own
    max_wait: float  # s, what a wait is capped at; infinite where it is not
    feature_names: tuple[str, ...]  # [S] of an observation's entries
    slot: np.ndarray  # [n] int, 0..T−1
    origin: np.ndarray  # [n] int, the station where the task arrived; −1: a master node
    position: np.ndarray  # [n] int, which of the station's tasks of the slot
    size: np.ndarray  # [n] Mbit
    work: np.ndarray  # [n] Gcycles
    result: np.ndarray  # [n] Mbit
    observation: np.ndarray  # [n, S]
    action: np.ndarray  # [n] or [n, A], as the environment's action mode has it
    fraction: np.ndarray  # [n, B] of the task given to each server
    wait: np.ndarray  # [n, B] s, the true one, whatever the policy saw
    serve: np.ndarray  # [n, B] s that the whole task would take there
    makespan: np.ndarray  # [n] s
    failed: np.ndarray  # [n] bool
    reward: np.ndarray  # [n]
    backlog: np.ndarray  # [n, B] Gcycles queued when the slot began
    inflight: np.ndarray  # [n, B] Gcycles that the slot's earlier decisions added

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def num_servers(self) -> int:
        """B."""
        return len(self.capacity)

    @property
    def finish(self) -> np.ndarray:
        """[n, B] s after the slot's start; meaningful where the fraction is positive."""
        return self.wait + self.fraction * self.serve

    @property
    def given(self) -> np.ndarray:
        """[n, B] Gcycles that each decision gave to each server."""
        return self.fraction * self.work[:, None]

    @property
    def queued(self) -> np.ndarray:
        """[n, B] Gcycles queued at each server after each decision."""
        return self.backlog + self.inflight + self.given

    @property
    def slot_backlog(self) -> np.ndarray:
        """[T + 1, B] Gcycles queued when each slot began, and when the last one ended."""
        served = self.slot_length * self.capacity
        added = np.zeros((self.slots, self.num_servers))
        np.add.at(added, self.slot, self.given)
        rows = [np.zeros(self.num_servers)]
        for work in added:
            rows.append(np.maximum(rows[-1] + work - served, 0))
        return np.array(rows)

    @property
    def start(self) -> np.ndarray:
        """[n] s since the episode began when each decision's slot starts."""
        return self.slot * self.slot_length


@dataclasses.dataclass(frozen=True)
class PlainEpisode:
    """One episode of an environment without tasks: n actions, and n + 1 observations around them.

    Of CartPole, whose observation is the state: [n + 1, 4] in m, m/s, rad, rad/s, the cart, its
    speed, the pole, its speed; actions 0 push to the left, 1 to the right.
    """

    name: str  # who acted
    setting: Setting
    state: np.ndarray  # [n + 1, S] what was observed
    action: np.ndarray  # [n] or [n, A]

    def __len__(self) -> int:
        return len(self.action)

    @property
    def observation(self) -> np.ndarray:
        """[n + 1, S], of which the first n were acted on."""
        return self.state


@dataclasses.dataclass(frozen=True)
class CartPoleEpisode(PlainEpisode):
    """One episode of CartPole, with what a picture of it needs."""

    time_step: float  # s
    half_length: float  # m, of the pole
    position_limit: float  # m
    angle_limit: float  # rad

    @property
    def fell(self) -> bool:
        """Whether the episode ended at a limit, and not because its time was up."""
        position, _, angle, _ = np.abs(self.state[-1])
        return bool(position > self.position_limit or angle > self.angle_limit)


class _Decision(NamedTuple):
    """What one decision leaves in the record of an offloading environment."""

    slot: jax.Array
    position: jax.Array
    task: Task
    action: jax.Array
    observation: jax.Array
    fraction: jax.Array
    wait: jax.Array
    serve: jax.Array
    makespan: jax.Array
    failed: jax.Array
    reward: jax.Array
    backlog: jax.Array
    inflight: jax.Array


class _Kept(NamedTuple):
    """What one step leaves in the record of an environment without tasks."""

    observation: jax.Array
    action: jax.Array
    reached: jax.Array


def record(
    policy: str | Policy | TrainResult | Scheduler | PathLike,
    *,
    env: str | None = None,
    preset: str | None = None,
    seed: int = 1,
    episode: int = 0,
    preset_seed: int | None = None,
    trace: PathLike | TraceFile | None = None,
    **options: Any,
) -> Episode | PlainEpisode:
    """Play one episode and write down every decision.

    It is episode number ``episode`` of those that :func:`jaxmec.evaluate` plays with the same
    arguments, so the mean of its make-spans is what the report has there.

    Args:
        policy: a scheduler's name, a scheduler, a trained policy, the path of a saved one, of a
            run or of a bundle, or a training result, of which `TrainResult.policy` plays.
        env, preset, preset_seed, trace: where, as for `jaxmec.evaluate`.
        seed: of the episodes.
        episode: which of them.
        options: of `jaxmec.make`, ``slots=3`` for a short episode among them.

    Raises:
        ValueError, TypeError: a wrong name or value, or a policy that does not fit.
        jaxmec.traces.TraceError: a trace that cannot be read.
    """
    episode = checks.integer("episode", episode, 0)
    player = player_of(
        policy, env=env, preset=preset, preset_seed=preset_seed, trace=trace, **options
    )
    kept: PyTree = _play(player, evaluation_key(seed), episode)
    if not find_environment(player.setting.env).schedules:
        return _plain_episode(player, kept)
    network, params = player.params.network, player.params
    own = params.workload.deadline
    numbers = kept._asdict()
    task = numbers.pop("task")
    return Episode(
        name=player.name,
        setting=player.setting,
        capacity=np.asarray(network.capacity, float),
        rate=np.asarray(network.rate, float),
        slot_length=float(network.slot_length),
        slots=int(params.workload.slots),
        deadline=float(params.deadline) if own is None else np.asarray(own, float),
        max_wait=float(network.max_wait),
        feature_names=player.environment.feature_names(params),
        **task._asdict(),
        **numbers,
    )


def _plain_episode(player: Player, kept: _Kept) -> PlainEpisode:
    """The record of an environment without tasks."""
    state = np.concatenate([kept.observation[:1], kept.reached])
    action = np.asarray(kept.action)
    params = player.params
    if not isinstance(params, CartPoleParams):
        return PlainEpisode(player.name, player.setting, state, action)
    return CartPoleEpisode(
        player.name,
        player.setting,
        state,
        action,
        time_step=float(params.time_step),
        half_length=float(params.half_length),
        position_limit=float(params.position_limit),
        angle_limit=float(params.angle_limit),
    )


def _play(player: Player, key: jax.Array, episode: int) -> PyTree:
    """The kept of every decision, [n] of each leaf, by the keys that `evaluate` uses."""
    environment = player.environment
    schedules = find_environment(player.setting.env).schedules
    key_reset, key_env, key_policy = (
        jax.random.fold_in(part, episode) for part in jax.random.split(key, 3)
    )
    steps = min(CHUNK, int(player.params.max_steps_in_episode))

    @jax.jit
    def begin(params: EnvParams) -> PyTree:
        observation, state = environment.reset(key_reset, params)
        return strong(observation), strong(state), strong(player.memory)

    @jax.jit
    def go_on(carry: PyTree, first: jax.Array, learner: Learner, params: EnvParams) -> PyTree:
        rule = player.decides(learner, params)

        def step(carry: PyTree, number: jax.Array) -> PyTree:
            observation, state, memory = carry
            key = jax.random.fold_in(key_policy, number)
            action, memory = rule(key, observation, state, memory)
            key = jax.random.fold_in(key_env, number)
            following, next_state, reward, terminated, truncated, info = environment.step(
                key, state, action, params
            )
            kept: _Decision | _Kept
            if schedules:
                outcome, _ = environment.place(action, state, params)
                kept = _Decision(
                    state.cursor.slot,
                    state.cursor.position,
                    Task(*map(jnp.asarray, state.task)),
                    jnp.asarray(action),
                    observation,
                    outcome.fraction,
                    outcome.wait,
                    outcome.serve,
                    outcome.makespan,
                    info["failed"],
                    reward,
                    state.queues.backlog,
                    state.queues.inflight,
                )
            else:
                kept = _Kept(observation, jnp.asarray(action), info["final_observation"])
            return strong((following, next_state, memory)), (kept, terminated | truncated)

        return jax.lax.scan(step, carry, first + jnp.arange(steps))

    carry, parts, over = begin(player.params), [], False
    first = 0
    while not over:
        carry, (kept, done) = go_on(carry, jnp.int32(first), player.learner, player.params)
        done = np.asarray(done)
        over = bool(done.any())
        length = int(done.argmax()) + 1 if over else steps
        parts.append(jax.tree.map(lambda x, n=length: np.asarray(x)[:n], kept))
        first += steps
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
