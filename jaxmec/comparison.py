"""Several policies and schedulers on the same arrivals, as one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from jaxmec.experiment import Report, t_interval


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    name: str
    information: str  # what the policy sees
    waits: str  # what whoever allocates sees: "true" or "seen"
    seeds: int  # S, training seeds; 1 for what does not learn
    makespan: float  # s, mean over seeds and episodes
    interval: tuple[float, float]  # s, 95 %, over seeds (episodes where there is one)
    ratio: float  # over the reference on the same episodes
    ratio_interval: tuple[float, float]  # 95 %, paired
    failed: float  # share of tasks that missed their deadline


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Reports on the same episodes, beside one that all are divided by."""

    reports: Sequence[Report]
    reference: Report

    @property
    def by_makespan(self) -> list[Report]:
        """The reports, shortest mean make-span first."""
        return sorted(self.reports, key=lambda report: report.mean("makespan"))

    @property
    def rows(self) -> list[Row]:
        """The lines, in that order."""
        rows = []
        for report in self.by_makespan:
            ratio = report.ratio(self.reference)
            options = dict(report.setting.options)
            single = report.setting.env.startswith("Single")
            rows.append(
                Row(
                    name=report.name,
                    information=report.information or "",
                    waits="-" if single else options.get("allocation_information", "true"),
                    seeds=report.num_seeds,
                    makespan=report.mean("makespan"),
                    interval=report.interval("makespan"),
                    ratio=float(ratio.mean()),
                    ratio_interval=t_interval(ratio),
                    failed=report.mean("failed"),
                )
            )
        return rows

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headers and lines, as text; make-spans in s."""
        headers = ["method", "sees", "waits", "seeds", "make-span", "± 95 %",
                   f"/ {self.reference.name}", "failed"]  # fmt: skip
        lines = [
            [
                row.name,
                row.information,
                row.waits,
                str(row.seeds),
                f"{row.makespan:.4f}",
                f"{(row.interval[1] - row.interval[0]) / 2:.4f}",
                f"{row.ratio:.3f}",
                f"{100 * row.failed:.2f} %",
            ]
            for row in self.rows
        ]
        return headers, lines

    def table(self, title: str) -> Table:
        """For a terminal."""
        headers, lines = self.cells()
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index < 3 else "right", overflow="fold")
        for line in lines:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        """For a document."""
        headers, lines = self.cells()
        rows = [headers, ["---"] * 3 + ["---:"] * (len(headers) - 3), *lines]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)

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
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
