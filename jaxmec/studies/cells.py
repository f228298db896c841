"""One cell of a study: an entry in one setting, measured once and kept in a directory of its own.

The directory is named after everything that the result depends on (`Cell.identity`)::

    cells/ddrl-amsa-amcoedge-0f3a…/
        result.json     what it measured; there when, and only when, the cell is finished
        metrics.jsonl   the training, point by point
        policy/         the policy of the best seed
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
import pkgutil
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmec
from jaxmec.agents.base import SamplingAgent
from jaxmec.agents.per_station import of_station
from jaxmec.core import checks, compilation, files
from jaxmec.core.naming import by_layer
from jaxmec.core.types import Document, Keywords
from jaxmec.envs import find_environment
from jaxmec.experiment import (
    Recipe,
    Report,
    Setting,
    TrainResult,
    evaluate,
    player_of,
    recipe,
    train,
)
from jaxmec.experiment.report import METRICS
from jaxmec.experiment.setting import strict
from jaxmec.methods import Config
from jaxmec.schedulers import find_scheduler
from jaxmec.traces import TraceFile
from jaxmec.training import checkpoint, runner
from jaxmec.training.progress import Display

RESULT_FILE = "result.json"
# Of the identity. 3: made from the recipe's. 4: judged sampled as well as greedily. Cells of before
# are other folders, and are left be.
CELL_FORMAT = 4
Fields = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a comparison: a method to train, or a scheduler, and what it is given."""

    name: str  # in `jaxmec.methods` or `jaxmec.schedulers`
    options: Fields = ()  # of `jaxmec.train`; for a scheduler, of `jaxmec.evaluate`
    label: str = ""  # in tables and figures; by default the name
    published: bool = False  # with the published hyperparameters instead of ours
    steps_scale: float = 1.0  # times the study's

    def __post_init__(self) -> None:
        checks.fields(self, steps_scale=checks.number(above=0))
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
            row = find_environment(self.env)
            own = None if row.default_preset is None else row.preset(self.preset)
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
    """One entry at one place."""

    entry: Entry
    place: Place
    recipe: Recipe | None = dataclasses.field(repr=False, compare=False)  # None: a scheduler
    seeds: int
    episodes: int
    episode_seed: int

    @property
    def learns(self) -> bool:
        """A method, not a scheduler."""
        return self.recipe is not None

    @property
    def config(self) -> Config | None:
        """The sizes of its training; None for a scheduler."""
        return None if self.recipe is None else self.recipe.config

    @property
    def met(self) -> Setting:
        """The tasks and the network that the entry meets."""
        setting = self.place.setting
        named = dataclasses.replace(setting, options=setting.options + _of_env(self.entry))
        return dataclasses.replace(setting, options=tuple(sorted(named.fields.items())))

    @property
    def arguments(self) -> Keywords:
        """What `evaluate` is given beside a scheduler's name."""
        setting = self.place.setting
        return {
            "env": setting.env,
            "preset": setting.preset,
            "preset_seed": setting.seed,
            "trace": setting.trace,
            **dict(setting.options),
            **dict(_of_env(self.entry)),
        }

    @functools.cached_property
    def identity(self) -> Document:
        """Everything that the result depends on but the versions of the code, as JSON holds it."""
        who: Document
        if self.recipe is not None:
            who = {"recipe": self.recipe.identity()}
        else:
            where, options = self.place.setting.identity(), sorted(_of_env(self.entry))
            who = {"scheduler": self.entry.name, "setting": where, "options": options}
        identity = {
            "format": CELL_FORMAT,
            **who,
            "seeds": self.seeds,
            "episodes": self.episodes,
            "episode_seed": self.episode_seed,
            "x64": bool(compilation.jax_setting("enable_x64")),
        }
        as_read: Document = json.loads(json.dumps(strict(identity), default=str))
        return as_read

    @property
    def folder(self) -> str:
        """The name of its directory."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        where = self.place.preset or self.place.env
        return f"{self.entry.name}-{where}-{digest}"

    @property
    def work(self) -> float:
        """How much there is to do, about in gradient updates of one step of denoising."""
        return 10.0 * self.episodes if self.recipe is None else self.seeds * self.recipe.work

    def check(self) -> None:
        """See that it can be measured; nothing is trained.

        Raises:
            ValueError, TypeError: a setting that cannot be made, options that do not fit together,
                or a scheduler that is allowed less than it needs to know; names the cell.
        """
        with named_in_errors(str(self)):
            if self.recipe is not None:
                self.recipe.check()
            else:
                player_of(self.entry.name, **self.arguments)

    def __str__(self) -> str:
        return f"{self.entry.label}, {self.place}"


def _of_env(entry: Entry) -> Fields:
    """An entry's options by their names in the environment."""
    return tuple((name.removeprefix("env."), value) for name, value in entry.options)


@contextlib.contextmanager
def named_in_errors(name: str) -> Iterator[None]:
    """Errors in a plan say of what they are."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def recipe_of(entry: Entry, place: Place, scale: float) -> Recipe:
    """How a method is trained at a place, ``scale`` times as long.

    Raises:
        ValueError, TypeError: an unknown method or option, or an option that is swept too.
    """
    setting = place.setting
    if twice := dict(setting.options).keys() & dict(_of_env(entry)).keys():
        raise TypeError(f"{min(twice)} is swept, and is an option of the entry too; give one")
    chosen = recipe(
        entry.name,
        published=entry.published,
        env=setting.env,
        preset=setting.preset,
        preset_seed=setting.seed,
        trace=setting.trace,
        env_options=dict(setting.options),
        **dict(entry.options),
    )
    return chosen.scaled(scale * entry.steps_scale)


def check_scheduler(entry: Entry, place: Place) -> None:
    """See that there is such a scheduler or rule, and that its options are known.

    Raises:
        ValueError, TypeError: there is not, or they are not; the message suggests the right one.
    """
    row = find_environment(place.env)
    (pkgutil.resolve_name(row.rules) if row.rules else find_scheduler)(entry.name)
    known = row.option_names
    by_layer(dict(entry.options), {"env": known}, shared={}, owner=entry.label)


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


def result_file(out: Path, cell: Cell) -> Path:
    """Where a cell's result goes."""
    return out / "cells" / cell.folder / RESULT_FILE


def measure(cell: Cell, out: Path, display: bool | Display = True) -> None:
    """Train, if there is something to train, evaluate, and write the result."""
    home = result_file(out, cell).parent
    policy: str | TrainResult = cell.entry.name
    where, learnt = cell.arguments, {}
    if cell.recipe is not None:
        runs = (home, home / runner.START)
        begun = any(checkpoint.checkpoints(each / runner.CHECKPOINTS) for each in runs)
        policy = train(
            cell.recipe, seeds=cell.seeds, directory=home, resume=begun, progress=display
        )
        where, learnt = {}, _learnt(policy, home)
    began = time.monotonic()
    report = evaluate(policy, episodes=cell.episodes, seed=cell.episode_seed, **where)
    judged = {"greedy": report}
    if isinstance(policy, TrainResult) and isinstance(
        of_station(policy.policy.agent), SamplingAgent
    ):
        judged["sampled"] = evaluate(
            policy, episodes=cell.episodes, seed=cell.episode_seed, sampled=True
        )
    document = {
        "cell": cell.identity,
        "setting": dataclasses.asdict(report.setting),
        "information": report.information,
        "values": {
            name: {metric: _as_lists(value) for metric, value in each.values.items()}
            for name, each in judged.items()
        },
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
    for each in (home, home / runner.START):  # replay buffers are large, and nothing resumes this
        shutil.rmtree(each / runner.CHECKPOINTS, ignore_errors=True)


def _learnt(result: TrainResult, home: Path) -> Document:
    """The learning curve, as JSON holds it."""
    return {
        "steps": np.asarray(result.history.env_steps[0]).tolist(),
        "curve": {name: _as_lists(value) for name, value in result.history.evaluation.items()},
        "seconds": list(_seconds(home)),
    }


def read(cell: Cell, out: Path) -> Result:
    """The result of a finished cell.

    Raises:
        ValueError: its file is damaged, or of another cell; names the file.
    """
    file = result_file(out, cell)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["cell"] != cell.identity:
            raise ValueError("it is of another cell")
        setting = Setting.of(document["setting"])
        judged = {
            name: {metric: _array(value) for metric, value in values.items()}
            for name, values in document["values"].items()
        }
        better = _better_judged(judged, find_environment(setting.env).metric)
        return Result(
            cell=cell,
            report=Report(
                cell.entry.label,
                setting,
                document["information"],
                judged[better],
                cell.episode_seed,
                better if cell.learns else None,
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


def _better_judged(judged: dict[str, dict[str, np.ndarray]], metric: str) -> str:
    """By which of "greedy" and "sampled" a policy does better; greedy where they are equal."""
    sign = 1 if METRICS[metric].smaller_is_better else -1
    means = {name: sign * values[metric].mean() for name, values in judged.items()}
    return min(judged, key=lambda name: (np.isnan(means[name]), means[name], name))


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


def _seconds(home: Path) -> Iterator[float]:
    for line in (home / runner.METRICS_FILE).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["seconds"]


def _as_lists(values: Any) -> list[list[float | None]]:
    """[S, n] as JSON holds it; null is not finite."""
    return [[float(v) if math.isfinite(v) else None for v in row] for row in np.asarray(values)]


def _array(values: list[list[float | None]]) -> np.ndarray:
    return np.array(values, float)  # null becomes NaN


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else str(value)
