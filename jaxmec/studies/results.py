"""What a study found, written down: CSV, a Markdown table, figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmec import plots
from jaxmec.core.files import write_whole
from jaxmec.core.statistics import Interval, interquartile_interval, interquartile_mean
from jaxmec.core.types import Keywords
from jaxmec.envs import find_environment
from jaxmec.experiment import Setting, check_same_tasks
from jaxmec.experiment.report import METRICS
from jaxmec.solvers import PlannerConfig
from jaxmec.studies.columns import (
    Column,
    csv_record,
    interval,
    markdown_table,
    number,
    write_csv,
)
from jaxmec.studies.comparison import Comparison, value_records
from jaxmec.studies.plans import Effort, Say, best_known, quiet
from jaxmec.studies.study import Outcome, Place, Result, Study

if TYPE_CHECKING:
    from jaxmec.plots.style import Figure

INTERVALS = (
    "Intervals are of 95 %, over training seeds, or over episodes for what does not learn; "
    '"(t)" by Student\'s t, the others by the expanded percentile bootstrap '
    "(scipy.stats.bootstrap). Differences are paired: the same episodes, the same seed."
)

PLANS = (
    '"Over plan" is how much longer the make-spans are than those of the best plan known, which '
    "knows all tasks of a slot before it decides the first, on the episodes that were planned."
)
# Four rounds of eight: within 2 % of a plan of eight, in half the time (docs/solvers.md).
PLANNING = Effort(PlannerConfig(rounds=4))


def plan_places(outcome: Outcome, directory: Path, episodes: int, say: Say = quiet) -> Outcome:
    """The outcome with the best plan known of each place, of so many of its first episodes.

    Plans are kept in ``directory``, and made once.

    Raises:
        ValueError: an entry that meets other tasks, or on another network, than its reference.
    """
    plans = {}
    for place, setting in planned_settings(outcome.study).items():
        planned, seed = min(episodes, outcome.study.episodes), outcome.study.episode_seed
        about = {
            "setting": dataclasses.asdict(setting),
            "episodes": planned,
            "seed": seed,
            "planner": dataclasses.asdict(PLANNING.planner),
        }
        text = json.dumps(about, sort_keys=True)
        file = directory / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        if not file.exists():
            say(f"planning {place}")
            makespan = best_known(setting, planned, seed, PLANNING)
            document = {**about, "makespan": makespan.tolist()}
            write_whole(file, json.dumps(document) + "\n")
        plans[place] = _plan(file, planned)
    return dataclasses.replace(outcome, plans=plans)


def _plan(file: Path, episodes: int) -> np.ndarray:
    """[episodes] s, as a plan's file has it."""
    try:
        makespan = np.array(json.loads(file.read_text(encoding="utf-8"))["makespan"], float)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}); remove it to plan again"
        ) from error
    if makespan.shape != (episodes,):
        raise ValueError(
            f"{file} is damaged: it has {makespan.size} make-spans, expected {episodes}; remove it "
            "to plan again"
        )
    return makespan


def planned_settings(study: Study) -> dict[Place, Setting]:
    """The tasks and the network that are planned for each place: all of its entries meet them.

    Raises:
        ValueError: an environment without tasks, or an entry that meets other tasks, or on
            another network, than the reference.
    """
    if not find_environment(study.env).schedules:
        raise ValueError(f"plans are made where tasks are scheduled; {study.env} has none")
    reference = {c.place: c.met for c in study.cells if c.entry.label == study.reference}
    for cell in study.cells:
        planned = reference[cell.place]
        check_same_tasks(str(cell), cell.met, study.reference, planned, network=True)
    return reference


def comparisons(outcome: Outcome) -> dict[Place, Comparison]:
    """A comparison for each place at which the reference is finished."""
    found = {}
    for place in outcome.study.places:
        reference = outcome.find(outcome.study.reference, place)
        if reference is not None:
            reports = [result.report for result in outcome.at(place)]
            found[place] = Comparison(
                reports, reference.report, outcome.study.metric, outcome.plans.get(place)
            )
    return found


def write(outcome: Outcome, directory: Path) -> list[Path]:
    """Write all that there is of a study; returns the files, none where nothing is finished.

    ``results.csv`` has a line for each entry and place, ``values.csv`` one for each seed and
    episode too, ``results.md`` the tables; the figures are PNG and SVG.
    """
    tables = comparisons(outcome)
    if not tables:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    rows, values = [], []
    for place, table in tables.items():
        where = _place_columns(place)
        rows += [{**where, **csv_record(row)} for row in table.rows]
        for report in table.reports:
            values += [{**where, **record} for record in value_records(report)]
    files = [directory / name for name in ("results.csv", "values.csv", "results.md")]
    write_csv(files[0], rows)
    write_csv(files[1], values)
    write_whole(files[2], markdown(outcome))
    for name, figure in figures(outcome).items():
        files += plots.save(figure, directory / name)
    return files


def _place_columns(place: Place) -> Keywords:
    return {
        "environment": place.env,
        "preset": place.preset or "",
        "sweep": "" if place.sweep is None else place.sweep.name,
        "value": "" if place.point is None else place.point.x,
    }


def markdown(outcome: Outcome, heading: str = "#") -> str:
    """The tables of a study as a document, its headings from ``heading`` down."""
    study = outcome.study
    tables = comparisons(outcome)
    parts = [f"{heading} {study.name}", f"{study.about}.", _sizes(outcome)]
    for place, table in tables.items():
        parts += [f"{heading}# {place}", table.markdown()]
    if len(tables) > 1:
        parts += [f"{heading}# All settings together", aggregate(outcome)]
    if outcome.missing:
        missing = "; ".join(str(cell) for cell in outcome.missing)
        parts.append(f"Not finished, and so not in the tables: {missing}.")
    if outcome.plans:
        parts.append(PLANS)
    parts.append(INTERVALS)
    return "\n\n".join(parts) + "\n"


def _sizes(outcome: Outcome) -> str:
    study = outcome.study
    where = sorted({result.machine for result in outcome.results})
    text = (
        f"{study.seeds} seeds, {study.steps_scale:g} x each method's own training steps, "
        f"{study.episodes} episodes, the same for all."
    )
    return text + (f" Measured on {'; '.join(where)}." if where else "")


def aggregate(outcome: Outcome) -> str:
    """A Markdown table of each entry over all places: ratios to the reference, place by place.

    The interquartile mean is over seeds and places, its interval by the stratified bootstrap.
    """
    metric, reference = METRICS[outcome.study.metric], outcome.study.reference
    rows = []
    for label, ratios in _ratios(outcome).items():
        seeds = np.stack([ratio.mean(axis=1) for ratio in ratios], axis=1)  # [S, places]
        if seeds.shape[0] == 1:  # nothing learns: over episodes
            seeds = np.stack([ratio[0] for ratio in ratios], axis=1)
        iqm, ends = interquartile_mean(seeds), interquartile_interval(seeds)
        rows.append(_Overall(label, len(ratios), iqm, ends, float(seeds.mean())))
    rows.sort(key=lambda row: row.iqm, reverse=not metric.smaller_is_better)
    columns = [
        Column[_Overall]("method", lambda row: row.name, left=True),
        Column[_Overall]("settings", lambda row: str(row.settings)),
        Column[_Overall](f"/ {reference}: interquartile mean", lambda row: number(row.iqm, 3)),
        Column[_Overall]("95 %", lambda row: interval(row.iqm_interval, 3)),
        Column[_Overall]("mean", lambda row: number(row.mean, 3)),
    ]
    return markdown_table(columns, rows)


@dataclasses.dataclass(frozen=True)
class _Overall:
    """An entry over several settings: ratios to the reference."""

    name: str
    settings: int
    iqm: float
    iqm_interval: Interval
    mean: float


def _ratios(outcome: Outcome) -> dict[str, list[np.ndarray]]:
    """By label, [S, episodes] over the reference's mean on the same episode, for each place."""
    metric = outcome.study.metric
    ratios: dict[str, list[np.ndarray]] = {}
    for table in comparisons(outcome).values():
        reference = table.reference.values[metric].mean(axis=0)
        for report in table.reports:
            ratios.setdefault(report.name, []).append(report.values[metric] / reference)
    order = [entry.label for entry in outcome.study.entries]
    return {label: ratios[label] for label in order if label in ratios}


def figures(outcome: Outcome) -> dict[str, Figure]:
    """The figures of a study, by file name: what a sweep shows, or curves, bars, profiles."""
    study = outcome.study
    metric = METRICS[study.metric]
    drawn: dict[str, Figure] = {}
    if study.sweep is not None:
        for preset in study.presets or (outcome.study.places[0].preset,):
            for name in (study.metric, "failed"):
                curves = _sweep_figure(outcome, preset, name)
                if curves:
                    title = f"{preset}, {study.seeds} seeds, {study.episodes} episodes"
                    drawn[f"{name}_{preset}"] = plots.sweep_curves(
                        curves,
                        study.sweep.xlabel,
                        METRICS[name].title,
                        title=title,
                        within=(0.0, 1.0) if name == "failed" else (-np.inf, np.inf),
                    )
    else:
        for place, table in comparisons(outcome).items():
            learnt = [result for result in outcome.at(place) if result.steps is not None]
            name = place.preset or place.env
            others = {
                r.cell.entry.label: r.report.mean(study.metric)
                for r in outcome.at(place)
                if r.cell.entry.label == study.reference and not r.cell.learns
            }
            if learnt:
                drawn[f"learning_curves_{name}"] = plots.learning_curves(
                    {r.cell.entry.label: _plotted_curve(r, study.metric) for r in learnt},
                    ylabel=f"{metric.title}, evaluated",
                    references=others,
                    title=str(place),
                    **_view(learnt, others, metric.smaller_is_better, study.metric),
                )
            drawn[f"comparison_{name}"] = plots.comparison_bars(
                {report.name: report.samples(study.metric) for report in table.by_metric},
                xlabel=f"{metric.title}, 95 % interval over seeds or episodes",
                highlight=[r.cell.entry.label for r in learnt],
                title=str(place),
            )
    if metric.smaller_is_better and (ratios := _ratios(outcome)):
        drawn["profiles"] = plots.performance_profiles(
            {label: np.concatenate(values, axis=1) for label, values in ratios.items()},
            xlabel=f"make-span of an episode / {study.reference}",
            title=study.name,
        )
    return drawn


def _view(
    learnt: list[Result], others: dict[str, float], smaller_is_better: bool, metric: str
) -> Keywords:
    """Where a cost falls by orders of magnitude, the range that the methods end in; and steps
    on a logarithmic axis where some train ten times as long as others."""
    ends = [float(np.nanmean(_plotted_curve(r, metric).values[:, -1])) for r in learnt]
    lengths = [float(_plotted_curve(r, metric).steps[-1]) for r in learnt]
    view: Keywords = {"log_steps": max(lengths) >= 10 * min(lengths)}
    shown = [value for value in (*ends, *others.values()) if np.isfinite(value)]
    if smaller_is_better and shown and min(shown) > 0:
        view["limits"] = (0.85 * min(shown), 1.6 * float(np.median(shown)))
    return view


def _plotted_curve(result: Result, metric: str) -> plots.Curve:
    return plots.Curve(result.steps, result.curve[metric])


def _sweep_figure(outcome: Outcome, preset: str | None, metric: str) -> dict[str, plots.Curve]:
    """By label, the samples at each finished point of the sweep, as many at each."""
    places = [place for place in outcome.study.places if place.preset == preset]
    curves = {}
    for entry in outcome.study.entries:
        found = [(place, outcome.find(entry.label, place)) for place in places]
        points = [
            (place.point.x, result.report.samples(metric))
            for place, result in found
            if result is not None and place.point is not None and metric in result.report.values
        ]
        if points:
            steps, samples = zip(*points, strict=True)
            curves[entry.label] = plots.Curve(steps, np.stack(samples, axis=1))
    return curves
