"""Whether a claim holds, by what its study measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmec.core.statistics import (
    Interval,
    area_under_curve,
    bootstrap_interval,
    first_reached,
    mean_interval,
    relative_change,
    t_interval,
)
from jaxmec.studies.claims import NEAR, SOLVED, Claim
from jaxmec.studies.study import Outcome, Result

YES, NO, OPEN, ABSENT = "yes", "no", "not decided", "not measured"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was measured of a claim."""

    claim: Claim
    holds: str  # YES, NO, OPEN or ABSENT
    ours: float  # in the quantity's unit
    theirs: float
    change: float  # ours / theirs - 1; of failure rates, ours - theirs
    bootstrap: Interval  # of the change, 95 %, paired
    student: Interval  # likewise
    note: str = ""


def judge(claim: Claim, outcome: Outcome) -> Verdict:
    """Set a claim against what its study measured."""
    ours, theirs = outcome.find(claim.ours), outcome.find(claim.theirs)
    nothing = (float("nan"), float("nan"))
    if ours is None or theirs is None:
        missing = claim.ours if ours is None else claim.theirs
        nan = float("nan")
        return Verdict(claim, ABSENT, nan, nan, nan, nothing, nothing, f"{missing} is not finished")
    mine, other, note = _samples(claim.quantity, ours, theirs)
    if claim.quantity == "failed":  # may be 0, so that a ratio says nothing
        difference = mine - other
        change = float(difference.mean())
        intervals = bootstrap_interval(difference), t_interval(difference)
    else:
        change = float(relative_change(mine, other))
        intervals = (
            bootstrap_interval(mine, other, statistic=relative_change, paired=True),
            _relative_t_interval(mine, other),
        )
    return Verdict(
        claim, _holds(claim, intervals), float(mine.mean()), float(other.mean()), change,
        *intervals, note,
    )  # fmt: skip


def _samples(quantity: str, ours: Result, theirs: Result) -> tuple[np.ndarray, np.ndarray, str]:
    """Both [n], paired: seeds where either has several, else episodes; and a note."""
    if quantity in ("makespan", "failed", "return"):
        # The judge that both met the same episodes is the difference's.
        ours.report.difference(theirs.report, quantity)
        mine, other = ours.report.values[quantity], theirs.report.values[quantity]
        if max(len(mine), len(other)) == 1:
            return mine[0], other[0], ""
        return *_as_many(mine.mean(axis=1), other.mean(axis=1)), ""
    if quantity == "equal time":
        time = min(_elapsed(result)[-1] for result in (ours, theirs))
        at = [_at_time(result, time) for result in (ours, theirs)]
        return *_as_many(*at), f"at {time:.0f} s"
    curves = [_learning_curve(result) for result in (ours, theirs)]
    if quantity == "area":
        return *_as_many(*(area_under_curve(*curve) for curve in curves)), ""
    reached = [first_reached(*curve, SOLVED) for curve in curves]
    counts = [f"{np.isfinite(r).sum()} of {r.size}" for r in reached]
    # A seed that did not get there needs more than all steps; that many favours no other.
    capped = [
        np.where(np.isnan(r), steps[-1], r) for r, (steps, _) in zip(reached, curves, strict=True)
    ]
    return *_as_many(*capped), f"reached by {counts[0]} and {counts[1]} seeds"


def _learning_curve(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """[P] the steps and [S, P] the returns of a method's learning curve."""
    if result.steps is None:
        raise ValueError(f"{result.cell} does not learn, and has no learning curve")
    return result.steps, result.curve["return"]


def _elapsed(result: Result) -> np.ndarray:
    """[P] s since the first point of a method's learning curve."""
    if result.seconds is None:
        raise ValueError(f"{result.cell} does not learn, and has no learning curve")
    return result.seconds - result.seconds[0]


def _as_many(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[S] both; what does not learn is set against every seed."""
    count = max(ours.size, theirs.size)
    return np.broadcast_to(ours, count), np.broadcast_to(theirs, count)


def _at_time(result: Result, time: float) -> np.ndarray:
    """[S] the return so many seconds after the first point, between points linearly."""
    elapsed = _elapsed(result)
    return np.array([np.interp(time, elapsed, curve) for curve in result.curve["return"]])


def _relative_t_interval(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Student's t interval of the relative change of paired means, to first order."""
    ratio = ours.mean() / theirs.mean()
    _, half = mean_interval((ours - ratio * theirs) / theirs.mean())
    return float(ratio - 1 - half), float(ratio - 1 + half)


def _holds(claim: Claim, intervals: Sequence[Interval]) -> str:
    """By both intervals: with few seeds the bootstrap's is too short, and Student's t is not."""
    low = min(interval[0] for interval in intervals)
    high = max(interval[1] for interval in intervals)
    margin = claim.margin
    if np.isnan([low, high]).any():
        return OPEN
    if claim.expected == "near":
        least, most = margin * (1 - NEAR) - 1, margin * (1 + NEAR) - 1
        if least <= low and high <= most:
            return YES
        return NO if high < least or most < low else OPEN
    if claim.expected == "no more":
        return YES if high <= margin else NO if low > margin else OPEN
    gain_low, gain_high = (low, high) if claim.expected == "more" else (-high, -low)
    if gain_low >= margin and gain_low > 0:
        return YES
    # Without a margin, no difference at all is not "less" or "more".
    return NO if gain_high < margin or gain_high <= 0 else OPEN
