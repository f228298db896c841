"""Tasks of your own: trace files, read and checked, made from logs, or drawn from a law.

A trace file is CSV or, where its name ends in ``.parquet``, Parquet, with one task a row::

    slot,origin,size:Mbit,work:Gcycles,result:Mbit
    0,2,3.1,0.52,0

``result`` may be missing and is then 0. The unit after a colon may be missing (Mbit and Gcycles
then) or another one of ``UNITS``. Rows may come in any order: they are sorted by slot and
station, and of one station's slot the earlier row is decided first.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmec.mec import EdgeNetwork, TraceWorkload, trace_workload
from jaxmec.mec.workload import MASTER, MAX_POSITIONS, Workload
from jaxmec.naming import look_up, suggestion

PathLike = str | os.PathLike[str]
_DATA = {"Mbit": 1.0, "bit": 1e-6, "kbit": 1e-3, "Gbit": 1e3,
         "B": 8e-6, "kB": 8e-3, "MB": 8.0, "GB": 8e3,
         "KiB": 1024 * 8e-6, "MiB": 1024**2 * 8e-6}  # fmt: skip
_TOKENS = {"tokens": 1.0}
# What a column may hold, in units that count as so many of the first one; "date" is a date and
# a time of day, 2023-11-16 18:15:46.68.
UNITS: dict[str, dict[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "date": 1.0},
    "slot": {},
    "origin": {},
    "size": _DATA,
    "work": {"Gcycles": 1.0, "cycles": 1e-9, "kcycles": 1e-6, "Mcycles": 1e-3, "Tcycles": 1e3},
    "result": _DATA,
    "context": _TOKENS,
    "generated": _TOKENS,
}
OWN = ("slot", "origin", "size", "work", "result")


def _positive(name: str, value: Any, *, whole: bool = False, zero: bool = False) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    fits = number and np.isfinite(value) and (value > 0 or (zero and value == 0))
    if not fits or (whole and value != int(value)):
        expected = "a number of at least 0" if zero else "a positive number"
        raise ValueError(
            f"{name} must be {'a positive whole number' if whole else expected}, got {value!r}"
        )


class TraceError(Exception):
    """Something is wrong with a trace file; the message says where, and what was expected."""


class Rows(NamedTuple):
    """M tasks, sorted by slot and, within it, by origin; NumPy arrays of 64 bits."""

    slot: np.ndarray  # [M] int, from 0
    origin: np.ndarray  # [M] int; −1 for a master node
    size: np.ndarray  # [M] Mbit
    work: np.ndarray  # [M] Gcycles
    result: np.ndarray  # [M] Mbit

    @property
    def stations(self) -> int:
        """As many as the highest origin says; 0 where all tasks come to a master node."""
        return int(self.origin.max()) + 1

    def workload(self, slots: int | None = None) -> TraceWorkload:
        """The arrivals of an environment.

        Args:
            slots: T, of an episode: later tasks are left out. By default up to the last task.

        Raises:
            ValueError: no task in so many slots.
        """
        rows = self if slots is None else self.first(slots)
        return trace_workload(*rows, slots=slots)

    def first(self, slots: int) -> Rows:
        """The tasks of the first so many slots.

        Raises:
            ValueError: not a positive number, or no task in them.
        """
        _positive("slots", slots, whole=True)
        kept = self.slot < slots
        if not kept.any():
            raise ValueError(
                f"slots must be at least {int(self.slot[0]) + 1}, where the trace has its first "
                f"task, got {slots}"
            )
        return Rows(*(column[kept] for column in self))


@dataclasses.dataclass(frozen=True)
class TraceFile:
    """A trace file, and what was in it: with another content it is refused."""

    file: str  # absolute path
    sha256: str
    slots: int | None = None  # T, of an episode; by default up to the last task

    @classmethod
    def of(cls, path: PathLike, slots: int | None = None) -> TraceFile:
        """The file as it is now.

        Raises:
            OSError: it cannot be read.
        """
        file = Path(path).absolute()
        return cls(str(file), _sha256(file), slots)

    def workload(self) -> TraceWorkload:
        """What is in the file.

        Raises:
            TraceError: the file is gone or is not what it was, or see :func:`read`.
            ValueError: no task in so many slots.
        """
        file = Path(self.file)
        if not file.exists():
            raise TraceError(f"{file} is not there; name where the trace is now (--trace)")
        if (found := _sha256(file)) != self.sha256:
            raise TraceError(
                f"{file} is not the trace that it was: expected SHA-256 {self.sha256}, found "
                f"{found}; name the right one (--trace)"
            )
        return read_rows(file).workload(self.slots)

    def __str__(self) -> str:
        part = "" if self.slots is None else f", {self.slots} slots"
        return f"{self.file} (SHA-256 {self.sha256[:12]}{part})"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(path: PathLike, slots: int | None = None) -> TraceWorkload:
    """The arrivals in a trace file, for ``jaxmec.make(..., workload=...)``.

    Args:
        path: CSV or Parquet, as the head of this module says.
        slots: T, of an episode: later tasks are left out. By default up to the last task.

    Raises:
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    return read_rows(path).workload(slots)


def read_rows(path: PathLike) -> Rows:
    """The tasks in a trace file, as NumPy arrays; raises as :func:`read` does."""
    table = _Table.read(path)
    columns: dict[str, _Column] = {}
    for name in table.names:
        field, _, unit = name.partition(":")
        if field not in OWN:
            raise TraceError(
                f"{path}: column {name!r} is not one of {', '.join(OWN)}{suggestion(field, OWN)}; "
                "`jaxmec trace import` takes columns of other names"
            )
        if field in columns:
            raise TraceError(f"{path}: expected one column of {field}, got two")
        columns[field] = _Column(field, name, unit)
        columns[field].check(str(path))
    missing = [name for name in OWN[:-1] if name not in columns]
    if missing:
        raise TraceError(
            f"{path}: there is no column {missing[0]!r}; expected {', '.join(OWN[:-1])} and, "
            "if there are any, result"
        )
    result = columns.get("result")
    origin = table.whole(columns["origin"], at_least=MASTER)
    if np.any(origin == MASTER):
        expected = f"{MASTER}, a master node, as in other rows: it has all tasks or none"
        table.require(columns["origin"], origin == MASTER, expected)
    return _sorted(
        slot=table.whole(columns["slot"], at_least=0),
        origin=origin,
        size=table.amounts(columns["size"], above=0),
        work=table.amounts(columns["work"], above=0),
        result=None if result is None else table.amounts(result, at_least=0),
    )


def write(path: PathLike, rows: Rows) -> Path:
    """Write a trace file: Parquet where the name ends in ``.parquet``, else CSV."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    units = {"size": "Mbit", "work": "Gcycles", "result": "Mbit"}
    names = [f"{name}:{units[name]}" if name in units else name for name in OWN]
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        parquet.write_table(arrow.table(dict(zip(names, rows, strict=True))), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(
            [slot, origin, f"{size:.9g}", f"{work:.9g}", f"{result:.9g}"]
            for slot, origin, size, work, result in zip(*rows, strict=True)
        )
    return path


def mean_load(workload: Workload, network: EdgeNetwork) -> float:
    """Expected work of a slot over what all servers do in one."""
    moments = workload.moments()
    served = float(np.sum(network.capacity)) * float(network.slot_length)
    return float(moments.tasks) * float(moments.work) / served


def describe(workload: TraceWorkload) -> dict[str, str]:
    """What is in a trace, by name, as a person reads it."""
    origin, size, work = (np.asarray(x) for x in (workload.origin, workload.size, workload.work))
    slots = int(workload.slots)

    def spread(values: np.ndarray) -> str:
        return f"{values.mean():.4g} on average, {values.min():.4g} to {values.max():.4g}"

    stations = "a master node" if origin.max() < 0 else str(int(origin.max()) + 1)
    return {
        "tasks": f"{origin.size:,}",
        "slots": f"{slots:,}",
        "stations": stations,
        "tasks a slot": f"{origin.size / slots:.4g} on average, of one station at most "
        f"{workload.positions}",
        "size (Mbit)": spread(size),
        "work (Gcycles)": spread(work),
        "result (Mbit)": spread(np.asarray(workload.result)),
    }


# Logs of other forms


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How a log's rows become tasks.

    A language model's request becomes a task by its tokens: size d = context · bits_per_token,
    work c = context · context_work + generated · generated_work, result e = generated ·
    bits_per_token. The defaults are text of four bytes a token, and a model of 1e9 parameters
    (2e9 operations a token) on servers that do 1000 operations a cycle while they read the
    context, and 100 while they generate, token by token.
    """

    stations: int = 5  # B, stations that the rows are given to
    slot_length: float = 1.0  # s
    rate: float = 1.0  # times as many tasks a second: above 1 time is squeezed, below it stretched
    slots: int | None = None  # keep the first so many slots
    assign: str = "round-robin"  # a row's station without a column: round-robin, random, master
    seed: int = 0  # of stations at random
    bits_per_token: float = 32.0  # bit
    context_work: float = 0.002  # Gcycles a context token
    generated_work: float = 0.02  # Gcycles a generated token
    density: float | None = None  # Gcycles/Mbit: work by size, if no column says it

    def __post_init__(self) -> None:
        _positive("stations", self.stations, whole=True)
        for name in ("slot_length", "rate", "bits_per_token"):
            _positive(name, getattr(self, name))
        for name in ("context_work", "generated_work"):
            _positive(name, getattr(self, name), zero=True)
        if self.density is not None:
            _positive("density", self.density)
        if self.slots is not None:
            _positive("slots", self.slots, whole=True)
        look_up("assign", self.assign, dict.fromkeys(("round-robin", "random", "master")))


FORMATS: dict[str, tuple[str, ...]] = {
    "csv": (),
    "parquet": (),
    "azure-llm-2023": (
        "time=TIMESTAMP:date",
        "context=ContextTokens",
        "generated=GeneratedTokens",
    ),
    "burstgpt": (
        "time=Timestamp:s",
        "context=Request tokens",
        "generated=Response tokens",
    ),
}


def convert(
    path: PathLike,
    format: str = "csv",
    columns: Sequence[str] = (),
    conversion: Conversion = Conversion(),
) -> Rows:
    """Tasks from a log.

    Args:
        path: the log.
        format: one of ``FORMATS``; "csv" and "parquet" go by ``columns`` alone, which for the
            others replace what the format says.
        columns: ``what=name`` or ``what=name:unit``, as in ``size=payload:kB``. What: time or
            slot; origin, a number or a name of a station; size or context; work, context,
            generated, or neither where ``conversion.density`` is given; result.
        conversion: how they become tasks.

    Raises:
        ValueError: a column that cannot be meant so, or one too many or too few.
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    meant = (_column(text) for text in (*look_up("format", format, FORMATS), *columns))
    chosen = {column.field: column for column in meant}  # what is given replaces the format's
    _check_columns(chosen, conversion)
    table = _Table.read(path, parquet=format == "parquet")
    chosen = {field: table.find(column) for field, column in chosen.items()}

    if "slot" in chosen:
        slot = table.whole(chosen["slot"], at_least=0)
        order = np.argsort(slot, kind="stable")
    else:
        time = table.times(chosen["time"])
        # A row at a slot's very start belongs to it, whatever the last bit of a division says.
        slot = np.floor((time - time.min()) / conversion.rate / conversion.slot_length + 1e-9)
        if slot.max() >= MAX_POSITIONS:
            raise TraceError(
                f"{path}: {chosen['time'].name!r} spans {slot.max():.3g} slots, expected below "
                f"{MAX_POSITIONS}; is its unit {chosen['time'].unit or 's'}, and slot_length right?"
            )
        order = np.argsort(time, kind="stable")
    context: Any
    generated: Any
    context, generated = (
        table.amounts(chosen[name], at_least=0) if name in chosen else None
        for name in ("context", "generated")
    )
    if "size" in chosen:
        size = table.amounts(chosen["size"], above=0)
    else:
        table.require(chosen["context"], context > 0, "at least 1 token")
        size = context * conversion.bits_per_token * 1e-6
    if "work" in chosen:
        work = table.amounts(chosen["work"], above=0)
    elif context is None and generated is None:
        work = conversion.density * size
    else:
        work = np.zeros(size.shape)
        for tokens, each in (
            (context, conversion.context_work),
            (generated, conversion.generated_work),
        ):
            work = work if tokens is None else work + tokens * each
        asked = chosen["context" if "context" in chosen else "generated"]
        table.require(asked, work > 0, "tokens that are some work")
    result = None
    if "result" in chosen:
        result = table.amounts(chosen["result"], at_least=0)
    elif generated is not None:
        result = generated * conversion.bits_per_token * 1e-6
    if "origin" in chosen:
        origin = table.stations(chosen["origin"], conversion.stations)
    else:
        origin = np.empty(len(slot), np.int64)
        origin[order] = _assigned(len(slot), conversion)  # in the order in which they arrived
    found: tuple[Any, ...] = (slot, origin, size, work, result)
    rows = _sorted(*(None if column is None else column[order] for column in found))
    return rows if conversion.slots is None else rows.first(conversion.slots)


def _assigned(rows: int, conversion: Conversion) -> np.ndarray:
    if conversion.assign == "master":
        return np.full(rows, MASTER)
    if conversion.assign == "random":
        return np.random.default_rng(conversion.seed).integers(conversion.stations, size=rows)
    return np.arange(rows) % conversion.stations


def _check_columns(chosen: dict[str, _Column], conversion: Conversion) -> None:
    """What a task is made of is there once."""
    if ("time" in chosen) == ("slot" in chosen):
        raise ValueError("columns must name exactly one of time and slot, as in time=arrived:ms")
    if "slot" in chosen and conversion.rate != 1:
        raise ValueError(f"rate must be 1 where a column is slot, got {conversion.rate:g}")
    if "size" not in chosen and "context" not in chosen:
        raise ValueError("columns must name size or context, as in size=payload:kB")
    tokens = "context" in chosen or "generated" in chosen
    if "work" not in chosen and not tokens and conversion.density is None:
        raise ValueError(
            "columns must name work, context or generated, as in work=cycles:cycles, or density "
            "(Gcycles/Mbit) must be given"
        )
    if conversion.density is not None and ("work" in chosen or tokens):
        raise ValueError(f"density must be None where columns say the work, got "
                         f"{conversion.density:g}")  # fmt: skip


# Laws


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Tasks drawn from a law, at a mean load.

    diurnal: Poisson arrivals whose rate goes up and down as a sine. mmpp: each station is quiet
    or busy, for times that are geometric, and has Poisson arrivals at that state's rate.
    heavy-tailed: Poisson arrivals whose sizes have a bounded Pareto distribution; else sizes are
    uniform. Work is density · size.
    """

    kind: str  # diurnal, mmpp or heavy-tailed
    load: float = 0.5  # mean work of a slot over what all servers do in one
    capacity: float = 150.0  # Gcycles/s, of all servers
    slot_length: float = 1.0  # s
    stations: int = 5  # B
    slots: int = 60  # T
    size: tuple[float, float] | None = None  # Mbit, low and high; by default 2 5, heavy-tailed 1 50
    density: float = 0.2048  # Gcycles/Mbit
    amplitude: float = 0.8  # diurnal: of the sine, as a share of the mean rate
    period: float = 60.0  # diurnal: slots of one sine
    burst: float = 5.0  # mmpp: rate of a busy station over that of a quiet one
    busy: float = 5.0  # mmpp: mean slots that a station stays busy
    quiet: float = 20.0  # mmpp: mean slots that a station stays quiet
    tail: float = 1.2  # heavy-tailed: index of the Pareto distribution; less is heavier

    def __post_init__(self) -> None:
        look_up("kind", self.kind, dict.fromkeys(("diurnal", "mmpp", "heavy-tailed")))
        for name in ("stations", "slots"):
            _positive(name, getattr(self, name), whole=True)
        for name in ("load", "capacity", "slot_length", "density", "period", "tail"):
            _positive(name, getattr(self, name))
        for name in ("burst", "busy", "quiet"):
            value = getattr(self, name)
            if not 1 <= value < np.inf:
                raise ValueError(f"{name} must be a number of at least 1, got {value!r}")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"amplitude must be from 0 to 1, got {self.amplitude!r}")
        low, high = self.sizes
        if not 0 < low < high < np.inf:
            raise ValueError(f"size must be two growing numbers above 0, got {self.size!r}")

    @property
    def sizes(self) -> tuple[float, float]:
        """Mbit, low and high."""
        if self.size is not None:
            return self.size
        return (1.0, 50.0) if self.kind == "heavy-tailed" else (2.0, 5.0)

    @property
    def mean_size(self) -> float:
        """Mbit."""
        low, high = self.sizes
        if self.kind != "heavy-tailed":
            return (low + high) / 2
        if self.tail == 1:
            return low * high / (high - low) * np.log(high / low)
        # E d = l^a / (1 − (l/h)^a) · a/(a − 1) · (l^(1 − a) − h^(1 − a))
        a, share = self.tail, 1 - (low / high) ** self.tail
        return low**a / share * a / (a - 1) * (low ** (1 - a) - high ** (1 - a))

    def draw(self, seed: int = 0) -> Rows:
        """One trace.

        Raises:
            ValueError: there is not one task in it.
        """
        rng = np.random.default_rng(seed)
        work = self.load * self.capacity * self.slot_length  # Gcycles a slot
        mean = work / (self.density * self.mean_size * self.stations)
        counts = rng.poisson(mean * self._intensity(rng))  # [T, B]
        total = int(counts.sum())
        if total == 0:
            raise ValueError(
                f"load must give at least one task in {self.slots} slots, got {self.load:g}"
            )
        slot, origin = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(
            counts.shape))  # fmt: skip
        (low, high), uniform = self.sizes, rng.random(total)
        if self.kind == "heavy-tailed":
            size = low * (1 - uniform * (1 - (low / high) ** self.tail)) ** (-1 / self.tail)
        else:
            size = low + (high - low) * uniform
        return Rows(slot, origin, size, self.density * size, np.zeros(total))

    def _intensity(self, rng: np.random.Generator) -> np.ndarray:
        """[T, B] expected tasks over their mean."""
        shape = (self.slots, self.stations)
        if self.kind == "diurnal":
            wave = 1 + self.amplitude * np.sin(2 * np.pi * np.arange(self.slots) / self.period)
            if wave.mean() <= 0:  # one slot at the bottom of a wave that touches 0
                return np.ones(shape)
            return np.broadcast_to((wave / wave.mean())[:, None], shape)
        if self.kind == "mmpp":
            share = self.busy / (self.busy + self.quiet)
            is_busy = np.empty(shape, bool)
            state = rng.random(self.stations) < share
            for slot, change in enumerate(rng.random(shape)):
                is_busy[slot] = state
                state = state ^ (change < np.where(state, 1 / self.busy, 1 / self.quiet))
            return np.where(is_busy, self.burst, 1.0) / (1 + share * (self.burst - 1))
        return np.ones(shape)


# Tables


class _Column(NamedTuple):
    """One column: what it is, its name in the file, its unit ("" is the first of ``UNITS``)."""

    field: str
    name: str
    unit: str

    def check(self, where: str) -> None:
        units = UNITS[self.field]
        if self.unit and self.unit not in units:
            raise TraceError(
                f"{where}: {self.unit!r} is no unit of {self.field}; "
                f"expected {', '.join(units) if units else 'none'}"
            )

    @property
    def factor(self) -> float:
        units = UNITS[self.field]
        return units[self.unit] if self.unit else 1.0


def _column(text: str) -> _Column:
    """What ``size=payload:kB`` says."""
    field, equals, name = text.partition("=")
    if not equals or not name:
        raise ValueError(f"column must be what=name or what=name:unit, got {text!r}")
    look_up("column", field, UNITS)
    return _Column(field, name, "")


class _Table(NamedTuple):
    """A file's columns, and what its rows are called in errors."""

    path: str
    columns: dict[str, Any]  # [M] each: lists of text from CSV, arrays from Parquet
    lines: Sequence[int] | None  # [M] of a CSV file, from 1

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    @classmethod
    def read(cls, path: PathLike, parquet: bool = False) -> _Table:
        path = Path(path)
        if parquet or path.suffix == ".parquet":
            arrow, reader = _pyarrow()
            try:
                table = reader.read_table(path)
            except arrow.ArrowInvalid as error:
                raise TraceError(f"{path} is no Parquet file: {error}") from error
            columns = {
                name: table.column(name).to_numpy(zero_copy_only=False)
                for name in table.column_names
            }
            found = cls(str(path), columns, None)
        else:
            found = cls._read_csv(path)
        if not found.columns or len(next(iter(found.columns.values()))) == 0:
            raise TraceError(f"{path}: expected a header and at least one row, got none")
        return found

    @classmethod
    def _read_csv(cls, path: Path) -> _Table:
        rows: list[list[str]] = []
        lines: list[int] = []
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(stream, strict=True)
                names = [name.strip() for name in next(reader, [])]
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(names):
                        raise TraceError(
                            f"{path}, line {reader.line_num}: expected {len(names)} columns as in "
                            f"the header, got {len(row)}"
                        )
                    rows.append(row)
                    lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise TraceError(f"{path} is no CSV file in UTF-8: {error}") from error
        if len(set(names)) < len(names):
            raise TraceError(f"{path}, line 1: expected columns of different names, got {names}")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        return cls(str(path), columns, lines)

    def find(self, column: _Column) -> _Column:
        """The column, its name told from its unit."""
        name, unit = column.name, ""
        if name not in self.columns:
            name, _, unit = column.name.rpartition(":")
            name, unit = (name, unit) if name else (unit, "")
        if name not in self.columns:
            raise TraceError(
                f"{self.path}: there is no column {name!r}{suggestion(name, self.names)}; "
                f"it has {', '.join(self.names)}"
            )
        found = _Column(column.field, name, unit)
        found.check(self.path)
        return found

    def wrong(self, column: _Column, row: int, expected: str) -> TraceError:
        """The error of one row."""
        where = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        got = self.columns[column.name][row]
        return TraceError(
            f"{self.path}, {where}, column {column.name!r}: expected {expected}, got "
            f"{got if not isinstance(got, str) else repr(got)}"
        )

    def require(self, column: _Column, fits: np.ndarray, expected: str) -> None:
        """Raise for the first row that does not fit."""
        if not np.all(fits):
            raise self.wrong(column, int(np.argmin(fits)), expected)

    def numbers(self, column: _Column, expected: str) -> np.ndarray:
        """[M] float64, finite."""
        values = self.columns[column.name]
        try:
            numbers = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            for row, value in enumerate(values):
                try:
                    float(value)
                except (TypeError, ValueError):
                    raise self.wrong(column, row, expected) from None
            raise
        self.require(column, np.isfinite(numbers), expected)
        return numbers

    def amounts(
        self, column: _Column, *, above: float | None = None, at_least: float | None = None
    ) -> np.ndarray:
        """[M] in the model's unit."""
        bound = f"above {above:g}" if above is not None else f"of at least {at_least:g}"
        unit = column.unit or next(iter(UNITS[column.field]))
        expected = f"a number {bound} ({unit})"
        numbers = self.numbers(column, expected)
        fits = numbers > above if above is not None else numbers >= at_least
        self.require(column, fits, expected)
        return numbers * column.factor

    def whole(self, column: _Column, at_least: int) -> np.ndarray:
        """[M] int64."""
        expected = f"a whole number from {at_least} to below {MAX_POSITIONS}"
        numbers = self.numbers(column, expected)
        fits = (numbers == np.floor(numbers)) & (numbers >= at_least) & (numbers < MAX_POSITIONS)
        self.require(column, fits, expected)
        return numbers.astype(np.int64)

    def stations(self, column: _Column, stations: int) -> np.ndarray:
        """[M] int64: numbers as they are, names numbered in the order in which they appear."""
        values = [str(value).strip() for value in self.columns[column.name]]
        expected = f"a station from 0 to {stations - 1} (stations is {stations})"
        try:
            numbers = np.asarray(values, np.int64)
        except ValueError:
            known = {name: number for number, name in enumerate(dict.fromkeys(values))}
            numbers = np.array([known[name] for name in values])
            expected = f"at most {stations} different stations (stations is {stations})"
        self.require(column, (numbers >= 0) & (numbers < stations), expected)
        return numbers

    def times(self, column: _Column) -> np.ndarray:
        """[M] s, from any zero."""
        values = self.columns[column.name]
        if getattr(values, "dtype", np.dtype(float)).kind == "M":  # Parquet knows dates itself
            self.require(column, ~np.isnat(values), "a date and time")
            return (values - values.min()) / np.timedelta64(1, "ns") * 1e-9
        if column.unit != "date":
            return self.numbers(column, f"a time in {column.unit or 's'}") * column.factor
        seconds = np.empty(len(values))
        for row, value in enumerate(values):
            try:
                moment = datetime.datetime.fromisoformat(str(value).strip())
            except ValueError:
                raise self.wrong(column, row, "a date and time as 2023-11-16 18:15:46") from None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.UTC)
            seconds[row] = moment.timestamp()
        return seconds


def _sorted(slot: Any, origin: Any, size: Any, work: Any, result: Any) -> Rows:
    """Rows in the order in which they are decided."""
    result = np.zeros(size.shape) if result is None else result
    order = np.lexsort((origin, slot))  # stable
    slot, origin = (column[order].astype(np.int64) for column in (slot, origin))
    return Rows(slot, origin, size[order], work[order], result[order])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Parquet needs pyarrow: pip install 'jaxmec[parquet]' ({error})",
                          name=error.name) from error  # fmt: skip
    return pyarrow, pyarrow.parquet
