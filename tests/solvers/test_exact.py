"""The exact optimum: equal to brute force, below every plan, and honest about what it proved."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import scipy.optimize
from small_windows import SETTINGS, Instance, random_instance

from jaxmec.mec import EdgeNetwork, Task
from jaxmec.solvers import Window, greedy, lower_bounds, play, solve_exact

TOLERANCE = 2e-5  # relative: the solver's gap, and its feasibility with a big-M


def best_server_each(instance: Instance) -> float:
    """s, over all B^K ways to give each task to one server."""
    servers, tasks = len(instance.oracle_network.capacity), len(instance.tasks)
    one = np.eye(servers)
    return min(
        instance.mean([one[i] for i in choice], fractions=True)
        for choice in itertools.product(range(servers), repeat=tasks)
    )


def best_split_in(instance: Instance, sets) -> float:
    """s, the least mean make-span with these sets, all of whose servers count: a linear program.

    Variables x [K, B] and D [K]; one slot, no caps: wait_ki is linear in the earlier x.
    """
    network, tasks = instance.oracle_network, instance.tasks
    count, servers = len(tasks), len(network.capacity)
    rows, right = [], []
    for k, task in enumerate(tasks):
        serve = oracle.serves(network, task)
        for i in np.flatnonzero(sets[k]):
            row = np.zeros(count * servers + count)
            for j in range(k):
                row[j * servers + i] += tasks[j].work / network.capacity[i]
                if network.uplink_contention and i != task.origin == tasks[j].origin:
                    for h in range(servers):
                        if h != task.origin:
                            row[j * servers + h] += tasks[j].size / network.rate[h]
            row[k * servers + i] += serve[i]
            row[count * servers + k] = -1
            rows.append(row)
            right.append(0.0)
    whole = np.hstack([np.kron(np.eye(count), np.ones(servers)), np.zeros((count, count))])
    cost = np.r_[np.zeros(count * servers), np.full(count, 1 / count)]
    limits = [(0, 1 if used else 0) for used in np.ravel(sets)] + [(0, None)] * count
    return scipy.optimize.linprog(
        cost, A_ub=rows, b_ub=right, A_eq=whole, b_eq=np.ones(count), bounds=limits
    ).fun


def best_sets_and_splits(instance: Instance) -> float:
    """s, over all (2^B − 1)^K choices of sets, each with its best fractions."""
    servers = len(instance.oracle_network.capacity)
    sets = [s for s in itertools.product([False, True], repeat=servers) if any(s)]
    return min(
        best_split_in(instance, choice)
        for choice in itertools.product(sets, repeat=len(instance.tasks))
    )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(2))
def test_one_server_each_equals_brute_force(setting, seed):
    instance = random_instance(seed, tasks=4, servers=3, **SETTINGS[setting])
    solution = solve_exact(instance.network, instance.window, "single")
    assert solution.proved and solution.gap <= TOLERANCE
    assert solution.makespan == pytest.approx(best_server_each(instance), rel=TOLERANCE)


@pytest.mark.parametrize(("seed", "tasks", "servers"), [(0, 3, 2), (1, 3, 2), (2, 4, 2), (3, 2, 3)])
def test_sets_and_splits_equal_brute_force(seed, tasks, servers):
    instance = random_instance(seed, tasks, servers)
    solution = solve_exact(instance.network, instance.window)
    assert solution.proved
    assert solution.makespan == pytest.approx(best_sets_and_splits(instance), rel=TOLERANCE)


def test_greedy_is_not_optimal_where_the_model_says_so():
    """Two unit-speed servers and works 10, 1, 1: in all 16.5 s greedily, 13 s one server each."""
    works = np.array([10.0, 1.0, 1.0])
    window = Window(
        task=Task(np.full(3, -1, np.int32), np.full(3, 1e-9), works, np.zeros(3)),
        slots=np.zeros(3, np.int32),
        counts=np.ones(3, bool),
        backlog=np.zeros(2),
    )
    network = EdgeNetwork(capacity=[1.0, 1.0], rate=[1.0, 1.0], slot_length=100.0)
    assert play(network, window, greedy(network, window)).sum() == pytest.approx(16.5)
    for problem in ("multi", "single"):
        solution = solve_exact(network, window, problem)
        assert solution.proved and 3 * solution.makespan == pytest.approx(13.0, rel=TOLERANCE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_bound_below_optimum_below_every_policy(setting):
    for seed in range(6):
        instance = random_instance(
            100 + seed, tasks=2 + seed % 2, servers=2 + seed % 2, **SETTINGS[setting]
        )
        check_order(instance, seed)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_bound_below_optimum_below_every_policy_on_hundreds(setting):
    for seed in range(40):
        instance = random_instance(
            1000 + seed, tasks=2 + seed % 3, servers=2 + seed % 2, **SETTINGS[setting]
        )
        check_order(instance, seed)


def check_order(instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks, servers = len(instance.tasks), instance.network.num_servers
    one = np.eye(servers, dtype=bool)
    for problem in ("multi", "single"):
        solution = solve_exact(instance.network, instance.window, problem)
        assert solution.proved and solution.lower_bound <= solution.makespan
        optimum = solution.makespan
        # The plan that is returned comes to what is said, by the oracle too.
        assert instance.mean(solution.fraction, fractions=True) == pytest.approx(optimum, rel=1e-5)
        bounds = lower_bounds(instance.network, instance.window, problem)
        for name, value in bounds.values.items():
            assert value <= optimum * (1 + TOLERANCE), f"{name}: {value} > {optimum}"
        for _ in range(10):
            sets = rng.random((tasks, servers)) < 0.6
            sets |= one[rng.integers(0, servers, tasks)]
            if problem == "single":
                sets = one[rng.integers(0, servers, tasks)]
            for rule in oracle.RULES if problem == "multi" else ("cwa",):
                assert optimum <= instance.mean(sets, rule=rule) * (1 + TOLERANCE)
            if problem == "multi":
                split = rng.dirichlet(np.ones(servers), tasks)
                assert optimum <= instance.mean(split, fractions=True) * (1 + TOLERANCE)


def test_servers_that_are_alike_are_told_apart_without_loss():
    instance = random_instance(5, tasks=4, servers=3, master=True)
    network = EdgeNetwork(capacity=[2.0, 2.0, 2.0], rate=[4.0, 4.0, 4.0], slot_length=0.5)
    alike = instance._replace(
        network=network,
        oracle_network=oracle.Network([2.0] * 3, [4.0] * 3, slot_length=0.5),
    )
    solution = solve_exact(network, alike.window, "single")
    assert solution.makespan == pytest.approx(best_server_each(alike), rel=TOLERANCE)


def test_time_that_runs_out_is_said_and_the_incumbent_kept():
    instance = random_instance(7, tasks=9, servers=5)
    solution = solve_exact(instance.network, instance.window, time_limit=0.2)
    assert not solution.proved and solution.status == "time limit"
    known = play(instance.network, instance.window, greedy(instance.network, instance.window))
    assert solution.lower_bound < solution.makespan <= known.mean() * (1 + 1e-12)
    assert 0 < solution.gap < 1
    assert play(instance.network, instance.window, solution.fraction).mean() == pytest.approx(
        solution.makespan
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_play_is_the_model(setting):
    for seed in range(5):
        instance = random_instance(seed, tasks=8, servers=4, **SETTINGS[setting])
        split = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), 8)
        split[0] = np.eye(4)[0]
        mine = play(instance.network, instance.window, split)
        records = oracle.play(
            instance.oracle_network, instance.slots, instance.tasks, split, fractions=True
        )
        np.testing.assert_allclose(mine, [r.outcome.makespan for r in records], rtol=1e-12)
        greedily = greedy(instance.network, instance.window)
        assert play(instance.network, instance.window, greedily).mean() == pytest.approx(
            instance.mean(np.ones((8, 4), bool), rule="water_filling"), rel=1e-9
        )


def test_errors_name_the_field():
    instance = random_instance(0, tasks=2, servers=2)
    network, window = instance.network, instance.window
    with pytest.raises(ValueError, match="problem must be one of multi, single, got 'both'"):
        solve_exact(network, window, "both")
    with pytest.raises(ValueError, match="all of which count, got 2 counting of 3"):
        solve_exact(network, window.padded(3))
    with pytest.raises(ValueError, match="time_limit must be a number above 0"):
        solve_exact(network, window, time_limit=0)
    with pytest.raises(ValueError, match="one server a task"):
        solve_exact(network, window, "single", incumbent=np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"fraction\[1\] must be a split"):
        play(network, window, np.array([[1.0, 0.0], [0.5, 0.6]]))
    with pytest.raises(ValueError, match=r"fraction must have shape \(2, 2\)"):
        play(network, window, np.ones((3, 2)))
