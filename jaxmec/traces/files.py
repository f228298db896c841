"""Trace files: what is in one, read, checked and written."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmec.core import checks, files
from jaxmec.core.naming import suggestion
from jaxmec.mec import EdgeNetwork, TraceWorkload, trace_workload
from jaxmec.mec.workload import MASTER, Moments, Workload
from jaxmec.traces.reading import (
    KINDS,
    Column,
    Gathered,
    PathLike,
    Piece,
    Progress,
    TraceError,
    open_table,
    pyarrow_parquet,
)

OWN = ("slot", "origin", "size", "work", "result", "deadline")
_NEEDED = OWN[:4]
_WRITTEN = {"size": "Mbit", "work": "Gcycles", "result": "Mbit", "deadline": "s"}  # units
_LINES = 2**16  # that are written at once


class Rows(NamedTuple):
    """M tasks, sorted by slot and, within it, by origin; NumPy arrays of 64 bits."""

    slot: np.ndarray  # [M] int, from 0
    origin: np.ndarray  # [M] int; −1 for a master node
    size: np.ndarray  # [M] Mbit
    work: np.ndarray  # [M] Gcycles
    result: np.ndarray  # [M] Mbit
    deadline: np.ndarray | None = None  # [M] s, each task's own; None: as the environment has it

    @property
    def stations(self) -> int:
        """As many as the highest origin says; 0 where all tasks come to a master node."""
        return int(self.origin.max()) + 1

    @property
    def slots(self) -> int:
        """T, up to the last task."""
        return int(self.slot[-1]) + 1

    @property
    def positions(self) -> int:
        """N, the most tasks that one station has in a slot."""
        new = (np.diff(self.slot) != 0) | (np.diff(self.origin) != 0)
        starts = np.concatenate([[0], np.flatnonzero(new) + 1, [len(self.slot)]])
        return int(np.diff(starts).max())

    def moments(self) -> Moments:
        """The means over the trace, as of :meth:`workload`."""
        means: Any = (len(self.slot) / self.slots, np.mean(self.work), np.mean(self.work**2))
        return Moments(*means)

    def workload(self, slots: int | None = None) -> TraceWorkload:
        """The arrivals of an environment.

        Args:
            slots: T, of an episode: later tasks are left out. By default up to the last task.

        Raises:
            ValueError: no task in so many slots.
        """
        rows = self if slots is None else self.first(slots)
        return trace_workload(**rows._asdict(), slots=slots)

    def first(self, slots: int) -> Rows:
        """The tasks of the first so many slots.

        Raises:
            ValueError: not a positive number, or no task in them.
        """
        checks.require("slots", slots, checks.whole(1))
        kept = self.slot < slots
        if not kept.any():
            raise ValueError(
                f"slots must be at least {int(self.slot[0]) + 1}, where the trace has its first "
                f"task, got {slots}"
            )
        found = {
            name: column[kept] for name, column in self._asdict().items() if column is not None
        }
        return Rows(**found)


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
        return cls(str(file), _file_digest(file), slots)

    def workload(self) -> TraceWorkload:
        """What is in the file.

        Raises:
            TraceError: the file is gone or is not what it was, or see :func:`read`.
            ValueError: no task in so many slots.
        """
        return read_rows(self.checked()).workload(self.slots)

    def checked(self) -> Path:
        """Where the file is.

        Raises:
            TraceError: it is gone or is not what it was.
        """
        file = Path(self.file)
        if not file.exists():
            raise TraceError(f"{file} is not there; name where the trace is now (--trace)")
        if (found := _file_digest(file)) != self.sha256:
            raise TraceError(
                f"{file} is not the trace that it was: expected SHA-256 {self.sha256}, found "
                f"{found}; name the right one (--trace)"
            )
        return file

    def __str__(self) -> str:
        part = "" if self.slots is None else f", {self.slots} slots"
        return f"{self.file} (SHA-256 {self.sha256[:12]}{part})"


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(path: PathLike, slots: int | None = None) -> TraceWorkload:
    """The arrivals in a trace file, for ``jaxmec.make(..., workload=...)``.

    Args:
        path: CSV, JSON lines or Parquet, as :mod:`jaxmec.traces` says.
        slots: T, of an episode: later tasks are left out. By default up to the last task.

    Raises:
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    return read_rows(path).workload(slots)


def read_rows(path: PathLike, progress: Progress | None = None) -> Rows:
    """The tasks in a trace file, as NumPy arrays; raises as :func:`read` does.

    Args:
        progress: is told bytes read and bytes in all, piece by piece.
    """
    with open_table(path, progress=progress) as table:
        if not table.names:
            raise table.no_rows()
        columns: dict[str, Column] = {}
        for name in table.names:
            field, _, unit = name.partition(":")
            if field not in OWN:
                raise TraceError(
                    f"{path}: column {name!r} is not one of {', '.join(OWN)}"
                    f"{suggestion(field, OWN)}; `jaxmec trace import` takes columns of other names"
                )
            if field in columns:
                raise TraceError(f"{path}: expected one column of {field}, got two")
            columns[field] = Column(field, name, unit)
            columns[field].check(str(path))
        missing = [name for name in _NEEDED if name not in columns]
        if missing:
            raise TraceError(
                f"{path}: there is no column {missing[0]!r}; expected {', '.join(_NEEDED)} and, "
                "if there are any, result and deadline"
            )
        rows, of_master = Gathered(), None
        for piece in table.pieces([*columns.values()]):
            rows.add(part := _checked(piece, columns))
            master = part["origin"] == MASTER
            of_master = bool(master[0]) if of_master is None else of_master
            if master.any() or of_master:
                expected = f"{MASTER}, a master node, as in other rows: it has all tasks or none"
                piece.require(columns["origin"], master, expected)
                if not of_master:
                    raise piece.wrong(columns["origin"], 0, "a station, as in other rows")
    return in_order(rows.columns())


def _checked(piece: Piece, columns: dict[str, Column]) -> dict[str, np.ndarray]:
    """The columns of a trace file that there are, in the model's units."""
    part = {
        "slot": piece.whole(columns["slot"], at_least=0),
        "origin": piece.whole(columns["origin"], at_least=MASTER),
        "size": piece.amounts(columns["size"], above=0),
        "work": piece.amounts(columns["work"], above=0),
    }
    if "result" in columns:
        part["result"] = piece.amounts(columns["result"], at_least=0)
    if "deadline" in columns:
        part["deadline"] = piece.amounts(columns["deadline"], above=0)
    return part


def in_order(columns: dict[str, np.ndarray], order: np.ndarray | None = None) -> Rows:
    """Rows in the order in which they are decided.

    Args:
        columns: [M] each; emptied on the way, so that a long trace is not there twice.
        order: [M] of the rows within one station's slot, by default as they are.
    """
    key = columns["slot"].astype(np.int64)
    key *= int(columns["origin"].max()) + 2
    key += columns["origin"]  # from −1: of one slot's the smallest
    if order is not None:
        key = key[order]
    if np.all(key[1:] >= key[:-1]):
        rank = order
    else:
        rank = np.argsort(key, kind="stable")
        rank = rank if order is None else order[rank]
    size = len(key)
    del key, order
    found = {}
    for name in OWN:
        if name in columns:
            column = columns.pop(name)
            column = column if rank is None else column[rank]
            found[name] = column.astype(np.int64) if name in ("slot", "origin") else column
    return Rows(**{"result": np.zeros(size), **found})


def write(path: PathLike, rows: Rows) -> Path:
    """Write a trace file: Parquet where the name ends in ``.parquet``, else CSV.

    A ``.gz`` after the name of a CSV file compresses it.

    Raises:
        ValueError: a name of what is read as another form: ``.jsonl``, ``.parquet.gz``.
    """
    columns = {
        f"{name}:{_WRITTEN[name]}" if name in _WRITTEN else name: column
        for name, column in rows._asdict().items()
        if column is not None
    }
    return write_table(path, columns, ["%d", "%d", *["%.9g"] * (len(columns) - 2)])


def write_table(path: PathLike, columns: dict[str, np.ndarray], formats: Sequence[str]) -> Path:
    """Write columns [M] by name, as :func:`write` does; ``formats`` are of their values in CSV."""
    path = Path(path)
    zipped = path.suffix == ".gz"
    kind = KINDS.get((path.with_suffix("") if zipped else path).suffix, "csv")
    if kind == "jsonl" or (zipped and kind == "parquet"):
        raise ValueError(f"path must end in .csv, .csv.gz or .parquet, got {path.name!r}")
    if kind == "parquet":
        arrow, parquet = pyarrow_parquet()
        with files.writing_whole(path) as new:
            parquet.write_table(arrow.table(columns), new)
        return path
    rows = len(next(iter(columns.values())))
    with (
        files.writing_whole(path) as new,
        new.open("wb") as file,
        _zipped(file) if zipped else contextlib.nullcontext(file) as to,
    ):
        to.write(f"{','.join(columns)}\n".encode())
        line = ",".join(formats) + "\n"
        for first in range(0, rows, _LINES):
            parts = (column[first : first + _LINES].tolist() for column in columns.values())
            to.write("".join([line % row for row in zip(*parts, strict=True)]).encode())
    return path


@contextlib.contextmanager
def _zipped(file: Any) -> Iterator[Any]:
    """The same tasks make the same bytes: no name and no time is kept."""
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
        yield stream


def mean_load(workload: Workload | Rows, network: EdgeNetwork) -> float:
    """Expected work of a slot over what all servers do in one."""
    moments = workload.moments()
    served = float(np.sum(network.capacity)) * float(network.slot_length)
    return float(moments.tasks) * float(moments.work) / served


def describe(workload: TraceWorkload | Rows) -> dict[str, str]:
    """What is in a trace, by name, as a person reads it."""
    origin, size, work = (np.asarray(x) for x in (workload.origin, workload.size, workload.work))
    slots = int(workload.slots)

    def spread(values: np.ndarray) -> str:
        return f"{values.mean():.4g} on average, {values.min():.4g} to {values.max():.4g}"

    stations = "a master node" if origin.max() < 0 else str(int(origin.max()) + 1)
    about = {
        "tasks": f"{origin.size:,}",
        "slots": f"{slots:,}",
        "stations": stations,
        "tasks a slot": f"{origin.size / slots:.4g} on average, of one station at most "
        f"{workload.positions}",
        "size (Mbit)": spread(size),
        "work (Gcycles)": spread(work),
        "result (Mbit)": spread(np.asarray(workload.result)),
    }
    if workload.deadline is not None:
        about["deadline (s)"] = spread(np.asarray(workload.deadline))
    return about
