"""A comparison as a plan: methods and schedulers x presets x a sweep, run cell by cell.

A cell is one method (all its seeds, side by side) or one scheduler in one setting. It has a
directory of its own, named after everything that its result depends on, so that studies
share cells, a cell of other hyperparameters is another cell, and a plan that was stopped
goes on where it was: a finished cell is read, a half-trained one resumed::

    cells/ddrl-amsa-amcoedge-0f3a…/
        result.json     what it measured; there when, and only when, the cell is finished
        metrics.jsonl   the training, point by point
        policy/         the policy of the best seed
    compiled/           programs, for cells that differ in numbers only
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import jaxmec
from jaxmec.agents.base import Agent
from jaxmec.core import files
from jaxmec.core.naming import by_layer, suggestion
from jaxmec.envs.presets import Preset, find_preset, override, scaled
from jaxmec.envs.table import FOR_SCHEDULERS, find_environment
from jaxmec.experiment import (
    SHARED,
    PathLike,
    Report,
    Setting,
    check_same_tasks,
    evaluate,
    lesson_of,
    option_layers,
    player_of,
    prepared,
    train,
)
from jaxmec.experiment.demonstrations import DEMONSTRATING
from jaxmec.methods import find_method
from jaxmec.schedulers import find_scheduler
from jaxmec.traces import TraceFile
from jaxmec.training import checkpoint, runner
from jaxmec.training.progress import PlanDisplay
from jaxmec.training.trainer import Trainer

RESULT_FILE = "result.json"
RESULT_FORMAT = 1
MASTER_FORMAT = 2  # before, what queues at a master node's servers was overestimated
Fields = tuple[tuple[str, Any], ...]
Config = Trainer[Any, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a comparison: a method to train, or a scheduler, and what it is given."""

    name: str  # in `jaxmec.methods` or `jaxmec.schedulers`
    options: Fields = ()  # of `jaxmec.train`; for a scheduler, of `jaxmec.evaluate`
    label: str = ""  # in tables and figures; by default the name
    published: bool = False  # with the published hyperparameters instead of ours
    steps_scale: float = 1.0  # times the study's

    def __post_init__(self) -> None:
        if not self.steps_scale > 0:
            raise ValueError(f"steps_scale must be positive, got {self.steps_scale!r}")
        if not self.label:
            suffix = " (published)" if self.published else ""
            object.__setattr__(self, "label", self.name + suffix)


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    x: float  # where it stands on the axis
    fields: Fields  # of the preset, changed

    def __str__(self) -> str:
        return f"{self.x:g}"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One quantity of the setting that takes several values."""

    name: str  # for file names
    xlabel: str  # for tables and axes, with its unit
    points: tuple[Point, ...]  # growing in x

    def __post_init__(self) -> None:
        places = [point.x for point in self.points]
        if not places or any(b <= a for a, b in itertools.pairwise(places)):
            raise ValueError(f"points of the sweep {self.name!r} must grow, got {places}")


UNITS = {
    "capacity": "total capacity (Gcycles/s)",
    "deadline": "deadline (s)",
    "positions": "tasks, at most, of a station in a slot",
    "probability": "arrival probability",
    "rate": "total transmission rate (Mbit/s)",
    "slot_length": "slot (s)",
}


def sweep_over(name: str, values: tuple[Any, ...], preset: str | None = None) -> Sweep:
    """A sweep over a field of the presets, or over the number of servers.

    Args:
        name: a field of `Preset`, or "servers": then the network of ``preset`` is repeated
            to so many servers, at the same load (`jaxmec.envs.presets.scaled`).
        values: of the field. A list, a capacity for each server say, stands on the axis at
            its sum.
        preset: for "servers" only.

    Raises:
        ValueError: a name that is no field, with the nearest one.
    """
    if name == "servers":
        base = find_environment(FOR_SCHEDULERS).preset(preset)
        networks = [(count, scaled(base, count)) for count in values]
        points = [
            Point(count, (("capacity", network.capacity), ("rate", network.rate)))
            for count, network in networks
        ]
        return Sweep("servers", "servers", tuple(points))
    names = [field.name for field in dataclasses.fields(Preset)]
    if name not in names:
        known = ["servers", *names]
        raise ValueError(
            f"sweep {name!r} is not one of {', '.join(known)}{suggestion(name, known)}"
        )
    points = [Point(float(np.sum(value)), ((name, value),)) for value in values]
    return Sweep(name, UNITS.get(name, name), tuple(points))


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison, as data.

    Raises:
        ValueError: a field outside what its comment allows.
    """

    name: str
    about: str  # one line
    env: str
    methods: tuple[Entry, ...] = ()
    schedulers: tuple[Entry, ...] = ()
    presets: tuple[str, ...] = ()  # none for CartPole
    sweep: Sweep | None = None
    reference: str = ""  # label that all are set against; by default the first entry's
    seeds: int = 10  # S, training seeds 0..S-1 of each method
    steps_scale: float = 1.0  # times each method's own training steps
    episodes: int = 50  # played after training, the same for all
    episode_seed: int = 1  # of their arrivals
    preset_seed: int = 0  # of what a preset draws once
    trace: TraceFile | None = None  # arrivals instead of the presets'

    def __post_init__(self) -> None:
        for name in ("seeds", "episodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not self.steps_scale > 0:
            raise ValueError(f"steps_scale must be positive, got {self.steps_scale!r}")
        labels = [entry.label for entry in self.entries]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"methods and schedulers must be labelled differently, got {labels}")
        if not self.reference:
            object.__setattr__(self, "reference", labels[0])
        if self.reference not in labels:
            raise ValueError(
                f"reference {self.reference!r} is not one of {', '.join(labels)}"
                f"{suggestion(self.reference, labels)}"
            )
        if not find_environment(self.env).schedules and (
            self.presets or self.sweep or self.schedulers or self.trace
        ):
            raise ValueError(
                f"{self.env} has no presets, no schedulers, no preset to sweep and no trace"
            )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Methods, then schedulers."""
        return self.methods + self.schedulers

    @property
    def metric(self) -> str:
        """What the entries are compared by."""
        return find_environment(self.env).metric

    @property
    def places(self) -> tuple[Place, ...]:
        """The settings: presets x points of the sweep."""
        presets: tuple[str | None, ...] = self.presets
        if not presets:
            presets = (find_environment(self.env).default_preset,)
        points: tuple[Point | None, ...] = (None,) if self.sweep is None else self.sweep.points
        return tuple(
            Place(self.env, preset, self.preset_seed, self.sweep, point, self.trace)
            for preset in presets
            for point in points
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All there is to measure, place by place.

        Raises:
            ValueError, TypeError: an unknown environment, preset, method, scheduler or
                option; the message suggests the right one.
        """
        return tuple(
            _cell(self, place, entry, learns)
            for place in self.places
            for entries, learns in ((self.methods, True), (self.schedulers, False))
            for entry in entries
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """One setting of a study."""

    env: str
    preset: str | None
    preset_seed: int
    sweep: Sweep | None = None
    point: Point | None = None
    trace: TraceFile | None = None

    @property
    def setting(self) -> Setting:
        """As data. What a point changes to the preset's own value is left out, so that the
        same setting, reached by different sweeps, is the same."""
        fields: Fields = ()
        if self.point is not None:
            own = None if self.preset is None else find_preset(self.preset)
            changed = [(k, v) for k, v in self.point.fields if getattr(own, k, None) != v]
            fields = tuple(sorted(changed))
        return Setting(self.env, self.preset, self.preset_seed, fields, self.trace)

    def __str__(self) -> str:
        name = self.env if self.preset is None else self.preset
        if self.trace is not None:
            name = f"{name} on {Path(self.trace.file).name}"
        if self.sweep is None or self.point is None:
            return name
        return f"{name}, {self.sweep.xlabel} {self.point}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry at one place, and everything that its result depends on."""

    entry: Entry
    place: Place
    config: Config | None  # as it will be trained; None for a scheduler
    identity: dict[str, Any] = dataclasses.field(repr=False, compare=False)
    seeds: int
    episodes: int
    episode_seed: int

    @property
    def learns(self) -> bool:
        """A method, not a scheduler."""
        return self.config is not None

    @property
    def met(self) -> Setting:
        """The tasks and the network that the entry meets."""
        setting = self.place.setting
        options = tuple((name.removeprefix("env."), value) for name, value in self.entry.options)
        named = dataclasses.replace(setting, options=setting.options + options)
        return dataclasses.replace(setting, options=tuple(sorted(named.fields.items())))

    @property
    def arguments(self) -> dict[str, Any]:
        """What `train` is told of a method beside its name, and `evaluate` of a scheduler."""
        setting = self.place.setting
        where = {
            "env": setting.env,
            "preset": setting.preset,
            "preset_seed": setting.seed,
            "trace": setting.trace,
        }
        options = dict(self.entry.options)
        varied = dict(setting.options).keys() & {name.removeprefix("env.") for name in options}
        if varied:
            raise TypeError(f"{min(varied)} is swept, and is an option of the entry too; give one")
        if self.config is None:
            named = {name.removeprefix("env."): value for name, value in options.items()}
            return {**where, **dict(setting.options), **named}
        sizes = {size.name for size in dataclasses.fields(self.config)}  # they are in the config
        return {
            **where,
            "published": self.entry.published,
            "config": self.config,
            "env_options": dict(setting.options),
            **{k: v for k, v in options.items() if k.removeprefix("config.") not in sizes},
        }

    @property
    def folder(self) -> str:
        """The name of its directory."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        where = self.place.preset or self.place.env
        return f"{self.entry.name}-{where}-{digest}"

    @property
    def work(self) -> float:
        """How much there is to do, about in gradient updates of one step of denoising."""
        if self.config is None:
            return 10.0 * self.episodes
        agent = SimpleNamespace(denoising_steps=self.identity["denoising_steps"])
        return self.seeds * self.config.work(agent)

    def __str__(self) -> str:
        return f"{self.entry.label}, {self.place}"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished cell."""

    cell: Cell
    report: Report  # named by the entry's label
    steps: np.ndarray | None  # [P] environment steps of the learning curve; None: no learning
    curve: dict[str, np.ndarray]  # [S, P] by metric, while it learned
    seconds: np.ndarray | None  # [P] wall clock at those points, of all seeds side by side
    machine: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study has measured so far."""

    study: Study
    results: tuple[Result, ...]
    missing: tuple[Cell, ...]
    plans: Mapping[Place, np.ndarray] = dataclasses.field(default_factory=dict)
    """[n] s by place: the best plan's make-spans in the first n episodes, where there is one."""

    def at(self, place: Place) -> list[Result]:
        """The results of one setting, in the study's order."""
        return [result for result in self.results if result.cell.place == place]

    def find(self, label: str, place: Place | None = None) -> Result | None:
        """The result of an entry at a place, by default the first; None if it is missing."""
        place = self.study.places[0] if place is None else place
        return next((r for r in self.at(place) if r.cell.entry.label == label), None)


def run(
    study: Study,
    out: PathLike,
    *,
    progress: bool = True,
    only: Collection[str] | None = None,
) -> Outcome:
    """Measure what is missing of a study.

    A method that diverges leaves its cell missing, and the others go on.

    Args:
        study: the plan.
        out: the directory whose ``cells`` hold the results; studies may share it.
        progress: show a bar with the time left.
        only: folders of the cells to measure, where others are somebody else's; all by default.

    Raises:
        runner.Interrupted: after Ctrl-C; the same call goes on from there.
        ValueError, TypeError: a wrong name or value in the study, before anything runs.
    """
    out = Path(out)
    todo = [
        cell
        for cell in study.cells
        if not is_finished(out, cell) and (only is None or cell.folder in only)
    ]
    check(study, todo)
    work = sum(cell.work for cell in todo)
    with _programs_kept(out / "compiled"), PlanDisplay(len(todo), work, enabled=progress) as plan:
        for cell in todo:
            steps = 0 if cell.config is None else cell.config.total_steps
            with plan.piece(str(cell), steps, cell.work) as display:
                try:
                    _measure(cell, out, display)
                except runner.Diverged as error:
                    plan.message(f"{cell}: {error}")
                except runner.Interrupted as error:
                    message = f"{cell}: stopped and saved in {out}; the same again goes on"
                    raise runner.Interrupted(message, error.result, error.exit_code - 128) from None
    return collect(study, out)


def check(study: Study, cells: Collection[Cell] | None = None) -> None:
    """See that every cell, or those given, can be measured and compared; nothing is trained.

    Raises:
        ValueError, TypeError: a setting that cannot be made, options that do not fit together,
            a scheduler that is allowed less than it needs to know, or entries of one place that
            do not meet the same tasks; names the cell.
    """
    every = study.cells
    reference = {c.place: c for c in every if c.entry.label == study.reference}
    for cell in every if cells is None else cells:
        beside = reference[cell.place]
        check_same_tasks(str(cell), cell.met, str(beside), beside.met)
        try:
            if cell.learns:
                prepared(cell.entry.name, **cell.arguments).check()
            else:
                player_of(cell.entry.name, **cell.arguments)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{cell}: {error}") from error


def is_finished(out: PathLike, cell: Cell) -> bool:
    """Whether a cell's result is there."""
    return _result_file(Path(out), cell).exists()


def collect(study: Study, out: PathLike) -> Outcome:
    """What the cells of a study hold under ``out``; nothing is run.

    Raises:
        ValueError: a result file that is damaged, by name.
    """
    out = Path(out)
    results, missing = [], []
    for cell in study.cells:
        if is_finished(out, cell):
            results.append(_read(cell, _result_file(out, cell)))
        else:
            missing.append(cell)
    return Outcome(study, tuple(results), tuple(missing))


def machine() -> str:
    """The processor, its cores that this process may use, and the device that JAX uses."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line for line in lines if line.startswith("model name"))
        model = model.partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    return f"{model}, {cores} core{'' if cores == 1 else 's'}" + (
        "" if device == "cpu" else f", {device}"
    )


@contextlib.contextmanager
def _programs_kept(directory: Path) -> Iterator[None]:
    """Keep compiled programs on disk, unless the caller of this process keeps them elsewhere.

    The cells of a sweep differ in numbers, not in programs, and compiling is most of what a
    short one takes.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
    compilation_cache.reset_cache()  # or it would go on without one, if it has begun so
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


# One cell


@functools.lru_cache(maxsize=16)
def _of_a_master(trace: TraceFile) -> bool:
    return bool(trace.workload().master)


def _cell(study: Study, place: Place, entry: Entry, learns: bool) -> Cell:
    setting = place.setting
    where: Any = setting.env
    master = False
    if setting.preset is not None:
        preset = override(find_preset(setting.preset), **dict(setting.options))
        where = repr(preset)
        master = preset.master if setting.trace is None else _of_a_master(setting.trace)
    identity = {
        "format": MASTER_FORMAT if master else RESULT_FORMAT,
        "name": entry.name,
        "env": setting.env,
        "where": where,
        "preset_seed": setting.seed,
        "options": list(entry.options),
        "episodes": study.episodes,
        "episode_seed": study.episode_seed,
    }
    # Where there is none of what follows, cells have the names that they always had.
    if setting.trace is not None:  # its content, wherever it lies
        identity["trace"] = [
            getattr(setting.trace, field.name)
            for field in dataclasses.fields(setting.trace)
            if field.name != "file"
        ]
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        identity["x64"] = True
    config = None
    layers = {"env": find_environment(study.env).option_names}
    if learns:
        settings = find_method(entry.name).settings(entry.published)
        layers = option_layers(settings.agent(), settings.config, study.env)
    given = by_layer(
        dict(entry.options), layers, shared=SHARED, arguments=["start"], owner=entry.label
    )
    if learns:
        agent, config, options = _trained_as(
            entry, study.steps_scale * entry.steps_scale, given["config"]
        )
        identity |= {
            "seeds": study.seeds,
            "agent": repr(agent),
            "config": dataclasses.asdict(config),
            "method": list(options),
            "published": entry.published,
            "denoising_steps": given["agent"].get(
                "denoising_steps", getattr(agent, "denoising_steps", 1)
            ),
        }
        teacher = find_method(entry.name).start
        if teacher is not None:
            identity["start"] = _lesson(teacher, entry, agent, config, given["agent"])
    else:
        find_scheduler(entry.name)
    return Cell(
        entry, place, config, identity,
        study.seeds if learns else 1, study.episodes, study.episode_seed,
    )  # fmt: skip


def _lesson(
    teacher: str, entry: Entry, agent: Any, config: Config, own: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the method depends on from which an entry starts, beside the entry's setting."""
    row = find_method(teacher)
    alone = find_method(entry.name).settings(entry.published).config
    taught_by, lesson, _ = lesson_of(teacher, dataclasses.replace(agent, **own), config, alone)
    return {
        "name": teacher,
        "agent": repr(taught_by),
        "config": dataclasses.asdict(lesson),
        "method": list(row.options),
        "planner": repr(DEMONSTRATING),
    }


def _trained_as(entry: Entry, scale: float, own: Mapping[str, Any]) -> tuple[Agent, Config, Fields]:
    """The agent before the entry's options, the sizes of its training, the method's options."""
    settings = find_method(entry.name).settings(entry.published)
    config = dataclasses.replace(settings.config, **own).scaled(scale)
    return settings.agent(), config, settings.options


def _result_file(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.folder / RESULT_FILE


def _measure(cell: Cell, out: Path, display: Any) -> None:
    """Train, if there is something to train, evaluate, and write the result."""
    home = _result_file(out, cell).parent
    policy: Any = cell.entry.name
    learnt: dict[str, Any] = {}
    if cell.learns:
        policy = train(
            cell.entry.name,
            seeds=cell.seeds,
            directory=home,
            resume=bool(checkpoint.checkpoints(home / runner.CHECKPOINTS)),
            progress=display,
            **cell.arguments,
        )
        history = policy.history
        learnt = {
            "steps": np.asarray(history.env_steps[0]).tolist(),
            "curve": {name: _listed(value) for name, value in history.evaluation.items()},
            "seconds": list(_seconds(home)),
        }
        where: dict[str, Any] = {}
    else:
        where = cell.arguments
    began = time.monotonic()
    report = evaluate(policy, episodes=cell.episodes, seed=cell.episode_seed, **where)
    document = {
        "cell": cell.identity,
        "setting": dataclasses.asdict(report.setting),
        "information": report.information,
        "values": {name: _listed(value) for name, value in report.values.items()},
        **learnt,
        "evaluation_seconds": round(time.monotonic() - began, 3),
        "machine": machine(),
        "versions": {
            "jaxmec": jaxmec.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }
    files.write_whole(home / RESULT_FILE, json.dumps(document, default=_jsonable) + "\n")
    # Replay buffers are large, and nothing will resume this run.
    shutil.rmtree(home / runner.CHECKPOINTS, ignore_errors=True)


def _seconds(home: Path) -> Iterator[float]:
    for line in (home / runner.METRICS_FILE).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["seconds"]


def _read(cell: Cell, file: Path) -> Result:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        setting = Setting.of(document["setting"])
        values = {name: _array(value) for name, value in document["values"].items()}
        return Result(
            cell=cell,
            report=Report(
                cell.entry.label, setting, document["information"], values, cell.episode_seed
            ),
            steps=np.asarray(document["steps"]) if cell.learns else None,
            curve={name: _array(value) for name, value in document.get("curve", {}).items()},
            seconds=np.asarray(document["seconds"]) if cell.learns else None,
            machine=document["machine"],
            versions=document["versions"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}); remove it to measure again"
        ) from error


def _listed(values: Any) -> list[list[float | None]]:
    """[S, n] as JSON holds it; null is not finite."""
    return [[float(v) if math.isfinite(v) else None for v in row] for row in np.asarray(values)]


def _array(values: list[list[float | None]]) -> np.ndarray:
    return np.array(values, float)  # null becomes NaN


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
