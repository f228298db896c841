"""How far a scheduler is from the best plan known, and from what no plan can beat.

Arrivals do not depend on actions, so an evaluation's tasks can be recorded by playing the
environment once with any action, with the evaluation's own keys. The planner then schedules
them knowing all tasks of a slot, and the bounds say what is out of reach. Both speak of the
mean make-span; deadlines do not enter, nor the price of missing them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from jaxmec.core import compilation, files
from jaxmec.core.statistics import Interval, t_interval
from jaxmec.core.tables import results_table
from jaxmec.envs.offloading import OffloadingEnvironment, OffloadingParams, OffloadingState
from jaxmec.envs.presets import find_preset, override
from jaxmec.envs.table import FOR_SCHEDULERS, find_environment
from jaxmec.experiment import (
    PathLike,
    Policy,
    Report,
    Setting,
    TrainResult,
    check_same_tasks,
    evaluate,
    opened,
    player_of,
    prepared,
    train,
)
from jaxmec.mec import EdgeNetwork, TraceWorkload, advance_slot, trace_workload
from jaxmec.methods import METHODS, Method
from jaxmec.schedulers import Scheduler
from jaxmec.solvers import (
    PlannerConfig,
    Window,
    lower_bounds,
    plan,
    play,
    solve_exact,
    stack,
    window_of,
)
from jaxmec.traces import TraceFile, mean_load

Entry = str | Policy | TrainResult | Scheduler | PathLike
Say = Callable[[str], None]
RECORDED = 512  # decisions a compiled call plays while it records arrivals
BOUNDS = {
    "exact": "the optimum, proved, or what its proof had reached when time was up",
    "bound": "the largest of the lower bounds, which hold for every plan",
}


@dataclasses.dataclass(frozen=True)
class Effort:
    """How the best plan known is searched for, and how far a proof is taken."""

    planner: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    window: int = 1  # slots planned together; later ones are not seen
    exact_seconds: float = 0.0  # of the exact solver, an episode; 0 leaves it out
    rounds: int = 10  # of cutting planes in the linear relaxation

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or isinstance(self.window, bool) or self.window < 1:
            raise ValueError(f"window must be a positive number of slots, got {self.window!r}")
        if not self.exact_seconds >= 0:
            raise ValueError(f"exact_seconds must be at least 0, got {self.exact_seconds!r}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One scheduler at one place; gaps are shares: 0.1 is 10 % above."""

    name: str
    information: str
    makespan: float  # s
    over_plan: float  # mean make-span / plan's − 1: at least so much is lost
    over_plan_interval: Interval  # 95 %, over seeds, or episodes where there is one
    over_bound: float  # mean make-span / bound − 1: at most so much is lost
    over_bound_interval: Interval


@dataclasses.dataclass(frozen=True)
class Gap:
    """Schedulers beside the plan and the bound on the same arrivals, at one place."""

    load: float  # expected work of a slot over what the servers do in it
    servers: int  # B
    positions: int  # N
    tasks: float  # mean number in an episode
    reports: Sequence[Report]
    plan: np.ndarray  # [episodes] s, mean make-span
    bound: np.ndarray  # [episodes] s
    bound_kind: str  # one of BOUNDS

    @property
    def rows(self) -> list[Row]:
        """One for each scheduler, shortest mean make-span first."""
        rows = []
        for report in self.reports:
            over_plan, over_bound = (
                self.samples(report, self.plan),
                self.samples(report, self.bound),
            )
            rows.append(
                Row(
                    name=report.name,
                    information=report.information or "",
                    makespan=report.mean("makespan"),
                    over_plan=float(over_plan.mean()),
                    over_plan_interval=t_interval(over_plan),
                    over_bound=float(over_bound.mean()),
                    over_bound_interval=t_interval(over_bound),
                )
            )
        return sorted(rows, key=lambda row: row.makespan)

    def samples(self, report: Report, reference: np.ndarray) -> np.ndarray:
        """[n] a report's make-span over a reference's on the same episodes, minus 1."""
        makespan = report.values["makespan"]
        if report.num_seeds > 1:
            return makespan.mean(axis=1) / reference.mean() - 1
        return makespan[0] / reference - 1


def measure(
    entries: Sequence[Entry],
    *,
    env: str | None = None,
    preset: str | None = None,
    preset_seed: int | None = None,
    episodes: int = 10,
    seed: int = 1,
    effort: Effort = Effort(),
    say: Say = lambda text: None,
    trace: TraceFile | None = None,
    **options: Any,
) -> Gap:
    """Schedulers and policies against the plan and the bound, on the same arrivals.

    The tasks and the network are those that the policies were trained with, but for what is
    named here; several policies must then agree about them.

    Args:
        entries: names of schedulers, trained policies, paths or training results, as for
            `jaxmec.evaluate`.
        env, preset, preset_seed: where; by default as the policies were trained, and without
            any in the multi-server environment with its default preset.
        episodes, seed: as for `jaxmec.evaluate`.
        effort: of the planner and the proof.
        say: is told what is going on.
        trace: arrivals instead of the preset's.
        options: fields of the preset (``slots``, ``probability``, ``capacity``, ...), and
            ``information``, as for `jaxmec.evaluate`.

    Raises:
        ValueError, TypeError: a wrong name or value; see `jaxmec.evaluate`. Policies of
            different tasks or networks.
        jaxmec.traces.TraceError: a trace that cannot be read.
    """
    players = [opened(entry) for entry in entries]
    for entry in players:
        own = entry.setting.trace if isinstance(entry, Policy | TrainResult) else None
        if own is not None and trace is None:
            raise ValueError(f"trace must be given: {entry.name} was trained on {own}")
    place = common_setting(players, env, preset, preset_seed, trace, options)
    environment, params = _recording(place)
    reports = []
    for entry in players:
        reports.append(
            evaluate(
                entry, env=place.env, preset=place.preset, preset_seed=place.seed,
                episodes=episodes, seed=seed, trace=trace, **(place.fields | options),
            )
        )  # fmt: skip
        check_same_tasks(reports[-1].name, reports[-1].setting, "the plan", place, network=True)
        say(f"{reports[-1].name}: {reports[-1].mean('makespan'):.4f} s")
    recorded = record(environment, params, episodes, seed)
    problem = find_environment(place.env).problem
    assert problem is not None  # common_setting refused an environment without tasks
    plans = plan_episodes(params.network, recorded, problem, effort, seed, say)
    planned, bound, exact = [], [], effort.exact_seconds > 0
    for arrivals, fraction in zip(recorded, plans, strict=True):
        window = window_of(arrivals, backlog=np.zeros(params.network.num_servers))
        makespan = float(play(params.network, window, fraction).mean())
        low = lower_bounds(params.network, window, problem, rounds=effort.rounds).best
        if exact:
            solution = solve_exact(
                params.network, window, problem, incumbent=fraction,
                time_limit=effort.exact_seconds,
            )  # fmt: skip
            makespan = min(makespan, solution.makespan)
            low = max(low, solution.lower_bound)
            say(f"exact: {solution.status}, gap {100 * solution.gap:.3f} %")
        planned.append(makespan)
        bound.append(min(low, makespan))
    return Gap(
        load=load(params),
        servers=params.network.num_servers,
        positions=params.workload.positions,
        tasks=float(np.mean([arrivals.slot.shape[0] for arrivals in recorded])),
        reports=reports,
        plan=np.array(planned),
        bound=np.array(bound),
        bound_kind="exact" if exact else "bound",
    )


def common_setting(
    entries: Sequence[Any],
    env: str | None,
    preset: str | None,
    preset_seed: int | None,
    trace: TraceFile | None,
    options: Mapping[str, Any],
) -> Setting:
    """The tasks and the network that entries are measured with: the policies' own, as changed.

    What is named counts, whatever the policies were trained with; about the rest they agree.

    Raises:
        ValueError: an environment without tasks; policies of different tasks or networks.
    """

    def here(own: Setting) -> Setting:
        where = own.env if env is None else env
        row = find_environment(where)
        if not row.schedules:
            raise ValueError(f"a gap is measured where tasks are scheduled; {where} has none")
        named = Setting(where, options=tuple(options.items())).fields
        kept = {k: v for k, v in own.fields.items() if trace is None or k != "workload"}
        return Setting(
            where,
            preset or own.preset or row.default_preset,
            own.seed if preset_seed is None else preset_seed,
            tuple(sorted((kept | named).items())),
            trace or own.trace,
        )

    trained = [entry for entry in entries if isinstance(entry, Policy | TrainResult)]
    if not trained:
        return here(Setting(FOR_SCHEDULERS))
    first = here(trained[0].setting)
    for other in trained[1:]:
        setting = here(other.setting)
        check_same_tasks(other.name, setting, trained[0].name, first, network=True)
    return first


def _recording(setting: Setting) -> tuple[Any, OffloadingParams]:
    """The environment with the setting's tasks and network, to be played by :func:`record`."""
    action = dict(find_environment(setting.env).set_options)
    options = tuple(sorted((setting.fields | action).items()))
    return dataclasses.replace(setting, options=options).make()


def best_known(
    setting: Setting,
    episodes: int,
    seed: int = 1,
    effort: Effort = Effort(),
    say: Say = lambda text: None,
) -> np.ndarray:
    """[episodes] s, the mean make-span of the best plan known, episode by episode.

    Of the first so many episodes that `jaxmec.evaluate` plays there with the same seed.

    Raises:
        ValueError: an environment without tasks.
    """
    problem = find_environment(setting.env).problem
    if problem is None:
        raise ValueError(f"plans are made where tasks are scheduled; {setting.env} has none")
    environment, params = _recording(setting)
    traces = record(environment, params, episodes, seed)
    plans = plan_episodes(params.network, traces, problem, effort, seed, say)
    nothing = np.zeros(params.network.num_servers)
    return np.array(
        [
            play(params.network, window_of(trace, backlog=nothing), fraction).mean()
            for trace, fraction in zip(traces, plans, strict=True)
        ]
    )


def load(params: OffloadingParams) -> float:
    """Expected work of a slot over what all servers do in one."""
    return mean_load(params.workload, params.network)


def at_load(preset: str, target: float, **options: Any) -> dict[str, Any]:
    """The preset's fields that bring a setting to a load: the probability of a task.

    Raises:
        ValueError: arrivals that have no probability, or a load that no probability gives.
    """
    setting = override(find_preset(preset), **options)
    if setting.arrivals != "bernoulli":
        raise ValueError(
            f"loads are reached by the probability of a task, which preset {preset!r} does not "
            "have; sweep positions instead"
        )
    full = load(override(setting, probability=1.0).params())
    if not 0 < target <= full:
        raise ValueError(f"loads must be above 0 and at most {full:.3g}, got {target:g}")
    return {"probability": target / full}


def with_servers(preset: str, servers: int) -> dict[str, Any]:
    """The preset's fields for another number of servers: its own in turn, again and again.

    Raises:
        ValueError: a number that is not positive.
    """
    if servers < 1:
        raise ValueError(f"servers must be at least 1, got {servers}")
    setting = find_preset(preset)
    return {
        "capacity": tuple(np.resize(setting.capacity, servers).tolist()),
        "rate": tuple(np.resize(setting.rate, servers).tolist()),
    }


def record(
    environment: OffloadingEnvironment, params: OffloadingParams, episodes: int, seed: int
) -> list[TraceWorkload]:
    """The tasks of the episodes that `jaxmec.evaluate` plays with the same seed.

    The keys are the evaluation's: `jaxmec.evaluate` for the first, and
    :mod:`jaxmec.training.evaluate` for those of an episode and of a decision. Every task
    goes where the environment sends one for which no server is chosen.
    """
    key = jax.random.fold_in(jax.random.key(seed), 0x6A6D6563)
    key_reset, key_env, _ = jax.random.split(key, 3)
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
    say: Say = lambda text: None,
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


def table(gap: Gap) -> Table:
    """For a terminal: one line a scheduler, the bound and the plan first."""
    title = (
        f"load {gap.load:.3g}, B = {gap.servers}, N = {gap.positions}, {gap.tasks:.0f} tasks an "
        "episode: mean make-span in s, deadlines left aside"
    )
    table = results_table(title)
    for index, header in enumerate(_HEADERS):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    for line in _lines(gap):
        table.add_row(*line)
    return table


def markdown(gaps: Sequence[Gap]) -> str:
    """For a document: all places in one table."""
    headers = ["load", "B", "N", *_HEADERS]
    rows = [headers, ["---:"] * 3 + ["---"] * 2 + ["---:"] * (len(headers) - 5)]
    for gap in gaps:
        place = [f"{gap.load:.3g}", str(gap.servers), str(gap.positions)]
        rows += [place + line for line in _lines(gap)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


_HEADERS = ["method", "sees", "make-span", "over plan", "± 95 %", "over bound", "± 95 %"]


def _lines(gap: Gap) -> list[list[str]]:
    def half(interval: Interval) -> str:
        return f"{50 * (interval[1] - interval[0]):.1f}"

    over = gap.plan / gap.bound - 1
    lines = [
        [gap.bound_kind, "", f"{gap.bound.mean():.4f}", "", "", "", ""],
        ["plan", "its slots", f"{gap.plan.mean():.4f}", "", "", f"{100 * over.mean():.1f} %",
         half(t_interval(over))],
    ]  # fmt: skip
    for row in gap.rows:
        lines.append(
            [
                row.name,
                row.information,
                f"{row.makespan:.4f}",
                f"{100 * row.over_plan:.1f} %",
                half(row.over_plan_interval),
                f"{100 * row.over_bound:.1f} %",
                half(row.over_bound_interval),
            ]
        )
    return lines


def document(gaps: Sequence[Gap], **about: Any) -> dict[str, Any]:
    """Every episode's figures and the rows, as JSON holds them."""
    places = [
        {
            **{name: getattr(gap, name) for name in ("load", "servers", "positions", "tasks")},
            "bound_kind": gap.bound_kind,
            "plan": gap.plan.tolist(),
            "bound": gap.bound.tolist(),
            "rows": [dataclasses.asdict(row) for row in gap.rows],
            "makespan": {
                f"{report.name} ({report.information})": report.values["makespan"].tolist()
                for report in gap.reports
            },
        }
        for gap in gaps
    ]
    return {**about, "places": places}


def samples_by_name(gaps: Sequence[Gap]) -> dict[str, np.ndarray]:
    """[n, places] s by name, for a figure: the bound, the plan, then each scheduler.

    n are seeds where a method was trained with several, else episodes.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for gap in gaps:
        columns.setdefault(gap.bound_kind, []).append(gap.bound)
        columns.setdefault("plan", []).append(gap.plan)
        for report in gap.reports:
            columns.setdefault(report.name, []).append(report.samples("makespan"))
    return {name: np.stack(samples, axis=1) for name, samples in columns.items()}


def swept(gaps: Sequence[Gap]) -> tuple[str, np.ndarray]:
    """What differs between places, in words, and its values [places]: N, B or the load."""
    for text, name in (("positions, N", "positions"), ("servers, B", "servers")):
        values = np.array([getattr(gap, name) for gap in gaps], float)
        if np.ptp(values) > 0:
            return text, values
    return "load", np.array([gap.load for gap in gaps])


@dataclasses.dataclass(frozen=True)
class Command:
    """Set schedulers and policies against the best plan known and a lower bound.

    The plan knows all tasks of its slots; the bound holds for every scheduler. What is
    compared is the mean make-span: deadlines do not enter. With several loads, servers and
    positions, every combination is measured.
    """

    what: tyro.conf.Positional[tuple[str, ...]]  # schedulers' and methods' names, saved policies
    env: str | None = None  # environment id; by default the policies', or multi-server
    preset: str | None = None  # published setting; by default the policies', or the environment's
    preset_seed: int | None = None  # of what a preset draws once; by default the policy's own
    trace: Path | None = None  # file of tasks instead of the preset's; by default the policy's own
    slots: int = 2  # T, of an episode, or the first of a trace; all take long to plan
    loads: tuple[float, ...] = ()  # by the probability of a task; by default the preset's
    servers: tuple[int, ...] = ()  # B, the preset's servers in turn; by default the preset's
    positions: tuple[int, ...] = ()  # N; by default the preset's
    information: str | None = None  # for schedulers; by default the least that each needs
    episodes: int = 10  # side by side
    seed: int = 1  # of the episodes
    train_seeds: int = 3  # of methods named, which are trained first
    train_steps: int | None = None  # of those; by default the method's
    effort: Effort = dataclasses.field(default_factory=Effort)
    out: Path | None = None  # directory for the figures, as JSON and as a plot
    json: bool = False  # print JSON instead of the table


def run(command: Command, say: Say = lambda text: None) -> list[Gap]:
    """Measure what a command asks for, place by place.

    Raises:
        ValueError, TypeError: a wrong name or value, or nothing to measure.
    """
    if not command.what:
        raise ValueError("what must name at least one scheduler, method or policy, got none")
    policies = [_entry(name) for name in command.what]
    if command.env is not None:
        find_environment(command.env)
    trace = None if command.trace is None else TraceFile.of(command.trace)
    trained = [entry for entry in policies if isinstance(entry, Policy)]
    trace = trace or (trained[0].setting.trace if trained else None)
    if trace is not None and (command.loads or command.positions):
        raise ValueError("loads and positions must be left out with a trace, which has its own")
    plans: list[tuple[Setting, dict[str, Any]]] = []
    combinations = itertools.product(
        command.positions or (None,), command.servers or (None,), command.loads or (None,)
    )
    for positions, servers, target in combinations:
        options: dict[str, Any] = {"slots": command.slots}
        if positions is not None:
            options["positions"] = positions
        # As the first policy has it; that the others agree about the rest is seen to below.
        where = (trained[:1], command.env, command.preset, command.preset_seed, trace)
        preset: Any = common_setting(*where, options).preset
        if servers is not None:
            options |= with_servers(preset, servers)
        if target is not None:
            options |= at_load(preset, target, **common_setting(*where, options).fields)
        place = common_setting(trained, *where[1:], options)
        if command.information is not None:
            options["information"] = command.information
        _check(policies, place, command, trace, options)
        plans.append((place, options))
    gaps = []
    for place, options in plans:
        entries = [
            train(entry.name, seeds=command.train_seeds, progress=False,
                  **_training(place, command, trace))
            if isinstance(entry, Method) else entry
            for entry in policies
        ]  # fmt: skip
        gap = measure(
            entries, env=place.env, preset=place.preset, preset_seed=place.seed,
            episodes=command.episodes, seed=command.seed, effort=command.effort, say=say,
            trace=trace and dataclasses.replace(trace, slots=command.slots), **options,
        )  # fmt: skip
        gaps.append(gap)
    if command.out is not None:
        about = {"command": _plain(dataclasses.asdict(command))}
        text = json.dumps(document(gaps, **about), indent=1) + "\n"
        files.write_whole(command.out / "gap.json", text)
        say(f"numbers: {command.out / 'gap.json'}")
    return gaps


def _entry(name: str) -> Policy | Scheduler | Method:
    """What a name stands for: a method to be trained, a scheduler, or else a path."""
    if name in METHODS:
        return METHODS[name]
    entry = opened(name)
    assert not isinstance(entry, TrainResult)
    return entry


def _training(place: Setting, command: Command, trace: TraceFile | None) -> dict[str, Any]:
    """What `train` is told to train at a place with the preset's own episodes."""
    setting = {name: value for name, value in place.fields.items() if name != "slots"}
    steps: dict[str, Any] = {} if command.train_steps is None else {"steps": command.train_steps}
    return {
        "env": place.env,
        "preset": place.preset,
        "preset_seed": place.seed,
        "trace": trace,
        "env_options": setting,
        **steps,
    }


def _check(
    entries: Sequence[Policy | Scheduler | Method],
    place: Setting,
    command: Command,
    trace: TraceFile | None,
    options: dict[str, Any],
) -> None:
    """See that all can be played at a place, before anything is trained or planned for another."""
    for entry in entries:
        if isinstance(entry, Method):
            prepared(entry.name, **_training(place, command, trace)).check()
        else:
            player_of(
                entry, env=place.env, preset=place.preset, preset_seed=place.seed,
                trace=trace and dataclasses.replace(trace, slots=command.slots),
                **(place.fields | options),
            )  # fmt: skip


def _plain(value: Any) -> Any:
    """Paths as text, in whatever nesting."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return str(value) if isinstance(value, Path) else value
