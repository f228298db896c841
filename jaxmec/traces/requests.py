"""Requests for pictures: trace files, read, checked and written, and made from logs.

A trace of requests is a file as :mod:`jaxmec.traces` says, with one request a row::

    time:s,origin,images,size:Mbit,result:Mbit,quality,limit:s,model
    0.25,2,1,3.1,0.7,0.4,5,M0004

``time`` is from the trace's beginning. ``result`` (else 0), ``quality`` (0), ``limit`` (none) and
``model`` may be missing. Rows may come in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import look_up, suggestion
from jaxmec.serving import Recorded
from jaxmec.traces.files import write_table
from jaxmec.traces.logs import FORMATS, KINDS_OF_LOGS
from jaxmec.traces.reading import (
    REQUEST_UNITS,
    Column,
    Gathered,
    PathLike,
    Piece,
    Progress,
    TraceError,
    is_gap,
    open_table,
)
from jaxmec.traces.times import Ticks, read_times

if TYPE_CHECKING:
    from jaxmec.serving import ServingPreset

REQUEST_COLUMNS = ("time", "origin", "images", "size", "result", "quality", "limit", "model")
_REQUIRED_COLUMNS = REQUEST_COLUMNS[:4]
_UNITS = {"time": "s", "size": "Mbit", "result": "Mbit", "limit": "s"}  # as they are written
_AS_TEXT = {"time": "%.15g", "origin": "%d", "images": "%d", "model": "%s"}  # others %.9g

# Of logs that tell more of requests for pictures than of tasks; further ones are those of tasks,
# of which time, size, origin and deadline, as a limit, are taken.
REQUEST_FORMATS: dict[str, tuple[str, ...]] = {
    "gentd26": (  # lora_request_trace.csv of Alibaba's GenTD26
        "time=gmt_create:date",
        "images=num_images_per_prompt",
        "origin=groupId",
        "model=checkpoint_model_version_id",
        "status=predict_status",
    ),
}
_OF_TASKS = {"time": "time", "size": "size", "origin": "origin", "deadline": "limit"}
_SUCCEEDED = ("succeed", "succeeded", "success", "ok", "done")


class RequestRows(NamedTuple):
    """M requests in the order of their times; NumPy arrays of 64 bits."""

    time: np.ndarray  # [M] s, from 0
    origin: np.ndarray  # [M] int, the station
    images: np.ndarray  # [M] int
    size: np.ndarray  # [M] Mbit
    result: np.ndarray  # [M] Mbit
    quality: np.ndarray  # [M] in [0, 1]
    limit: np.ndarray  # [M] s; infinite where there is none
    model: np.ndarray | None = None  # [M] names, for people; who serves chooses the variant

    @property
    def stations(self) -> int:
        """S, as many as the highest origin says."""
        return int(self.origin.max()) + 1

    def arrivals(self, stations: int = 0) -> Recorded:
        """The law of arrivals of an environment.

        Args:
            stations: S; 0: as many as the origins say.
        """
        columns = {name: column for name, column in self._asdict().items() if name != "model"}
        return Recorded(arrival=columns.pop("time"), num_stations=stations, **columns)


def read_requests(path: PathLike, progress: Progress | None = None) -> RequestRows:
    """The requests in a trace file.

    Args:
        path: CSV, JSON lines or Parquet, as this module says.
        progress: is told bytes read and bytes in all, piece by piece.

    Raises:
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    with open_table(path, progress=progress) as table:
        if not table.names:
            raise table.no_rows()
        columns: dict[str, Column] = {}
        for name in table.names:
            field, _, unit = name.partition(":")
            if field not in REQUEST_COLUMNS:
                raise TraceError(
                    f"{path}: column {name!r} is not one of {', '.join(REQUEST_COLUMNS)}"
                    f"{suggestion(field, REQUEST_COLUMNS)}; `jaxmec trace requests` takes columns "
                    "of other names"
                )
            if field in columns:
                raise TraceError(f"{path}: expected one column of {field}, got two")
            columns[field] = Column(field, name, unit)
            columns[field].check(str(path))
        missing = [name for name in _REQUIRED_COLUMNS if name not in columns]
        if missing:
            raise TraceError(
                f"{path}: there is no column {missing[0]!r}; expected "
                f"{', '.join(_REQUIRED_COLUMNS)} and, if there are any, result, quality, limit and "
                "model"
            )
        rows = Gathered()
        for piece in table.pieces([*columns.values()]):
            rows.add({"time": piece.amounts(columns["time"], at_least=0),
                      "origin": piece.whole(columns["origin"], at_least=0),
                      **_wanted(piece, columns)})  # fmt: skip
    return _sorted(rows.columns())


def of_requests(path: PathLike) -> bool:
    """Whether a trace file has requests, by their times, and not tasks, by their slots.

    Raises:
        TraceError: it is no table.
        OSError: the file cannot be read.
    """
    with open_table(path) as table:
        return "time" in {name.partition(":")[0] for name in table.names}


def _wanted(piece: Piece, columns: dict[str, Column]) -> dict[str, np.ndarray]:
    """What requests ask for, of the columns that there are."""
    part: dict[str, np.ndarray] = {}
    if "images" in columns:
        part["images"] = piece.whole(columns["images"], at_least=1)
    for name in ("size", "result"):
        if name in columns:
            part[name] = piece.amounts(columns[name], at_least=0)
    if "quality" in columns:
        part["quality"] = piece.amounts(columns["quality"], at_least=0)
        piece.require(columns["quality"], part["quality"] <= 1, "a number of 0 to 1")
    if "limit" in columns:
        there = ~piece.missing(columns["limit"])
        part["limit"] = np.full(len(piece), np.inf)
        if there.any():
            part["limit"][there] = piece.keep(there).amounts(columns["limit"], above=0)
    if "model" in columns:
        values = piece.columns[columns["model"].name]
        part["model"] = np.array(["" if is_gap(value) else str(value) for value in values], object)
    return part


class _Askers:
    """Which station whoever asks is at: a number is one, names are given to them in turn."""

    def __init__(self, stations: int) -> None:
        self._stations = stations
        self._named: dict[str, int] = {}

    def of(self, piece: Piece, column: Column) -> np.ndarray:
        """[M] int32."""
        found = []
        for row, value in enumerate(piece.columns[column.name]):
            text = str(value).strip()
            try:
                number = float("nan" if is_gap(value) else text)
            except ValueError:
                turn = self._named.setdefault(text, len(self._named))
                found.append(turn % self._stations)
                continue
            if not (number.is_integer() and 0 <= number < self._stations):
                expected = f"a station from 0 to {self._stations - 1}, or a name"
                raise piece.wrong(column, row, expected)
            found.append(int(number))
        return np.array(found, np.int32)


def _sorted(columns: dict[str, np.ndarray]) -> RequestRows:
    """The rows in the order of their times; those of one time as they were."""
    rows = len(columns["time"])
    defaults = {"result": 0.0, "quality": 0.0, "limit": np.inf}
    columns = {name: np.full(rows, value) for name, value in defaults.items()} | columns
    order = np.argsort(columns["time"], kind="stable")
    found = {name: column[order] for name, column in columns.items()}
    for name in ("origin", "images"):
        found[name] = found[name].astype(np.int64)
    return RequestRows(**found)


def write_requests(path: PathLike, rows: RequestRows) -> Path:
    """Write a trace file of requests, as :func:`jaxmec.traces.write` does one of tasks.

    Raises:
        ValueError: a name of what is read as another form: ``.jsonl``, ``.parquet.gz``.
    """
    columns = {name: column for name, column in rows._asdict().items() if column is not None}
    limit = columns["limit"]
    if not np.isfinite(limit).any():
        del columns["limit"]
    elif not np.isfinite(limit).all():  # an empty field
        columns["limit"] = np.where(np.isfinite(limit), limit, np.nan)
    formats = [_AS_TEXT.get(name, "%.9g") for name in columns]
    if "model" in columns and not str(path).endswith(".parquet"):
        columns["model"] = np.array([_field(name) for name in columns["model"]], object)
    named = {f"{name}:{_UNITS[name]}" if name in _UNITS else name: column
             for name, column in columns.items()}  # fmt: skip
    return write_table(path, named, formats)


def _field(text: str) -> str:
    """A text as CSV has it."""
    quotes = any(character in text for character in ',"\r\n')
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if quotes else text


def describe_requests(rows: RequestRows) -> dict[str, str]:
    """What is in a trace of requests, by name, as a person reads it."""

    def spread(values: np.ndarray) -> str:
        finite = values[np.isfinite(values)]
        if not len(finite):
            return "none"
        return f"{finite.mean():.4g} on average, {finite.min():.4g} to {finite.max():.4g}"

    length, gaps = float(rows.time[-1]), np.diff(rows.time)
    about = {
        "requests": f"{len(rows.time):,} in {length:,.4g} s",
        "stations": str(rows.stations),
        "images": spread(rows.images),
        "size (Mbit)": spread(rows.size),
        "result (Mbit)": spread(rows.result),
        "quality": spread(rows.quality),
        "limit (s)": spread(rows.limit),
    }
    if len(gaps) and gaps.mean() > 0:
        varying = gaps.std() / gaps.mean()
        about["gaps (s)"] = f"{gaps.mean():.4g} on average, varying by {varying:.3g} times that"
    if rows.model is not None:
        _, counts = np.unique(rows.model.astype(str), return_counts=True)
        first = max(counts) / len(rows.time)
        about["models"] = f"{len(counts)}, of which the first has {first:.0%} of the requests"
    return about


@dataclasses.dataclass(frozen=True)
class RequestConversion:
    """How a log's rows become requests for pictures.

    What the log does not say (class, images, size, result, station) is drawn as a fleet's own
    requests are.
    """

    rate: float = 1.0  # times as many requests a second: above 1 time is squeezed
    start: float = 0.0  # s of the log after its first row to leave out
    seconds: float | None = None  # keep so many s of the trace
    drop: str = "nothing"  # or failed: requests whose status is no success
    stations: int | None = None  # S, that origins are given to in turn; by default the fleet's
    seed: int = 0  # of what is drawn

    def __post_init__(self) -> None:
        positive = checks.number(above=0)
        checks.fields(
            self,
            rate=positive,
            start=checks.number(0),
            seconds=checks.optional(positive),
            drop=checks.one_of(("nothing", "failed")),
            stations=checks.optional(checks.whole(1)),
        )


def convert_requests(
    path: PathLike,
    fleet: ServingPreset,
    format: str = "csv",
    columns: Sequence[str] = (),
    conversion: RequestConversion = RequestConversion(),
    *,
    header: bool = True,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> RequestRows:
    """Requests for pictures from a log.

    Args:
        path: the log: CSV, JSON lines or Parquet.
        fleet: whose requests say what the log does not.
        format: one of ``REQUEST_FORMATS`` or of ``FORMATS``.
        columns: ``what=name`` or ``what=name:unit``. What: time; origin, a number or a name of
            whoever asks, who keeps to one station; images, size, result, quality, limit, model;
            status, by which failed ones are left out.
        conversion: how they become requests.
        header: whether a CSV file's first row names the columns; they are else called by their
            numbers, from 1.
        say: is told what was left out.
        progress: is told bytes read and bytes in all, piece by piece.

    Raises:
        ValueError: a column that cannot be meant so, or no time.
        TraceError: the message names the row and the column and what was expected there.
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
    """
    chosen = _chosen(format, columns)
    if conversion.drop == "failed" and "status" not in chosen:
        raise ValueError("drop must be nothing where no column is status")
    log = _RequestLog(chosen, conversion, fleet.stations)
    with open_table(
        path, KINDS_OF_LOGS.get(format, "csv"), header=header, progress=progress
    ) as table:
        if not table.names:
            raise table.no_rows()
        log.chosen = {field: table.find(column) for field, column in chosen.items()}
        rows = Gathered()
        for piece in table.pieces([*log.chosen.values()]):
            rows.add(log.part(piece))
    if say is not None and log.failed:
        of = f"{log.failed:,} of {log.rows:,} requests"
        say(f"left out {of}, which have failed" if conversion.drop == "failed"
            else f"{of} have failed; --drop failed leaves them out")  # fmt: skip
    if not rows.rows:
        raise TraceError(
            f"{path}: all {log.rows:,} requests have failed; expected one that has not"
        )
    found = rows.columns()
    found["time"] = log.seconds()
    return _drawn(_within(path, found, conversion), fleet, conversion)


def _chosen(format: str, columns: Sequence[str]) -> dict[str, Column]:
    """The columns that are meant, by what they are; those given replace the format's."""
    own = look_up("format", format, {**FORMATS, **REQUEST_FORMATS})
    if format in FORMATS:
        tasks = [Column.parse(text) for text in own]
        meant = [column._replace(field=_OF_TASKS[column.field])
                 for column in tasks if column.field in _OF_TASKS]  # fmt: skip
    else:
        meant = [Column.parse(text, REQUEST_UNITS) for text in own]
    meant += [Column.parse(text, REQUEST_UNITS) for text in columns]
    chosen = {column.field: column for column in meant}
    if "time" not in chosen:
        raise ValueError("columns must name a time, as in time=arrived:ms")
    return chosen


class _RequestLog:
    """Goes through a log's pieces, of which it makes columns of a trace."""

    def __init__(
        self, chosen: dict[str, Column], conversion: RequestConversion, stations: int
    ) -> None:
        self.chosen = chosen
        self.rows = self.failed = 0
        self._conversion = conversion
        self._askers = _Askers(conversion.stations or stations)
        self._times: list[Ticks] = []
        self._kept: list[np.ndarray] = []
        self._zones: set[bool] = set()

    def part(self, piece: Piece) -> dict[str, np.ndarray]:
        """What is asked for in a piece, without the times."""
        self.rows += len(piece)
        kept = np.ones(len(piece), bool)
        if "status" in self.chosen:
            values = piece.columns[self.chosen["status"].name]
            good = np.array([str(value).strip().lower() in _SUCCEEDED for value in values])
            self.failed += int(np.sum(~good))
            kept = good if self._conversion.drop == "failed" else kept
        self._times.append(read_times(piece, self.chosen["time"], self._zones))
        self._kept.append(kept)
        piece = piece.keep(kept)
        if not len(piece):
            return {}
        columns = dict(self.chosen)
        part = {"time": np.zeros(len(piece))}  # which are known when all are read
        if "images" in columns:
            column = columns.pop("images")
            there = ~piece.missing(column)
            part["images"] = np.zeros(len(piece), np.int32)
            if there.any():
                part["images"][there] = piece.keep(there).whole(column, at_least=1)
        part |= _wanted(piece, columns)
        if "origin" in self.chosen:
            part["origin"] = self._askers.of(piece, self.chosen["origin"])
        return part

    def seconds(self) -> np.ndarray:
        """[M] s after the log's first row, of the rows that are kept."""
        ticks = Ticks.joined(self._times)
        kept = np.concatenate(self._kept)
        after = ticks.after[kept].astype(np.float64)
        return after * (self.chosen["time"].factor / 10.0**ticks.decimals)


def _within(
    path: PathLike, found: dict[str, np.ndarray], conversion: RequestConversion
) -> dict[str, np.ndarray]:
    """The rows of the part that is kept, their times from its beginning."""
    time = (found["time"] - conversion.start) / conversion.rate
    kept = time >= 0
    if conversion.seconds is not None:
        kept &= time < conversion.seconds
    if not kept.any():
        raise ValueError(
            f"start and seconds must leave a row of {path}, got {conversion.start:g} and "
            f"{conversion.seconds}"
        )
    return {name: column[kept] for name, column in (found | {"time": time}).items()}


def _drawn(
    found: dict[str, np.ndarray], fleet: ServingPreset, conversion: RequestConversion
) -> RequestRows:
    """What the log does not say, drawn as the fleet's own requests are."""
    rng = np.random.default_rng(conversion.seed)
    rows, wanted = len(found["time"]), fleet.wanted

    def choice(values: Sequence[float], shares: Sequence[float]) -> np.ndarray:
        return rng.choice(np.array(values), rows, p=np.array(shares) / np.sum(shares))

    kinds = choice(range(len(fleet.classes)), [each.share for each in fleet.classes]).astype(int)
    stations = conversion.stations or fleet.stations
    shares = wanted.origin_share if conversion.stations is None else [1.0] * stations
    drawn = {
        "origin": choice(range(stations), shares),
        "images": choice(wanted.images, wanted.images_share),
        "size": rng.uniform(*wanted.size, rows),
        "result": rng.uniform(*wanted.result, rows),
        "quality": np.array([each.quality for each in fleet.classes], float)[kinds],
        "limit": np.array([each.limit for each in fleet.classes], float)[kinds],
    }
    if "images" in found:  # some of which the log may lack
        found["images"] = np.where(found["images"] > 0, found["images"], drawn["images"])
    return _sorted(drawn | found)
