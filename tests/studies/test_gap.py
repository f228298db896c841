"""The gap: the evaluation's own tasks, a plan that plays as said, and tables that add up."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jaxmec
from jaxmec.cli import main
from jaxmec.experiment import Policy, Setting
from jaxmec.solvers import PlannerConfig
from jaxmec.studies import gap
from jaxmec.studies.plans import Effort
from jaxmec.training.rollout import make_spec

QUICK = Effort(planner=PlannerConfig(restarts=2, rounds=1, sweeps=1, gradient_steps=0))
SMALL = {"slots": 2, "positions": 4, "probability": 0.5}


def test_bound_below_plan_below_the_greedy_oracle():
    measured = gap.measure(
        ["water-filling-full", "random-subset"], episodes=3, effort=QUICK, **SMALL
    )
    oracle, random = (report.values["makespan"][0] for report in measured.reports)
    assert np.all(measured.bound <= measured.plan)
    assert np.all(measured.plan <= oracle * (1 + 1e-4)) and np.all(measured.plan < random)
    first, last = measured.rows
    assert (first.name, last.name) == ("water-filling-full", "random-subset")
    assert last.over_plan == pytest.approx(np.mean(random / measured.plan - 1))
    assert last.over_bound == pytest.approx(np.mean(random / measured.bound - 1))
    low, high = last.over_plan_interval
    assert low < last.over_plan < high
    # p · B · N tasks of ρ d on average: 0.5 · 20 · mean(ρ_n) · 3.5 Gcycles over 150 in a slot.
    density = np.asarray(jaxmec.make("MultiServerOffloading-v0", **SMALL)[1].workload.sizes.density)
    assert measured.load == pytest.approx(10 * density.mean() * 3.5 / 150, rel=1e-4)


@pytest.mark.slow
def test_the_command_sweeps_and_writes_figures(capsys, tmp_path):
    code = main(
        "gap local --episodes 2 --slots 1 --positions 2 --servers 2 3 "
        "--effort.planner.restarts 1 --effort.planner.rounds 1 --effort.planner.sweeps 1 "
        "--effort.planner.gradient-steps 0 --effort.exact-seconds 20 --json "
        f"--out {tmp_path}".split()
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    places = json.loads(out)["places"]
    assert [place["servers"] for place in places] == [2, 3]
    for place in places:
        assert place["bound_kind"] == "exact"
        np.testing.assert_allclose(place["plan"], place["bound"], rtol=1e-4)
        assert {row["name"] for row in place["rows"]} == {"local"}
    assert json.loads((tmp_path / "gap.json").read_text())["places"] == places
    assert (tmp_path / "gap.png").stat().st_size > 1000


def test_places_are_reached_or_refused():
    fields = gap.at_load("amcoedge", 0.6)
    params = jaxmec.make("MultiServerOffloading-v0", preset="amcoedge", **fields)[1]
    assert gap.load(params) == pytest.approx(0.6, rel=1e-5)
    assert gap.with_servers("amcoedge", 7)["capacity"] == (10, 20, 30, 40, 50, 10, 20)
    with pytest.raises(ValueError, match="loads must be above 0 and at most"):
        gap.at_load("amcoedge", 50.0)
    with pytest.raises(ValueError, match="sweep positions instead"):
        gap.at_load("lad-ts", 0.5)
    with pytest.raises(ValueError, match="servers must be a whole number of at least 1, got 0"):
        gap.with_servers("amcoedge", 0)
    with pytest.raises(ValueError, match="CartPole-v1 has none"):
        gap.measure([], env="CartPole-v1")


def test_a_wrong_name_is_answered_with_the_nearest(capsys):
    assert main(["gap", "optimum"]) == 2
    assert "optimal" in capsys.readouterr().err
    assert main(["gap"]) == 2


def untrained(name="policy", **fields):
    """A policy with fresh parameters, as if trained where some fields of the preset differ."""
    setting = Setting("MultiServerOffloading-v0", "amcoedge", 0, tuple(sorted(fields.items())))
    env, params = setting.make()
    spec, agent = make_spec(env, params), jaxmec.agents.DQN(hidden=(4,))
    return Policy(agent, agent.init(jax.random.key(0), spec), spec, setting, name)


CHANGED = {"probability": 0.2, "laid_out": True, "density": (0.1, 0.2), "positions": 4, "slots": 2}


@pytest.mark.slow
def test_the_plan_is_made_for_the_tasks_that_the_policy_was_trained_with():
    """Changed fields of the preset, laid out slots and all; the schedulers meet them too."""
    measured = gap.measure([untrained(**CHANGED), "local"], episodes=2, effort=QUICK)
    assert measured.positions == 4
    for report in measured.reports:
        assert report.values["length"][0].mean() == measured.tasks


def test_policies_of_different_tasks_or_networks_are_not_set_beside_one_plan():
    ours, other = untrained("ours", **CHANGED), untrained("other", **CHANGED | {"probability": 0.4})
    message = "other and ours cannot be set side by side.*: probability is 0.4 and 0.2"
    with pytest.raises(ValueError, match=message):
        gap.measure([ours, other])
    other = untrained("other", **CHANGED, capacity=(10, 20, 30, 40, 60))
    with pytest.raises(ValueError, match=r"networks are not the same: capacity is \(10, 20, 30"):
        gap.measure([ours, other])
    # What is named goes for all.
    options = {"capacity": (10, 20, 30, 40, 55)}
    assert dict(gap.common_setting([ours, other], gap.Question.of(**options)).fields) == (
        CHANGED | options
    )


def test_all_places_are_checked_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(gap, "train", lambda *_, **__: pytest.fail("trained before it was checked"))
    monkeypatch.setattr(gap, "measure", lambda *_, **__: pytest.fail("measured before"))
    for command, message in (
        (gap.Command(("drlcoedge", "local"), loads=(0.3, 99.0)), "loads must be above 0"),
        (gap.Command(("drlcoedge", "optimal"), information="local"), "information"),
        (gap.Command(("drlcoedge", "dsac"), trace=None, train_steps=1), "steps is 1"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            gap.run(command)


def test_the_command_plans_for_the_tasks_of_a_saved_policy(tmp_path, capsys):
    untrained(**CHANGED).save(tmp_path / "policy")
    code = main(
        f"gap {tmp_path / 'policy'} --episodes 2 --slots 1 --effort.planner.restarts 1 "
        "--effort.planner.rounds 1 --effort.planner.sweeps 1 --effort.planner.gradient-steps 0 "
        "--loads 0.05 --json".split()
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    (place,) = json.loads(out)["places"]
    # The load is reached with the policy's own positions and densities.
    assert place["positions"] == 4 and place["load"] == pytest.approx(0.05, rel=1e-4)
