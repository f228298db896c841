"""Tasks from logs of other forms: requests to a language model, other simulators' tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import look_up
from jaxmec.mec.workload import MASTER, MAX_POSITIONS
from jaxmec.traces.files import Rows, in_order
from jaxmec.traces.reading import (
    Column,
    Gathered,
    PathLike,
    Piece,
    Progress,
    TraceError,
    is_gap,
    open_table,
)
from jaxmec.traces.times import Ticks, exactly, read_times


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
    start: float = 0.0  # s of the log (slots, of a slot column) after its first row to leave out
    slots: int | None = None  # keep the first so many slots
    drop: str = "nothing"  # or failed: requests without tokens of context or generated ones
    assign: str = "round-robin"  # a row's station without a column: round-robin, random, master
    seed: int = 0  # of stations at random
    station_names: tuple[str, ...] = ()  # which of the origins in the log are stations 0, 1, ...
    renumber: bool = False  # number stations as they first appear, even where the log has numbers
    bits_per_token: float = 32.0  # bit
    context_work: float = 0.002  # Gcycles a context token
    generated_work: float = 0.02  # Gcycles a generated token
    density: float | None = None  # Gcycles/Mbit: work by size, if no column says it

    def __post_init__(self) -> None:
        positive, not_negative = checks.number(above=0), checks.number(0)
        checks.fields(
            self,
            stations=checks.whole(1),
            slots=checks.optional(checks.whole(1)),
            density=checks.optional(positive),
            **dict.fromkeys(("slot_length", "rate", "bits_per_token"), positive),
            **dict.fromkeys(("start", "context_work", "generated_work"), not_negative),
        )
        look_up("assign", self.assign, dict.fromkeys(("round-robin", "random", "master")))
        look_up("drop", self.drop, dict.fromkeys(("nothing", "failed")))
        known = {_key(name) for name in self.station_names}
        if len(known) < len(self.station_names) or len(known) > self.stations:
            raise ValueError(
                f"station_names must be at most {self.stations} different names (stations is "
                f"{self.stations}), got {', '.join(self.station_names)}"
            )
        if self.station_names and self.renumber:
            raise ValueError("renumber must be False where station_names says which is which")


FORMATS: dict[str, tuple[str, ...]] = {
    "csv": (),
    "jsonl": (),
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
    "mooncake": (
        "time=timestamp:ms",
        "context=input_length",
        "generated=output_length",
    ),
    "raycloudsim": (  # in the units of its Topo4MEC tasks
        "time=GenerationTime:s",
        "size=TaskSize:Mbit",
        "density=CyclesPerBit:cycles/bit",
        "deadline=DDL:s",
        "origin=SrcName",
    ),
}
KINDS_OF_LOGS = {"jsonl": "jsonl", "mooncake": "jsonl", "parquet": "parquet"}  # of files; else CSV


def convert(
    path: PathLike,
    format: str = "csv",
    columns: Sequence[str] = (),
    conversion: Conversion = Conversion(),
    *,
    header: bool = True,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Rows:
    """Tasks from a log.

    Args:
        path: the log: CSV, JSON lines or Parquet, by its name or else by the format; gzipped
            or not.
        format: one of ``FORMATS``; "csv", "jsonl" and "parquet" go by ``columns`` alone, which
            for the others replace what the format says.
        columns: ``what=name`` or ``what=name:unit``, as in ``size=payload:kB``. What: time or
            slot; origin, a number or a name of a station; size or context; work, density,
            context, generated, or none of these where ``conversion.density`` is given; result;
            deadline.
        conversion: how they become tasks.
        header: whether a CSV file's first row names the columns; they are else called by their
            numbers, from 1.
        say: is told what was left out, or imported though it looks failed.
        progress: is told bytes read and bytes in all, piece by piece.

    Raises:
        ValueError: a column that cannot be meant so, or one too many or too few.
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    meant = (Column.parse(text) for text in (*look_up("format", format, FORMATS), *columns))
    chosen = {column.field: column for column in meant}  # what is given replaces the format's
    _check_columns(chosen, conversion)
    with open_table(
        path, KINDS_OF_LOGS.get(format, "csv"), header=header, progress=progress
    ) as table:
        if not table.names:
            raise table.no_rows()
        chosen = {field: table.find(column) for field, column in chosen.items()}
        log = _Log(chosen, conversion)
        tasks = Gathered()
        for piece in table.pieces([*chosen.values()]):
            tasks.add(log.part(piece))
    log.report(say)
    if not tasks.rows:
        raise TraceError(
            f"{path}: all {log.rows:,} requests have failed; expected one that has not"
        )
    found = tasks.columns()
    order = _arrived(found, log, path)
    if "origin" not in found:  # in the order of arrival
        by_arrival = slice(None) if order is None else order
        found["origin"] = np.zeros(len(found["slot"]), np.int32)
        found["origin"][by_arrival] = _assigned(len(found["slot"][by_arrival]), conversion)
    sorted_tasks = in_order(found, order)
    return sorted_tasks if conversion.slots is None else sorted_tasks.first(conversion.slots)


def _arrived(found: dict[str, np.ndarray], log: _Log, path: PathLike) -> np.ndarray | None:
    """Puts the slots into the columns; [M] which rows are kept, as they arrived (None: as is)."""
    chosen, conversion = log.chosen, log.conversion
    order: np.ndarray | None
    if "time" in chosen:
        found["slot"], order = log.clock.slots(str(path), chosen["time"], conversion)
    else:
        found["slot"] = found["slot"].astype(np.int64) - min(int(conversion.start), MAX_POSITIONS)
        order = arrival(found["slot"])
    if conversion.start:
        order = np.arange(len(found["slot"])) if order is None else order
        order = order[found["slot"][order] >= 0]
        if not len(order):
            raise ValueError(
                f"start must be before the last row of {path}, got {conversion.start:g}"
            )
    return order


def arrival(times: np.ndarray) -> np.ndarray | None:
    """[M] the order of times; None where they are in order, as a long log's mostly are."""
    return None if np.all(times[1:] >= times[:-1]) else np.argsort(times, kind="stable")


class _Log:
    """Goes through a log's pieces, of which it makes columns of a trace."""

    def __init__(self, chosen: dict[str, Column], conversion: Conversion) -> None:
        self.chosen = chosen
        self.conversion = conversion
        self.clock = _Clock()
        self.rows = 0
        self.failed = 0
        self._stations = _Stations(conversion)

    def part(self, piece: Piece) -> dict[str, np.ndarray]:
        """The columns of the piece's tasks; none where all have failed. Times go to the clock."""
        chosen = self.chosen
        self.rows += len(piece)
        failed = self._failed(piece)
        self.failed += int(failed.sum())
        kept = ~failed if self.conversion.drop == "failed" else np.ones(len(piece), bool)
        if "time" in chosen:
            self.clock.add(piece, chosen["time"], kept)
        piece = piece.keep(kept)
        return self._tasks(piece) if len(piece) else {}

    def report(self, say: Callable[[str], None] | None) -> None:
        """Tell how many requests have failed."""
        if say is None:
            return
        of = f"{self.failed:,} of {self.rows:,} requests"
        if self.conversion.drop == "failed":
            say(f"left out {of}, which have failed: without tokens of context or generated ones")
        elif self.failed:
            say(f"{of} have generated no token and look failed; --drop failed leaves them out")

    def _failed(self, piece: Piece) -> np.ndarray:
        """[M] bool, requests without tokens of context or without generated ones."""
        failed = np.zeros(len(piece), bool)
        for name in ("context", "generated"):
            if name in self.chosen and (name == "generated" or self.conversion.drop == "failed"):
                column = self.chosen[name]
                missing = piece.missing(column)
                if self.conversion.drop == "failed":
                    failed |= missing
                there = ~missing
                if there.any():
                    tokens = piece.keep(there).amounts(column, at_least=0)
                    failed[there] |= tokens == 0
        return failed

    def _tasks(self, piece: Piece) -> dict[str, np.ndarray]:
        chosen, conversion = self.chosen, self.conversion
        found: dict[str, np.ndarray] = {}
        if "slot" in chosen:
            found["slot"] = piece.whole(chosen["slot"], at_least=0)
        tokens = {}
        for name in ("context", "generated"):
            if name in chosen:
                expected = "a number of tokens (--drop failed leaves out what has none)"
                piece.require(chosen[name], ~piece.missing(chosen[name]), expected)
                tokens[name] = piece.amounts(chosen[name], at_least=0)
        bits = conversion.bits_per_token * 1e-6  # Mbit
        if "size" in chosen:
            size = piece.amounts(chosen["size"], above=0)
        else:
            expected = "at least 1 token (--drop failed leaves out what has none)"
            piece.require(chosen["context"], tokens["context"] > 0, expected)
            size = piece.held(chosen["context"], tokens["context"] * bits, "size")
        found["size"] = size
        if "work" in chosen:
            found["work"] = piece.amounts(chosen["work"], above=0)
        elif "density" in chosen:
            density = piece.amounts(chosen["density"], above=0)
            found["work"] = piece.held(chosen["density"], density * size, "work")
        elif conversion.density is not None:
            source = chosen["size" if "size" in chosen else "context"]
            found["work"] = piece.held(source, conversion.density * size, "work")
        else:
            each = {"context": conversion.context_work, "generated": conversion.generated_work}
            work = sum((tokens[name] * each[name] for name in tokens), np.zeros(size.shape))
            asked = chosen["context" if "context" in chosen else "generated"]
            piece.require(asked, work > 0, "tokens that are some work")
            found["work"] = piece.held(asked, work, "work")
        if "result" in chosen:
            found["result"] = piece.amounts(chosen["result"], at_least=0)
        elif "generated" in tokens:
            result = tokens["generated"] * bits
            found["result"] = piece.held(chosen["generated"], result, "result")
        if "deadline" in chosen:
            found["deadline"] = piece.amounts(chosen["deadline"], above=0)
        if "origin" in chosen:
            found["origin"] = self._stations.of(piece, chosen["origin"])
        return found


class _Clock:
    """The times of a log, and which rows are its first and its last."""

    def __init__(self) -> None:
        self._parts: list[Ticks] = []
        self._kept: list[np.ndarray] = []
        self._first: list[tuple[Fraction, str]] = []  # of each part, when, and which row
        self._last: list[tuple[Fraction, str]] = []
        self._zones: set[bool] = set()

    def add(self, piece: Piece, column: Column, kept: np.ndarray) -> None:
        """The piece's times; those of rows that are not kept count for where time begins."""
        ticks = read_times(piece, column, self._zones)
        self._parts.append(ticks)
        self._kept.append(kept)
        for ends, row in (
            (self._first, ticks.after.argmin()),
            (self._last, ticks.after.argmax()),
        ):
            time = Fraction(ticks.first + int(ticks.after[row]), 10**ticks.decimals)
            ends.append((time, piece.row(int(row))))

    def slots(
        self, path: str, column: Column, conversion: Conversion
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """[M] the slots of the rows that are kept, and [M] the order in which they arrived."""
        begins, ends = min(self._first)[1], max(self._last)[1]
        ticks = Ticks.joined(self._parts)
        kept = np.concatenate(self._kept)
        ticks = ticks._replace(after=ticks.after if kept.all() else ticks.after[kept])
        length = exactly(conversion.slot_length) * exactly(conversion.rate)
        slot = ticks.slots(column, length, exactly(conversion.start))
        if slot.max() >= MAX_POSITIONS:
            raise TraceError(
                f"{path}, column {column.name!r}: {float(slot.max()):.3g} slots from {begins} to "
                f"{ends}, expected below {MAX_POSITIONS}; is its unit {column.own_unit}, and "
                "slot_length right?"
            )
        slot = np.maximum(slot, -1, out=slot).astype(np.int32)
        return slot, arrival(ticks.after)


class _Stations:
    """Which station an origin in a log is; it remembers what it has seen."""

    def __init__(self, conversion: Conversion) -> None:
        self._stations = conversion.stations
        self._named = {_key(name): i for i, name in enumerate(conversion.station_names)}
        self._renumber = conversion.renumber
        self._seen: dict[Any, int] = {}  # by a value as it is in the file
        self._order: dict[Any, int] = {}  # by what it means
        self._first: tuple[bool, str] | None = None  # whether it is a number, and its row

    def of(self, piece: Piece, column: Column) -> np.ndarray:
        """[M] int32."""
        values = piece.columns[column.name]
        values = values.tolist() if isinstance(values, np.ndarray) else values
        seen = self._seen
        for value in dict.fromkeys(values):
            if value not in seen:
                seen[value] = self._station(piece, column, values.index(value), value)
        return np.array([seen[value] for value in values], np.int32)

    def _station(self, piece: Piece, column: Column, row: int, value: Any) -> int:
        def wrong(expected: str) -> TraceError:
            return piece.wrong(column, row, expected)

        if is_gap(value) or value != value:
            raise wrong("a station")
        key = _key(value)
        if self._named:
            if key not in self._named:
                raise wrong(f"one of {', '.join(map(str, self._named))} (station_names)")
            return self._named[key]
        number = isinstance(key, Decimal)
        if self._first is None:
            self._first = (number, piece.row(row))
        if number != self._first[0]:
            raise wrong(
                f"a {'name' if number else 'number'} as in {self._first[1]}; station_names says "
                "which is which"
            )
        if isinstance(key, Decimal) and key != int(key):
            raise wrong("a whole number of a station")
        if isinstance(key, Decimal) and not self._renumber:
            if not 0 <= key < self._stations:
                raise wrong(
                    f"a station from 0 to {self._stations - 1} (stations is {self._stations}); "
                    "--renumber takes them as they appear, --station-names in an order of yours"
                )
            return int(key)
        station = self._order.setdefault(key, len(self._order))
        if station >= self._stations:
            raise wrong(f"at most {self._stations} different stations (stations is "
                        f"{self._stations})")  # fmt: skip
        return station


def _key(value: Any) -> str | Decimal:
    """What an origin means: a number, however it is written, or a name."""
    text = str(value).strip()
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


def _assigned(rows: int, conversion: Conversion) -> np.ndarray:
    if conversion.assign == "master":
        return np.full(rows, MASTER, np.int32)
    if conversion.assign == "random":
        return np.random.default_rng(conversion.seed).integers(conversion.stations, size=rows)
    return np.arange(rows, dtype=np.int32) % conversion.stations


def _check_columns(chosen: dict[str, Column], conversion: Conversion) -> None:
    """What a task is made of is there once."""
    if ("time" in chosen) == ("slot" in chosen):
        raise ValueError("columns must name exactly one of time and slot, as in time=arrived:ms")
    if "slot" in chosen and conversion.rate != 1:
        raise ValueError(f"rate must be 1 where a column is slot, got {conversion.rate:g}")
    if "slot" in chosen and conversion.start != int(conversion.start):
        raise ValueError(
            f"start must be a whole number where a column is slot, got {conversion.start:g}"
        )
    if "size" not in chosen and "context" not in chosen:
        raise ValueError("columns must name size or context, as in size=payload:kB")
    tokens = "context" in chosen or "generated" in chosen
    if "density" in chosen and ("work" in chosen or tokens or conversion.density is not None):
        raise ValueError(
            "columns must say the work once, by work, density, tokens, or the number density"
        )
    if not tokens and conversion.density is None and not {"work", "density"} & set(chosen):
        raise ValueError(
            "columns must name work, density, context or generated, as in work=cycles:cycles, or "
            "density (Gcycles/Mbit) must be given"
        )
    if conversion.density is not None and ("work" in chosen or tokens):
        raise ValueError(f"density must be None where columns say the work, got "
                         f"{conversion.density:g}")  # fmt: skip
    if conversion.drop == "failed" and not tokens:
        raise ValueError("drop must be nothing where columns name neither context nor generated")
    if conversion.station_names and "origin" not in chosen:
        raise ValueError("station_names needs a column of stations, as in origin=cell")
