"""Tables of any size: CSV, JSON lines and Parquet, gzipped or not, read piece by piece.

Only the columns that are asked for are kept, and whatever is wrong is named by file, row and
column.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import io
import json
import operator
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxmec.core.files import PathLike
from jaxmec.core.naming import look_up, suggestion
from jaxmec.mec.workload import MAX_POSITIONS

Progress = Callable[[int, int], None]  # bytes read and bytes in all, 0 where nobody knows

_DATA = {"Mbit": 1.0, "bit": 1e-6, "kbit": 1e-3, "Gbit": 1e3,
         "B": 8e-6, "kB": 8e-3, "MB": 8.0, "GB": 8e3,
         "KiB": 1024 * 8e-6, "MiB": 1024**2 * 8e-6}  # fmt: skip
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TOKENS = {"tokens": 1.0}
# What a column may hold, in units that count as so many of the first one; "date" is a date and
# a time of day, 2023-11-16 18:15:46.68.
UNITS: dict[str, dict[str, float]] = {
    "time": {**_TIME, "date": 1.0},
    "slot": {},
    "origin": {},
    "size": _DATA,
    "work": {"Gcycles": 1.0, "cycles": 1e-9, "kcycles": 1e-6, "Mcycles": 1e-3, "Tcycles": 1e3},
    "density": {"Gcycles/Mbit": 1.0, "cycles/bit": 1e-3, "cycles/B": 1e-3 / 8,
                "Mcycles/Mbit": 1e-3, "Mcycles/MB": 1e-3 / 8},
    "result": _DATA,
    "deadline": _TIME,
    "context": _TOKENS,
    "generated": _TOKENS,
}  # fmt: skip
# And what a column of requests for pictures may.
REQUEST_UNITS: dict[str, dict[str, float]] = {
    "time": UNITS["time"],
    "origin": {},
    "images": {},
    "size": _DATA,
    "result": _DATA,
    "quality": {},
    "limit": _TIME,
    "model": {},
    "status": {},
}
_EVERY = {**UNITS, **REQUEST_UNITS}
# What an environment can calculate with: numbers of 32 bits, and those below the smallest normal
# one count as 0 there.
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # CSV is any other
_PIECE = 65_536  # rows that are read at once
_LONGEST = 2**24  # characters of one field of CSV; a quote that nobody closed ends there
_GAPS = ("", "nan", "null", "none", "n/a")  # how files say that a value is not there


class TraceError(Exception):
    """Something is wrong with a trace file; the message says where, and what was expected."""


class Column(NamedTuple):
    """One column: what it is, its name in the file, its unit ("" is the first of ``UNITS``)."""

    field: str
    name: str
    unit: str

    @classmethod
    def parse(cls, text: str, known: Mapping[str, object] = UNITS) -> Column:
        """What ``size=payload:kB`` says; the unit is told from the name in the file."""
        field, equals, name = text.partition("=")
        if not equals or not name:
            raise ValueError(f"column must be what=name or what=name:unit, got {text!r}")
        look_up("column", field, known)
        return cls(field, name, "")

    def check(self, where: str) -> None:
        """Raise where the unit is none of this field's."""
        units = _EVERY[self.field]
        if self.unit and self.unit not in units:
            raise TraceError(
                f"{where}: {self.unit!r} is no unit of {self.field}; "
                f"expected {', '.join(units) if units else 'none'}"
            )

    @property
    def own_unit(self) -> str:
        """The unit by name, "" where the field has none."""
        return self.unit or next(iter(_EVERY[self.field]), "")

    @property
    def factor(self) -> float:
        """How many of the field's first unit one of this unit is."""
        return _EVERY[self.field].get(self.own_unit, 1.0)


@dataclasses.dataclass(frozen=True)
class Piece:
    """M rows of a file, by the names of the columns that were asked for."""

    path: str
    word: str  # "line" of text, "row" of Parquet
    numbers: Sequence[int]  # [M] of the rows in the file, from 1
    columns: dict[str, Any]  # [M] each: lists of text and None, or arrays of numbers or dates

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self, mask: np.ndarray) -> Piece:
        """The rows where the mask is true."""
        if mask.all():
            return self
        flags = mask.tolist()
        columns = {
            name: values[mask] if isinstance(values, np.ndarray) else [*compress(values, flags)]
            for name, values in self.columns.items()
        }
        numbers = [*compress(self.numbers, flags)]
        return dataclasses.replace(self, numbers=numbers, columns=columns)

    def row(self, row: int) -> str:
        """What an error calls it."""
        return f"{self.word} {self.numbers[row]}"

    def wrong(self, column: Column, row: int, expected: str) -> TraceError:
        """The error of one row."""
        got = self.columns[column.name][row]
        text = repr(got) if isinstance(got, str) else "nothing" if got is None else str(got)
        if len(text) > 100:
            text = f"{text[:100]}... ({len(text):,} characters)"
        return TraceError(
            f"{self.path}, {self.row(row)}, column {column.name!r}: expected {expected}, got {text}"
        )

    def require(self, column: Column, fits: np.ndarray, expected: str) -> None:
        """Raise for the first row that does not fit."""
        if not np.all(fits):
            raise self.wrong(column, int(np.argmin(fits)), expected)

    def missing(self, column: Column) -> np.ndarray:
        """[M] bool, where there is no value."""
        values = self.columns[column.name]
        if isinstance(values, np.ndarray):
            return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        return np.array([is_gap(value) for value in values], bool)

    def floats(self, column: Column, expected: str) -> np.ndarray:
        """[M] float64, finite."""
        values = self.columns[column.name]
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            numbers = values.astype(np.float64)
        else:
            try:
                numbers = np.fromiter(map(float, values), np.float64, len(values))
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
        self, column: Column, *, above: float | None = None, at_least: float | None = None
    ) -> np.ndarray:
        """[M] in the model's unit."""
        bound = f"above {above:g}" if above is not None else f"of at least {at_least:g}"
        expected = f"a number {bound} ({column.own_unit})"
        numbers = self.floats(column, expected)
        fits = numbers > above if above is not None else numbers >= at_least
        self.require(column, fits, expected)
        return self.held(column, numbers * column.factor)

    def held(self, column: Column, values: np.ndarray, what: str = "") -> np.ndarray:
        """``values`` [M], in the field's first unit, which the environment can hold.

        Args:
            what: made of the column, where it is not what the column itself says.
        """
        unit = next(iter(_EVERY[what or column.field]), "")
        with np.errstate(invalid="ignore"):
            fits = (values == 0) | ((values >= SMALLEST) & (values <= LARGEST))
        if not fits.all():
            self.require(
                column, fits,
                f"{f'what makes a {what}' if what else 'a number'} that float32 holds, "
                f"{SMALLEST:.3g} to {LARGEST:.3g} {unit}",
            )  # fmt: skip
        return values

    def whole(self, column: Column, at_least: int) -> np.ndarray:
        """[M] int32."""
        expected = f"a whole number from {at_least} to below {MAX_POSITIONS}"
        numbers = self.floats(column, expected)
        fits = (numbers == np.floor(numbers)) & (numbers >= at_least) & (numbers < MAX_POSITIONS)
        self.require(column, fits, expected)
        return numbers.astype(np.int32)


class Gathered:
    """Columns that grow piece by piece; a long file's are never there twice."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, np.ndarray] = {}

    def add(self, part: dict[str, np.ndarray]) -> None:
        """More rows of all columns."""
        end = self.rows
        for name, values in part.items():
            column = self._columns.setdefault(name, np.empty(0, values.dtype))
            end = self.rows + len(values)
            if end > len(column):  # in place: large memory is moved, not copied
                column.resize(max(end, len(column) + len(column) // 4), refcheck=False)
            column[self.rows : end] = values
        self.rows = end

    def columns(self) -> dict[str, np.ndarray]:
        """[M] each, to be asked for once."""
        for column in self._columns.values():
            column.resize(self.rows, refcheck=False)
        return self._columns


def is_gap(value: Any) -> bool:
    """Whether a file's value says that there is none."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _GAPS)


class Table:
    """A file that is being read; made by :func:`open_table`."""

    def __init__(self, path: str, reader: _Reader, told: Callable[[], None]) -> None:
        self.path = path
        self._reader = reader
        self._told = told
        names = reader.names
        if len(set(names)) < len(names):
            raise TraceError(f"{path}, line 1: expected columns of different names, got {names}")

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return self._reader.names

    def find(self, column: Column) -> Column:
        """The column, its name told from its unit."""
        name, unit = column.name, ""
        if name not in self.names:
            name, _, unit = column.name.rpartition(":")
            name, unit = (name, unit) if name else (unit, "")
        if name not in self.names:
            raise TraceError(
                f"{self.path}: there is no column {name!r}{suggestion(name, self.names)}; "
                f"it has {', '.join(self.names)}"
            )
        found = Column(column.field, name, unit)
        found.check(self.path)
        return found

    def pieces(self, columns: Sequence[Column]) -> Iterator[Piece]:
        """The rows from first to last, at least one; to be gone through once."""
        wanted = [*dict.fromkeys(column.name for column in columns)]
        empty = True
        for numbers, values in self._reader.pieces(wanted):
            empty = False
            yield Piece(self.path, self._reader.word, numbers, values)
            self._told()
        if empty:
            raise self.no_rows()

    def no_rows(self) -> TraceError:
        """The error of a table without a row."""
        return TraceError(f"{self.path}: expected a header and at least one row, got none")


_Numbered = tuple[Sequence[int], dict[str, Any]]  # numbers and columns of a piece


class _Reader(Protocol):
    word: str
    names: list[str]

    def pieces(self, wanted: list[str]) -> Iterator[_Numbered]: ...


@contextlib.contextmanager
def open_table(
    path: PathLike,
    kind: str | None = None,
    *,
    header: bool = True,
    progress: Progress | None = None,
) -> Iterator[Table]:
    """A table to read from.

    Args:
        path: a file whose name says what it is: ``.parquet``, ``.jsonl``, any other CSV; a
            ``.gz`` may follow.
        kind: "csv", "jsonl" or "parquet", where the name does not say it.
        header: whether a CSV file's first row names the columns, which are else "1", "2", ...
        progress: is told how much has been read, after each piece.

    Raises:
        TraceError: what is read is no such table.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    path = Path(path)
    name = path.with_suffix("") if path.suffix == ".gz" else path
    kind = kind if kind == "parquet" else KINDS.get(name.suffix, kind or "csv")
    arrow = pyarrow_parquet()[0] if kind == "parquet" else None
    limit = csv.field_size_limit(_LONGEST)
    try:
        with path.open("rb") as raw, contextlib.ExitStack() as stack:
            size = os.fstat(raw.fileno()).st_size

            def told() -> None:
                if progress is not None:
                    progress(raw.tell() if raw.seekable() else 0, size)

            content: Any = raw
            if raw.peek(2)[:2] == b"\x1f\x8b":
                content = stack.enter_context(gzip.GzipFile(fileobj=raw))
            reader: _Reader
            if kind == "parquet":
                if content is not raw:  # is read from its end
                    plain = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(content, plain)
                    content = plain
                reader = _Parquet(path, content, header)
            else:
                text = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
                stack.callback(text.detach)  # the file is closed by whoever opened it
                reader = (_Lines if kind == "jsonl" else _Csv)(path, text, header)
            yield Table(str(path), reader, told)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path} is no whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is no {kind.upper()} file in UTF-8: {error}") from error
    except Exception as error:
        lacks_number = isinstance(error, OSError) and error.errno is None
        if arrow is not None and (isinstance(error, arrow.ArrowException) or lacks_number):
            raise TraceError(f"{path} is no Parquet file: {error}") from error
        raise
    finally:
        csv.field_size_limit(limit)


class _Csv:
    word = "line"

    def __init__(self, path: Path, text: io.TextIOWrapper, header: bool) -> None:
        self._path = path
        self._reader = csv.reader(text, strict=True)
        self._first: list[str] | None = None
        row = next(self._rows(), [])
        if header:
            self.names = [name.strip() for name in row]
        else:
            self._first = row
            self.names = [str(number + 1) for number in range(len(row))]

    def _rows(self) -> Iterator[list[str]]:
        if self._first:
            yield self._first
        try:
            yield from filter(None, self._reader)
        except csv.Error as error:
            raise TraceError(
                f"{self._path}, line {self._reader.line_num}: it is no CSV: {error}"
            ) from error

    def pieces(self, wanted: list[str]) -> Iterator[_Numbered]:
        width, reader = len(self.names), self._reader
        pick = operator.itemgetter(*map(self.names.index, wanted))
        picked: list[Any] = []
        lines: list[int] = []
        for row in self._rows():
            if len(row) != width:
                raise TraceError(
                    f"{self._path}, line {reader.line_num}: expected {width} columns as in the "
                    f"{'first row' if self._first else 'header'}, got {len(row)}"
                )
            picked.append(pick(row))
            lines.append(reader.line_num)
            if len(lines) == _PIECE:
                yield lines, _columns(wanted, picked)
                picked, lines = [], []
        if lines:
            yield lines, _columns(wanted, picked)


def _columns(names: list[str], rows: list[Any]) -> dict[str, Any]:
    """A row is a tuple of values, or the value itself where there is one name."""
    columns = [rows] if len(names) == 1 else [*map(list, zip(*rows, strict=True))]
    return dict(zip(names, columns, strict=True))


class _Lines:
    """A JSON object a line; numbers stay the text that they are in the file."""

    word = "line"

    def __init__(self, path: Path, text: io.TextIOWrapper, header: bool) -> None:
        if not header:
            raise ValueError("header must be True for JSON lines, which name their columns")
        self._path, self._text, self._line = path, text, 0
        self._decode = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str).decode
        self._first = next(self._rows(), None)
        self.names = list(self._first or ())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for line in self._text:
            self._line += 1
            if not line.strip():
                continue
            try:
                row = self._decode(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise TraceError(
                    f"{self._path}, line {self._line}: expected a JSON object: {error}"
                ) from error
            if not isinstance(row, dict):
                raise TraceError(
                    f"{self._path}, line {self._line}: expected a JSON object, got "
                    f"{line.strip()[:40]}"
                )
            yield row

    def pieces(self, wanted: list[str]) -> Iterator[_Numbered]:
        columns: dict[str, list[Any]] = {name: [] for name in wanted}
        lines: list[int] = []
        row, rows = self._first, self._rows()
        while row is not None:
            for name, values in columns.items():
                value = row.get(name)
                fits = value is None or isinstance(value, str)
                values.append(value if fits else json.dumps(value))  # so that true is no 1
            lines.append(self._line)
            if len(lines) == _PIECE:
                yield lines, columns
                columns, lines = {name: [] for name in wanted}, []
            row = next(rows, None)
        if lines:
            yield lines, columns


class _Parquet:
    word = "row"

    def __init__(self, path: Path, content: Any, header: bool) -> None:
        if not header:
            raise ValueError("header must be True for Parquet, which names its columns")
        arrow, parquet = pyarrow_parquet()
        try:
            self._file = parquet.ParquetFile(content)
        except arrow.ArrowInvalid as error:
            raise TraceError(f"{path} is no Parquet file: {error}") from error
        self._arrow = arrow
        self.names: list[str] = list(self._file.schema_arrow.names)

    def pieces(self, wanted: list[str]) -> Iterator[_Numbered]:
        first = 1
        for batch in self._file.iter_batches(_PIECE, columns=wanted):
            count = batch.num_rows
            if count:
                yield (
                    range(first, first + count),
                    {name: self._values(batch.column(name)) for name in wanted},
                )
            first += count

    def _values(self, column: Any) -> Any:
        types = self._arrow.types
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        numeric = types.is_integer(column.type) or types.is_floating(column.type)
        if types.is_timestamp(column.type) or (numeric and column.null_count == 0):
            return column.to_numpy(zero_copy_only=False)
        return [None if value is None else str(value) for value in column.to_pylist()]


def pyarrow_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Parquet needs pyarrow: pip install 'jaxmec[parquet]' ({error})",
                          name=error.name) from error  # fmt: skip
    return pyarrow, pyarrow.parquet
