"""Several policies and schedulers on the same arrivals, set against one of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from jaxmec.core import files
from jaxmec.core.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_interval,
    interquartile_mean,
    t_interval,
)
from jaxmec.core.types import Document
from jaxmec.envs.table import find_environment
from jaxmec.experiment import Report
from jaxmec.experiment.report import METRICS, Metric
from jaxmec.studies.columns import (
    BLANK,
    Column,
    half_width,
    interval,
    markdown_table,
    number,
    terminal_table,
)

NARROW = 4  # figures beside the metric that a terminal has room for; a document has all


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Numbers are in the metric's unit, ratios without one. All intervals are of 95 %, over
    seeds, or over episodes where nothing learns.
    """

    name: str
    information: str  # what the policy sees
    waits: str  # what the allocation rule sees: "true", "seen"; "-" where nothing is allocated
    judged: str  # "greedy", or "sampled", where that is better; "-" for what does not learn
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
    beside: dict[str, float]  # means of the environment's other figures


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Reports on the same episodes, beside one that all are set against.

    Raises:
        ValueError: a report on other episodes than the reference.
    """

    reports: Sequence[Report]
    reference: Report
    metric: str = "makespan"
    best_known: np.ndarray | None = None
    """[n] s, the best plan's make-spans in the first n episodes."""

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
        waits = str(dict(report.setting.options).get("allocation_information", "true"))
        if report.information == "full":  # what is seen is true
            waits = "true"
        fails = "failed" in report.values
        gap = self._gap(report)
        return Row(
            name=report.name,
            information=report.information or "",
            waits=waits if splits else "-",
            judged=report.judged or BLANK,
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
            beside={name: report.mean(name) for name in self._beside if name in report.values},
        )

    @property
    def _beside(self) -> tuple[str, ...]:
        return find_environment(self.reference.setting.env).beside

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

    @property
    def columns(self) -> list[Column[Row]]:
        """What is shown of the rows: to a terminal the figures, to a document their intervals too.

        Without plans there is no column of gaps.
        """
        metric, reference = METRICS[self.metric], self.reference.name
        of_plans: list[Column[Row]] = [
            Column("over plan", lambda row: number(row.gap, 1, percent=True, unit=" %")),
            Column(
                "95 % (t)",
                lambda row: interval(row.gap_interval, 1, percent=True),
                terminal=False,
            ),
        ]
        return [
            Column("method", lambda row: row.name, left=True),
            Column("sees", lambda row: row.information or BLANK, left=True),
            Column("waits", lambda row: row.waits, left=True),
            Column("judged", lambda row: row.judged, left=True, terminal=False),
            Column("seeds", lambda row: str(row.seeds)),
            *_mean_columns(metric),
            Column(
                "interquartile mean", lambda row: number(row.iqm, metric.decimals), terminal=False
            ),
            Column("95 %", lambda row: interval(row.iqm_interval, metric.decimals), terminal=False),
            Column(
                f"− {reference}",
                lambda row: number(row.difference, metric.decimals, sign="+"),
                terminal=False,
            ),
            Column(
                "95 %, paired",
                lambda row: interval(row.difference_interval, metric.decimals, sign="+"),
                terminal=False,
            ),
            Column(f"/ {reference}", lambda row: number(row.ratio, 3)),
            *(of_plans if self.best_known is not None else ()),
            *map(_beside_column, self._beside[:NARROW]),
            *(_beside_column(name, terminal=False) for name in self._beside[NARROW:]),
            Column("failed", lambda row: number(row.failed, 2, percent=True, unit=" %")),
            Column(
                "95 %", lambda row: interval(row.failed_interval, 2, percent=True), terminal=False
            ),
        ]

    def table(self, title: str) -> Table:
        """For a terminal."""
        rows = self.rows
        allocated = any(row.waits != BLANK for row in rows)  # not where a task has one server
        fails = any(not math.isnan(row.failed) for row in rows)
        idle = {"waits": allocated, "failed": fails}
        columns = [column for column in self.columns if idle.get(column.header, True)]
        return terminal_table(title, columns, rows)

    def markdown(self) -> str:
        """For a document."""
        return markdown_table(self.columns, self.rows)

    def save(self, path: Path, **about: object) -> None:
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


def value_records(report: Report) -> list[Document]:
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


def _beside_column(name: str, terminal: bool = True) -> Column[Row]:
    """One of the environment's other figures."""
    return Column(
        name.replace("_", " "),
        lambda row: number(row.beside.get(name, math.nan), 3),
        terminal=terminal,
    )


def _mean_columns(metric: Metric) -> list[Column[Row]]:
    """The mean and its interval, which a terminal has as a half-width."""
    short = metric.title.removeprefix("mean ")

    def mean(row: Row) -> str:
        return number(row.mean, metric.decimals)

    return [
        Column(short, mean, document=False),
        Column("± 95 %", lambda row: half_width(row.interval, metric.decimals), document=False),
        Column(metric.title, mean, terminal=False),
        Column("95 % (t)", lambda row: interval(row.interval, metric.decimals), terminal=False),
    ]
