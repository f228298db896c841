"""The best plan known of the tasks that an evaluation plays.

Arrivals do not depend on actions, so an evaluation's tasks are recorded by playing the
environment once with any action, with the evaluation's own keys. The planner then schedules
them knowing all tasks of a slot.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core import checks, compilation
from jaxmec.envs.offloading import OffloadingEnvironment, OffloadingParams, OffloadingState
from jaxmec.envs.table import find_environment
from jaxmec.experiment import Setting, evaluation_key
from jaxmec.mec import EdgeNetwork, TraceWorkload, advance_slot, trace_workload
from jaxmec.solvers import PlannerConfig, Window, plan, play, stack, window_of

Say = Callable[[str], None]
RECORDED = 512  # decisions a compiled call plays while it records arrivals


def quiet(text: str) -> None:
    """Tell nobody."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How the best plan known is searched for, and how far a proof is taken."""

    planner: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    window: int = 1  # slots planned together; later ones are not seen
    exact_seconds: float = 0.0  # of the exact solver, an episode; 0 leaves it out
    rounds: int = 10  # of cutting planes in the linear relaxation

    def __post_init__(self) -> None:
        checks.fields(
            self,
            window=checks.whole(1),
            exact_seconds=checks.number(0, finite=False),
            rounds=checks.whole(0),
        )


EFFORT = Effort()


@dataclasses.dataclass(frozen=True)
class PlannedTasks:
    """The tasks of some episodes, and the best plan known of each."""

    params: OffloadingParams
    problem: str  # "single" or "multi"
    arrivals: list[TraceWorkload]  # of each episode
    fractions: list[np.ndarray]  # [M_e, B] of each episode's tasks

    @property
    def windows(self) -> list[Window]:
        """Each episode as one window that starts with empty queues."""
        empty = np.zeros(self.params.network.num_servers)
        return [window_of(arrivals, backlog=empty) for arrivals in self.arrivals]

    @property
    def makespan(self) -> np.ndarray:
        """[episodes] s, the mean make-span of the plan."""
        network = self.params.network
        return np.array(
            [
                float(play(network, window, fraction).mean())
                for window, fraction in zip(self.windows, self.fractions, strict=True)
            ]
        )


def planned(
    setting: Setting, episodes: int, seed: int = 1, effort: Effort = EFFORT, say: Say = quiet
) -> PlannedTasks:
    """Plan the first so many episodes that `jaxmec.evaluate` plays with the same seed.

    Raises:
        ValueError: an environment without tasks.
    """
    row = find_environment(setting.env)
    if row.problem is None:
        raise ValueError(f"plans are made where tasks are scheduled; {setting.env} has none")
    options = tuple(sorted((setting.fields | dict(row.set_options)).items()))
    environment, params = dataclasses.replace(setting, options=options).make()
    arrivals = record_arrivals(environment, params, episodes, seed)
    fractions = plan_episodes(params.network, arrivals, row.problem, effort, seed, say)
    return PlannedTasks(params, row.problem, arrivals, fractions)


def best_known(
    setting: Setting, episodes: int, seed: int = 1, effort: Effort = EFFORT, say: Say = quiet
) -> np.ndarray:
    """[episodes] s, the mean make-span of the best plan known, as :func:`planned` finds it."""
    return planned(setting, episodes, seed, effort, say).makespan


def record_arrivals(
    environment: OffloadingEnvironment, params: OffloadingParams, episodes: int, seed: int
) -> list[TraceWorkload]:
    """The tasks of the episodes that `jaxmec.evaluate` plays with the same seed.

    The keys of an episode and of a decision are those of :mod:`jaxmec.training.evaluate`. Every
    task goes where the environment sends one for which no server is chosen.
    """
    key_reset, key_env, _ = jax.random.split(evaluation_key(seed), 3)
    index = jnp.arange(episodes)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(key_env, index)
    nothing = environment.set_action(jnp.zeros(environment.num_servers, bool))

    def decide(state: OffloadingState, key: jax.Array, decision: jax.Array) -> Any:
        _, following, _, _, over, _ = environment.step(
            jax.random.fold_in(key, decision), state, nothing, params
        )
        return following, (state.task, state.cursor.slot, over)

    @functools.partial(jax.jit, compiler_options=compilation.options())
    def chunk(states: OffloadingState, first: jax.Array) -> Any:
        def body(states: OffloadingState, decision: jax.Array) -> Any:
            return jax.vmap(decide, in_axes=(0, 0, None))(states, keys, decision)

        return jax.lax.scan(body, states, first + jnp.arange(RECORDED))

    states = jax.jit(jax.vmap(environment.reset, in_axes=(0, None)))(fold(key_reset, index), params)
    states = states[1]
    chunks: list[Any] = []
    done = np.zeros(episodes, bool)
    while not np.all(done):
        states, recorded = chunk(states, jnp.asarray(len(chunks) * RECORDED))
        chunks.append(jax.tree.map(np.asarray, recorded))
        done |= chunks[-1][2].any(axis=0)
    task, slot, over = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)
    traces = []
    for episode in range(episodes):
        length = int(np.argmax(over[:, episode])) + 1
        own = jax.tree.map(lambda leaf, e=episode, n=length: leaf[:n, e], (task, slot))
        traces.append(
            trace_workload(
                slot=own[1], origin=own[0].origin, size=own[0].size, work=own[0].work,
                result=np.broadcast_to(own[0].result, (length,)), slots=int(params.workload.slots),
            )
        )  # fmt: skip
    return traces


def plan_episodes(
    network: EdgeNetwork,
    traces: Sequence[TraceWorkload],
    problem: str,
    effort: Effort,
    seed: int = 0,
    say: Say = quiet,
) -> list[np.ndarray]:
    """Plan whole episodes, some slots at a time, side by side.

    Each window starts from the queues that the plan of the one before it left. What comes
    after a window is not seen, so where queues outlive it a longer one may plan better.

    Returns:
        For each trace [M_e, B], the fractions of its tasks in order.
    """
    slots = max(int(trace.slots) for trace in traces)
    starts = range(0, slots, effort.window)
    counts = [
        np.histogram(np.asarray(trace.slot), [*starts, starts[-1] + effort.window])[0]
        for trace in traces
    ]
    rows = max(1, int(np.max(counts)))

    def step(window: Window, slots_left: jax.Array, key: jax.Array) -> Any:
        planned = plan(network, window, key, problem, effort.planner)
        after = advance_slot(network, planned.queues, slots_left)
        return planned.fraction, after.backlog

    run = jax.jit(jax.vmap(step), compiler_options=compilation.options())
    backlog = np.zeros((len(traces), network.num_servers))
    fractions: list[list[np.ndarray]] = [[] for _ in traces]
    key = jax.random.fold_in(jax.random.key(seed), 0x706C616E)
    for number, first in enumerate(starts):
        windows = [
            window_of(trace, first, first + effort.window, queued)
            for trace, queued in zip(traces, backlog, strict=True)
        ]
        # The slots from the last decision to the next window's start.
        left = [first + effort.window - (first + int(window.slots.sum())) for window in windows]
        keys = jax.random.split(jax.random.fold_in(key, number), len(traces))
        batch = stack([window.padded(rows) for window in windows])
        fraction, backlog = jax.tree.map(np.asarray, run(batch, jnp.asarray(left), keys))
        for own, window, fresh in zip(fractions, windows, fraction, strict=True):
            own.append(fresh[: window.num_tasks])
        say(f"planned slots {first + 1} to {min(first + effort.window, slots)} of {slots}")
    return [np.concatenate(own) for own in fractions]
