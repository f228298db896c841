"""The planner: plans that are what it says, near the optimum, never worse than greedy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_windows import random_instance

from jaxmec.solvers import PlannerConfig, greedy, plan, play, solve_exact, stack

SMALL = PlannerConfig(restarts=6, rounds=12, sweeps=2, gradient_steps=0)


def planned(instances, problem, config=SMALL, rows=None):
    """The planner on windows of one network's shape, each with its own network."""
    windows = [instance.window for instance in instances]
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(i.network for i in instances))
    batch = stack([window.padded(rows or window.slots.size) for window in windows])
    run = jax.jit(
        jax.vmap(lambda network, window, key: plan(network, window, key, problem, config))
    )
    return run(networks, batch, jax.random.split(jax.random.key(0), len(windows)))


@pytest.mark.parametrize(("problem", "slots"), [("multi", 1), ("single", 2)])
def test_within_one_percent_of_the_optimum(problem, slots):
    instances = [random_instance(seed, 5, 3, slots=slots) for seed in range(6)]
    found = planned(instances, problem, rows=7)
    for number, instance in enumerate(instances):
        optimum = solve_exact(instance.network, instance.window, problem)
        assert optimum.proved
        fraction = np.asarray(found.fraction[number])
        # By the oracle in double precision it is what the planner says.
        cost = instance.mean(np.where(fraction[:5] > 0, fraction[:5], 0), fractions=True)
        assert cost == pytest.approx(float(found.mean[number]), rel=1e-4)
        assert optimum.makespan * (1 - 1e-4) <= cost <= optimum.makespan * 1.01
        assert not np.any(fraction[5:]) and not np.any(np.asarray(found.makespan[number][5:]))
        # What it leaves queued is what its plan puts there.
        placed = fraction[:5] * np.asarray(instance.window.task.work)[:, None]
        last = np.cumsum(instance.window.slots) == np.sum(instance.window.slots)
        queues = jax.tree.map(lambda leaf, e=number: leaf[e], found.queues)
        np.testing.assert_allclose(queues.inflight, placed[last].sum(axis=0), rtol=1e-4)
        left = placed[~last].sum(axis=0) - np.asarray(instance.network.capacity) * 0.5
        np.testing.assert_allclose(queues.backlog, np.maximum(left, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_history_starts_at_greedy_and_never_rises():
    instances = [random_instance(seed, 12, 7) for seed in range(2)]  # too many sets to enumerate
    config = PlannerConfig(restarts=2, rounds=2, gradient_steps=10)
    found = planned(instances, "multi", config)
    history = np.asarray(found.history)
    assert history.shape == (2, 3)
    assert np.all(np.diff(history) <= 0)
    for number, instance in enumerate(instances):
        first = play(instance.network, instance.window, greedy(*instance[:2])).mean()
        assert history[number, 0] == pytest.approx(first, rel=1e-4)
        assert history[number, -1] < first
        assert float(found.mean[number]) == pytest.approx(history[number, -1], rel=1e-5)


def test_errors_name_the_field():
    with pytest.raises(ValueError, match="restarts must be a whole number of at least 1, got 0"):
        PlannerConfig(restarts=0)
    with pytest.raises(ValueError, match="shaken must be a finite number"):
        PlannerConfig(shaken=2.0)
    instance = random_instance(0, 2, 2)
    with pytest.raises(ValueError, match="problem must be one of"):
        plan(instance.network, instance.window, jax.random.key(0), "several")
    with pytest.raises(ValueError, match="rows must be at least 2, got 1"):
        instance.window.padded(1)
