"""Lower bounds: below every policy on hundreds of instances, and equal to what theory says."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_windows import SETTINGS, random_instance

from jaxmec.mec import EdgeNetwork, Task
from jaxmec.solvers import Window, greedy, lower_bounds, play
from jaxmec.solvers.bounds import WHY, empty_system, pooled, share_sums, wait_may_be_capped


def window_of_works(works, slots=None, servers: int = 1) -> Window:
    works = np.asarray(works, float)
    return Window(
        task=Task(
            np.full(works.size, -1, np.int32),
            np.full(works.size, 1e-9),
            works,
            np.zeros(works.size),
        ),
        slots=np.zeros(works.size, np.int32) if slots is None else np.asarray(slots, np.int32),
        counts=np.ones(works.size, bool),
        backlog=np.zeros(servers),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    setting=st.sampled_from(list(SETTINGS)),
    tasks=st.integers(1, 12),
    servers=st.integers(1, 5),
    problem=st.sampled_from(["multi", "single"]),
)
def test_below_every_policy(seed, setting, tasks, servers, problem):
    instance = random_instance(seed, tasks, servers, **SETTINGS[setting])
    bounds = lower_bounds(instance.network, instance.window, problem, rounds=2)
    assert bounds.best == max(bounds.values.values()) and bounds.why == WHY[bounds.name]
    rng = np.random.default_rng(seed)
    one = np.eye(servers, dtype=bool)
    plans = [one[rng.integers(0, servers, tasks)] for _ in range(4)]
    costs = [instance.mean(plan) for plan in plans]
    costs.append(play(instance.network, instance.window, greedy(*instance[:2], problem)).mean())
    if problem == "multi":
        for rule in oracle.RULES:
            sets = (rng.random((tasks, servers)) < 0.5) | one[rng.integers(0, servers, tasks)]
            costs.append(instance.mean(sets, rule=rule))
    assert bounds.best <= min(costs) * (1 + 1e-5)


def test_pooled_serves_the_shortest_first_and_preempts():
    """Capacity 2: works 6, 2 at 0 s and 2 at 1 s: the first ends at 5 s, the others after 1 s."""
    network = EdgeNetwork(capacity=[0.5, 1.5], rate=[1.0, 1.0])
    window = window_of_works([6.0, 2.0, 2.0], slots=[0, 0, 1], servers=2)
    np.testing.assert_allclose(pooled(network, window), [5.0, 1.0, 1.0])
    # 7 has 5 left when 4 arrives, so 4 goes first; both orders of arrival are served.
    alone = EdgeNetwork(capacity=[1.0], rate=[1.0], slot_length=2.0)
    window = window_of_works([7.0, 4.0], slots=[0, 1])
    np.testing.assert_allclose(pooled(alone, window), [11.0, 4.0])


def test_empty_system_is_water_filling_on_the_backlog_alone():
    instance = random_instance(3, tasks=6, servers=3, slots=3)
    window = instance.window.replace(backlog=np.array([3.0, 0.2, 1.0]))
    network = instance.oracle_network
    for problem in ("multi", "single"):
        delays = empty_system(instance.network, window, problem)
        for k, task in enumerate(instance.tasks):
            queues = oracle.Queues.empty(3)
            queues.backlog[:] = [3.0, 0.2, 1.0]
            for _ in range(instance.slots[k]):
                queues = oracle.advance_slot(network, queues)
            if problem == "multi":
                best = oracle.best_subset(
                    oracle.waits(network, queues, task), oracle.serves(network, task)
                )
            else:
                best = min(oracle.waits(network, queues, task) + oracle.serves(network, task))
            assert delays[k] == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("problem", ["multi", "single"])
def test_the_convex_sum_lies_below_weighted_delays(problem):
    """Σ_A c_k D_k ≥ its tangent at any shares, for any set of tasks and any plan."""
    rng = np.random.default_rng(0)
    for seed in range(30):
        instance = random_instance(seed, tasks=6, servers=4)
        (total,) = share_sums(instance.network, instance.window, problem)
        members = np.flatnonzero(rng.random(6) < 0.6)
        if members.size == 0:
            continue
        touching = rng.dirichlet(np.ones(4), 6)
        cut = total.cut(members, touching, 6)
        for _ in range(20):
            split = np.eye(4)[rng.integers(0, 4, 6)]
            if problem == "multi":
                split = rng.dirichlet(np.full(4, rng.choice([0.2, 1.0, 5.0])), 6)
            delays = play(instance.network, instance.window, split)
            assert cut.weight @ delays - np.sum(cut.slope * split) >= cut.constant - 1e-9


def test_shares_never_below_pooled_without_transmission():
    """Where sending costs nothing the two are the same bound, to the descent's tolerance."""
    works = np.random.default_rng(1).uniform(0.5, 2, 20)
    network = EdgeNetwork(capacity=[1.0, 2.0, 4.0], rate=[1e9] * 3, slot_length=1e3)
    values = lower_bounds(network, window_of_works(works, servers=3)).values
    assert values["shares"] == pytest.approx(values["pooled"], rel=1e-3)


def test_what_is_not_valid_is_left_out():
    instance = random_instance(0, tasks=6, servers=3, max_wait=0.1)
    assert wait_may_be_capped(instance.network, instance.window)
    assert set(lower_bounds(instance.network, instance.window).values) == {"empty system", "pooled"}
    with pytest.raises(ValueError, match="at least one task"):
        lower_bounds(instance.network, instance.window.replace(counts=np.zeros(6, bool)))
