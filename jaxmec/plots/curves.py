"""What was measured: learning curves, comparisons, sweeps, profiles, with 95 % intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxmec.core.statistics import mean_interval, performance_profile
from jaxmec.plots.style import DASHES, PALETTE, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """What several seeds measured while they learned, or at the points of a sweep."""

    # Given as anything that NumPy reads, kept as NumPy arrays.
    steps: Any  # [P] environment steps, or what is swept, growing
    values: Any  # [S, P] in the unit of the axis; NaN where a seed has no value

    def __post_init__(self) -> None:
        steps, values = np.asarray(self.steps, float), np.asarray(self.values, float)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", values)
        if steps.ndim != 1 or steps.size == 0:
            raise ValueError(f"steps must have the shape [P] with P > 0, got {steps.shape}")
        if np.any(np.diff(steps) <= 0):
            raise ValueError(f"steps must grow, got {steps}")
        if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != steps.size:
            raise ValueError(
                f"values must have the shape [S, {steps.size}], one row a seed and one column "
                f"a step, got {values.shape}"
            )


def learning_curves(
    curves: Mapping[str, Curve],
    ylabel: str,
    *,
    references: Mapping[str, float] | None = None,
    xlabel: str = "environment steps",
    title: str = "",
    log_steps: bool = False,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One line a method: the mean over seeds, its 95 % interval shaded.

    Args:
        curves: by the name of the legend. Steps at which a seed has no finite value are
            left blank.
        ylabel: what the values are, with their unit: ``"make-span [s]"``.
        references: horizontal lines in the unit of the values, by name.
        xlabel: what the steps are.
        title: above the axes; empty for none.
        log_steps: a logarithmic axis of steps, for curves of very different lengths; what
            was measured before the first step is left out.
        limits: the least and the largest value shown; by default those of all means and
            references, and of any seed in a curve's later half. Beyond them a seed that has not
            learned yet may reach, and the interval of few seeds.

    Raises:
        ValueError: no curves.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one")
    intervals = [
        mean_interval(np.where(np.isfinite(curve.values), curve.values, np.nan))
        for curve in curves.values()
    ]
    if limits is None:
        late = [curve.values[:, curve.steps.size // 2 :] for curve in curves.values()]
        means = [mean for mean, _ in intervals]
        limits = _span([*means, *late], (references or {}).values())
    with styled() as (Figure, ticker):
        figure = Figure(figsize=(7.0, _height([*curves, *(references or {})])))
        axes = figure.add_subplot()
        alpha = 0.2 if len(curves) <= 6 else 0.07  # many bands must not hide the lines
        for (name, curve), (mean, half), (dash, colour) in zip(
            curves.items(), intervals, _line_styles(), strict=False
        ):
            steps = curve.steps
            lone = "o" if steps.size == 1 else ""  # a line through one point shows nothing
            axes.plot(steps, mean, dash, color=colour, label=_legend_name(name), marker=lone)
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=alpha, lw=0)
        for (name, value), dash in zip((references or {}).items(), cycle(DASHES[1:]), strict=False):
            axes.axhline(value, color="black", lw=1, ls=dash, label=name)
        if log_steps:
            axes.set_xscale("log", nonpositive="mask")
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.margins(x=0.01)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=limits)
        figure.legend(loc="outside right upper", title=_interval_note(curves), alignment="left")
    return figure


def _span(values: Sequence[np.ndarray], references: Iterable[float]) -> tuple[float, float] | None:
    """The least and the largest of all that is finite, with a margin; None if nothing is."""
    shown = np.concatenate([*(np.ravel(array) for array in values), np.array([*references])])
    shown = shown[np.isfinite(shown)]
    if not shown.size:
        return None
    margin = 0.05 * float(np.ptp(shown)) or 0.05 * abs(float(shown[0])) or 1.0
    return float(shown.min()) - margin, float(shown.max()) + margin


def sweep_curves(
    curves: Mapping[str, Curve],
    xlabel: str,
    ylabel: str,
    *,
    title: str = "",
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Figure:
    """One line a method against a swept quantity: means, with 95 % intervals as whiskers.

    Args:
        curves: by the name of the legend; S are seeds, or episodes of what does not learn.
            The points of different curves stand side by side, so that no whisker hides
            another.
        xlabel, ylabel: what is swept and what is measured, with their units.
        title: above the axes; empty for none.
        within: what the quantity can be, as (0, 1) of a share; no whisker leaves it.

    Raises:
        ValueError: no curves.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not curves:
        raise ValueError("curves is empty; expected at least one")
    places = np.unique(np.concatenate([curve.steps for curve in curves.values()]))
    gap = np.diff(places).min() if places.size > 1 else 1.0
    shifts = np.linspace(-0.15, 0.15, len(curves)) * gap if len(curves) > 1 else [0.0]
    with styled() as (Figure, _):
        figure = Figure(figsize=(7.5, _height(curves)))
        axes = figure.add_subplot()
        for (name, curve), (dash, colour), mark, shift in zip(
            curves.items(), _line_styles(), cycle("osD^v"), shifts, strict=False
        ):
            mean, half = mean_interval(curve.values)
            whiskers = [np.minimum(half, mean - within[0]), np.minimum(half, within[1] - mean)]
            axes.errorbar(
                curve.steps + shift, mean, yerr=whiskers, label=_legend_name(name), color=colour,
                ls=dash, marker=mark, markersize=4, lw=1.2, elinewidth=1, capsize=2,
            )  # fmt: skip
        if places.size <= 10:
            axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        figure.legend(
            loc="outside right upper",
            title="mean, 95 % interval over seeds\n(episodes where nothing learns)",
            alignment="left",
        )
    return figure


def performance_profiles(
    scores: Mapping[str, ArrayLike],
    xlabel: str,
    *,
    thresholds: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """One line a method: the share of its runs whose score is at most each threshold.

    Higher is better, and the line's place where it crosses 0.5 is the median. The mean over
    seeds, its 95 % interval shaded (Agarwal et al. 2021).

    Args:
        scores: by the name of the legend, [S, X]: S seeds, X episodes of all settings;
            less is better.
        xlabel: what the scores are.
        thresholds: [T], growing; by default 201 over what is between the smallest and the
            99th percentile of the scores.
        title: above the axes; empty for none.

    Raises:
        ValueError: no scores, or scores that are not [S, X].
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not scores:
        raise ValueError("scores is empty; expected at least one method")
    arrays = {name: np.asarray(values, float) for name, values in scores.items()}
    for name, values in arrays.items():
        if values.ndim != 2 or values.size == 0:
            raise ValueError(f"scores of {name!r} must have the shape [S, X], got {values.shape}")
    if thresholds is None:
        everything = np.concatenate([np.ravel(values) for values in arrays.values()])
        thresholds = np.linspace(np.nanmin(everything), np.nanpercentile(everything, 99), 201)
    with styled() as (Figure, _):
        figure = Figure(figsize=(7.5, _height(arrays)))
        axes = figure.add_subplot()
        for (name, values), (dash, colour) in zip(arrays.items(), _line_styles(), strict=False):
            mean, half = mean_interval(performance_profile(values, thresholds))
            axes.plot(
                thresholds,
                mean,
                dash,
                color=colour,
                label=_legend_name(name),
                drawstyle="steps-post",
            )
            low, high = np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
            axes.fill_between(thresholds, low, high, color=colour, alpha=0.2, lw=0, step="post")
        axes.margins(x=0.01)
        axes.set(xlabel=xlabel, ylabel="share of episodes at most there", ylim=(0, 1.02))
        axes.set_title(title)
        figure.legend(
            loc="outside right upper", title="mean, 95 % interval\nover seeds", alignment="left"
        )
    return figure


def comparison_bars(
    rows: Mapping[str, ArrayLike],
    xlabel: str,
    *,
    references: Mapping[str, float] | None = None,
    highlight: Collection[str] = (),
    title: str = "",
) -> Figure:
    """One horizontal bar a method, from the top in the order given.

    The bar is the mean, the whisker its 95 % interval, and both stand in numbers at the
    right.

    Args:
        rows: by the method's name, [S] values in the unit of the axis: one a seed, or one
            an episode for what does not learn.
        xlabel: what the values are, with their unit: ``"make-span [s]"``.
        references: vertical lines in the same unit, by name.
        highlight: the names of the rows to draw in another colour.
        title: above the axes; empty for none.

    Raises:
        ValueError: no rows, a row that is not [S], a value that is not finite, or a
            highlighted name that is not a row.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one")
    if unknown := set(highlight) - set(rows):
        raise ValueError(f"highlight names {sorted(unknown)}; expected some of {list(rows)}")
    values = {name: np.asarray(row, float) for name, row in rows.items()}
    for name, row in values.items():
        if row.ndim != 1 or row.size == 0 or not np.all(np.isfinite(row)):
            raise ValueError(f"row {name!r} must have the shape [S] and finite values, got {row}")
    places = np.arange(len(values))
    means, halves = map(np.array, zip(*map(mean_interval, values.values()), strict=True))
    with styled() as (Figure, _):
        figure = Figure(figsize=(7.0, 1.2 + 0.32 * len(values) + 0.2 * bool(title)))
        axes = figure.add_subplot()
        axes.barh(
            places,
            means,
            height=0.7,
            color=[PALETTE[1] if name in highlight else PALETTE[0] for name in values],
        )
        axes.errorbar(means, places, xerr=halves, fmt="none", ecolor="black", capsize=3)
        for (name, value), dash in zip((references or {}).items(), cycle(DASHES[1:]), strict=False):
            axes.axvline(value, color="black", lw=1, ls=dash, label=name)
        axes.set_yticks(places, list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        numbers = axes.secondary_yaxis("right")
        numbers.set_yticks(places, _in_numbers(means, halves))
        numbers.tick_params(length=0)
        numbers.spines["right"].set_visible(False)
        axes.set(xlabel=xlabel, title=title)
        if references:
            figure.legend(loc="outside lower center", ncols=min(3, len(references)))
    return figure


def _line_styles() -> Iterator[tuple[str, str]]:
    """A dash and a colour a curve: all colours first, then again with the next dash."""
    return cycle(product(DASHES, PALETTE))


def _legend_name(name: str) -> str:
    """A name broken into lines, where it is long: the axes need their room."""
    return textwrap.fill(name, 30)


def _height(names: Collection[str]) -> float:
    """Inches that a figure needs for a legend of those names beside it."""
    lines = sum(_legend_name(name).count("\n") + 1 for name in names)
    return max(4.0, 1.2 + 0.22 * lines)


def _interval_note(curves: Mapping[str, Curve]) -> str:
    """How many seeds the shading speaks of, for the legend's title."""
    seeds = sorted({len(curve.values) for curve in curves.values()})
    if seeds == [1]:
        return "1 seed"
    return f"mean, 95 % interval\n{'–'.join(map(str, (seeds[0], seeds[-1])[: len(seeds)]))} seeds"


def _in_numbers(means: NDArray, halves: NDArray) -> list[str]:
    """Each mean ± half-width, with as many decimals as the scale of all of them asks for."""
    scale = np.max(np.abs(means))
    decimals = 3 if scale == 0 else int(np.clip(3 - np.floor(np.log10(scale)), 0, 6))
    return [
        f"{mean:.{decimals}f}".replace("-", "−")
        + ("" if np.isnan(half) else f" ± {half:.{decimals}f}")
        for mean, half in zip(means, halves, strict=True)
    ]
