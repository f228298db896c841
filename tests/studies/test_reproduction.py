"""Claims against made-up measurements: yes, no, not decided, and the page that says so."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import measured
import numpy as np
import pytest

from jaxmec.studies import reproduction
from jaxmec.studies.catalogue import SIZES, STUDIES, find_study
from jaxmec.studies.reproduction import CLAIMS, NO, OPEN, YES, Claim, check

METHODS = dataclasses.replace(find_study("amcoedge-methods", "short"), seeds=3)
LEVELS = {entry.label: 0.3 for entry in METHODS.entries}
POLES = find_study("cartpole", "short")


def verdict(ours, theirs, expected="less", margin=0.0, spread=0.01, quantity="makespan"):
    claim = Claim("c", "s", METHODS.name, "ddrl-amsa", "drlcoedge", quantity, expected, margin)
    levels = LEVELS | {"ddrl-amsa": ours, "drlcoedge": theirs}
    return check(claim, measured.outcome(METHODS, levels, spread=spread))


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
    assert check(claim, outcome).holds == YES


@pytest.mark.parametrize("quantity", ["return", "area", "steps", "equal time"])
def test_cartpole_by_every_quantity(quantity):
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", quantity,
                  "less" if quantity == "steps" else "more")  # fmt: skip
    outcome = measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 490}, spread=0.005)
    found = check(claim, outcome)
    assert found.holds == YES
    if quantity == "area":  # of a line from 0.2 to 1 times the level
        assert found.ours == pytest.approx(0.6 * 600, rel=0.02)
    if quantity == "steps":  # 475 / 600 = 0.79 is reached at the 9th of 11 points of 0.2 ... 1
        assert found.ours == 9_000 and found.theirs == 11_000
        assert found.note == "reached by 3 of 3 and 3 of 3 seeds"


def test_steps_of_who_never_gets_there_count_as_all_and_are_said():
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", "steps", "less")
    outcome = measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 300}, spread=0.001)
    found = check(claim, outcome)
    assert found.theirs == 11_000 and found.note == "reached by 3 of 3 and 0 of 3 seeds"


def test_equal_time_is_the_time_of_the_faster():
    claim = Claim("c", "s", "cartpole", "dsac", "dqn", "equal time", "more")
    outcome = measured.outcome(POLES, {"dsac": 500, "sac": 500, "dqn": 500}, spread=0.0)
    results = [
        dataclasses.replace(r, seconds=r.seconds * 2) if r.cell.entry.label == "dsac" else r
        for r in outcome.results
    ]
    found = check(claim, dataclasses.replace(outcome, results=tuple(results)))
    # dqn takes 100 s from its first point to its last; dsac is then half way.
    assert found.note == "at 100 s"
    assert found.theirs == pytest.approx(500) and found.ours == pytest.approx(300)


def test_every_claim_is_of_entries_that_the_full_studies_have():
    for claim in CLAIMS:
        labels = [entry.label for entry in find_study(claim.study).entries]
        assert claim.ours in labels and claim.theirs in labels, claim
    with pytest.raises(ValueError, match="did you mean 'makespan'"):
        Claim("c", "s", "cartpole", "a", "b", "makspan", "less")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_names_what_there_is(name, size):
    study = find_study(name, size)
    assert study.name == name
    assert study.cells
    assert len({cell.folder for cell in study.cells}) == len(study.cells)


def test_studies_of_amcoedge_share_their_common_setting():
    """All of it at full size; in short, whose sweeps train for less, what does not learn."""
    for size, shared in (("full", 5), ("short", 3)):
        base = {cell.folder for cell in find_study("amcoedge-methods", size).cells}
        for name in ("deadline", "probability", "tasks", "capacities"):
            sweep = {cell.folder for cell in find_study(f"amcoedge-{name}", size).cells}
            assert len(base & sweep) >= shared, (name, size)


def test_a_wrong_name_suggests_the_right_one():
    with pytest.raises(ValueError, match="did you mean 'amcoedge-deadline'"):
        find_study("amcoedge-deadlin")
    with pytest.raises(
        ValueError, match="size 'shrt' is not one of full, short; did you mean 'short'"
    ):
        find_study("cartpole", "shrt")


def test_the_page_says_what_was_measured_where_and_what_was_not(tmp_path, monkeypatch):
    levels = LEVELS | {"ddrl-amsa": 0.2, "optimal": 0.2}
    outcomes = {
        METHODS.name: measured.outcome(METHODS, levels, spread=0.001),
        "cartpole": measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 490}),
    }

    def collect(study, out):
        nothing = [entry.label for entry in study.entries]
        return outcomes.get(study.name) or measured.outcome(study, {}, missing=nothing)

    monkeypatch.setattr(reproduction, "collect", collect)
    file = reproduction.write("short", "nowhere", tmp_path / "docs" / "page.md", "the command")
    text = file.read_text()
    assert "Written by `the command`" in text and "a machine, 2 cores" in text
    (line,) = (
        row for row in text.splitlines() if "18.22 % less delay than DRLCoEdge (equal" in row
    )
    assert "| **yes** | 0.2" in line and "-33." in line
    (line,) = (row for row in text.splitlines() if "less delay than LAD-TS" in row)
    assert "| **not measured** | - | - | - | - | - | ddrl-ats is not finished |" in line
    figures = [word.split(")")[0] for word in text.split("](")[1:]]
    assert figures and all((file.parent / figure).is_file() for figure in figures)


@pytest.fixture
def script(monkeypatch):
    path = Path(__file__).parents[2] / "train" / "reproduction.py"
    spec = importlib.util.spec_from_file_location("train_reproduction", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_missing_cells_are_handed_out_once_the_largest_first(script, tmp_path, monkeypatch):
    plans = [find_study(name, "short") for name in STUDIES]
    cells = {cell.folder: cell for plan in plans for cell in plan.cells}
    order = script.in_turn(plans, tmp_path)
    assert sorted(order) == sorted(cells)
    work = [cells[folder].work for folder in order]
    assert work == sorted(work, reverse=True)
    monkeypatch.setattr(script.study, "is_finished", lambda out, cell: cell.folder == order[0])
    assert script.in_turn(plans, tmp_path) == order[1:]


WORKER = """
import pathlib, sys, time
out, lazy = pathlib.Path(sys.argv[1]), sys.argv[2] == "lazy"
while True:
    print("next", flush=True)
    folder = sys.stdin.readline().strip()
    if not folder:
        break
    if folder == "bad":
        print("it diverged", flush=True)
        sys.exit(3)
    time.sleep(0.5 if lazy else 0.05)
    with open(out / folder, "a") as file:
        file.write(str(lazy))
"""


def test_a_job_that_is_done_early_takes_what_is_left(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "worker.py").write_text(WORKER)
    started = []

    def popen(command, **given):
        kind = "quick" if started else "lazy"
        command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path), kind]
        started.append(subprocess_popen(command, **given))
        return started[-1]

    subprocess_popen = script.subprocess.Popen
    monkeypatch.setattr(script.compilation, "known_flags", list)  # tried in processes of their own
    monkeypatch.setattr(script.subprocess, "Popen", popen)
    folders = [f"cell{i}" for i in range(8)]
    monkeypatch.setattr(script, "in_turn", lambda plans, out: folders)
    script.side_by_side(script.Options(jobs=2, out=tmp_path, progress=False), [])
    by_whom = [(tmp_path / folder).read_text() for folder in folders]  # each was done once
    assert by_whom.count("False") > by_whom.count("True") > 0
    monkeypatch.setattr(script, "in_turn", lambda plans, out: ["bad"])
    with pytest.raises(SystemExit) as stopped:
        script.side_by_side(script.Options(jobs=2, out=tmp_path, progress=False), [])
    assert stopped.value.code == 3
    assert "it diverged" in capsys.readouterr().out
