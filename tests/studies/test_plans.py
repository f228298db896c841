"""The best plan known: the evaluation's own tasks, and a plan that plays as said."""

import numpy as np
import pytest

import jaxmec
from jaxmec import solvers
from jaxmec.experiment import Setting
from jaxmec.solvers import PlannerConfig, greedy, window_of
from jaxmec.studies import gap, plans

SMALL = {"slots": 2, "positions": 4, "probability": 0.5}


def test_recorded_tasks_are_those_of_the_evaluation():
    """Replayed as a trace, episode by episode, a scheduler does exactly as it was evaluated."""
    env, scheduler = "MultiServerOffloading-v0", jaxmec.SCHEDULERS["water-filling-full"]
    report = jaxmec.evaluate(scheduler, env=env, episodes=2, seed=5, **SMALL)
    environment, params = jaxmec.make(env, action="mask", **SMALL)
    for episode, trace in enumerate(plans.record_arrivals(environment, params, 2, seed=5)):
        assert trace.slot.shape[0] == report.values["length"][0, episode]
        window = window_of(trace, backlog=np.zeros(5))
        makespan = solvers.play(params.network, window, greedy(params.network, window)).mean()
        assert makespan == pytest.approx(report.values["makespan"][0, episode], rel=1e-5)


@pytest.mark.slow
def test_the_best_plan_known_is_the_one_that_gaps_are_measured_to():
    """On the same episodes, however many of them are planned."""
    options = {"slots": 1, "positions": 4, "capacity": (10, 20), "rate": (400, 450)}
    effort = plans.Effort(PlannerConfig(restarts=2, rounds=1))
    measured = gap.measure([], preset="amcoedge", episodes=3, seed=4, effort=effort, **options)
    setting = Setting("MultiServerOffloading-v0", "amcoedge", 0, tuple(options.items()))
    np.testing.assert_allclose(
        plans.best_known(setting, 2, 4, effort), measured.plan[:2], rtol=1e-3
    )
    with pytest.raises(ValueError, match="CartPole-v1 has none"):
        plans.best_known(Setting("CartPole-v1"), 1)


def test_an_effort_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="window must be a whole number of at least 1, got 0"):
        plans.Effort(window=0)
