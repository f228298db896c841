"""Tables of reports: paired ratios, intervals, order, and what is written to disk."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from jaxmec.experiment import Report, Setting
from jaxmec.studies.columns import csv_record, write_csv
from jaxmec.studies.comparison import Comparison, value_records

SETTING = Setting("MultiServerOffloading-v0", "amcoedge")


def report(name, makespans, information="slot_start", **more):
    values = np.array(makespans, float)
    zeros = np.zeros_like(values)
    metrics = {"makespan": values, "return": -values, "failed": zeros, **more}
    return Report(name, SETTING, information, metrics)


@pytest.fixture
def comparison():
    reference = report("optimal", [[1.0, 2.0]], "full")
    rule = report("rule", [[1.5, 3.0]])
    learned = report("learned", [[0.9, 1.8], [1.2, 2.4]])
    return Comparison([rule, reference, learned], reference)


def test_rows_are_in_order_with_paired_ratios(comparison):
    rows = comparison.rows
    assert [row.name for row in rows] == ["optimal", "learned", "rule"]
    optimal, learned, rule = rows
    assert optimal.ratio == 1 and optimal.ratio_interval == (1, 1)
    # Both episodes are 1.5 times the reference's: paired, there is no spread.
    assert rule.ratio == 1.5 and rule.ratio_interval == (1.5, 1.5)
    # Seeds at 0.9 and 1.2: t(0.975, 1) = 12.706 times the standard error 0.15.
    assert learned.ratio == pytest.approx(1.05)
    assert learned.ratio_interval[1] == pytest.approx(1.05 + 12.7062 * 0.15, rel=1e-4)
    assert learned.seeds == 2 and rule.seeds == 1


def test_it_is_shown_and_saved_with_every_value(comparison, tmp_path):
    console = Console(record=True, width=140)
    console.print(comparison.table("title"))
    assert "learned" in console.export_text()
    assert comparison.markdown().count("\n") == 4
    comparison.save(tmp_path / "c.json", device="cpu")
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["device"] == "cpu"
    assert saved["values"]["learned (slot_start)"]["makespan"] == [[0.9, 1.8], [1.2, 2.4]]


def test_a_table_of_80_columns_does_not_break_our_names():
    optimal, ours = report("optimal", [[1, 2]]), report("ddrl-amsa-taught", [[1, 3]])
    console = Console(record=True, width=80)
    console.print(Comparison([optimal, ours], optimal).table("title"))
    assert "ddrl-amsa-taught" in console.export_text()


def test_reports_of_different_episodes_are_not_compared():
    with pytest.raises(ValueError, match="3 and 2 episodes"):
        report("a", [[1, 2, 3]]).ratio(report("b", [[1, 2]]))


def test_differences_are_paired_by_episode_and_seed():
    reference = report("reference", [[1.0, 3.0], [2.0, 5.0]])
    ours = report("ours", [[0.5, 2.5], [1.4, 4.8]])
    # Seed by seed: mean of (-0.5, -0.5) and of (-0.6, -0.2).
    np.testing.assert_allclose(ours.difference(reference), [-0.5, -0.4])
    rule = report("rule", [[1.0, 1.0]])
    np.testing.assert_allclose(ours.difference(rule), [0.5, 2.1])
    np.testing.assert_allclose(rule.difference(ours), [-0.5, -2.1])
    np.testing.assert_allclose(rule.difference(report("other", [[0.0, 3.0]])), [1.0, -2.0])
    with pytest.raises(ValueError, match=r"3 seeds .* 2"):
        report("three", [[1.0, 1.0]] * 3).difference(ours)


def test_rows_carry_the_paired_difference_and_its_bootstrap_interval():
    reference = report("reference", [[1.0, 9.0]])
    noisy = report("noisy", [[0.9, 8.9], [0.9, 8.7], [1.0, 8.8], [0.8, 8.8]])
    row = next(row for row in Comparison([reference, noisy], reference).rows if row.seeds == 4)
    seeds = np.array([-0.1, -0.2, -0.1, -0.2])
    assert row.difference == pytest.approx(seeds.mean())
    low, high = row.difference_interval
    assert -0.2 - 1e-9 <= low < -0.15 < high <= -0.1 + 1e-9
    assert row.iqm == pytest.approx(np.mean([4.8, 4.8, 4.9, 4.9]), abs=0.05)


def test_reports_of_different_arrivals_are_not_compared():
    tasks = {"length": np.array([[70.0, 80.0]])}
    others = {"length": np.array([[70.0, 81.0]])}
    a, b = report("a", [[1, 2]], **tasks), report("b", [[1, 2]], **others)
    with pytest.raises(ValueError, match=r"a met \[70, 80\] tasks and b \[70, 81\]"):
        a.difference(b)
    with pytest.raises(ValueError, match="not the same episodes"):
        a.ratio(b)
    assert a.ratio(a).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 0.4}, "probability is 0.3 and 0.4"),
        ({"laid_out": True}, "laid_out is False and True"),
        ({"density": (0.1, 0.2)}, "density is"),
        ({"deadline": 0.5, "allocate": "cwa", "uplink_contention": False}, None),
    ],
)
def test_as_many_tasks_of_another_kind_are_not_the_same(options, message):
    """The number of tasks in an episode may agree by chance; when they arrive decides."""
    tasks = {"length": np.array([[70.0, 80.0]])}
    ours = report("a", [[1, 2]], **tasks)
    setting = dataclasses.replace(SETTING, options=tuple(options.items()))
    other = dataclasses.replace(ours, name="b", setting=setting)
    if message is None:
        assert ours.ratio(other).tolist() == [1.0, 1.0]
        return
    for compare in (ours.ratio, ours.difference, lambda b: Comparison([ours], b)):
        with pytest.raises(ValueError, match=f"a and b cannot be set side by side.*{message}"):
            compare(other)


def test_episodes_of_another_seed_are_not_the_same():
    ours = dataclasses.replace(report("a", [[1, 2]]), seed=1)
    with pytest.raises(ValueError, match="a was played in the episodes of seed 1 and b in those"):
        ours.ratio(dataclasses.replace(ours, name="b", seed=2))
    seeds = [dataclasses.replace(SETTING, seed=seed) for seed in (0, 1)]
    first, second = (dataclasses.replace(ours, setting=setting) for setting in seeds)
    with pytest.raises(ValueError, match="preset_seed is 0 and 1"):
        first.ratio(second)


def test_returns_are_compared_best_first():
    setting = Setting("CartPole-v1")
    low, high = (
        Report(name, setting, None, {"return": np.array(values), "length": np.array(values)})
        for name, values in (("low", [[9.0, 10.0]]), ("high", [[400.0, 500.0], [450.0, 440.0]]))
    )
    high = dataclasses.replace(high, judged="sampled")
    table = Comparison([low, high], low, "return")
    assert [row.name for row in table.rows] == ["high", "low"]
    assert np.isnan(table.rows[0].failed)
    assert "| high | - | - | sampled | 2 | 447.5 |" in table.markdown()


def test_csv_has_every_row_and_value(comparison, tmp_path):
    write_csv(tmp_path / "rows.csv", map(csv_record, comparison.rows))
    with (tmp_path / "rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["optimal", "learned", "rule"]
    assert float(rows[1]["mean"]) == pytest.approx(1.575)
    assert float(rows[1]["difference"]) == pytest.approx(0.075)
    low, high = comparison.rows[1].difference_interval
    assert float(rows[1]["difference_interval_low"]) == low
    assert float(rows[1]["difference_interval_high"]) == high

    write_csv(tmp_path / "values.csv", value_records(comparison.reports[2]))
    with (tmp_path / "values.csv").open() as stream:
        values = list(csv.DictReader(stream))
    assert [(v["seed"], v["episode"], float(v["makespan"])) for v in values] == [
        ("0", "0", 0.9), ("0", "1", 1.8), ("1", "0", 1.2), ("1", "1", 2.4),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no records to write to .*empty\.csv"):
        write_csv(tmp_path / "empty.csv", [])


def test_markdown_says_each_interval(comparison):
    lines = comparison.markdown().splitlines()
    assert "95 %, paired" in lines[0] and "− optimal" in lines[0]
    assert lines[1].count("---") == lines[0].count("|") - 1
    assert "| +0.0750 |" in next(line for line in lines if "learned" in line)


def test_the_gap_to_the_best_plan_is_of_the_episodes_that_were_planned(comparison):
    """Of the first of two episodes; without plans there is no such column."""
    planned = Comparison(comparison.reports, comparison.reference, best_known=np.array([0.8]))
    gaps = {row.name: row.gap for row in planned.rows}
    assert gaps == pytest.approx({"optimal": 0.25, "rule": 0.875, "learned": 1.05 / 0.8 - 1})
    # Seeds at 0.9 / 0.8 and 1.2 / 0.8, 0.1875 from their mean: 12.706 standard errors of that.
    learned = next(row for row in planned.rows if row.name == "learned")
    assert learned.gap_interval[1] - learned.gap == pytest.approx(12.7062 * 0.1875, rel=1e-4)
    assert "| over plan | 95 % (t) |" in planned.markdown()
    assert "| 25.0 % | - |" in planned.markdown()
    console = Console(record=True, width=140)
    console.print(planned.table("title"), comparison.table("title"))
    assert console.export_text().count("plan") == 1
    assert "over plan" not in comparison.markdown()
