"""Where a policy is trained and played, as data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmec import envs, traces
from jaxmec.core import checks
from jaxmec.core.files import PathLike
from jaxmec.core.types import Document, EnvParams, Keywords, PyTree
from jaxmec.envs.presets import Preset, override
from jaxmec.mec.workload import TraceWorkload
from jaxmec.serving import FleetError, find_serving_preset
from jaxmec.serving.presets import is_file_name
from jaxmec.traces import TraceError, TraceFile
from jaxmec.training import identity

TRACE = "trace.csv"  # in a run's directory, where its tasks were given in memory
_PAIRS = checks.listing(checks.pair(checks.text(), checks.anything))
SETTING_SCHEMA = checks.record(
    {"env": checks.text(), "options": _PAIRS},
    {
        "preset": checks.optional(checks.text()),
        "seed": checks.whole(0, 2**63),
        "trace": checks.optional(
            checks.record(
                {"file": checks.text(), "sha256": checks.text()},
                {"slots": checks.optional(checks.whole(1, 2**40))},
            )
        ),
        "fleet": checks.optional(checks.pair(checks.text(), checks.text())),
    },
)


# Fields of a preset by what they decide; the others are of the reward and of what is seen.
TASK_FIELDS = (
    "arrivals", "positions", "probability", "laid_out", "slots", "size", "density", "step_work",
    "quality", "result", "master",
)  # fmt: skip
NETWORK_FIELDS = (
    "capacity", "rate", "slot_length", "uplink_contention", "uplink_cap", "max_wait",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """Which environment, as data: what `jaxmec.make` is called with."""

    env: str
    preset: str | None = None
    seed: int = 0  # of what a preset draws once
    options: tuple[tuple[str, object], ...] = ()
    trace: TraceFile | None = None  # arrivals instead of the preset's
    fleet: tuple[str, str] | None = None  # the preset's file and what was in it, if it is a file

    def __post_init__(self) -> None:
        numbers = ((k, v.item() if isinstance(v, np.generic) else v) for k, v in self.options)
        object.__setattr__(self, "options", tuple(numbers))
        checks.fields(self, seed=checks.whole(0))
        if self.preset is None or not is_file_name(self.preset):
            object.__setattr__(self, "fleet", None)
            return
        path = str(Path(self.preset).absolute())
        object.__setattr__(self, "preset", path)
        if self.fleet is None or self.fleet[0] != path:
            object.__setattr__(self, "fleet", (path, _content(path)))

    @classmethod
    def of(cls, document: Document) -> Setting:
        """What `dataclasses.asdict` made of one, and JSON of that."""
        return cls(**cls.fields_of(document))

    @staticmethod
    def fields_of(document: Document) -> Keywords:
        """The fields in such a document."""
        fields = dict(document)
        fields["options"] = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in fields["options"]
        )
        if fields.get("trace") is not None:
            fields["trace"] = TraceFile(**fields["trace"])
        if fields.get("fleet") is not None:
            fields["fleet"] = tuple(fields["fleet"])
        return fields

    def make(self) -> tuple[Any, EnvParams]:
        """The environment and its parameters.

        Raises:
            jaxmec.traces.TraceError: the trace is gone, or is not what it was.
            jaxmec.serving.FleetError: likewise of the preset's file.
        """
        if self.fleet is not None:
            _check_content(*self.fleet)
        options: Keywords = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.options
        }
        if self.trace is not None:
            options["workload"] = self._recorded(self.trace)
        return envs.make(self.env, preset=self.preset, seed=self.seed, **options)

    def _recorded(self, trace: TraceFile) -> Any:
        """The arrivals of a trace: of tasks, or of requests where those are served."""
        if envs.find_environment(self.env).schedules:
            return trace.workload()
        if trace.slots is not None:
            raise ValueError(f"slots must be None for a trace of requests, got {trace.slots}")
        return traces.read_requests(trace.checked()).arrivals()

    @property
    def fields(self) -> Keywords:
        """The options that are fields of the preset, or arrivals in its place."""
        row = envs.find_environment(self.env)
        own = {field.name for field in dataclasses.fields(row.options)}
        names = {"workload", *row.option_names} - own
        return {name: value for name, value in self.options if name in names}

    def identity(self) -> Document:
        """All that it stands for, as JSON holds it: a preset by its fields, a trace by its tasks,
        wherever it lies."""
        row = envs.find_environment(self.env)
        named = [field.name for field in dataclasses.fields(row.options)]
        chosen = row.options(**{k: v for k, v in self.options if k in named})
        known = {
            "env": self.env,
            "preset": None if self.fleet is not None else self.preset,
            "seed": self.seed,
            "options": plain(chosen),
        }
        if row.default_preset is not None:
            known["fields"] = self._preset_fields()
        if self.trace is not None:
            known["arrivals"] = [self.trace.sha256, self.trace.slots]
        elif "workload" in self.fields:
            known["arrivals"] = _digest_of_tasks(self.fields["workload"])
        return known

    @property
    def tasks(self) -> Keywords:
        """By name, all that decides which tasks arrive, beside the seed of the episodes."""
        row = envs.find_environment(self.env)
        if not row.schedules:
            where = {"env": self.env}
            if row.default_preset is None:
                return where
            arrivals = {} if self.trace is None else {"arrivals": self.trace.sha256}
            return where | arrivals | {"preset_seed": self.seed, "fields": self._preset_fields()}
        if self.trace is not None:
            return {"arrivals": _arrivals(self.trace)}
        if "workload" in self.fields:
            return {"arrivals": _digest_of_tasks(self.fields["workload"])}
        preset = self._preset
        drawn = {name: getattr(preset, name) for name in TASK_FIELDS}
        return {"preset_seed": self.seed, "stations": len(preset.capacity), **drawn}

    @property
    def network(self) -> Keywords:
        """By name, all that decides how long tasks take, beside what is decided about them."""
        if not envs.find_environment(self.env).schedules:
            return {}
        preset = self._preset
        values = {name: getattr(preset, name) for name in NETWORK_FIELDS}
        # Some are tied to another field, by its name.
        return {k: getattr(preset, v) if isinstance(v, str) else v for k, v in values.items()}

    def _preset_fields(self) -> Any:
        """The preset with what is changed of it, as JSON holds it."""
        row = envs.find_environment(self.env)
        if row.schedules:
            return plain(self._preset)
        preset = plain(row.preset(self.preset))
        return [preset, {name: plain(value) for name, value in sorted(self.fields.items())}]

    @property
    def _preset(self) -> Preset:
        changes = {name: value for name, value in self.fields.items() if name != "workload"}
        return override(envs.find_environment(self.env).preset(self.preset), **changes)


def _content(path: str) -> str:
    """A digest of what is in a fleet's file, and in those that it is like."""
    fields = plain(dataclasses.replace(find_serving_preset(path), name=""))
    return hashlib.sha256(json.dumps(strict(fields), sort_keys=True).encode()).hexdigest()


def _check_content(path: str, content: str) -> None:
    """Raise ``FleetError`` where the file is gone, or is not what it was."""
    if not Path(path).exists():
        raise FleetError(f"{path} is not there; name where the fleet is now (--fleet)")
    if (found := _content(path)) != content:
        raise FleetError(
            f"{path} is not the fleet that it was: expected {content[:12]}, found {found[:12]}; "
            "name the right one (--fleet)"
        )


def plain(value: object) -> Any:
    """A dataclass as JSON holds it, its class by its name; arrays as lists."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(vars(value)[field.name]) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return [plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def strict(value: object) -> Any:
    """JSON data in which what is not finite is text, as any reader of JSON has it."""
    if isinstance(value, dict):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _digest_of_tasks(workload: PyTree) -> str:
    """What tasks are listed, wherever: in memory, or in a file."""
    if not isinstance(workload, TraceWorkload):
        return identity.digest(workload)
    columns = {name: getattr(workload, name) for name in traces.Rows._fields}
    return identity.digest({"slots": workload.slots, **columns})


@functools.lru_cache(maxsize=16)
def _arrivals(trace: TraceFile) -> str:
    try:
        return _digest_of_tasks(trace.workload())
    except TraceError:  # it is gone, or another: what was known of it
        return f"{trace.sha256}, {trace.slots} slots"


def check_same_tasks(
    name: str, setting: Setting, other_name: str, other: Setting, network: bool = False
) -> None:
    """Whoever is set side by side meets the same tasks, and where asked on the same network.

    Raises:
        ValueError: they do not; names what differs.
    """
    parts = [(setting.tasks, other.tasks)]
    if network:
        parts.append((setting.network, other.network))
    differences = [
        f"{field} is {one.get(field, 'absent')} and {two.get(field, 'absent')}"
        for one, two in parts
        for field in {**one, **two}
        if one.get(field, "absent") != two.get(field, "absent")
    ]
    if differences:
        raise ValueError(
            f"{name} and {other_name} cannot be set side by side, their tasks"
            f"{' or networks' if network else ''} are not the same: {'; '.join(differences)}"
        )


def as_trace_file(trace: PathLike | TraceFile | None) -> TraceFile | None:
    return trace if trace is None or isinstance(trace, TraceFile) else TraceFile.of(trace)


def in_a_file(setting: Setting, file: Path) -> Setting:
    """The setting, whose tasks lie in a file where they were in memory: what can be saved.

    A file that is there already, of a run that goes on say, must hold the same tasks.

    Raises:
        ValueError: it holds others, or there is a deadline that no file holds.
        TypeError: arrivals that are no list of tasks.
    """
    options = dict(setting.options)
    workload = options.pop("workload", None)
    if workload is None:
        return setting
    if not isinstance(workload, TraceWorkload):
        raise TypeError(
            f"workload is a {type(workload).__name__}, which cannot be saved; expected what "
            "jaxmec.mec.trace_workload makes, a trace file (trace=), or fields of the preset"
        )
    columns: dict[str, Any] = {name: getattr(workload, name) for name in traces.Rows._fields}
    columns = {name: np.asarray(column) for name, column in columns.items() if column is not None}
    slots = int(workload.slots)
    if not np.all(np.isfinite(columns.get("deadline", 0.0))):
        raise ValueError("deadline must be finite for tasks that are to be saved, got an infinity")
    if not file.exists():
        traces.write(file, traces.Rows(**columns))
    elif not _same_columns(columns, traces.read_rows(file).first(slots)._asdict()):
        raise ValueError(
            f"{file} holds other tasks than those in memory; save elsewhere, or move it away"
        )
    kept = tuple(sorted(options.items()))
    return dataclasses.replace(setting, options=kept, trace=TraceFile.of(file, slots))


def _same_columns(columns: Mapping[str, np.ndarray], read: Mapping[str, np.ndarray | None]) -> bool:
    """Whether tasks are those of a file, as near as it is written."""
    kept = {name: column for name, column in read.items() if column is not None}
    return columns.keys() == kept.keys() and all(
        column.shape == kept[name].shape and np.allclose(column, kept[name], rtol=1e-8, atol=0)
        for name, column in columns.items()
    )
