"""A comparison as a plan: methods and schedulers x presets x a sweep, run cell by cell.

A cell is one method (all its seeds, side by side) or one scheduler in one setting, in a directory
of its own (:mod:`jaxmec.studies.cells`), so that studies share cells, a cell of other
hyperparameters is another cell, and a plan that was stopped goes on where it was: a finished cell
is read, a half-trained one resumed. Beside ``cells``, ``compiled`` keeps programs, for cells that
differ in numbers only.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxmec.core import checks, compilation
from jaxmec.core.naming import suggestion
from jaxmec.envs.presets import scaled
from jaxmec.envs.table import FOR_SCHEDULERS, find_environment
from jaxmec.experiment import PathLike, check_same_tasks
from jaxmec.studies.cells import (
    Cell,
    Entry,
    Place,
    Point,
    Result,
    Sweep,
    check_scheduler,
    measure,
    named_in_errors,
    read,
    recipe_of,
    result_file,
)
from jaxmec.traces import TraceFile
from jaxmec.training import runner
from jaxmec.training.progress import PlanDisplay

SWEPT_UNITS = {
    "capacity": "total capacity (Gcycles/s)",
    "deadline": "deadline (s)",
    "positions": "tasks, at most, of a station in a slot",
    "probability": "arrival probability",
    "rate": "total transmission rate (Mbit/s)",
    "slot_length": "slot (s)",
}


def sweep_over(
    name: str, values: tuple[Any, ...], preset: str | None = None, env: str = FOR_SCHEDULERS
) -> Sweep:
    """A sweep over a field of the presets, or over the number of servers.

    Args:
        name: a field of `Preset`, or "servers": then the network of ``preset`` is repeated
            to so many servers, at the same load (`jaxmec.envs.presets.scaled`).
        values: of the field. A list, a capacity for each server say, stands on the axis at
            its sum.
        preset: for "servers" only.
        env: whose presets they are.

    Raises:
        ValueError: a name that is no field, with the nearest one.
    """
    row = find_environment(env)
    swept_servers = row.schedules  # whose networks can be repeated
    if name == "servers" and swept_servers:
        base = row.preset(preset)
        networks = [(count, scaled(base, count)) for count in values]
        points = [
            Point(count, (("capacity", network.capacity), ("rate", network.rate)))
            for count, network in networks
        ]
        return Sweep("servers", "servers", tuple(points))
    names = [field.name for field in dataclasses.fields(row.kinds[-1])]
    if name not in names:
        known = ["servers", *names] if swept_servers else names
        raise ValueError(
            f"sweep {name!r} is not one of {', '.join(known)}{suggestion(name, known)}"
        )
    points = [Point(float(np.sum(value)), ((name, value),)) for value in values]
    return Sweep(name, SWEPT_UNITS.get(name, name), tuple(points))


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
        checks.fields(
            self,
            seeds=checks.whole(1),
            episodes=checks.whole(1),
            steps_scale=checks.number(above=0),
        )
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
        if find_environment(self.env).default_preset is None and (
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
        found = []
        for place in self.places:
            for number, entry in enumerate(self.entries):
                with named_in_errors(f"{entry.label}, {place}"):
                    found.append(self._cell(entry, place, number < len(self.methods)))
        return tuple(found)

    def _cell(self, entry: Entry, place: Place, learns: bool) -> Cell:
        chosen = None
        if learns:
            chosen = recipe_of(entry, place, self.steps_scale)
        else:
            check_scheduler(entry, place)
        seeds = 1 if chosen is None else self.seeds
        cell = Cell(entry, place, chosen, seeds, self.episodes, self.episode_seed)
        _ = cell.identity  # which looks at every option
        return cell


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
    check_cells(study, todo)
    work = sum(cell.work for cell in todo)
    with _programs_kept(out / "compiled"), PlanDisplay(len(todo), work, enabled=progress) as plan:
        for cell in todo:
            steps = 0 if cell.config is None else cell.config.total_steps
            with plan.piece(str(cell), steps, cell.work) as display:
                try:
                    measure(cell, out, display)
                except runner.Diverged as error:
                    plan.message(f"{cell}: {error}")
                except runner.Interrupted as error:
                    message = f"{cell}: stopped and saved in {out}; the same again goes on"
                    raise runner.Interrupted(message, error.result, error.exit_code - 128) from None
    return collect(study, out)


def check_cells(study: Study, cells: Collection[Cell] | None = None) -> None:
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
        cell.check()


def is_finished(out: PathLike, cell: Cell) -> bool:
    """Whether a cell's result is there."""
    return result_file(Path(out), cell).exists()


def collect(study: Study, out: PathLike) -> Outcome:
    """What the cells of a study hold under ``out``; nothing is run.

    Raises:
        ValueError: a result file that is damaged, by name.
    """
    out = Path(out)
    results, missing = [], []
    for cell in study.cells:
        if is_finished(out, cell):
            results.append(read(cell, out))
        else:
            missing.append(cell)
    return Outcome(study, tuple(results), tuple(missing))


@contextlib.contextmanager
def _programs_kept(directory: Path) -> Iterator[None]:
    """Keep compiled programs on disk, unless the caller of this process keeps them elsewhere.

    The cells of a sweep differ in numbers, not in programs, and compiling is most of what a
    short one takes.
    """
    if compilation.jax_setting("compilation_cache_dir") is not None:
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
    compilation_cache.reset_cache()  # or it would go on without one, if it has begun so
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
