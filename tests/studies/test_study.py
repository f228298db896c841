"""A study runs cell by cell: what is finished is not run again, what is half-done resumes."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxmec.envs.presets import PRESETS
from jaxmec.envs.table import find_environment
from jaxmec.methods import METHODS, find_method
from jaxmec.studies import cells, results, study
from jaxmec.studies.study import Entry, Point, Study, Sweep, sweep_over
from jaxmec.training.progress import PlanDisplay
from jaxmec.training.runner import Diverged, Interrupted

MULTI, SINGLE = "MultiServerOffloading-v0", "SingleServerOffloading-v0"
TINY = (
    ("batch_size", 8),
    ("buffer_size", 200),
    ("eval_episodes", 2),
    ("eval_every", 40),
    ("hidden", (4,)),
    ("num_envs", 4),
    ("prefill", 40),
    ("steps", 160),
)
PLAN = Study(
    "tiny",
    "A study of its kind",
    MULTI,
    methods=(Entry("drlcoedge", TINY, "learner"),),
    schedulers=(Entry("random-subset"), Entry("optimal")),
    presets=("amcoedge",),
    sweep=sweep_over("slots", (1,)),
    reference="optimal",
    seeds=2,
    episodes=3,
)


def without(**changes):
    """PLAN with what takes time taken out."""
    return dataclasses.replace(PLAN, methods=(), **changes)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Every run compiles its own functions; here they are always the same ones."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """PLAN run without a stop, and where."""
    out = tmp_path_factory.mktemp("whole")
    return study.run(PLAN, out, progress=False), out


def test_everything_is_measured_on_the_same_arrivals(whole):
    outcome, _ = whole
    assert not outcome.missing
    tasks = [result.report.values["length"] for result in outcome.results]
    assert [t.shape for t in tasks] == [(2, 3), (1, 3), (1, 3)]
    for other in tasks:
        np.testing.assert_array_equal(other, np.broadcast_to(tasks[1], other.shape))
    assert len(set(tasks[1][0])) > 1
    # And so the paired difference is episode by episode.
    learner, optimal = (outcome.find(label).report for label in ("learner", "optimal"))
    expected = learner.values["makespan"] - optimal.values["makespan"]
    np.testing.assert_array_equal(learner.difference(optimal), expected.mean(axis=1))


@pytest.mark.parametrize(
    ("factor", "judged"), [(1.0, "greedy"), (0.5, "sampled"), (1.5, "greedy"), (np.nan, "greedy")]
)
def test_a_learner_is_judged_by_the_better_of_greedy_and_sampled(whole, tmp_path, factor, judged):
    outcome, out = whole
    cell = outcome.find("learner").cell
    document = json.loads(cells.result_file(out, cell).read_text())
    assert document["values"]["sampled"] == document["values"]["greedy"]  # a DQN draws nothing
    greedy = np.array(document["values"]["greedy"]["makespan"])
    drawn = greedy * factor
    document["values"]["sampled"]["makespan"] = [
        [None if np.isnan(value) else value for value in row] for row in drawn
    ]
    file = cells.result_file(tmp_path, cell)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(document))
    report = cells.read(cell, tmp_path).report
    assert report.judged == judged
    expected = drawn if judged == "sampled" else greedy
    np.testing.assert_array_equal(report.values["makespan"], expected)
    assert outcome.find("optimal").report.judged is None


def test_a_learner_keeps_its_curve_and_its_policy_but_no_replay(whole):
    outcome, out = whole
    result = outcome.find("learner")
    assert result.steps.tolist() == [40, 80, 120, 160]
    assert result.curve["return"].shape == (2, 4)
    assert (np.diff(result.seconds) > 0).all() and result.seconds.shape == (4,)
    home = out / "cells" / result.cell.folder
    assert (home / "policy").is_dir() and not (home / "checkpoints").exists()
    assert "core" in result.machine and set(result.versions) == {"jaxmec", "jax", "python"}
    rule = outcome.find("optimal")
    assert rule.steps is None and rule.curve == {}


class Interrupting(PlanDisplay):
    """Presses Ctrl-C when a learner has begun to train."""

    def show(self, name, part, status, line):
        if status.startswith("50 %"):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_study_goes_on_where_it_was(whole, tmp_path, monkeypatch):
    for result in whole[0].results[1:]:  # the rules are finished
        folder = f"cells/{result.cell.folder}"
        shutil.copytree(whole[1] / folder, tmp_path / folder)
    written = {f: f.stat().st_mtime_ns for f in (tmp_path / "cells").glob("*/result.json")}
    assert len(written) == 2
    monkeypatch.setattr(study, "PlanDisplay", Interrupting)
    with pytest.raises(Interrupted, match=r"learner, amcoedge, slots 1: .* the same again goes on"):
        study.run(PLAN, tmp_path, progress=False)
    monkeypatch.undo()
    partly = study.collect(PLAN, tmp_path)
    assert [str(cell) for cell in partly.missing] == ["learner, amcoedge, slots 1"]
    home = tmp_path / "cells" / partly.missing[0].folder
    assert len((home / "metrics.jsonl").read_text().splitlines()) < 4  # of 4 points

    trained, evaluated = [], []
    train, evaluate = cells.train, cells.evaluate
    monkeypatch.setattr(cells, "train", lambda *a, **k: trained.append(k) or train(*a, **k))
    monkeypatch.setattr(cells, "evaluate", lambda *a, **k: evaluated.append(a) or evaluate(*a, **k))
    outcome = study.run(PLAN, tmp_path, progress=False)
    assert [call["resume"] for call in trained] == [True]
    assert len(evaluated) == 2  # greedily and sampled
    assert all(file.stat().st_mtime_ns == then for file, then in written.items())
    # It ends with the bits of the study that was never stopped.
    for mine, other in zip(outcome.results, whole[0].results, strict=True):
        for name, values in other.report.values.items():
            np.testing.assert_array_equal(mine.report.values[name], values)
        for name, values in other.curve.items():
            np.testing.assert_array_equal(mine.curve[name], values)


def test_a_finished_study_runs_nothing(whole, monkeypatch):
    _, out = whole
    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("a finished cell was run"))
    assert not study.run(PLAN, out, progress=False).missing


def test_studies_share_a_cell_of_the_same_setting(whole, monkeypatch):
    _, out = whole
    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("a finished cell was run"))
    other = dataclasses.replace(
        PLAN, name="other", methods=(Entry("drlcoedge", TINY, "of another label"),),
        schedulers=(), reference="", sweep=sweep_over("slots", (1,)),
    )  # fmt: skip
    outcome = study.run(other, out, progress=False)
    assert outcome.results[0].report.name == "of another label"
    # The preset's own value is no change at all.
    own = dataclasses.replace(PLAN, sweep=sweep_over("deadline", (0.5, 1.0)))
    bare = dataclasses.replace(PLAN, sweep=None)
    assert own.cells[3].folder == bare.cells[0].folder
    assert own.cells[0].folder != bare.cells[0].folder


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"episodes": 4},
        {"episode_seed": 2},
        {"preset_seed": 1},
        {"steps_scale": 0.5},
        {"methods": (Entry("drlcoedge", (*TINY, ("discount", 0.5)), "learner"),)},
        {"methods": (Entry("drlcoedge", TINY, "learner", steps_scale=0.5),)},
        {"sweep": sweep_over("slots", (2,))},
        {"presets": ("smcoedge",)},
    ],
)
def test_what_changes_a_result_is_another_cell(change):
    changed = dataclasses.replace(PLAN, **change)
    assert changed.cells[0].folder != PLAN.cells[0].folder


def test_published_settings_are_another_cell():
    ours, published = dataclasses.replace(
        PLAN, methods=(Entry("drlcoedge"), Entry("drlcoedge", published=True)), schedulers=(),
        reference="",
    ).cells  # fmt: skip
    assert ours.folder != published.folder
    assert published.entry.label == "drlcoedge (published)"
    assert published.config != ours.config


def test_changed_hyperparameters_of_a_method_are_another_cell(monkeypatch):
    before = PLAN.cells[0].folder
    row = find_method("drlcoedge")
    agent = dataclasses.replace(row.tuned.agent(), tau=0.123)
    changed = dataclasses.replace(row, tuned=dataclasses.replace(row.tuned, agent=lambda: agent))
    monkeypatch.setitem(METHODS, "drlcoedge", changed)
    assert PLAN.cells[0].folder != before


def test_a_changed_teacher_makes_another_cell(monkeypatch):
    """What it learns and how, and what its pupil tells it of its network."""
    taught = dataclasses.replace(PLAN, methods=(Entry("mlp-taught"),), schedulers=(), reference="")
    (cell,), row = taught.cells, find_method("mlp-cloned")
    assert cell.identity["recipe"]["start"]["name"] == "mlp-cloned"
    for change in (
        {"agent": lambda: dataclasses.replace(row.tuned.agent(), learning_rate=1e-4)},
        {"config": dataclasses.replace(row.config, windows=7)},
        {"options": (*row.options, ("deadline", 3.0))},
    ):
        settings = dataclasses.replace(row.tuned, **change)
        changed = dataclasses.replace(row, tuned=settings)
        monkeypatch.setitem(METHODS, "mlp-cloned", changed)
        assert taught.cells[0].folder != cell.folder
        monkeypatch.setitem(METHODS, "mlp-cloned", row)
    assert taught.cells[0].folder == cell.folder
    options = (("hidden", (4,)), ("steps", find_method("mlp-taught").config.steps // 2))
    wide = dataclasses.replace(taught, methods=(Entry("mlp-taught", options),)).cells[0]
    teacher = wide.recipe.start
    assert teacher.agent.hidden == (4,) and teacher.config.windows == row.config.windows // 2
    assert wide.identity["recipe"]["start"] == json.loads(json.dumps(teacher.identity()))


def test_cells_of_before_and_in_float64_are_others():
    """Cells were named otherwise once, some of a physics that overestimated a master's queues."""
    place = {"env": SINGLE, "presets": ("lad-ts",), "sweep": None, "methods": ()}
    rule = {"schedulers": (Entry("shortest-delay"),), "reference": ""}
    (own,) = dataclasses.replace(PLAN, **place, **rule).cells
    assert own.identity["format"] == 4
    with jax.enable_x64(True):
        (wide,) = dataclasses.replace(PLAN, **place, **rule).cells
        wide_folder = wide.folder
    assert wide_folder != own.folder == dataclasses.replace(PLAN, **place, **rule).cells[0].folder


def test_a_diverged_cell_is_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    measure = study.measure

    def diverging(cell, out, display):
        if cell.entry.name == "random-subset":
            raise Diverged("loss is not finite", "loss", (0,), 10, None)
        measure(cell, out, display)

    monkeypatch.setattr(study, "measure", diverging)
    outcome = study.run(without(), tmp_path, progress=False)
    assert [cell.entry.name for cell in outcome.missing] == ["random-subset"]
    assert outcome.find("optimal") is not None and outcome.find("random-subset") is None


def test_programs_are_kept_unless_somebody_keeps_them(tmp_path):
    plan = without(schedulers=(Entry("local"),), reference="", episodes=2)
    study.run(plan, tmp_path / "kept by the caller", progress=False)
    assert not (tmp_path / "kept by the caller" / "compiled").exists()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        study.run(plan, tmp_path / "kept", progress=False)
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
    assert any((tmp_path / "kept" / "compiled").iterdir())


def test_a_result_of_another_cell_is_never_taken_for_this_one(tmp_path):
    plan = without(schedulers=(Entry("local"),), reference="", episodes=1)
    study.run(plan, tmp_path, progress=False)
    (file,) = (tmp_path / "cells").glob("*/result.json")
    document = json.loads(file.read_text())
    document["cell"]["episode_seed"] += 1
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"result\.json is damaged .*another cell.*remove it"):
        study.collect(plan, tmp_path)


def test_a_damaged_result_is_named(tmp_path):
    plan = without(schedulers=(Entry("local"),), reference="", episodes=1)
    study.run(plan, tmp_path, progress=False)
    (file,) = (tmp_path / "cells").glob("*/result.json")
    document = json.loads(file.read_text())
    del document["values"]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"result\.json is damaged .*remove it"):
        study.collect(plan, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: without(schedulers=(Entry("optiml"),), reference="").cells, "'optimal'"),
        (lambda: dataclasses.replace(PLAN, methods=(Entry("amcoedg"),)).cells, "'amcoedge'"),
        (lambda: dataclasses.replace(PLAN, presets=("amcoedg",)).cells, "'amcoedge'"),
        (lambda: dataclasses.replace(PLAN, reference="optiml"), "'optimal'"),
        (lambda: dataclasses.replace(PLAN, env="MultiServerOffloadin").cells, f"'{MULTI}'"),
        (lambda: sweep_over("deadlin", (0.1,)), "'deadline'"),
        (lambda: sweep_over("probability", (0.5, 0.1)), "must grow"),
        (lambda: dataclasses.replace(PLAN, seeds=0), "seeds must be a whole number of at least 1"),
        (
            lambda: dataclasses.replace(PLAN, steps_scale=0.0),
            "steps_scale must be .* above 0",
        ),
        (
            lambda: dataclasses.replace(PLAN, sweep=sweep_over("probability", (2.0,))).cells,
            "at most 1",
        ),
        (lambda: without(schedulers=()), "labelled differently"),
        (lambda: Study("c", "", "CartPole-v1", (Entry("dqn"),), presets=("x",)), "no presets"),
    ],
)
def test_mistakes_are_told_before_anything_runs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"schedulers": (Entry("optimal"), Entry("local", (("laid_out", True),)))},
         r"local, amcoedge.* and optimal, amcoedge.*laid_out is True and False"),
        ({"schedulers": (Entry("optimal"), Entry("optimal", (("information", "local"),), "blind"))},
         "blind, amcoedge.*information"),
        ({"methods": (Entry("drlcoedge", (*TINY, ("information", "slot"))),)}, "coedge.*laid_out"),
        ({"methods": (Entry("drlcoedge", (*TINY, ("discount", 2.0))),)}, "drlcoedge.*discount"),
        ({"methods": (Entry("mlp-pathwise", (("network", "servers"), ("neighbours", 9))),)},
         "mlp-pathwise.*neighbours"),
        ({"methods": (Entry("mlp-taught", (("neighbours", 3),)),)}, "mlp-taught.*neighbours"),
    ],
)  # fmt: skip
def test_a_plan_is_checked_whole_before_anything_is_trained(
    entries, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        cells, "train", lambda *_, **__: pytest.fail("trained before it was checked")
    )
    monkeypatch.setattr(cells, "evaluate", lambda *_, **__: pytest.fail("played before"))
    plan = dataclasses.replace(PLAN, **entries)
    with pytest.raises((ValueError, TypeError), match=message):
        study.run(plan, tmp_path, progress=False)
    assert not (tmp_path / "cells").exists()


def test_an_unknown_option_suggests_the_right_one():
    wrong = dataclasses.replace(PLAN, methods=(Entry("drlcoedge", (("discont", 0.9),)),))
    with pytest.raises(TypeError, match="'discont'; did you mean 'discount'"):
        _ = wrong.cells


def test_sweeps_of_lists_and_of_servers():
    capacities = sweep_over("capacity", ((10, 15), (10, 25)))
    assert [point.x for point in capacities.points] == [25, 35]
    assert capacities.xlabel == "total capacity (Gcycles/s)"
    servers = sweep_over("servers", (3, 7), "amcoedge")
    assert servers.points[0] == Point(
        3, (("capacity", (10, 20, 30)), ("rate", PRESETS["amcoedge"].rate[:3]))
    )
    assert dict(servers.points[1].fields)["capacity"] == (10, 20, 30, 40, 50, 10, 20)
    with pytest.raises(ValueError, match="must grow"):
        Sweep("x", "x", ())


def test_rules_of_serving_are_compared_with_all_their_figures(tmp_path):
    """Over a field of their presets, on the same requests."""
    sweep = sweep_over("load", (0.9,), env="GenerativeServing-v0")
    short = (("horizon", 30.0),)
    plan = Study(
        "serving", "Rules", "GenerativeServing-v0", presets=("genai-5",), sweep=sweep, episodes=2,
        schedulers=(Entry("triage", short), Entry("power-of-two", short)),
    )  # fmt: skip
    outcome = study.run(plan, tmp_path, progress=False)
    assert not outcome.missing and len(outcome.results) == 2
    for place, table in results.comparisons(outcome).items():
        assert table.metric == "served"
        rows = {row.name: row for row in table.rows}
        report = outcome.find("triage", place).report
        assert rows["triage"].beside["cold_starts"] == report.mean("cold_starts")
        assert set(rows["triage"].beside) == set(find_environment(plan.env).beside)
        assert "| cold starts |" in table.markdown()
    assert results.write(outcome, tmp_path / "written")
    header = (tmp_path / "written" / "results.csv").read_text().splitlines()[0]
    assert {"quality", "delay_p99", "cloud"} <= set(header.split(","))
    with pytest.raises(ValueError, match="did you mean 'triage'"):
        dataclasses.replace(plan, schedulers=(Entry("triagge"),), reference="").cells  # noqa: B018
    with pytest.raises(ValueError, match="sweep 'servers' is not one of load"):
        sweep_over("servers", (5, 10), env="GenerativeServing-v0")
