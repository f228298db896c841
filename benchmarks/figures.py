"""Figures of the files in `results/`, for the documentation; see README.md.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from measuring import RESULTS

from jaxmec.plots import DASHES, PALETTE, save

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
MARKERS = "osD^v*"
Line = tuple[str, list[float], list[float]]  # name, x, y


def loglog(lines: list[Line], xlabel: str, ylabel: str) -> Figure:
    """Lines over doubly logarithmic axes, a marker at each number measured."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, x, y) in enumerate(lines):
        axes.loglog(
            x, y, label=name, color=PALETTE[number % len(PALETTE)], markersize=5,
            linestyle=DASHES[number // len(PALETTE)], marker=MARKERS[number % len(MARKERS)],
        )  # fmt: skip
    ticks = sorted({value for _, x, _ in lines for value in x})
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    lowest, highest = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 100 * lowest else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize="small")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def of_environments(report: dict[str, Any]) -> Figure:
    """Steps a second against the number of environments."""
    names = sorted({row["case"] for row in report["results"]})
    lines = []
    for name in names:
        rows = [row for row in report["results"] if row["case"] == name]
        rows.sort(key=lambda row: row["num_envs"])
        x, y = ([row[key] for row in rows] for key in ("num_envs", "steps_per_second"))
        lines.append((name, x, y))
    return loglog(lines, "environments side by side", "steps a second")


def of_servers(report: dict[str, Any]) -> Figure:
    """Seconds a decision against the number of servers, with the fitted exponents."""
    lines = []
    for row in report["against_servers"]:
        microseconds = [1e6 * statistics.median(seconds) for seconds in row["seconds"]]
        lines.append((f"{row['case']}: B^{row['exponent']:.2f}", row["servers"], microseconds))
    return loglog(lines, "servers B", "microseconds a decision")


def of_updates(report: dict[str, Any]) -> Figure | None:
    """Updates a second of each agent against the batch, by width; None where not measured."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in report["results"]:
        match = re.fullmatch(r"(\w+), batch (\d+), (hidden \d+)(.*)", row["case"])
        if match is not None:
            name = f"{match[1]}, {match[3]}{match[4]}"
            found.setdefault(name, []).append((int(match[2]), row["per_second"]))
    if not found:
        return None
    lines = [(name, [b for b, _ in points], [y for _, y in points])
             for name, points in found.items()]  # fmt: skip
    return loglog(lines, "transitions in a minibatch", "updates a second")


def of_scaling(report: dict[str, Any]) -> Figure:
    """Seconds of a training against the number of seeds, and of devices for so many seeds."""
    lines = []
    for what in ("seeds", "devices"):
        rows = report[what]
        if rows:
            seconds = [statistics.median(row["seconds"]) for row in rows]
            name = what if what == "seeds" else f"devices, {max(report['size']['devices'])} seeds"
            lines.append((name, [row[what] for row in rows], seconds))
    return loglog(lines, "seeds side by side, or devices", "seconds")


FIGURES = {
    "environments": ("env_steps", of_environments),
    "servers": ("decisions", of_servers),
    "updates": ("updates", of_updates),
    "scaling": ("scaling", of_scaling),
}


def main(results: Path = RESULTS, output: Path = FOLDER) -> list[Path]:
    """Draw every figure whose numbers are there; the files written.

    Args:
        results: the directory of the JSON files.
        output: the directory of the SVG files.
    """
    written: list[Path] = []
    for name, (source, draw) in FIGURES.items():
        file = results / f"{source}.json"
        if not file.exists():
            continue
        figure = draw(json.loads(file.read_text(encoding="utf-8")))
        if figure is not None:
            written += save(figure, output / name, formats=("svg",))
    for file in written:
        print(file)
    return written


if __name__ == "__main__":
    tyro.cli(main)
