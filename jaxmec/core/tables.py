"""Tables of results, as a terminal shows them."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from jaxmec.core.terminal import quoted


class PlainTable(Table):
    """A table whose texts are shown as they are, quoted and without markup, by any console."""

    def add_column(self, header: Any = "", *others: Any, **options: Any) -> None:
        super().add_column(_cell_text(header), *others, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_cell_text, cells), **options)


def results_table(title: str) -> Table:
    """A table without edges, so that the methods' names fit into 80 columns."""
    return PlainTable(
        title=Text(quoted(title), "table.title"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )


def _cell_text(cell: Any) -> Any:
    return Text(quoted(cell)) if isinstance(cell, str) else cell
