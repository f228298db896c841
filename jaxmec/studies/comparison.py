"""Several policies and schedulers on the same arrivals, as one table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxmec.core import files
from jaxmec.core.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_interval,
    interquartile_mean,
    t_interval,
)
from jaxmec.core.tables import results_table
from jaxmec.core.terminal import quoted
from jaxmec.envs import find_environment
from jaxmec.experiment import Report


@dataclasses.dataclass(frozen=True)
class Metric:
    """What policies are compared by."""

    name: str  # of the entry in a report's values
    title: str  # for tables and axes, with its unit
    decimals: int
    smaller_is_better: bool


METRICS = {
    metric.name: metric
    for metric in (
        Metric("makespan", "mean make-span (s)", 4, True),
        Metric("failed", "failed tasks (share)", 4, True),
        Metric("return", "mean return", 1, False),
    )
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Numbers are in the metric's unit, ratios without one. All intervals are of 95 %, over
    seeds, or over episodes where nothing learns.
    """

    name: str
    information: str  # what the policy sees
    waits: str  # what whoever allocates sees: "true" or "seen"
    seeds: int  # S, training seeds; 1 for what does not learn
    episodes: int
    mean: float  # over seeds and episodes
    interval: Interval  # of the mean, Student's t
    iqm: float  # interquartile mean of the seeds' means
    iqm_interval: Interval  # bootstrap
    difference: float  # less the reference, on the same episodes
    difference_interval: Interval  # paired, bootstrap
    ratio: float  # over the reference, on the same episodes
    ratio_interval: Interval  # paired, Student's t
    failed: float  # share of tasks that missed their deadline; NaN where there are none
    failed_interval: Interval  # bootstrap
    gap: float  # share over the best plan known, on the episodes planned; NaN where none are
    gap_interval: Interval  # Student's t


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Reports on the same episodes, beside one that all are set against.

    Raises:
        ValueError: a report on other episodes than the reference.
    """

    reports: Sequence[Report]
    reference: Report
    metric: str = "makespan"
    best_known: np.ndarray | None = (
        None  # [n] s, the best plan's make-spans in the first n episodes
    )

    def __post_init__(self) -> None:
        for report in self.reports:
            report.check_same_episodes(self.reference)

    @property
    def by_metric(self) -> list[Report]:
        """The reports, best mean first."""
        sign = 1 if METRICS[self.metric].smaller_is_better else -1
        return sorted(self.reports, key=lambda report: sign * report.mean(self.metric))

    @property
    def rows(self) -> list[Row]:
        """The lines, in that order."""
        return [self._row(report) for report in self.by_metric]

    def _row(self, report: Report) -> Row:
        samples = report.samples(self.metric)
        difference = report.difference(self.reference, self.metric)
        ratio = report.ratio(self.reference, self.metric)
        splits = find_environment(report.setting.env).problem == "multi"
        waits = dict(report.setting.options).get("allocation_information", "true")
        if report.information == "full":  # what is seen is true
            waits = "true"
        fails = "failed" in report.values
        gap = self._gap(report)
        return Row(
            name=report.name,
            information=report.information or "",
            waits=waits if splits else "-",
            seeds=report.num_seeds,
            episodes=report.values[self.metric].shape[1],
            mean=report.mean(self.metric),
            interval=report.interval(self.metric),
            iqm=interquartile_mean(samples),
            iqm_interval=interquartile_interval(samples),
            difference=float(difference.mean()),
            difference_interval=bootstrap_interval(difference),
            ratio=float(ratio.mean()),
            ratio_interval=t_interval(ratio),
            failed=report.mean("failed") if fails else float("nan"),
            failed_interval=bootstrap_interval(report.samples("failed"))
            if fails
            else (float("nan"), float("nan")),
            gap=float(gap.mean()),
            gap_interval=t_interval(gap),
        )

    def _gap(self, report: Report) -> np.ndarray:
        """[n] how much longer a report's make-spans are than the best plan's, as shares.

        One a seed where there are several, else one an episode.
        """
        if self.best_known is None:
            return np.full(1, np.nan)
        makespan = report.values["makespan"][:, : self.best_known.size]
        if report.num_seeds > 1:
            return makespan.mean(axis=1) / self.best_known.mean() - 1
        return makespan[0] / self.best_known - 1

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headers and lines, as text that fits a terminal."""
        metric = METRICS[self.metric]
        headers = ["method", "sees", "waits", "seeds", metric.title.removeprefix("mean "), "± 95 %",
                   f"/ {self.reference.name}", "over plan", "failed"]  # fmt: skip
        lines = [
            [
                row.name,
                row.information,
                row.waits,
                str(row.seeds),
                f"{row.mean:.{metric.decimals}f}",
                f"{(row.interval[1] - row.interval[0]) / 2:.{metric.decimals}f}",
                f"{row.ratio:.3f}",
                "-" if np.isnan(row.gap) else f"{100 * row.gap:.1f} %",
                "-" if np.isnan(row.failed) else f"{100 * row.failed:.2f} %",
            ]
            for row in self.rows
        ]
        return headers, lines

    def table(self, title: str) -> Table:
        """For a terminal."""
        headers, lines = self.cells()
        empty = [
            index
            for index, header in enumerate(headers)
            # Where a task has one server nobody allocates; where nothing is planned, no gap.
            if header in ("waits", "over plan") and all(line[index] == "-" for line in lines)
        ]
        headers, *lines = (
            [cell for index, cell in enumerate(cells) if index not in empty]
            for cells in (headers, *lines)
        )
        table = results_table(title)
        for index, header in enumerate(headers):
            left = header in ("method", "sees", "waits")
            justify: Any = "left" if left else "right"
            # Where a terminal is narrow a long name is broken, at its spaces, and no number;
            # headers are where the cells below are narrower.
            width = max((len(line[index]) for line in lines), default=0)
            wrapped = textwrap.wrap(
                quoted(header), max(width, 5), break_long_words=False, break_on_hyphens=False
            )
            table.add_column(
                Text("\n".join(wrapped)), justify=justify, overflow="fold", no_wrap=index > 0
            )
        for line in lines:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        """For a document: what :meth:`cells` has, and each figure's interval."""
        metric = METRICS[self.metric]
        headers = ["method", "sees", "waits", "seeds", metric.title, "95 % (t)",
                   "interquartile mean", "95 %", f"− {self.reference.name}", "95 %, paired",
                   f"/ {self.reference.name}", "over plan", "95 % (t)",
                   "failed", "95 %"]  # fmt: skip
        lines = []
        for row in self.rows:
            fails = not np.isnan(row.failed)
            lines.append(
                [
                    row.name,
                    row.information or "-",
                    row.waits,
                    str(row.seeds),
                    f"{row.mean:.{metric.decimals}f}",
                    interval_text(row.interval, metric.decimals),
                    f"{row.iqm:.{metric.decimals}f}",
                    interval_text(row.iqm_interval, metric.decimals),
                    f"{row.difference:+.{metric.decimals}f}",
                    interval_text(row.difference_interval, metric.decimals, sign="+"),
                    f"{row.ratio:.3f}",
                    "-" if np.isnan(row.gap) else f"{100 * row.gap:.1f} %",
                    interval_text(row.gap_interval, 1, factor=100),
                    f"{100 * row.failed:.2f} %" if fails else "-",
                    interval_text(row.failed_interval, 2, factor=100) if fails else "-",
                ]
            )
        if self.best_known is None:
            first = headers.index("over plan")
            headers, *lines = (cells[:first] + cells[first + 2 :] for cells in (headers, *lines))
        return markdown_table(headers, lines, left=3)

    def save(self, path: Path, **about: Any) -> None:
        """Write every seed's and episode's figures, and the rows, as JSON."""
        document = {
            **about,
            "reference": self.reference.name,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "values": {
                f"{report.name} ({report.information})": {
                    name: np.round(value.astype(float), 7).tolist()
                    for name, value in report.values.items()
                }
                for report in self.reports
            },
        }
        files.write_whole(path, json.dumps(document, indent=1) + "\n")


def row_record(row: Row) -> dict[str, Any]:
    """A row as one line of a CSV file: an interval becomes two columns, ..._low and ..._high."""
    record: dict[str, Any] = {}
    for name, value in dataclasses.asdict(row).items():
        if isinstance(value, tuple):
            record[f"{name}_low"], record[f"{name}_high"] = value
        else:
            record[name] = value
    return record


def value_records(report: Report) -> list[dict[str, Any]]:
    """Every seed's and episode's figures, one line each."""
    metrics = list(report.values)
    return [
        {
            "method": report.name,
            "seed": seed,
            "episode": episode,
            **{name: float(report.values[name][seed, episode]) for name in metrics},
        }
        for seed in range(report.num_seeds)
        for episode in range(report.values[metrics[0]].shape[1])
    ]


def write_csv(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
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


def interval_text(interval: Interval, decimals: int, factor: float = 1.0, sign: str = "") -> str:
    """ "low to high", or "-" where there is none."""
    if np.isnan(interval).any():
        return "-"
    return " to ".join(f"{factor * end:{sign}.{decimals}f}" for end in interval)


def markdown_table(headers: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first columns, ``left`` of them, are texts, and the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(headers) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *lines))
