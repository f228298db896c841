"""Tables of results, as a terminal shows them."""

from __future__ import annotations

from rich import box
from rich.table import Table


def results_table(title: str) -> Table:
    """A table without edges, so that the methods' names fit into 80 columns."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
