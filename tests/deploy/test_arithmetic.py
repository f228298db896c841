"""The edge's arithmetic against `jaxmec.mec`, on thousands of random decisions."""

import jax
import numpy as np
import pytest

from jaxmec import mec
from jaxmec.deploy import arithmetic
from jaxmec.mec.allocation import ALLOCATIONS
from jaxmec.mec.offload import service_time, waiting_time
from jaxmec.mec.selection import subset
from jaxmec.mec.workload import Moments

COUNT = 4_000


def random_decisions(rng, servers):
    """Waits, service times and sets [n, B]; among them empty queues, ties and single servers."""
    wait = rng.exponential(0.3, (COUNT, servers))
    wait[: COUNT // 4] = 0
    wait[COUNT // 4 : COUNT // 2] = rng.integers(0, 3, (COUNT // 4, servers)) * 0.25
    serve = rng.uniform(0.01, 2, (COUNT, servers))
    serve[::7] = serve[::7, :1]
    selected = rng.random((COUNT, servers)) < rng.random((COUNT, 1))
    selected[np.arange(COUNT), rng.integers(0, servers, COUNT)] = True
    return wait, serve, selected


@pytest.mark.parametrize("servers", [1, 5, 20, 40])
@pytest.mark.parametrize("rule", ["cwa", "hecwa", "water_filling"])
def test_allocation_rules_agree(rule, servers):
    wait, serve, selected = random_decisions(np.random.default_rng(servers), servers)
    got = arithmetic.ALLOCATIONS[rule](wait, serve, selected)
    wanted = np.asarray(jax.jit(jax.vmap(ALLOCATIONS[rule]))(wait, serve, selected))
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1)
    assert not got[~selected].any()
    assert (got >= 0).all()


def test_every_rule_of_the_physics_is_there():
    assert arithmetic.ALLOCATIONS.keys() == ALLOCATIONS.keys()


def test_water_filling_is_the_best_split():
    """Of any other split the last server finishes no earlier."""
    rng = np.random.default_rng(0)
    wait, serve, selected = random_decisions(rng, 5)
    fraction = arithmetic.water_filling(wait, serve, selected)
    level = np.where(fraction > 0, wait + fraction * serve, 0).max(axis=1)
    for _ in range(20):
        other = rng.dirichlet(np.full(5, 0.5), COUNT) * selected
        other /= other.sum(axis=1, keepdims=True)
        finish = np.where(other > 0, wait + other * serve, 0).max(axis=1)
        assert (finish >= level - 1e-9).all()


@pytest.mark.parametrize("contention", [True, False])
def test_waits_and_service_times_agree(contention):
    rng = np.random.default_rng(1)
    capacity, rate = rng.uniform(10, 50, 7), rng.uniform(400, 500, 7)
    origin = rng.integers(-1, 7, COUNT)
    queued, uplink = rng.exponential(5, (COUNT, 7)), rng.exponential(0.1, (COUNT, 7))
    size, work, result = rng.uniform(1, 5, (3, COUNT))
    network = mec.EdgeNetwork(
        capacity=capacity, rate=rate, uplink_contention=contention, max_wait=0.4
    )

    def times(origin, queued, uplink, size, work, result):
        queues = mec.QueueState(backlog=queued, inflight=0 * queued, uplink=uplink)
        task = mec.Task(origin, size, work, result)
        return waiting_time(network, queues, task), service_time(network, task)

    wanted_wait, wanted_serve = jax.jit(jax.vmap(times))(origin, queued, uplink, size, work, result)
    local = np.arange(7) == origin[:, None]
    own = (uplink * local).sum(axis=1, keepdims=True)
    wait = arithmetic.waiting_time(capacity, queued, own, 1.0 - local, contention, 0.4)
    columns = (column[:, None] for column in (size, work, result))
    serve = arithmetic.service_time(capacity, rate, *columns, 1.0 - local)
    np.testing.assert_allclose(wait, wanted_wait, rtol=1e-5)
    np.testing.assert_allclose(serve, wanted_serve, rtol=1e-5)


def test_prices_agree():
    rng = np.random.default_rng(2)
    capacity = rng.uniform(10, 50, 7)
    network = mec.EdgeNetwork(capacity=capacity, rate=np.ones(7), slot_length=0.5)
    # Servers with and without a slot's work to spare, empty queues, and episodes that are over.
    queued, tasks = rng.exponential(5, (2, COUNT, 7)) * (rng.random((2, COUNT, 7)) < 0.9)
    slots, left = rng.integers(0, 60, (COUNT, 1)), rng.integers(-3, 60, (COUNT, 1))
    work = rng.exponential(15, (COUNT, 7)) * (slots + 1)

    def priced(queued, tasks, work, slots, left):
        moments = Moments(30.0, 0.5, 0.3)
        flow = mec.expected_flow(network, moments, tasks, work, slots)
        return (*flow, mec.price(network, queued, *flow, left))

    wanted = jax.jit(jax.vmap(priced))(queued, tasks, work, slots[:, 0], left[:, 0])
    flow = arithmetic.expected_flow(capacity, 30.0, 0.5, tasks, work, slots)
    got = (*flow, arithmetic.price(capacity, capacity * 0.5, queued, *flow, left))
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    assert np.mean(np.asarray(wanted[1]) > capacity * 0.5) > 0.1  # overloaded
    assert np.mean(got[2] > 0) > 0.5


def test_subsets_are_numbered_as_in_the_environments():
    table = arithmetic.subset_table(5)
    np.testing.assert_array_equal(table, [np.asarray(subset(i, 5)) for i in range(31)])
