"""The price of a decision against queues played out one task at a time."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxmec.mec import EdgeNetwork, expected_flow, outlook, price
from jaxmec.mec.workload import Moments

PRICE = jax.jit(price)


def caused(capacity, queued, tasks, work, slots, extra):
    """[] s, the delay of all later tasks with ``extra`` Gcycles more in the queue, less that
    without, on one server: in every slot n tasks of w/n Gcycles come evenly spread."""

    def total(backlog):
        delay = 0.0
        for _ in range(slots):
            for _ in range(tasks):
                delay += backlog / capacity
                backlog = max(backlog + work / tasks - capacity / tasks, 0.0)
        return delay

    return total(queued + extra) - total(queued)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(5, 50), st.floats(0.2, 2.0), st.integers(20, 60), st.integers(1, 8), st.floats(0.2, 4)
)
def test_the_price_is_the_delay_that_more_work_causes(capacity, load, tasks, slots, queued_slots):
    """Up to the rounding of a whole number of tasks, and to what the work itself adds."""
    assume(abs(load - 1) > 0.05)  # near 1 a queue hangs by a thread
    queued, work = queued_slots * capacity, load * capacity
    network = EdgeNetwork(capacity=[capacity], rate=[100.0])
    got = float(PRICE(network, np.array([queued]), np.array([tasks]), np.array([work]), slots)[0])
    extra = 1e-3 * capacity
    expected = caused(capacity, queued, tasks, work, slots, extra) / extra
    assert got == pytest.approx(expected, abs=2.0 / capacity + 1e-2 * expected)


def test_a_server_without_tasks_to_come_is_free_and_none_costs_after_the_end():
    network = EdgeNetwork(capacity=[10.0, 20.0], rate=[100.0, 100.0])
    queued = np.array([30.0, 30.0])
    got = price(network, queued, np.array([0.0, 5.0]), np.array([0.0, 40.0]), 3.0)
    np.testing.assert_allclose(got, [0.0, 5 * 3 / 20], rtol=1e-6)
    for left in (0.0, -1.0):
        assert not np.any(price(network, queued, np.ones(2), np.ones(2), left))


def test_the_flow_starts_from_what_is_expected_and_forgets_it():
    network = EdgeNetwork(capacity=[10.0, 30.0], rate=[100.0, 100.0])
    moments = Moments(*(np.float32(x) for x in (8.0, 2.0, 5.0)))
    nothing = np.zeros(2)
    tasks, work = expected_flow(network, moments, nothing, nothing, 0)
    np.testing.assert_allclose(tasks, [2.0, 6.0])
    np.testing.assert_allclose(work, [4.0, 12.0])
    tasks, _ = jax.jit(expected_flow)(network, moments, np.array([700.0, 0.0]), nothing, 99)
    np.testing.assert_allclose(tasks, [7.02, 0.06], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0, 300), min_size=3, max_size=3),
    st.lists(st.floats(0.2, 2.0), min_size=3, max_size=3),
    st.floats(0, 40),
)
def test_the_outlook_is_the_integral_of_the_prices(queued, load, left):
    """By the trapezoidal rule, from empty queues to what is queued, one server after the other."""
    capacity = np.array([10.0, 20.0, 40.0])
    network = EdgeNetwork(capacity=capacity, rate=[100.0] * 3)
    tasks, work = np.array([30.0, 5.0, 12.0]), capacity * np.array(load)
    fine = np.linspace(0, 1, 4001)[:, None] * np.array(queued)
    each = jax.jit(jax.vmap(lambda q: price(network, q, tasks, work, left)))(fine)
    expected = np.trapezoid(np.asarray(each, np.float64), fine, axis=0).sum()
    got = float(jax.jit(outlook)(network, np.array(queued), tasks, work, left))
    assert got == pytest.approx(expected, rel=2e-3, abs=1e-3)
