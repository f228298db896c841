"""The papers' claims against what the studies measured, as a page.

A claim is data: which entries of which study, by what quantity, and how far apart. The page
is written from the result files alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmec import plots
from jaxmec.core import files
from jaxmec.core.naming import look_up
from jaxmec.core.statistics import (
    Interval,
    area_under_curve,
    bootstrap_interval,
    first_reached,
    mean_interval,
    relative_change,
    t_interval,
)
from jaxmec.experiment import PathLike
from jaxmec.studies import results
from jaxmec.studies.catalogue import STUDIES, find_study
from jaxmec.studies.comparison import interval_text, markdown_table
from jaxmec.studies.study import Outcome, Result, collect

SOLVED = 475.0  # Gymnasium's threshold for CartPole-v1
NEAR = 0.05  # how far, as a share, "near" a published figure is
YES, NO, OPEN, ABSENT = "yes", "no", "not decided", "not measured"
EXPECTED = {
    "less": "ours is less, by at least the margin",
    "more": "ours is more, by at least the margin",
    "no more": "ours is at most (1 + margin) of theirs",
    "near": f"ours over theirs is within {100 * NEAR:g} % of the margin",
}
QUANTITIES = {
    "makespan": "make-span",
    "failed": "failure rate",
    "return": "return after training",
    "area": "area under the learning curve",
    "steps": f"steps to {SOLVED:g}",
    "equal time": "return at equal wall clock",
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """That one entry of a study does so much better than another.

    Raises:
        ValueError: a quantity or a relation that is not known.
    """

    text: str
    source: str
    study: str  # in `jaxmec.studies.catalogue`
    ours: str  # label of an entry
    theirs: str  # label of an entry
    quantity: str  # in QUANTITIES
    expected: str  # in EXPECTED
    margin: float = 0.0  # a share of theirs; for "near", the ratio itself

    def __post_init__(self) -> None:
        look_up("quantity", self.quantity, QUANTITIES)
        look_up("relation", self.expected, EXPECTED)


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


PAPER = "the DDRL abstract of 2024"
RERUN = "published code, run again"


def _cartpole(quantity: str, expected: str, margins: tuple[float, float] = (0, 0)) -> list[Claim]:
    """DSAC against DQN and SAC; ``margins`` are how much more of it the paper claims."""
    return [
        Claim(
            f"DSAC against {theirs.upper()} on CartPole, by {QUANTITIES[quantity]}"
            + (f": {100 * margin:.2f} % {expected}" if margin else ""),
            PAPER, "cartpole", "dsac", theirs, quantity, expected, margin,
        )
        for theirs, margin in zip(("dqn", "sac"), margins, strict=True)
    ]  # fmt: skip


def _amsa(suffix: str) -> list[Claim]:
    terms = "as published" if suffix else "equal terms"
    claims = []
    for theirs, name, margin in (
        ("drlcoedge", "DRLCoEdge", 0.1822),
        ("smcoedge", "SMCoEdge", 0.1354),
    ):
        claims += [
            Claim(
                f"DDRL-AMSA: {100 * margin:.2f} % less delay than {name} ({terms})",
                PAPER, "amcoedge-methods", f"ddrl-amsa{suffix}", f"{theirs}{suffix}",
                "makespan", "less", margin,
            ),
            Claim(
                f"DDRL-AMSA: failure rate no higher than {name}'s ({terms})",
                "ours", "amcoedge-methods", f"ddrl-amsa{suffix}", f"{theirs}{suffix}",
                "failed", "no more",
            ),
        ]  # fmt: skip
    return claims


CLAIMS: tuple[Claim, ...] = (
    *_cartpole("return", "more"),
    *_cartpole("area", "more", (0.0957, 0.1836)),  # the paper's "average reward"
    *_cartpole("steps", "less"),
    *_amsa(""),
    *_amsa(" (published)"),
    *(
        Claim(
            f"{name}: {ratio:.2f} x Optimal",
            RERUN, "amcoedge-methods", label, "optimal", "makespan", "near", ratio,
        )
        for name, label, ratio in (
            ("AMCoEdge", "amcoedge (published)", 1.06),
            ("SMCoEdge", "smcoedge (published)", 1.23),
            ("DRLCoEdge", "drlcoedge (published)", 1.31),
            ("RandCoEdge", "RandCoEdge (published)", 1.39),
        )
    ),
    Claim(
        "DDRL-AMSA, water-filling on what is seen: no more than 1.00 x Optimal",
        "ours", "amcoedge-methods", "ddrl-amsa", "optimal", "makespan", "no more",
    ),
    Claim(
        "DDRL-AMSA: no worse than the best fixed sets",
        "ours", "amcoedge-methods", "ddrl-amsa", "static-sets", "makespan", "no more",
    ),
    *(
        Claim(
            f"{label}: less delay than the shortest expected delay on one server",
            "ours", "amcoedge-methods", label, "shortest-delay-own", "makespan", "less",
        )
        for label in ("ddrl-amsa", "ddrl-amsa-pathwise", "ddrl-amsa-cloned", "ddrl-amsa-taught")
    ),
    *(
        Claim(
            f"{label}: below Optimal with what a station can know",
            "ours", "amcoedge-methods", label, "optimal", "makespan", "less",
        )
        for label in ("ddrl-amsa-pathwise", "ddrl-amsa-taught")
    ),
    Claim(
        "ddrl-amsa-taught: less delay than ddrl-amsa-pathwise, which nobody teaches",
        "ours", "amcoedge-methods", "ddrl-amsa-taught", "ddrl-amsa-pathwise", "makespan", "less",
    ),
    *(
        Claim(
            f"{ours}, {where}: {100 * margin:.2f} % less delay than {name}",
            "ours", study, ours, theirs, "makespan", "less", margin,
        )
        for study, where, labels in (
            ("amcoedge-methods", "5 servers", ("ddrl-amsa-pathwise", "ddrl-amsa-taught")),
            ("amcoedge-many-servers", "20 servers", ("ddrl-amsa", "ddrl-amsa-pathwise")),
        )
        for ours in labels
        for theirs, name, margin in (
            ("drlcoedge", "DRLCoEdge", 0.1822),
            ("smcoedge", "SMCoEdge", 0.1354),
        )
    ),
    *(
        Claim(
            f"{ours}, 20 servers: less delay than {about}",
            "ours", "amcoedge-many-servers", ours, theirs, "makespan", "less",
        )
        for ours in ("ddrl-amsa", "ddrl-amsa-pathwise")
        for theirs, about in (
            ("static-sets, local", "the best fixed sets, with the own queues seen"),
            ("shortest-delay-own", "the shortest expected delay on one server"),
            ("water-filling-full", "greedy water-filling with full information"),
        )
    ),
    *(
        Claim(
            f"DDRL-ATS: less delay than {theirs.upper()}",
            PAPER, "lad-ts-methods", "ddrl-ats", theirs, "makespan", "less",
        )
        for theirs in ("dqn-ts", "sac-ts", "d2sac-ts", "lad-ts")
    ),
    *(
        Claim(
            f"DDRL-ATS: less delay than {about}",
            "ours", "lad-ts-methods", "ddrl-ats", theirs, "makespan", "less",
        )
        for theirs, about in (
            ("weighted-coin", "the coin weighted by capacity"),
            ("stochastic-coordination", "stochastic coordination"),
            ("shortest-delay-all", "the shortest delay with B x the own work"),
            ("marginal-delay", "marginal delay, our own rule on the same prices"),
        )
    ),
    Claim(
        "DDRL-ATS: within 1 % of Opt-TS, or below",
        "ours", "lad-ts-methods", "ddrl-ats", "opt-ts", "makespan", "no more", 0.01,
    ),
    *(
        Claim(
            f"ddrl-ats-pathwise: less delay than {about}",
            "ours", "lad-ts-methods", "ddrl-ats-pathwise", theirs, "makespan", "less",
        )
        for theirs, about in (
            ("opt-ts", "Opt-TS"),
            ("ddrl-ats", "DDRL-ATS, which learns without the simulator's gradient"),
            ("marginal-delay", "marginal delay, our own rule on the same prices"),
        )
    ),
    Claim(
        "DSAC: a higher return than SAC at equal wall clock",
        "ours", "cartpole-ablation", "dsac", "sac, 4 x the steps", "equal time", "more",
    ),
    *(
        Claim(
            f"DSAC (K = 5, x0, soft): a larger area under the curve than {label}",
            "ours", "cartpole-ablation", "dsac", label, "area", "more",
        )
        for label in (
            "sac", "K = 1", "K = 2", "K = 3", "K = 10",
            "x0, hard", "x0, none", "noise, soft", "noise, hard", "noise, none",
        )
    ),
)  # fmt: skip


def check(claim: Claim, outcome: Outcome) -> Verdict:
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
        # The check that both met the same episodes is the difference's.
        ours.report.difference(theirs.report, quantity)
        mine, other = ours.report.values[quantity], theirs.report.values[quantity]
        if max(len(mine), len(other)) == 1:
            return mine[0], other[0], ""
        return *_as_many(mine.mean(axis=1), other.mean(axis=1)), ""
    if quantity == "equal time":
        time = min(float((r.seconds - r.seconds[0])[-1]) for r in (ours, theirs))  # type: ignore[index, operator]
        at = [_at_time(result, time) for result in (ours, theirs)]
        return *_as_many(*at), f"at {time:.0f} s"
    curves = [(r.steps, r.curve["return"]) for r in (ours, theirs)]
    if quantity == "area":
        return *_as_many(*(area_under_curve(*curve) for curve in curves)), ""  # type: ignore[arg-type]
    reached = [first_reached(*curve, SOLVED) for curve in curves]  # type: ignore[arg-type]
    counts = [f"{np.isfinite(r).sum()} of {r.size}" for r in reached]
    # Who did not get there needs more than all steps; that many favours nobody who did.
    capped = [
        np.where(np.isnan(r), steps[-1], r)  # type: ignore[index]
        for r, (steps, _) in zip(reached, curves, strict=True)
    ]
    return *_as_many(*capped), f"reached by {counts[0]} and {counts[1]} seeds"


def _as_many(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[S] both; what does not learn stands beside every seed."""
    count = max(ours.size, theirs.size)
    return np.broadcast_to(ours, count), np.broadcast_to(theirs, count)


def _at_time(result: Result, time: float) -> np.ndarray:
    """[S] the return so many seconds after the first point, between points linearly."""
    assert result.seconds is not None
    elapsed = result.seconds - result.seconds[0]
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


def page(size: str, out: PathLike, directory: PathLike, command: str) -> str:
    """The page as Markdown, from the result files under ``out``.

    Args:
        size: of the studies, in `jaxmec.studies.catalogue.SIZES`.
        out: what `jaxmec.studies.study.run` was given.
        directory: of the page; its figures go to ``results/reproduction`` in it.
        command: that runs the studies and writes the page, for its first lines.
    """
    outcomes = {name: collect(find_study(name, size), out) for name in STUDIES}
    verdicts = [check(claim, outcomes[claim.study]) for claim in CLAIMS]
    found = [result for outcome in outcomes.values() for result in outcome.results]
    parts = [
        "# The claims, measured",
        f"Written by `{command}` from its result files, not by hand. {_measured_on(found)}",
        _counts(verdicts),
        _claims_table(verdicts),
        HOW_TO_READ,
    ]
    for name, outcome in outcomes.items():
        parts.append(results.markdown(outcome, "##").rstrip())
        for stem, figure in results.figures(outcome).items():
            file = Path("results") / "reproduction" / f"{name}_{stem}.png"
            plots.save(figure, Path(directory) / file, ("png",))
            parts.append(f"![{name}: {stem.replace('_', ' ')}]({file.as_posix()})")
    return "\n\n".join(parts) + "\n"


def write(size: str, out: PathLike, file: PathLike, command: str) -> Path:
    """Write the page and its figures; returns the page's path."""
    file = Path(file)
    files.write_whole(file, page(size, out, file.parent, command))
    return file


HOW_TO_READ = (
    'A claim holds ("yes") or fails ("no") where both 95 % intervals of the change, the paired '
    "bootstrap's and Student's t, lie wholly on one side of what is claimed; otherwise it is "
    '"not decided". The change is ours over theirs less 1, over training seeds and the same '
    'episodes; for failure rates it is ours less theirs, in percentage points. "near" means '
    f"within {100 * NEAR:g} % of the figure. The intervals speak of training seeds, on these "
    "episodes. As published, whoever allocates knows the true waits, and the published "
    "baselines were each measured in an environment of their own, which moves make-spans by 5 "
    "to 17 %; here there is one environment for all."
)


def _measured_on(found: Sequence[Result]) -> str:
    if not found:
        return "Nothing has been measured yet."
    machines = sorted({result.machine for result in found})
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in sorted(result.versions.items())) for result in found}
    )
    return f"Measured on {'; '.join(machines)} ({'; '.join(versions)})."


def _counts(verdicts: Sequence[Verdict]) -> str:
    said = [verdict.holds for verdict in verdicts]
    return f"Of {len(said)} claims: " + ", ".join(
        f"{said.count(word)} {word}" for word in (YES, NO, OPEN, ABSENT)
    ) + "."  # fmt: skip


def _claims_table(verdicts: Sequence[Verdict]) -> str:
    headers = ["claim", "source", "holds", "ours", "theirs", "change", "95 % (bootstrap)",
               "95 % (t)", "note"]  # fmt: skip
    lines = []
    for verdict in verdicts:
        claim = verdict.claim
        decimals = {"makespan": 4, "failed": 4, "steps": 0}.get(claim.quantity, 1)
        unit = " points" if claim.quantity == "failed" else " %"
        measured = verdict.holds != ABSENT
        lines.append(
            [
                claim.text,
                claim.source,
                f"**{verdict.holds}**",
                f"{verdict.ours:,.{decimals}f}" if measured else "-",
                f"{verdict.theirs:,.{decimals}f}" if measured else "-",
                f"{100 * verdict.change:+.1f}{unit}" if measured else "-",
                interval_text(verdict.bootstrap, 1, 100, "+"),
                interval_text(verdict.student, 1, 100, "+"),
                verdict.note or "-",
            ]
        )
    return markdown_table(headers, lines, left=3)
