"""Claims against made-up measurements: yes, no, not decided."""

import dataclasses

import measured
import numpy as np
import pytest

from jaxmec.studies.catalogue import find_study
from jaxmec.studies.claims import Claim
from jaxmec.studies.verdicts import NO, OPEN, YES, judge

METHODS = dataclasses.replace(find_study("amcoedge-methods", "short"), seeds=3)
LEVELS = {entry.label: 0.3 for entry in METHODS.entries}
POLES = find_study("cartpole", "short")


def verdict(ours, theirs, expected="less", margin=0.0, spread=0.01, quantity="makespan"):
    claim = Claim("c", "s", METHODS.name, "ddrl-amsa", "drlcoedge", quantity, expected, margin)
    levels = LEVELS | {"ddrl-amsa": ours, "drlcoedge": theirs}
    return judge(claim, measured.outcome(METHODS, levels, spread=spread))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "margin", "spread", "holds"),
    [
        (0.20, 0.30, "less", 0.1822, 0.005, YES),
        (0.27, 0.30, "less", 0.1822, 0.005, NO),  # 10 % less is less, but not by 18.22 %
        (0.245, 0.30, "less", 0.1822, 0.02, OPEN),  # 18.3 %, within the interval
        (0.35, 0.30, "less", 0.0, 0.005, NO),
        (0.30, 0.30, "less", 0.0, 0.0, NO),  # the same is not less
        (0.30, 0.30, "no more", 0.0, 0.0, YES),
        (0.303, 0.30, "no more", 0.02, 0.001, YES),
        (0.33, 0.30, "no more", 0.02, 0.001, NO),
        (0.33, 0.30, "more", 0.0, 0.005, YES),
        (0.30, 0.30, "more", 0.0, 0.0, NO),
        (0.31, 0.30, "near", 1.06, 0.001, YES),
        (0.40, 0.30, "near", 1.06, 0.001, NO),
        (0.334, 0.30, "near", 1.06, 0.01, OPEN),  # 1.113, at the edge of 1.06 x 1.05
        (0.20, 0.30, "less", 0.0, 1.0, OPEN),
    ],
)
def test_a_claim_holds_by_its_interval(ours, theirs, expected, margin, spread, holds):
    found = verdict(ours, theirs, expected, margin, spread)
    assert found.holds == holds, found
    assert found.change == pytest.approx(found.ours / found.theirs - 1)


def test_the_interval_of_a_change_against_numpy():
    found = verdict(0.2, 0.3)
    levels = LEVELS | {"ddrl-amsa": 0.2, "drlcoedge": 0.3}
    outcome = measured.outcome(METHODS, levels, spread=0.01)
    a, b = (outcome.find(n).report.values["makespan"].mean(1) for n in ("ddrl-amsa", "drlcoedge"))
    residual = (a - a.mean() / b.mean() * b) / b.mean()
    half = 4.302653 * residual.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert found.student == pytest.approx(
        (a.mean() / b.mean() - 1 - half, a.mean() / b.mean() - 1 + half), rel=1e-5
    )
    low, high = found.bootstrap
    assert min(a / b) - 1 - 1e-9 <= low < found.change < high <= max(a / b) - 1 + 1e-9


def test_failure_rates_are_compared_by_difference_and_may_be_zero():
    found = verdict(0.2, 0.3, "no more", quantity="failed")
    assert found.change == pytest.approx(found.ours - found.theirs)
    claim = Claim("c", "s", METHODS.name, "ddrl-amsa", "drlcoedge", "failed", "no more")
    outcome = measured.outcome(METHODS, LEVELS)
    for result in outcome.results:
        result.report.values["failed"][:] = 0
    assert judge(claim, outcome).holds == YES


@pytest.mark.parametrize("quantity", ["return", "area", "steps", "equal time"])
def test_cartpole_by_every_quantity(quantity):
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", quantity,
                  "less" if quantity == "steps" else "more")  # fmt: skip
    outcome = measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 490}, spread=0.005)
    found = judge(claim, outcome)
    assert found.holds == YES
    if quantity == "area":  # of a line from 0.2 to 1 times the level
        assert found.ours == pytest.approx(0.6 * 600, rel=0.02)
    if quantity == "steps":  # 475 / 600 = 0.79 is reached at the 9th of 11 points of 0.2 ... 1
        assert found.ours == 9_000 and found.theirs == 11_000
        assert found.note == "reached by 3 of 3 and 3 of 3 seeds"


def test_steps_of_who_never_gets_there_count_as_all_and_are_said():
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", "steps", "less")
    outcome = measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 300}, spread=0.001)
    found = judge(claim, outcome)
    assert found.theirs == 11_000 and found.note == "reached by 3 of 3 and 0 of 3 seeds"


def test_equal_time_is_the_time_of_the_faster():
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", "equal time", "more")
    outcome = measured.outcome(POLES, {"dsac": 500, "sac": 500, "dqn": 500}, spread=0.0)
    results = [
        dataclasses.replace(r, seconds=r.seconds * 2) if r.cell.entry.label == "dsac" else r
        for r in outcome.results
    ]
    found = judge(claim, dataclasses.replace(outcome, results=tuple(results)))
    # dqn takes 100 s from its first point to its last; dsac is then half way.
    assert found.note == "at 100 s"
    assert found.theirs == pytest.approx(500) and found.ours == pytest.approx(300)
