"""Measured against foretold: errors, what was served, and where the difference lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jaxmec.core.tables import results_table
from jaxmec_testbed.foretold import Arrival, Foretold
from jaxmec_testbed.station import Outcome

Found = Sequence[Outcome | Foretold]
PARTS = ("way in", "queue", "service", "way back")


@dataclasses.dataclass(frozen=True)
class Run:
    """One policy's run and what the simulator foretold of it."""

    policy: str
    requests: Sequence[Arrival]
    measured: Sequence[Outcome]
    foretold: Sequence[Foretold]  # the policy decided in the simulator, too
    replayed: Sequence[Foretold]  # with the decisions of the testbed


def served(requests: Sequence[Arrival], found: Found) -> np.ndarray:
    """[N] bool: answered in time and good enough."""
    return np.array(
        [one.answered - asked.time <= asked.limit and one.quality >= asked.quality
         for asked, one in zip(requests, found, strict=True)]
    )  # fmt: skip


def delays(requests: Sequence[Arrival], found: Found) -> np.ndarray:
    """[N] s from arrival to answer; infinite where there was none."""
    return np.array([one.answered - asked.time for asked, one in zip(requests, found, strict=True)])


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run."""
    real, told, again = (
        delays(run.requests, found) for found in (run.measured, run.foretold, run.replayed)
    )
    choices = [(one.server, one.option) == (other.server, other.option)
               for one, other in zip(run.measured, run.foretold, strict=True)]  # fmt: skip
    figures: dict[str, Any] = {"policy": run.policy, "requests": len(run.requests)}
    played: dict[str, Found] = {
        "measured": run.measured, "foretold": run.foretold, "replayed": run.replayed
    }  # fmt: skip
    for name, found in played.items():
        good = served(run.requests, found)
        quality = [one.quality for one, is_good in zip(found, good, strict=True) if is_good]
        delay = delays(run.requests, found)
        delay = delay[np.isfinite(delay)]
        statuses = [one.status for one in found]
        figures[name] = {
            "served": float(good.mean()),
            "quality": float(np.mean(quality)) if quality else 0.0,
            "delay": float(delay.mean()) if delay.size else None,
            **{status: statuses.count(status) for status in sorted(set(statuses))},
        }
    return {
        **figures,
        "same decision": float(np.mean(choices)),
        "error": errors(real, told),
        "error, decisions given": errors(real, again),
        "excess": parts(run),
    }


def errors(real: np.ndarray, told: np.ndarray) -> dict[str, Any]:
    """|measured − foretold| / measured, where both were answered."""
    both = np.isfinite(real) & np.isfinite(told)
    relative = np.abs(real[both] - told[both]) / real[both]
    if not relative.size:
        return {"median": None, "p95": None}
    return {"median": float(np.median(relative)), "p95": float(np.quantile(relative, 0.95))}


def parts(run: Run) -> dict[str, dict[str, float]]:
    """Measured less foretold, with the decisions given, of each part of the delay, s."""
    rows = []
    for one, other in zip(run.measured, run.replayed, strict=True):
        if one.status == other.status == "answered" and one.attempts == other.attempts == 1:
            queue, service = one.told["queue"], one.told["service"]
            way_in, way_back = one.begun - one.sent - queue, one.answered - one.begun - service
            real = (way_in, queue, service, way_back)
            rows.append([a - other.parts[name] for a, name in zip(real, PARTS, strict=True)])
    if not rows:
        return {}
    excess = np.array(rows)
    return {
        name: {
            "median": float(np.median(column)),
            "p95": float(np.quantile(np.abs(column), 0.95)),
        }
        for name, column in zip(PARTS, excess.T, strict=True)
    }


def agreement(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Kendall's τ-b between the order of policies as measured and as foretold."""
    found: dict[str, float | None] = {}
    for figure in ("served", "delay", "quality"):
        real, told = ([one[name][figure] for one in summaries] for name in ("measured", "foretold"))
        tau = None
        if len(summaries) > 1 and None not in real and None not in told:
            tau = float(stats.kendalltau(real, told).statistic)
        found[figure] = tau
    return found


def table(summaries: Sequence[Mapping[str, Any]]) -> Any:
    """The figures as a table for a terminal."""
    rows = [
        [
            one["policy"],
            f"{one['measured']['served']:.3f} / {one['foretold']['served']:.3f}",
            f"{one['measured']['quality']:.3f} / {one['foretold']['quality']:.3f}",
            " / ".join(_short(one[name]["delay"], "{:.2f}") for name in ("measured", "foretold")),
            *(f"{_short(one[name]['median'], '{:.1%}')} / {_short(one[name]['p95'], '{:.1%}')}"
              for name in ("error", "error, decisions given")),
            f"{one['same decision']:.0%}",
        ]
        for one in summaries
    ]  # fmt: skip
    shown = results_table("measured / foretold; errors of a delay: median / p95")
    for head in ("policy", "served", "quality", "delay, s", "error", "decisions given", "same"):
        shown.add_column(head)
    for row in rows:
        shown.add_row(*row)
    return shown


def _short(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def plot(runs: Sequence[Run], to: Path) -> None:
    """Scatter and distribution of delays, a row for each policy, as PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), run in zip(axes, runs, strict=True):
        real = delays(run.requests, run.measured)
        left.scatter(real, delays(run.requests, run.foretold), s=8, label="foretold")
        left.scatter(real, delays(run.requests, run.replayed), s=8, label="decisions given")
        most = float(np.max(real[np.isfinite(real)], initial=1.0))
        left.plot([0, most], [0, most], color="grey", linewidth=0.8)
        left.set(xlabel="measured delay, s", ylabel="foretold delay, s", title=run.policy)
        left.legend()
        shown: dict[str, Found] = {"measured": run.measured, "foretold": run.foretold}
        for name, found in shown.items():
            delay = np.sort(delays(run.requests, found))
            share = np.arange(1, len(delay) + 1) / len(delay)
            answered = np.isfinite(delay)
            right.step(delay[answered], share[answered], label=name)
        right.set(xlabel="delay, s", ylabel="share of requests", ylim=(0, 1))
        right.legend()
    figure.savefig(to)


def as_rows(run: Run) -> list[dict[str, Any]]:
    """Every request's times, for a file."""
    return [
        {
            **dataclasses.asdict(asked),
            "measured": {**dataclasses.asdict(one), "images": len(one.images)},
            "foretold": dataclasses.asdict(other),
            "replayed": dataclasses.asdict(again),
        }
        for asked, one, other, again in zip(
            run.requests, run.measured, run.foretold, run.replayed, strict=True
        )
    ]
