"""What is written of a study: every row and value, tables, figures whose text is legible."""

import csv
import dataclasses
import errno

import measured
import numpy as np
import pytest
from legible import assert_legible

from jaxmec.core import files
from jaxmec.studies import results
from jaxmec.studies.catalogue import find_study
from jaxmec.studies.columns import write_csv
from jaxmec.studies.study import Entry

LEVELS = {"ddrl-amsa": 0.21, "drlcoedge": 0.28, "smcoedge": 0.26, "optimal": 0.2,
          "water-filling": 0.25, "local-plus-random": 0.3}  # fmt: skip


@pytest.fixture(scope="module")
def sweep():
    return measured.outcome(find_study("amcoedge-deadline", "short"), LEVELS)


def read(file):
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_csv_and_markdown_have_every_setting_and_entry(sweep, tmp_path):
    files = {file.name: file for file in results.write(sweep, tmp_path / "new")}
    rows = read(files["results.csv"])
    assert len(rows) == 3 * 6
    assert {(row["preset"], row["sweep"], row["value"]) for row in rows} == {
        ("amcoedge", "deadline", value) for value in ("0.2", "0.5", "1.0")
    }
    ours = sweep.find("ddrl-amsa", sweep.study.places[1]).report
    optimal = sweep.find("optimal", sweep.study.places[1]).report
    row = next(r for r in rows if r["name"] == "ddrl-amsa" and r["value"] == "0.5")
    assert float(row["mean"]) == pytest.approx(ours.values["makespan"].mean())
    assert float(row["difference"]) == pytest.approx(
        ours.values["makespan"].mean() - optimal.values["makespan"].mean()
    )
    low, high = float(row["difference_interval_low"]), float(row["difference_interval_high"])
    assert low < float(row["difference"]) < high
    values = read(files["values.csv"])
    assert len(values) == 3 * (3 * 3 + 3) * 20  # places, seeds of methods and rules, episodes
    text = files["results.md"].read_text()
    assert text.count("| ddrl-amsa |") == 3 + 1  # and in the table of all settings
    assert "## amcoedge, deadline (s) 0.2" in text and "a machine, 2 cores" in text


def test_places_are_planned_once_and_the_plans_are_in_the_tables(tmp_path, monkeypatch):
    study = find_study("amcoedge-methods", "short")
    outcome = measured.outcome(study, {entry.label: 0.25 for entry in study.entries})
    asked = []

    def best_known(setting, episodes, seed, effort):
        asked.append((setting.preset, episodes, seed))
        return np.array([0.2, 0.25])

    monkeypatch.setattr(results, "best_known", best_known)
    for _ in range(2):
        planned = results.plan_places(outcome, tmp_path, 2)
    assert asked == [("amcoedge", 2, 1)]
    text = results.markdown(planned)
    assert "over plan" in text and results.PLANS in text
    assert "over plan" not in results.markdown(outcome)


def test_what_is_written_anew_stays_whole_when_the_disk_is_full(sweep, tmp_path, monkeypatch):
    """Tables, figures of a comparison and plans are as they were before, and nothing is left."""
    home = tmp_path / "new"
    results.write(sweep, home)
    table = next(iter(results.comparisons(sweep).values()))
    table.save(home / "comparison.json")
    before = {file: file.read_bytes() for file in home.iterdir()}

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "flush", full)
    for write in (
        lambda: write_csv(home / "results.csv", [{"a": 1}]),
        lambda: table.save(home / "comparison.json", device="another"),
        lambda: results.write(sweep, home),
    ):
        with pytest.raises(OSError, match=r"No space left on device: .*(results|comparison)"):
            write()
    assert {file: file.read_bytes() for file in home.iterdir()} == before


def test_a_damaged_plan_is_named(tmp_path):
    study = find_study("amcoedge-methods", "short")
    outcome = measured.outcome(study, {entry.label: 0.25 for entry in study.entries})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "best_known", lambda *_: np.array([0.2, 0.25]))
        results.plan_places(outcome, tmp_path, 2)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    for damaged in (whole[:-9], whole.replace("[0.2, 0.25]", "[0.2]"), "[]"):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=rf"{file.name} is damaged.*remove it to plan again"):
            results.plan_places(outcome, tmp_path, 2)


def test_one_plan_is_for_entries_that_meet_its_tasks_on_its_network():
    study = find_study("amcoedge-deadline", "short")
    planned = results.planned_settings(study).values()
    assert [dict(s.options).get("deadline") for s in planned] == [0.2, 0.5, None]
    laid_out = Entry("local", (("laid_out", True),))
    other = dataclasses.replace(study, schedulers=(*study.schedulers, laid_out))
    with pytest.raises(ValueError, match=r"local, amcoedge.*laid_out is True and False"):
        results.planned_settings(other)
    with pytest.raises(ValueError, match="CartPole-v1 has none"):
        results.planned_settings(find_study("cartpole", "short"))


def test_figures_of_a_sweep_show_every_point_and_are_legible(sweep):
    figures = results.figures(sweep)
    assert set(figures) == {"makespan_amcoedge", "failed_amcoedge", "profiles"}
    for figure in figures.values():
        assert_legible(figure)
    (axes,) = figures["makespan_amcoedge"].axes
    assert axes.get_xlabel() == "deadline (s)" and axes.get_ylabel() == "mean make-span (s)"
    (means,) = (c.lines[0].get_ydata() for c in axes.containers if c.get_label() == "optimal")
    expected = [
        sweep.find("optimal", place).report.mean("makespan") for place in sweep.study.places
    ]
    np.testing.assert_allclose(means, expected)
    assert figures["failed_amcoedge"].axes[0].get_ylabel() == "failed tasks (share)"


def test_figures_of_methods_are_legible_at_full_size():
    study = find_study("amcoedge-methods")
    levels = {entry.label: 0.2 + 0.01 * i for i, entry in enumerate(study.entries)}
    figures = results.figures(measured.outcome(study, levels))
    assert set(figures) == {"learning_curves_amcoedge", "comparison_amcoedge", "profiles"}
    for figure in figures.values():
        assert_legible(figure)


def test_cartpole_has_curves_and_bars_but_no_profile_of_make_spans():
    study = find_study("cartpole", "short")
    outcome = measured.outcome(study, {"dsac": 480, "sac": 470, "dqn": 450})
    figures = results.figures(outcome)
    assert set(figures) == {"learning_curves_CartPole-v1", "comparison_CartPole-v1"}
    for figure in figures.values():
        assert_legible(figure)
    assert "| dsac | local | - | - | 3 |" in results.markdown(outcome)


def test_what_is_not_finished_is_said(tmp_path):
    study = find_study("amcoedge-deadline", "short")
    partly = measured.outcome(study, LEVELS, missing=("smcoedge",))
    assert "Not finished, and so not in the tables: smcoedge, amcoedge" in results.markdown(partly)
    assert len(read(results.write(partly, tmp_path)[0])) == 3 * 5
    nothing = measured.outcome(study, LEVELS, missing=tuple(LEVELS))
    assert results.write(nothing, tmp_path / "nothing") == []
    assert not (tmp_path / "nothing").exists()


def test_all_settings_together_are_ratios_place_by_place(sweep):
    lines = results.aggregate(sweep).splitlines()
    assert "/ optimal: interquartile mean" in lines[0]
    assert lines[2].startswith("| optimal | 3 | 1.000 | 1.000 to 1.000 |")  # the best first
    ratio = np.mean(
        [
            (
                sweep.find("ddrl-amsa", place).report.values["makespan"]
                / sweep.find("optimal", place).report.values["makespan"]
            ).mean()
            for place in sweep.study.places
        ]
    )
    ours = next(line for line in lines if line.startswith("| ddrl-amsa"))
    assert f"| {ratio:.3f} |" in ours
