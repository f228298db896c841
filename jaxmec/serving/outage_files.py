"""When servers were up, from files: records of spot instances, and lists of troubles.

A record is JSON in the layout of skypilot's spot traces
(https://github.com/skypilot-org/spot-traces)::

    {"metadata": {"gap_seconds": 600}, "data": [1, 1, 0, 1]}

where each entry is how many instances there were, so many seconds after the one before. A list is
CSV with the columns ``server,begin,end`` and, where some are slowed phases, ``speed``, or TOML with
a table ``[[outage]]`` each of the same keys.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxmec.core import checks
from jaxmec.core.files import PathLike
from jaxmec.core.naming import suggestion
from jaxmec.core.types import Document
from jaxmec.serving.errors import FleetError
from jaxmec.serving.laws import Spot

Trouble = tuple[int, float, float, float]  # server, begin s, end s, speed between

_COLUMNS: dict[str, checks.Check] = {
    "server": checks.whole(0),
    "begin": checks.number(0),
    "end": checks.number(above=0),
    "speed": checks.number(0, most=1),
}
_NEEDED_COLUMNS = {name: _COLUMNS[name] for name in ("server", "begin", "end")}
_RECORD = checks.record(
    {
        "metadata": checks.record({"gap_seconds": checks.number(above=0)}),
        "data": checks.listing(checks.whole(0), 2, 2**24),
    }
)


def read_spot(paths: Iterable[PathLike], horizon: float, squeeze: float = 1.0) -> Spot:
    """The law that servers are up when spot instances were.

    Args:
        paths: of records; server i follows record i, and begins with the first again after the
            last. Each server begins at a moment of its own, drawn anew in each episode.
        horizon: s of an episode; what comes after it is at nominal speed.
        squeeze: times as fast as it was: 60 makes a minute of an hour.

    Raises:
        FleetError: a file that is no record, or that lasts no longer than an episode.
        OSError: a file cannot be read.
    """
    records, gaps = [], []
    for path in paths:
        record = _read_record(Path(path))
        gap = record["metadata"]["gap_seconds"] / squeeze
        least = Spot.least(horizon, gap)
        if len(record["data"]) < least:
            raise FleetError(
                f"{path}: data must have at least {least} entries, for an episode of {horizon:g} s "
                f"at {gap:g} s an entry, got {len(record['data'])}"
            )
        records.append(np.array(record["data"]) > 0)
        gaps.append(gap)
    if not records:
        raise ValueError("paths must name a record at least, got none")
    return Spot.of(records, gaps, horizon)


def _read_record(path: Path) -> Document:
    try:
        record: Document = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FleetError(f"{path}: it is no JSON: {error}") from None
    try:
        checks.require("", record, _RECORD)
    except ValueError as error:
        raise FleetError(f"{path}: {error}") from None
    return record


def read_outages(path: PathLike) -> list[Trouble]:
    """A list of troubles, for :func:`jaxmec.serving.given`.

    Args:
        path: TOML where the name ends in ``.toml``, else CSV.

    Returns:
        (server, begin s, end s, speed between) each, in the file's order.

    Raises:
        FleetError: names the row, the column, the value and what was expected.
        OSError: the file cannot be read.
    """
    path = Path(path)
    rows = _toml_rows(path) if path.suffix == ".toml" else _csv_rows(path)
    troubles = []
    for where, row in rows:
        try:
            checks.require(where, row, checks.closed(_NEEDED_COLUMNS, _COLUMNS))
            if row["end"] <= row["begin"]:
                raise ValueError(
                    f"{where}.end must be above begin, {row['begin']:g}, got {row['end']:g}"
                )
        except ValueError as error:
            raise FleetError(f"{path}: {error}") from None
        troubles.append((row["server"], row["begin"], row["end"], row.get("speed", 0.0)))
    return troubles


def _toml_rows(path: Path) -> list[tuple[str, Document]]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        checks.require("", table, checks.closed({"outage": checks.listing(checks.anything)}))
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8, too
        raise FleetError(f"{path}: {error}") from None
    return [(f"outage[{index}]", row) for index, row in enumerate(table["outage"])]


def _csv_rows(path: Path) -> list[tuple[str, Document]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            _require_columns(path, names)
            return [(f"line {lines.line_num}", _values(path, lines.line_num, names, row))
                    for row in lines if row]  # fmt: skip
    except (csv.Error, UnicodeDecodeError) as error:
        raise FleetError(f"{path}: it is no CSV in UTF-8: {error}") from None


def _require_columns(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in _COLUMNS or names.count(name) > 1:
            raise FleetError(
                f"{path}: columns must be of {', '.join(_COLUMNS)}, each once, got {name!r}"
                f"{'' if name in _COLUMNS else suggestion(name, _COLUMNS)}"
            )
    for name in _NEEDED_COLUMNS:
        if name not in names:
            raise FleetError(f"{path}: there is no column {name!r}; expected {', '.join(_COLUMNS)}")


def _values(path: Path, line: int, names: Sequence[str], row: Sequence[str]) -> Document:
    """Texts as numbers; what is none stays text, for the checks to name."""
    if len(row) != len(names):
        raise FleetError(f"{path}: line {line} must have {len(names)} columns, got {len(row)}")

    def number(text: str) -> object:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    return {name: number(text) for name, text in zip(names, row, strict=True)}
