"""How every figure looks, and how it is written to files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxmec.core import files
from jaxmec.core.types import Keywords

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008), told apart with any colour vision. Their
# yellow is left out, too faint on white, and black is kept for references.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (9, 3)), (0, (6, 2, 1, 2, 1, 2)))
FORMATS = ("png", "svg", "pdf")

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts as fonts, which journals ask for
    "svg.hashsalt": "jaxmec",  # the same figure gives the same file
}


def save(figure: Figure, path: str | Path, formats: Collection[str] = ("png", "svg")) -> list[Path]:
    """Write a figure once in each format; returns the files written.

    Args:
        figure: what to write.
        path: the file without the format's suffix; one of ``FORMATS`` is taken off.
            Missing folders are made.
        formats: some of ``FORMATS``: pixels ("png"), vectors ("svg", "pdf").

    Raises:
        ValueError: an unknown format.
    """
    if unknown := set(formats) - set(FORMATS):
        raise ValueError(f"formats has {sorted(unknown)}; expected some of {FORMATS}")
    path = Path(path)
    if path.suffix.removeprefix(".") in FORMATS:
        path = path.with_suffix("")
    written = [path.with_name(f"{path.name}.{format}") for format in formats]
    undated: dict[str, Keywords] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with styled():
        for file, format in zip(written, formats, strict=True):
            with files.writing_whole(file) as new:
                figure.savefig(new, dpi=200, metadata=undated.get(format))
    return written


@contextmanager
def styled() -> Iterator[tuple[type[Figure], ModuleType]]:
    """matplotlib's Figure and ticker, in our style, with a clear error where it is missing."""
    try:
        import matplotlib
        from matplotlib import ticker
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'plots need matplotlib, the extra "plot": pip install "jaxmec[plot]"'
        ) from error
    with matplotlib.rc_context(_STYLE):
        yield Figure, ticker


def station_colours(stations: int) -> list[Any]:
    """A colour a station, and a server has that of its station.

    The palette where it has enough; else a map whose lightness grows with the number, since no
    more colours than that are told apart by everybody.
    """
    if stations <= len(PALETTE):
        return list(PALETTE[:stations])
    from matplotlib import colormaps

    steps = [station / (stations - 1) for station in range(stations)]
    return [colormaps["viridis"](0.95 * step) for step in steps]


def show_stations(
    figure: Figure, axes: Axes | Sequence[Axes], stations: int, others: Collection[Artist] = ()
) -> None:
    """A legend of the stations' colours beside the axes, or a colour bar where they are many.

    ``others`` are more entries of the legend, with labels of their own.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    colours = station_colours(stations)
    entries = list(others)
    if stations <= len(PALETTE):
        entries = [Patch(color=c, label=f"station {i}") for i, c in enumerate(colours)] + entries
    else:
        norm = BoundaryNorm([i - 0.5 for i in range(stations + 1)], stations)
        bar = figure.colorbar(
            ScalarMappable(norm, ListedColormap(colours)),
            ax=axes,
            label="station (number)",
            ticks=range(0, stations, -(-stations // 10)),
            location="right",
        )
        bar.minorticks_off()
    if entries:
        figure.legend(handles=entries, loc="outside right upper", alignment="left")
