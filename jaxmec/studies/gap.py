"""How far a scheduler is from the best plan known, and from what no plan can beat.

Plan (:mod:`jaxmec.studies.plans`) and bounds are of the tasks that the evaluation plays, and
speak of the mean make-span; deadlines do not enter, nor the price of missing them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from jaxmec.core import checks, files
from jaxmec.core.statistics import Interval, t_interval
from jaxmec.core.types import Document, Keywords
from jaxmec.envs.offloading import OffloadingParams
from jaxmec.envs.presets import find_preset, override
from jaxmec.envs.table import FOR_SCHEDULERS, find_environment
from jaxmec.experiment import (
    PathLike,
    Policy,
    Recipe,
    Report,
    Setting,
    TrainResult,
    check_same_tasks,
    evaluate,
    opened,
    player_of,
    recipe,
    train,
)
from jaxmec.methods import METHODS, Method
from jaxmec.schedulers import Scheduler
from jaxmec.solvers import lower_bounds, solve_exact
from jaxmec.studies.columns import (
    BLANK,
    Column,
    half_width,
    number,
    terminal_table,
)
from jaxmec.studies.plans import EFFORT, Effort, PlannedTasks, Say, planned, quiet
from jaxmec.traces import TraceFile, mean_load

Played = str | Policy | TrainResult | Scheduler | PathLike
NAN = float("nan")
BOUNDS = {
    "exact": "the optimum, proved, or what its proof had reached when time was up",
    "bound": "the largest of the lower bounds, which hold for every plan",
}


@dataclasses.dataclass(frozen=True)
class GapRow:
    """One scheduler at one place; gaps are shares: 0.1 is 10 % above."""

    name: str
    information: str
    makespan: float  # s
    over_plan: float = NAN  # mean make-span / plan's − 1: at least so much is lost
    over_plan_interval: Interval = (NAN, NAN)  # 95 %, over seeds, or episodes where there is one
    over_bound: float = NAN  # mean make-span / bound − 1: at most so much is lost
    over_bound_interval: Interval = (NAN, NAN)


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
    def rows(self) -> list[GapRow]:
        """One for each scheduler, shortest mean make-span first."""
        rows = []
        for report in self.reports:
            over_plan = self.samples(report, self.plan)
            over_bound = self.samples(report, self.bound)
            rows.append(
                GapRow(
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

    @property
    def all_rows(self) -> list[GapRow]:
        """The bound, the plan, then the schedulers."""
        over = self.plan / self.bound - 1
        bound = GapRow(self.bound_kind, "", float(self.bound.mean()))
        plan = GapRow(
            "plan",
            "its slots",
            float(self.plan.mean()),
            over_bound=float(over.mean()),
            over_bound_interval=t_interval(over),
        )
        return [bound, plan, *self.rows]

    def samples(self, report: Report, reference: np.ndarray) -> np.ndarray:
        """[n] a report's make-span over a reference's on the same episodes, minus 1."""
        makespan = report.values["makespan"]
        if report.num_seeds > 1:
            return makespan.mean(axis=1) / reference.mean() - 1
        return makespan[0] / reference - 1


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of a setting by name; in all else it is as policies were trained."""

    env: str | None = None
    preset: str | None = None
    preset_seed: int | None = None
    trace: TraceFile | None = None  # arrivals instead of the preset's
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, **where: Any) -> Question:
        """By the names that `jaxmec.evaluate` has, options of the environment among them."""
        own = {f.name for f in dataclasses.fields(cls)} - {"options"}
        named = {name: value for name, value in where.items() if name in own}
        return cls(**named, options={k: v for k, v in where.items() if k not in own})

    def changed(self, own: Setting) -> Setting:
        """The tasks and the network of a setting, with what is asked.

        Raises:
            ValueError: an environment without tasks.
        """
        where = own.env if self.env is None else self.env
        row = find_environment(where)
        if not row.schedules:
            raise ValueError(f"a gap is measured where tasks are scheduled; {where} has none")
        named = Setting(where, options=tuple(self.options.items())).fields
        kept = {k: v for k, v in own.fields.items() if self.trace is None or k != "workload"}
        return Setting(
            where,
            self.preset or own.preset or row.default_preset,
            own.seed if self.preset_seed is None else self.preset_seed,
            tuple(sorted((kept | named).items())),
            self.trace or own.trace,
        )


def measure(
    entries: Sequence[Played],
    *,
    episodes: int = 10,
    seed: int = 1,
    effort: Effort = EFFORT,
    say: Say = quiet,
    **where: Any,
) -> Gap:
    """Schedulers and policies against the plan and the bound, on the same arrivals.

    The tasks and the network are those that the policies were trained with, but for what is
    named here; several policies must then agree about them. Without any policy they are of the
    multi-server environment with its default preset.

    Args:
        entries: names of schedulers, trained policies, paths or training results, as for
            `jaxmec.evaluate`.
        episodes, seed: as for `jaxmec.evaluate`.
        effort: of the planner and the proof.
        say: is given a line of text for each step.
        where: ``env``, ``preset``, ``preset_seed``, ``trace``, ``information`` and fields of the
            preset (``slots``, ``probability``, ``capacity``, ...), as for `jaxmec.evaluate`.

    Raises:
        ValueError, TypeError: a wrong name or value; see `jaxmec.evaluate`. Policies of
            different tasks or networks.
        jaxmec.traces.TraceError: a trace that cannot be read.
    """
    asked = Question.of(**where)
    players = [opened(entry) for entry in entries]
    for entry in players:
        own = entry.setting.trace if isinstance(entry, Policy | TrainResult) else None
        if own is not None and asked.trace is None:
            raise ValueError(f"trace must be given: {entry.name} was trained on {own}")
    setting = common_setting(players, asked)
    reports = []
    for entry in players:
        report = evaluate(entry, episodes=episodes, seed=seed, **_playing(setting, asked))
        check_same_tasks(report.name, report.setting, "the plan", setting, network=True)
        say(f"{report.name}: {report.mean('makespan'):.4f} s")
        reports.append(report)
    plans = planned(setting, episodes, seed, effort, say)
    plan, bound = _plan_and_bound(plans, effort, say)
    return Gap(
        load=load(plans.params),
        servers=plans.params.network.num_servers,
        positions=plans.params.workload.positions,
        tasks=float(np.mean([arrivals.slot.shape[0] for arrivals in plans.arrivals])),
        reports=reports,
        plan=plan,
        bound=bound,
        bound_kind="exact" if effort.exact_seconds > 0 else "bound",
    )


def _playing(setting: Setting, asked: Question) -> Keywords:
    """What `evaluate` is given to play a setting."""
    return {
        "env": setting.env,
        "preset": setting.preset,
        "preset_seed": setting.seed,
        "trace": asked.trace,
        **setting.fields,
        **asked.options,
    }


def _plan_and_bound(plans: PlannedTasks, effort: Effort, say: Say) -> tuple[np.ndarray, np.ndarray]:
    """[episodes] s both: the best plan known, and the largest bound, which is not above it."""
    plan, bound, network = plans.makespan, np.empty(len(plans.arrivals)), plans.params.network
    for episode, (window, fraction) in enumerate(zip(plans.windows, plans.fractions, strict=True)):
        low = lower_bounds(network, window, plans.problem, rounds=effort.rounds).best
        if effort.exact_seconds > 0:
            solution = solve_exact(
                network, window, plans.problem, incumbent=fraction, time_limit=effort.exact_seconds
            )
            plan[episode] = min(plan[episode], solution.makespan)
            low = max(low, solution.lower_bound)
            say(f"exact: {solution.status}, gap {100 * solution.gap:.3f} %")
        bound[episode] = min(low, plan[episode])
    return plan, bound


def common_setting(entries: Sequence[Any], asked: Question) -> Setting:
    """The tasks and the network that entries are measured with: the policies' own, as changed.

    What is asked counts, whatever the policies were trained with; about the rest they agree.

    Raises:
        ValueError: an environment without tasks; policies of different tasks or networks.
    """
    trained = [entry for entry in entries if isinstance(entry, Policy | TrainResult)]
    if not trained:
        return asked.changed(Setting(FOR_SCHEDULERS))
    first = asked.changed(trained[0].setting)
    for other in trained[1:]:
        setting = asked.changed(other.setting)
        check_same_tasks(other.name, setting, trained[0].name, first, network=True)
    return first


def load(params: OffloadingParams) -> float:
    """Expected work of a slot over what all servers do in one."""
    return mean_load(params.workload, params.network)


def at_load(preset: str, target: float, **options: Any) -> Keywords:
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


def with_servers(preset: str, servers: int) -> Keywords:
    """The preset's fields for another number of servers: its own in turn, again and again.

    Raises:
        ValueError: a number that is not positive.
    """
    servers = checks.integer("servers", servers)
    setting = find_preset(preset)
    return {
        "capacity": tuple(np.resize(setting.capacity, servers).tolist()),
        "rate": tuple(np.resize(setting.rate, servers).tolist()),
    }


def _blank(text: str) -> str:
    """Nothing at all where there is no number: the bound is not over itself."""
    return "" if text == BLANK else text


GAP_COLUMNS: tuple[Column[GapRow], ...] = (
    Column("method", lambda row: row.name, left=True),
    Column("sees", lambda row: row.information, left=True),
    Column("make-span", lambda row: number(row.makespan, 4)),
    Column("over plan", lambda row: _blank(number(row.over_plan, 1, percent=True, unit=" %"))),
    Column("± 95 %", lambda row: _blank(half_width(row.over_plan_interval, 1, percent=True))),
    Column("over bound", lambda row: _blank(number(row.over_bound, 1, percent=True, unit=" %"))),
    Column("± 95 %", lambda row: _blank(half_width(row.over_bound_interval, 1, percent=True))),
)


def table(gap: Gap) -> Table:
    """For a terminal: one line a scheduler, the bound and the plan first."""
    title = (
        f"load {gap.load:.3g}, B = {gap.servers}, N = {gap.positions}, {gap.tasks:.0f} tasks an "
        "episode: mean make-span in s, deadlines left aside"
    )
    return terminal_table(title, GAP_COLUMNS, gap.all_rows)


def document(gaps: Sequence[Gap], **about: Any) -> Document:
    """Every episode's figures and the rows, as JSON holds them."""
    places = [
        {
            "load": gap.load,
            "servers": gap.servers,
            "positions": gap.positions,
            "tasks": gap.tasks,
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
    """What differs between gaps, in words, and its values [gaps]: N, B or the load."""
    for text, values in (
        ("positions, N", [gap.positions for gap in gaps]),
        ("servers, B", [gap.servers for gap in gaps]),
    ):
        if len(set(values)) > 1:
            return text, np.array(values, float)
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


def run(command: Command, say: Say = quiet) -> list[Gap]:
    """Measure what a command asks for, setting by setting.

    Raises:
        ValueError, TypeError: a wrong name or value, or nothing to measure.
    """
    if not command.what:
        raise ValueError("what must name at least one scheduler, method or policy, got none")
    entries = [_entry(name) for name in command.what]
    if command.env is not None:
        find_environment(command.env)
    trace = None if command.trace is None else TraceFile.of(command.trace)
    trained = [entry for entry in entries if isinstance(entry, Policy)]
    trace = trace or (trained[0].setting.trace if trained else None)
    if trace is not None and (command.loads or command.positions):
        raise ValueError("loads and positions must be left out with a trace, which has its own")
    asked = list(_asked(command, trained, trace))
    for each in asked:  # before anything is trained or planned for another
        _check_places(entries, command, each, common_setting(trained, each))
    gaps = []
    for each in asked:
        setting = common_setting(trained, each)
        players = [
            train(_recipe(entry, setting, command, trace), seeds=command.train_seeds,
                  progress=False)
            if isinstance(entry, Method) else entry
            for entry in entries
        ]  # fmt: skip
        gap = measure(
            players, episodes=command.episodes, seed=command.seed, effort=command.effort, say=say,
            env=setting.env, preset=setting.preset, preset_seed=setting.seed,
            trace=_shortened(trace, command), **each.options,
        )  # fmt: skip
        gaps.append(gap)
    if command.out is not None:
        about = {"command": _paths_as_text(dataclasses.asdict(command))}
        text = json.dumps(document(gaps, **about), indent=1) + "\n"
        files.write_whole(command.out / "gap.json", text)
        say(f"numbers: {command.out / 'gap.json'}")
    return gaps


def _asked(
    command: Command, trained: Sequence[Policy], trace: TraceFile | None
) -> Iterator[Question]:
    """Every combination of positions, servers and loads."""
    combinations = itertools.product(
        command.positions or (None,), command.servers or (None,), command.loads or (None,)
    )
    for positions, servers, target in combinations:
        options: Keywords = {"slots": command.slots}
        asked = Question(command.env, command.preset, command.preset_seed, trace, options)
        if positions is not None:
            options["positions"] = positions
        # As the first policy has it; whether the others agree is checked later.
        setting = common_setting(trained[:1], asked)
        assert setting.preset is not None  # environments with tasks have a default
        if servers is not None:
            options |= with_servers(setting.preset, servers)
        if target is not None:
            fields = common_setting(trained[:1], asked).fields
            options |= at_load(setting.preset, target, **fields)
        if command.information is not None:
            options["information"] = command.information
        yield asked


def _entry(name: str) -> Policy | Scheduler | Method:
    """What a name stands for: a method to be trained, a scheduler, or else a path."""
    if name in METHODS:
        return METHODS[name]
    entry = opened(name)
    assert isinstance(entry, Policy | Scheduler)  # no training result, nor a rule of serving
    return entry


def _recipe(method: Method, place: Setting, command: Command, trace: TraceFile | None) -> Recipe:
    """How a method is trained at a place, with the preset's own episodes."""
    steps: Keywords = {} if command.train_steps is None else {"steps": command.train_steps}
    return recipe(
        method.name,
        env=place.env,
        preset=place.preset,
        preset_seed=place.seed,
        trace=trace,
        env_options={name: value for name, value in place.fields.items() if name != "slots"},
        **steps,
    )


def _shortened(trace: TraceFile | None, command: Command) -> TraceFile | None:
    return trace and dataclasses.replace(trace, slots=command.slots)


def _check_places(
    entries: Sequence[Policy | Scheduler | Method],
    command: Command,
    asked: Question,
    setting: Setting,
) -> None:
    """See that all can be played in a setting."""
    played = dataclasses.replace(asked, trace=_shortened(asked.trace, command))
    for entry in entries:
        if isinstance(entry, Method):
            _recipe(entry, setting, command, asked.trace).check()
        else:
            player_of(entry, **_playing(setting, played))


def _paths_as_text(value: Any) -> Any:
    """Paths as text, in whatever nesting."""
    if isinstance(value, dict):
        return {name: _paths_as_text(entry) for name, entry in value.items()}
    return str(value) if isinstance(value, Path) else value
