"""One decision and the slot's end: hand-worked numbers, an independent oracle, properties."""

from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmec.mec import (
    EdgeNetwork,
    QueueState,
    Task,
    advance_slot,
    cwa,
    hecwa,
    offload,
    offload_fractions,
    water_filling,
)

RULES = {"cwa": cwa, "hecwa": hecwa, "water_filling": water_filling}
SIZES = (1, 2, 5, 64)  # a compile each, two with and without contention
REGIMES = ("light", "overloaded", "failing")
INF = float("inf")


class Case(NamedTuple):
    network: oracle.Network
    queues: oracle.Queues
    seen: oracle.Queues
    task: oracle.Task
    selected: np.ndarray


def make_case(servers: int, regime: str, contention: bool, seed: int) -> Case:
    """A random network of one regime, its numbers exact in float32.

    light: shorter queues than tasks. overloaded: minutes of queue. failing: minutes of queue
    under a finite max_wait and an uplink cap that bind.
    """
    rng = np.random.default_rng(seed)

    def draw(low, high, size=None):
        return np.float32(np.exp(rng.uniform(np.log(low), np.log(high), size))).astype(float)

    busy = {"light": 1.0, "overloaded": 2000.0, "failing": 500.0}[regime]
    network = oracle.Network(
        capacity=draw(5, 100, servers),
        rate=draw(50, 1000, servers),
        slot_length=float(draw(0.1, 2)),
        uplink_contention=contention,
        uplink_cap=float(draw(0.01, 0.1)) if regime == "failing" else INF,
        max_wait=float(draw(1, 10)) if regime == "failing" else INF,
    )
    empty = rng.random((3, servers)) < 0.3
    amounts = draw(busy / 100, busy, (2, servers))
    queues = oracle.Queues(
        np.where(empty[0], 0, amounts[0]),
        np.where(empty[1], 0, amounts[1]),
        np.where(empty[2], 0, draw(0.001, 0.2, servers)),
    )
    seen = queues.copy()
    seen.inflight *= rng.random(servers) < 0.5
    seen.uplink *= 0
    task = oracle.Task(
        origin=int(rng.integers(-1, servers)),
        size=float(draw(1, 40)),
        work=float(draw(0.01, 5)),
        result=float(draw(0.1, 1)) if rng.random() < 0.5 else 0.0,
    )
    selected = rng.random(servers) < rng.uniform(0.2, 1)
    selected[rng.integers(servers)] = True
    return Case(network, queues, seen, task, selected)


cases = st.builds(
    make_case,
    st.sampled_from(SIZES),
    st.sampled_from(REGIMES),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)


def to_jax(case: Case):
    """The same case for the package, in the float type of the moment."""
    n = case.network
    network = EdgeNetwork(
        capacity=n.capacity,
        rate=n.rate,
        slot_length=n.slot_length,
        uplink_contention=n.uplink_contention,
        uplink_cap=n.uplink_cap,
        max_wait=n.max_wait,
    )
    queues, seen = (QueueState(q.backlog, q.inflight, q.uplink) for q in (case.queues, case.seen))
    task = Task(case.task.origin, case.task.size, case.task.work, case.task.result)
    return network, queues, task, case.selected, seen


@functools.cache
def compiled():
    """All rules: [(outcome, queues)], one compilation a shape."""

    def decide(network, queues, task, selected, seen):
        return [
            offload(network, queues, task, selected, allocate=rule, seen=seen)
            for rule in RULES.values()
        ]

    return jax.jit(decide)


def results_of(case: Case):
    """All rules on the true and then on the seen waits: [(outcome, queues)]."""
    network, queues, task, selected, seen = to_jax(case)
    return jax.device_get(
        compiled()(network, queues, task, selected, queues)
        + compiled()(network, queues, task, selected, seen)
    )


def expected_of(case: Case):
    """What the oracle says, in the same order."""
    return [
        oracle.offload(case.network, case.queues, case.task, case.selected, rule, seen)
        for seen in (None, case.seen)
        for rule in RULES
    ]


def check(case: Case, eps: float, relative: float) -> None:
    """Compare all variants; relative error `relative`, but for what cancellation explains.

    A share is (L − wait_i)/serve_i with an L and waits that carry relative rounding errors of
    about B eps, so it is known to about that times L/serve_i and no better; the work and
    the transmission that it stands for likewise. In the make-span the division is undone.
    """
    results = results_of(case)
    rounding = (len(case.selected) + 8) * eps
    for (outcome, after), (expected, expected_after) in zip(
        results, expected_of(case), strict=True
    ):
        np.testing.assert_allclose(outcome.wait, expected.wait, rtol=relative)
        np.testing.assert_allclose(outcome.serve, expected.serve, rtol=relative)
        np.testing.assert_allclose(outcome.makespan, expected.makespan, rtol=relative)
        reach = np.max(np.where(case.selected, expected.wait + expected.serve, 0))
        spread = rounding * reach / expected.serve  # [B] error of a share
        spread = np.where(case.selected, spread + relative * expected.fraction, 0)
        spread = spread + expected.fraction * spread.sum()  # of its normalisation
        assert np.all(np.abs(outcome.fraction - expected.fraction) <= spread)
        work_error = np.abs(after.inflight - expected_after.inflight)
        assert np.all(work_error <= spread * case.task.work + relative * expected_after.inflight)
        uplink_error = np.abs(after.uplink - expected_after.uplink)
        sending = np.sum(spread * case.task.size / np.array(case.network.rate))
        assert np.all(uplink_error <= sending + relative * expected_after.uplink)
        np.testing.assert_array_equal(
            after.backlog, case.queues.backlog.astype(after.backlog.dtype)
        )


@settings(max_examples=60, deadline=None)
@given(cases)
def test_one_decision_equals_the_oracle_in_float64(case):
    with jax.enable_x64(True):
        check(case, np.finfo(np.float64).eps, 1e-9)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_one_decision_equals_the_oracle_in_float32(case):
    check(case, np.finfo(np.float32).eps, 1e-5)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_work_is_conserved_and_nothing_is_nan(case):
    results = results_of(case)
    for outcome, after in results:
        for leaf in jax.tree.leaves((outcome, after)):
            assert np.all(np.isfinite(leaf))
            assert np.all(leaf >= 0)
        assert outcome.fraction.sum() == pytest.approx(1, abs=1e-5)
        before = np.float32(case.queues.inflight)
        # The sum over B servers of queues up to 500 times as large as the task.
        scale = 4 * float(np.finfo(np.float32).eps * (before.sum() + case.task.work))
        added = np.sum(np.float64(after.inflight) - before)
        assert added == pytest.approx(case.task.work, rel=1e-5, abs=scale)
        elsewhere = np.arange(len(before)) != case.task.origin
        np.testing.assert_array_equal(
            after.uplink[elsewhere], np.float32(case.queues.uplink)[elsewhere]
        )


@pytest.mark.parametrize(("double", "relative"), [(True, 1e-9), (False, 1e-5)])
def test_the_slots_end_equals_the_oracle(double, relative):
    with jax.enable_x64(double):
        for seed, regime in enumerate(REGIMES * 8):
            case = make_case(16, regime, True, seed)
            network, queues, *_ = to_jax(case)
            expected = case.queues
            for slots in range(1, 4):
                expected = oracle.advance_slot(case.network, expected)
                after = advance_slot(network, queues, slots)
                scale = np.max(case.queues.backlog + case.queues.inflight)
                np.testing.assert_allclose(
                    after.backlog, expected.backlog, rtol=relative, atol=relative * scale / 10
                )
                assert not np.any(after.inflight) and not np.any(after.uplink)
            single = advance_slot(network, queues)
            np.testing.assert_array_equal(single.backlog, advance_slot(network, queues, 1).backlog)
            unchanged = advance_slot(network, queues, 0)
            for one, other in zip(jax.tree.leaves(unchanged), jax.tree.leaves(queues), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_fifty_decisions_over_ten_slots_equal_the_oracle(rule):
    """State carried from decision to decision: work of the slot, uplinks, caps, backlogs."""
    rng = np.random.default_rng(7)
    case = make_case(5, "failing", True, 11)
    now, queues = 0, oracle.Queues.empty(5)
    with jax.enable_x64(True):
        network, *_ = to_jax(case)
        queues_jax = QueueState.empty(5)

        @jax.jit
        def both(queues, slots, task, selected):
            queues = advance_slot(network, queues, slots)
            return offload(network, queues, task, selected, RULES[rule])

        for slot in np.sort(rng.integers(0, 10, 50)):
            task = oracle.Task(
                int(rng.integers(-1, 5)), rng.uniform(2, 40), rng.uniform(0.5, 8), rng.uniform(0, 1)
            )
            selected = rng.random(5) < 0.6
            selected[rng.integers(5)] = True
            for _ in range(now, slot):
                queues = oracle.advance_slot(case.network, queues)
            outcome, queues_jax = both(
                queues_jax,
                slot - now,
                Task(task.origin, task.size, task.work, task.result),
                jnp.array(selected),
            )
            now = slot
            expected, queues = oracle.offload(case.network, queues, task, selected, rule)
            np.testing.assert_allclose(outcome.makespan, expected.makespan, rtol=1e-9)
            for name in ("backlog", "inflight", "uplink"):
                np.testing.assert_allclose(
                    getattr(queues_jax, name), getattr(queues, name), rtol=1e-9, atol=1e-12
                )


# --- Hand-worked -------------------------------------------------------------------------


def test_two_servers_by_hand():
    """f = 10, 20; r = 400, 100; a task of 4 Mbit and 2 Gcycles at server 0."""
    network = EdgeNetwork(capacity=[10, 20], rate=[400, 100], slot_length=0.1)
    queues = QueueState(backlog=[1.0, 2.0], inflight=[1.0, 0.0], uplink=[0.05, 0.07])
    outcome, after = offload(network, queues, Task(0, 4.0, 2.0), np.array([True, True]))
    np.testing.assert_allclose(outcome.wait, [0.2, 0.15], rtol=1e-6)
    np.testing.assert_allclose(outcome.serve, [0.2, 0.14], rtol=1e-6)
    np.testing.assert_allclose(outcome.fraction, [9 / 34, 25 / 34], rtol=1e-5)
    np.testing.assert_allclose(outcome.makespan, 43 / 170, rtol=1e-6)
    np.testing.assert_allclose(after.backlog, [1, 2])
    np.testing.assert_allclose(after.inflight, [1 + 9 / 17, 25 / 17], rtol=1e-5)
    np.testing.assert_allclose(after.uplink, [0.05 + 1 / 34, 0.07], rtol=1e-5)
    ended = advance_slot(network, after)
    np.testing.assert_allclose(ended.backlog, [26 / 17, 25 / 17], rtol=1e-5)
    assert not np.any(ended.inflight) and not np.any(ended.uplink)


def test_greedy_is_not_optimal_over_time():
    """Two unit-speed servers, works 10, 1, 1: the published example, 16.5 s against 13 s."""
    network = EdgeNetwork(capacity=[1, 1], rate=[1, 1], uplink_contention=False)
    works = (10.0, 1.0, 1.0)

    def total(sets, rule):
        queues, spans = QueueState.empty(2), []
        for work, selected in zip(works, sets, strict=True):
            task = Task(-1, 0.0, work)
            outcome, queues = offload(network, queues, task, np.array(selected, bool), rule)
            spans.append(float(outcome.makespan))
        return spans

    assert total([(1, 1)] * 3, water_filling) == pytest.approx([5, 5.5, 6])
    assert total([(1, 0), (0, 1), (0, 1)], cwa) == pytest.approx([10, 1, 2])


def test_an_idle_server_counts_under_cwa_and_not_under_water_filling():
    network = EdgeNetwork(capacity=[1, 1], rate=[1, 1], uplink_contention=False)
    queues = QueueState(backlog=[0.0, 10.0], inflight=[0.0, 0.0], uplink=[0.0, 0.0])
    expected = {"cwa": 10.0, "hecwa": 10.5, "water_filling": 1.0}
    for name, rule in RULES.items():
        outcome, _ = offload(network, queues, Task(-1, 0.0, 1.0), np.ones(2, bool), rule)
        assert float(outcome.makespan) == pytest.approx(expected[name])


def test_local_remote_and_result_transmission():
    """The input travels to remote servers only, the result from every one."""
    network = EdgeNetwork(capacity=[10, 10, 10], rate=[100, 200, 400], uplink_contention=False)
    task = Task(1, 8.0, 5.0, 2.0)
    outcome, _ = offload(network, QueueState.empty(3), task, np.ones(3, bool))
    np.testing.assert_allclose(
        outcome.serve, [0.08 + 0.5 + 0.02, 0.5 + 0.01, 0.02 + 0.5 + 0.005], rtol=1e-6
    )
    outcome, _ = offload(network, QueueState.empty(3), task._replace(origin=-1), np.ones(3, bool))
    np.testing.assert_allclose(
        outcome.serve, [0.08 + 0.5 + 0.02, 0.04 + 0.5 + 0.01, 0.02 + 0.5 + 0.005], rtol=1e-6
    )


def test_a_master_node_touches_no_uplink():
    """Origin −1 must not be taken for the last station, as an array index would be."""
    network = EdgeNetwork(capacity=[10, 10], rate=[100, 100])
    queues = QueueState(backlog=[0.0, 0.0], inflight=[0.0, 0.0], uplink=[0.3, 0.4])
    outcome, after = offload(network, queues, Task(-1, 8.0, 5.0), np.ones(2, bool))
    np.testing.assert_array_equal(outcome.wait, [0, 0])
    np.testing.assert_array_equal(after.uplink, queues.uplink)


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ([0, 1, 0], 0.45),  # one remote server: 0.25 + 20/100, above the cap, not capped
        ([0, 1, 1], 0.3),  # split: 0.25 + 20/100 capped
        ([1, 1, 1], 0.3),  # 0.25 + 2/3 · 0.2 = 0.38 capped
        ([1, 0, 0], 0.25),  # nothing sent
    ],
)
def test_the_uplink_cap_binds_for_split_tasks_alone(selected, expected):
    network = EdgeNetwork(capacity=[10, 10, 10], rate=[100, 100, 100], uplink_cap=0.3)
    queues = QueueState(backlog=np.zeros(3), inflight=np.zeros(3), uplink=[0.25, 0.0, 0.0])

    def split(wait, serve, chosen):
        return chosen / jnp.sum(chosen)

    _, after = offload(network, queues, Task(0, 20.0, 1.0), np.array(selected, bool), split)
    np.testing.assert_allclose(after.uplink, [expected, 0, 0], rtol=1e-6)


def test_max_wait_caps_queue_and_uplink_together():
    network = EdgeNetwork(capacity=[1, 1], rate=[100, 100], max_wait=1.0)
    queues = QueueState(backlog=[0.6, 0.6], inflight=[0.2, 0.2], uplink=[0.5, 0.0])
    outcome, _ = offload(network, queues, Task(0, 1.0, 1.0), np.ones(2, bool))
    np.testing.assert_allclose(outcome.wait, [0.8, 1.0], rtol=1e-6)


def test_seen_queues_steer_the_split_and_true_ones_decide_the_makespan():
    """Seen: both free, so a half each. True: server 1 has 3 s of work in front."""
    network = EdgeNetwork(capacity=[1, 1], rate=[1, 1], uplink_contention=False)
    queues = QueueState(backlog=[0.0, 0.0], inflight=[0.0, 3.0], uplink=[0.0, 0.0])
    outcome, after = offload(
        network, queues, Task(-1, 0.0, 2.0), np.ones(2, bool), cwa, seen=QueueState.empty(2)
    )
    np.testing.assert_allclose(outcome.fraction, [0.5, 0.5])
    np.testing.assert_allclose(outcome.makespan, 4.0)
    np.testing.assert_allclose(after.inflight, [1.0, 4.0])


# --- Compiled, vmapped, empty ------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_vmap_over_networks_equals_one_by_one(rule):
    rows = [to_jax(make_case(5, regime, True, seed)) for seed in range(4) for regime in REGIMES]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *rows)

    def decide(network, queues, task, selected, seen):
        return offload(network, queues, task, selected, RULES[rule], seen)

    together = jax.jit(jax.vmap(decide))(*stacked)
    one = jax.jit(decide)
    for row, case in enumerate(rows):
        single = one(*case)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(together), strict=True):
            # Shares of long queues: eps times 40 s of wait over 0.02 s of service.
            np.testing.assert_allclose(a, b[row], rtol=1e-4, atol=2e-3)
        np.testing.assert_allclose(single[0].makespan, together[0].makespan[row], rtol=1e-5)
        eager = decide(*case)
        np.testing.assert_allclose(eager[0].makespan, single[0].makespan, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("origin", "served_by"), [(0, 0), (2, 2), (-1, 1)])
def test_an_empty_set_met_while_running_falls_back(rule, origin, served_by):
    """To the server where the task arrived; for a master node to the fastest."""
    network = EdgeNetwork(capacity=[10, 50, 20], rate=[100, 100, 100])
    queues = QueueState(backlog=[3.0, 2.0, 1.0], inflight=np.zeros(3), uplink=np.full(3, 0.1))
    task = Task(origin, 4.0, 1.0)
    decide = jax.jit(lambda s: offload(network, queues, task, s, RULES[rule]))
    alone = np.arange(3) == served_by
    for a, b in zip(
        jax.tree.leaves(decide(np.zeros(3, bool))), jax.tree.leaves(decide(alone)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(decide(np.zeros(3, bool))[0].fraction, alone)


def test_a_known_empty_set_or_a_wrong_shape_is_an_error():
    network, queues, task, *_ = to_jax(make_case(2, "light", True, 0))
    with pytest.raises(ValueError, match=r"selected.*at least one.*empty"):
        offload(network, queues, task, np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"selected.*\(2,\).*\(3,\)"):
        offload(network, queues, task, np.ones(3, bool))
    with pytest.raises(ValueError, match=r"selected.*\(2,\).*\(3,\)"):
        jax.jit(lambda s: offload(network, queues, task, s))(np.ones(3, bool))


@pytest.mark.parametrize("servers", [1, 3])
def test_queues_or_fractions_of_another_length_are_an_error(servers):
    """One queue for two servers would broadcast, and one fraction count twice."""
    network, queues, task, selected, _ = to_jax(make_case(2, "light", True, 0))
    other = QueueState.empty(servers)
    with pytest.raises(ValueError, match=rf"queues.*\(2,\).*\({servers},\)"):
        offload(network, other, task, selected)
    with pytest.raises(ValueError, match=rf"seen.*\(2,\).*\({servers},\)"):
        offload(network, queues, task, selected, seen=other)
    with pytest.raises(ValueError, match=rf"fraction.*\(2,\).*\({servers},\)"):
        offload_fractions(network, queues, task, jnp.ones(servers))
    with pytest.raises(ValueError, match=rf"queues.*\(2,\).*\({servers},\)"):
        advance_slot(network, other)


# --- Fractions that the scheduler chose --------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from((1, 5)), st.sampled_from(REGIMES), st.integers(0, 2**32 - 1))
def test_given_fractions_equal_the_oracle(servers, regime, seed):
    case = make_case(servers, regime, True, seed)
    rng = np.random.default_rng(seed)
    fraction = rng.dirichlet(np.ones(servers)) * (rng.random(servers) < 0.7)
    fraction = fraction / fraction.sum() if fraction.sum() > 0 else np.full(servers, 1 / servers)
    with jax.enable_x64(True):
        network, queues, task, *_ = to_jax(case)
        outcome, after = place_fractions()(network, queues, task, fraction)
        expected, expected_after = oracle.offload(
            case.network, case.queues, case.task, None, fraction=fraction
        )
        np.testing.assert_allclose(outcome.makespan, expected.makespan, rtol=1e-9)
        np.testing.assert_allclose(outcome.fraction, fraction, rtol=1e-9)
        np.testing.assert_allclose(after.inflight, expected_after.inflight, rtol=1e-9)
        np.testing.assert_allclose(after.uplink, expected_after.uplink, rtol=1e-9)


@functools.cache
def place_fractions():
    return jax.jit(offload_fractions)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        ([0, 0, 0], [0, 0, 1]),  # nothing chosen: the task's own server
        ([-1, -2, 0], [0, 0, 1]),
        ([np.nan, np.nan, np.nan], [0, 0, 1]),
        ([np.inf, 1, 1], [0, 0, 1]),
        ([np.nan, 1, 1], [0, 0.5, 0.5]),
        ([-1, 1, 3], [0, 0.25, 0.75]),
    ],
)
def test_fractions_off_the_simplex_are_brought_back(fraction, expected):
    network = EdgeNetwork(capacity=[10, 20, 30], rate=[100, 100, 100])
    outcome, after = place_fractions()(
        network, QueueState.empty(3), Task(2, 4.0, 1.0), jnp.array(fraction, float)
    )
    np.testing.assert_allclose(outcome.fraction, expected)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((outcome, after)))


def total_delay(logits, network, tasks):
    """Σ make-span of consecutive decisions whose shares are softmax(logits) [M, B]."""
    queues, total = QueueState.empty(network.num_servers), 0.0
    for number, task in enumerate(tasks):
        if number == 3:
            queues = advance_slot(network, queues)
        outcome, queues = offload_fractions(network, queues, task, jax.nn.softmax(logits[number]))
        total = total + outcome.makespan
    return total


@pytest.mark.parametrize("limits", [{}, {"uplink_cap": 0.02, "max_wait": 0.3}])
def test_the_physics_is_differentiable_in_the_fractions(limits):
    """Through six decisions and a slot's end, against central differences in float64."""
    with jax.enable_x64(True):
        servers = {"capacity": [10, 20, 30], "rate": [400, 450, 500]}
        network = EdgeNetwork(**servers, slot_length=0.1, **limits)
        tasks = [Task(i % 3, 4.0 + i, 1.0 + 0.3 * i, 0.5) for i in range(6)]
        logits = np.random.default_rng(1).normal(size=(6, 3))
        value = jax.jit(jax.vmap(lambda x: total_delay(x, network, tasks)))
        gradient = jax.jit(jax.grad(lambda x: total_delay(x, network, tasks)))(logits)
        step = 1e-6 * np.eye(18).reshape(18, 6, 3)
        numeric = ((value(logits + step) - value(logits - step)) / 2e-6).reshape(6, 3)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
        assert np.abs(numeric).max() > 0.01


def test_the_gradient_is_finite_where_shares_are_zero_or_tied():
    network = EdgeNetwork(capacity=[10, 10, 30], rate=[400, 400, 500])

    def span(fraction):
        task, queues = Task(0, 4.0, 1.0), QueueState.empty(3)
        first, queues = offload_fractions(network, queues, task, fraction)
        second, _ = offload_fractions(network, queues, task._replace(origin=1), fraction)
        return first.makespan + second.makespan

    for fraction in ([1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0]):
        assert np.all(np.isfinite(jax.grad(span)(jnp.array(fraction))))


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_through_an_allocation_is_finite_and_right(rule):
    """In the backlogs and the task's work, with minutes of queue and with none."""
    with jax.enable_x64(True):
        for regime in ("light", "overloaded"):
            network, queues, task, selected, _ = to_jax(make_case(5, regime, True, 4))

            def span(backlog, work, network=network, queues=queues, task=task, selected=selected):
                met = queues.replace(backlog=backlog)
                outcome, _ = offload(network, met, task._replace(work=work), selected, RULES[rule])
                return outcome.makespan

            point = np.append(queues.backlog, task.work)
            step = 1e-6 * np.eye(6)
            spans = jax.jit(jax.vmap(lambda x: span(x[:5], x[5])))
            numeric = (spans(point + step) - spans(point - step)) / 2e-6
            gradient = np.append(*jax.jit(jax.grad(span, (0, 1)))(point[:5], point[5]))
            keep = point > 0  # a queue cannot be shorter than empty
            np.testing.assert_allclose(gradient[keep], numeric[keep], rtol=1e-5, atol=1e-7)


# --- What is not a network ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": [10, 0]}, r"capacity\[1\].*above 0.*got 0"),
        ({"capacity": [-1, 10]}, r"capacity\[0\].*above 0.*got -1"),
        ({"capacity": [np.nan, 10]}, r"capacity\[0\].*number.*got nan"),
        ({"capacity": [np.inf, 10]}, r"capacity\[0\].*finite.*got inf"),
        ({"capacity": 10.0}, r"capacity.*vector.*\(\)"),
        ({"capacity": ["a", "b"]}, r"capacity.*numbers.*'a'"),
        ({"capacity": [], "rate": []}, r"capacity.*at least one server"),
        ({"rate": [100, -5]}, r"rate\[1\].*above 0.*got -5"),
        ({"rate": [100, 100, 100]}, r"rate.*\(2,\).*\(3,\)"),
        ({"slot_length": 0}, r"slot_length.*above 0.*got 0"),
        ({"slot_length": [1, 1]}, r"slot_length.*scalar.*\(2,\)"),
        ({"uplink_cap": -1}, r"uplink_cap.*at least 0.*got -1"),
        ({"max_wait": np.nan}, r"max_wait.*number.*got nan"),
        ({"uplink_contention": 1}, r"uplink_contention.*True or False.*got 1"),
    ],
)
def test_an_invalid_network_is_an_error_that_names_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        EdgeNetwork(**{"capacity": [10, 20], "rate": [100, 100], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backlog": [-1, 0]}, r"backlog\[0\].*at least 0.*got -1"),
        ({"inflight": [0, np.nan]}, r"inflight\[1\].*number.*got nan"),
        ({"uplink": [0, 0, 0]}, r"uplink.*\(2,\).*\(3,\)"),
    ],
)
def test_invalid_queues_are_an_error_that_names_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        QueueState(**{"backlog": [0, 0], "inflight": [0, 0], "uplink": [0, 0], **changes})


def test_replace_checks_again():
    network = EdgeNetwork(capacity=[10, 20], rate=[100, 100])
    assert network.replace(slot_length=0.5).slot_length == 0.5
    with pytest.raises(ValueError, match="capacity"):
        network.replace(capacity=[0.0, 1.0])
    with contextlib.suppress(AttributeError):
        network.capacity = jnp.ones(2)
        pytest.fail("a network must not change")
