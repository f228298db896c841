"""One way to make a table: rows of any class, and columns that say what is shown of a row.

The same columns make the table of a terminal and that of a document; a program gets the rows
themselves, as JSON or as CSV.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.table import Table
from rich.text import Text

from jaxmec.core import files
from jaxmec.core.statistics import Interval
from jaxmec.core.tables import results_table
from jaxmec.core.terminal import quoted
from jaxmec.core.types import Document

Shown = TypeVar("Shown")
BLANK = "-"  # in place of a number that there is not


@dataclasses.dataclass(frozen=True)
class Column(Generic[Shown]):
    """One column of a table."""

    header: str  # with the unit
    text: Callable[[Shown], str]  # of a row
    left: bool = False  # words; numbers are set to the right
    terminal: bool = True  # whether a terminal shows it, which is narrow
    document: bool = True


def number(
    value: float, decimals: int, *, percent: bool = False, sign: str = "", unit: str = ""
) -> str:
    """A number of so many decimals, as a share in percent, with its sign where ``sign`` is "+"."""
    if math.isnan(value):
        return BLANK
    return f"{100 * value if percent else value:{sign},.{decimals}f}{unit}"


def interval(ends: Interval, decimals: int, *, percent: bool = False, sign: str = "") -> str:
    """ "low to high"."""
    texts = [number(end, decimals, percent=percent, sign=sign) for end in ends]
    return BLANK if BLANK in texts else " to ".join(texts)


def half_width(ends: Interval, decimals: int, *, percent: bool = False) -> str:
    """What stands after a "±"."""
    return number((ends[1] - ends[0]) / 2, decimals, percent=percent)


def terminal_table(title: str, columns: Sequence[Column[Shown]], rows: Iterable[Shown]) -> Table:
    """For a terminal. Where it is narrow, names are broken and numbers are not."""
    columns = [column for column in columns if column.terminal]
    lines = [[column.text(row) for column in columns] for row in rows]
    table = results_table(title)
    for index, column in enumerate(columns):
        # A header is broken, at its spaces, where the cells below it are narrower.
        width = max((len(line[index]) for line in lines), default=0)
        header = textwrap.wrap(
            quoted(column.header), max(width, 6), break_long_words=False, break_on_hyphens=False
        )
        table.add_column(
            Text("\n".join(header)),
            justify="left" if column.left else "right",
            overflow="fold",
            no_wrap=index > 0,
        )
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(columns: Sequence[Column[Shown]], rows: Iterable[Shown]) -> str:
    """For a document."""
    columns = [column for column in columns if column.document]
    lines = [
        [column.header for column in columns],
        ["---" if column.left else "---:" for column in columns],
        *([column.text(row) or BLANK for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def csv_record(row: Any) -> Document:
    """A row, which is a dataclass, as a line of a CSV file: an interval has two columns there."""
    record: Document = {}
    for name, value in dataclasses.asdict(row).items():
        if isinstance(value, tuple):
            record[f"{name}_low"], record[f"{name}_high"] = value
        elif isinstance(value, dict):
            record |= value
        else:
            record[name] = value
    return record


def write_csv(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write records as a CSV file whose columns are the first record's keys.

    Raises:
        ValueError: no records, or one with a key that the first has not.
    """
    records = list(records)
    if not records:
        raise ValueError(f"there are no records to write to {path}")
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    files.write_whole(path, stream.getvalue())
