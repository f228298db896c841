"""Arrivals: order, statistics, traces, errors. Keys are fixed, and bounds lie five sigma out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmec.deploy import jaxpr
from jaxmec.mec import BernoulliWorkload, TaskSizes, UniformCountWorkload, trace_workload

SIGMA = 5.0


def sizes(positions: int) -> TaskSizes:
    """Densities that tell the position; no fixed work."""
    return TaskSizes(
        size_low=2.0,
        size_high=5.0,
        density=0.1 + 0.01 * np.arange(positions),
        fixed_work=np.zeros(positions),
        result=0.5 * np.arange(positions),
    )


def bernoulli(
    p=0.3, positions=50, slots=60, stations=5, master=False, laid_out=False
) -> BernoulliWorkload:
    return BernoulliWorkload(p, sizes(positions), slots, stations, master, laid_out)


def uniform(positions=10, slots=6, stations=3, master=False) -> UniformCountWorkload:
    return UniformCountWorkload(sizes(positions), slots, stations, master)


def stream(workload, key, count, streams=1):
    """[streams, count] consecutive arrivals, each stream over as many episodes as it takes."""

    def one(key):
        key_first, key_next = jax.random.split(key)
        first = workload.first(key_first)

        def advance(arrival, index):
            following = workload.next(jax.random.fold_in(key_next, index), arrival.cursor)
            return following, arrival

        return jax.lax.scan(advance, first, jnp.arange(count))[1]

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(key, streams)))


def places(arrivals, slots, stations, positions):
    """[streams, M] of each arrival among the positions of all episodes, one after the other."""
    episode = np.cumsum(arrivals.episode_over, axis=1).astype(np.int64)
    c = arrivals.cursor
    return ((episode * slots + c.slot) * stations + c.station) * positions + c.position


WORKLOADS = {
    "bernoulli": lambda: bernoulli(slots=4, positions=20),
    "bernoulli rare": lambda: bernoulli(p=0.01, slots=3, stations=2, positions=10),
    "bernoulli certain": lambda: bernoulli(p=1.0, slots=3, stations=2, positions=4),
    "bernoulli single": lambda: bernoulli(p=0.5, slots=1, stations=1, positions=1),
    "bernoulli master": lambda: bernoulli(slots=4, stations=1, master=True),
    "laid out": lambda: bernoulli(slots=4, positions=20, laid_out=True),
    "laid out rare": lambda: bernoulli(0.01, slots=3, stations=2, positions=10, laid_out=True),
    "laid out certain": lambda: bernoulli(1.0, slots=3, stations=2, positions=4, laid_out=True),
    "laid out master": lambda: bernoulli(slots=4, stations=1, master=True, laid_out=True),
    "uniform": uniform,
    "uniform single": lambda: uniform(positions=1, slots=1, stations=1),
    "uniform master": lambda: uniform(stations=1, master=True),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_stream_is_in_order_and_says_what_lies_between(name):
    workload = WORKLOADS[name]()
    total, stations, positions = int(workload.slots), workload.stations, workload.positions
    a = stream(workload, jax.random.key(1), 2000, streams=2)
    c = a.cursor
    assert np.all((c.slot >= 0) & (c.slot < total))
    assert np.all((c.station >= 0) & (c.station < stations))
    assert np.all((c.position >= 0) & (c.position < positions))
    np.testing.assert_array_equal(a.task.origin, -1 if "master" in name else c.station)
    assert np.all(np.diff(places(a, total, stations, positions), axis=1) > 0)
    over = a.episode_over[:, 1:]
    elapsed = np.where(over, total, 0) + np.diff(c.slot, axis=1)
    np.testing.assert_array_equal(a.slots[:, 1:], elapsed)
    changed = (elapsed > 0) | (np.diff(c.station, axis=1) != 0)
    np.testing.assert_array_equal(a.new_station[:, 1:], changed)
    # The first: the queues are empty, and `slots` ends have passed since slot 0.
    assert not np.any(a.episode_over[:, 0])
    assert np.all(a.new_station[:, 0])
    np.testing.assert_array_equal(a.slots[:, 0], c.slot[:, 0])
    # What the position fixes.
    np.testing.assert_allclose(a.task.work, (0.1 + 0.01 * c.position) * a.task.size, rtol=1e-6)
    np.testing.assert_allclose(a.task.result, 0.5 * c.position)
    assert np.all((a.task.size >= 2) & (a.task.size <= 5))


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_bernoulli_arrivals_have_probability_p_at_every_position(p, laid_out):
    slots, stations, positions = 3, 2, 50
    workload = bernoulli(p, positions, slots, stations, laid_out=laid_out)
    a = stream(workload, jax.random.key(2), 4000, streams=8)
    place = places(a, slots, stations, positions)
    arrived = np.zeros((8, place.max() + 1), bool)
    for row, where in zip(arrived, place, strict=True):
        row[where] = True
    whole = slots * stations * positions
    episodes = place[:, -1].min() // whole  # complete in every stream
    arrived = arrived[:, : episodes * whole].reshape(-1, whole)
    n = arrived.size
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(arrived.mean() - p) < SIGMA * deviation
    # At each of the 300 positions of an episode; the last and the first included.
    each = stats.chisquare(
        np.stack([arrived.sum(0), (~arrived).sum(0)]),
        len(arrived) * np.array([[p], [1 - p]]),
        axis=0,
    ).statistic.sum()
    assert abs(each - whole) < SIGMA * np.sqrt(2 * whole)
    # Neighbours are independent, across a station's, a slot's and an episode's end too.
    flat = arrived.ravel()
    both = np.mean(flat[:-1] & flat[1:])
    assert abs(both - p * p) < SIGMA * 2 * np.sqrt(p * p * (1 - p * p) / n)
    edge = arrived[:-1, -1] & arrived[1:, 0]
    assert abs(edge.mean() - p * p) < SIGMA * np.sqrt(p * p / len(edge))
    # Counts of a station's slot are binomial.
    counts = arrived.reshape(-1, positions).sum(1)
    variance = positions * p * (1 - p)
    assert abs(counts.var() / variance - 1) < SIGMA * np.sqrt(2.5 / len(counts))


@pytest.mark.parametrize("laid_out", [False, True])
def test_the_first_task_of_an_episode_is_distributed_as_its_positions(laid_out):
    """By `first` and at the end of another episode alike: P(n) = p (1 − p)^n."""
    p, slots, stations, positions = 0.2, 2, 2, 10
    workload = bernoulli(p, positions, slots, stations, laid_out=laid_out)
    keys = jax.random.split(jax.random.key(3), 20_000)
    last = workload.first(keys[0]).cursor._replace(
        slot=jnp.int32(slots - 1), station=jnp.int32(stations - 1), position=jnp.int32(8)
    )

    def place(cursor):
        return (cursor.slot * stations + cursor.station) * positions + cursor.position

    @jax.jit
    @jax.vmap
    def both(key):
        following = workload.next(key, last)
        return place(workload.first(key).cursor), following.episode_over, place(following.cursor)

    first, over, again = jax.device_get(both(keys))
    # Nothing at the one position left with 1 − p; an empty episode, 0.8^40, is passed over.
    if laid_out:  # whether it has one was settled before
        assert over.all() or not over.any()
    else:
        assert abs(over.mean() - (1 - p)) < SIGMA * np.sqrt(p * (1 - p) / len(over))
    n = np.arange(40)
    expected = p * (1 - p) ** n / (1 - (1 - p) ** 40)
    for sample in filter(len, (first, again[over])):
        observed = np.bincount(sample, minlength=40)
        statistic = np.sum((observed - len(sample) * expected) ** 2 / (len(sample) * expected))
        assert statistic < 39 + SIGMA * np.sqrt(2 * 39)


def test_a_certain_arrival_comes_at_every_position():
    a = stream(bernoulli(p=1.0, positions=4, slots=3, stations=2), jax.random.key(4), 48)
    np.testing.assert_array_equal(places(a, 3, 2, 4)[0], np.arange(48))
    np.testing.assert_array_equal(np.flatnonzero(a.episode_over[0]), [24])


def test_a_rare_arrival_is_anywhere_in_an_episode():
    """p = 1e-5 and 400 positions: almost every episode is empty, passed over, not served."""
    workload = bernoulli(p=1e-5, positions=20, slots=4, stations=5)
    a = stream(workload, jax.random.key(5), 2000)
    assert a.episode_over[0, 1:].mean() > 0.98
    c = jax.tree.map(lambda x: x[0], a.cursor)
    where = ((c.slot * 5 + c.station) * 20 + c.position) / 400
    assert stats.kstest(where, "uniform").statistic < 1.63 / np.sqrt(2000) + 1 / 400


def test_a_slot_of_many_positions():
    """N = 5000, p = 0.001: gaps of thousands of positions, many stations and slots."""
    a = stream(bernoulli(p=0.001, positions=5000, slots=10, stations=3), jax.random.key(6), 20_000)
    gaps = np.diff(places(a, 10, 3, 5000)[0])
    assert abs(gaps.mean() - 1000) < SIGMA * 1000 / np.sqrt(len(gaps))
    grid = np.linspace(0, 1, 11)[1:-1]
    quantiles = np.log1p(-grid) / np.log1p(-0.001)
    below = np.mean(gaps[:, None] <= quantiles, axis=0)
    np.testing.assert_allclose(below, grid, atol=SIGMA * 0.5 / np.sqrt(len(gaps)) + 1e-3)


def test_uniform_counts_are_uniform():
    slots, stations, positions = 7, 3, 10
    a = stream(uniform(positions, slots, stations), jax.random.key(7), 5000, streams=8)
    place = places(a, slots, stations, positions) // positions  # which station's slot
    counts = []
    for row, c in zip(place, np.moveaxis(np.stack(a.cursor), 1, 0), strict=True):
        assert np.all(np.isin(np.diff(row), (0, 1)))  # every station of every slot has a task
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        counts.extend(np.diff(starts))  # the last may be cut
        positions_in = np.arange(len(row)) - np.repeat(starts, np.diff(np.r_[starts, len(row)]))
        np.testing.assert_array_equal(c[2], positions_in)
    counts = np.array(counts)
    observed = np.bincount(counts, minlength=positions + 1)
    assert observed[0] == 0 and len(observed) == positions + 1
    statistic = stats.chisquare(observed[1:]).statistic
    assert statistic < positions - 1 + SIGMA * np.sqrt(2 * (positions - 1))
    # Consecutive counts have nothing to do with one another.
    correlation = np.corrcoef(counts[:-1], counts[1:])[0, 1]
    assert abs(correlation) < SIGMA / np.sqrt(len(counts))


@pytest.mark.parametrize("name", ["bernoulli", "laid out", "uniform"])
def test_sizes_are_uniform_and_independent_of_the_arrivals(name):
    workload = WORKLOADS[name]()
    a = stream(workload, jax.random.key(8), 20_000)
    size = a.task.size[0]
    bound = SIGMA / np.sqrt(len(size))
    assert stats.kstest(size, "uniform", args=(2, 3)).statistic < 0.4 * bound
    assert abs(np.corrcoef(size[:-1], size[1:])[0, 1]) < bound
    gap = np.diff(places(a, int(workload.slots), workload.stations, workload.positions)[0])
    assert abs(np.corrcoef(size[1:], gap)[0, 1]) < bound
    assert abs(np.corrcoef(size, a.cursor.position[0])[0, 1]) < bound


def test_the_same_key_gives_the_same_stream_and_another_key_another():
    one, again, other = (stream(bernoulli(), jax.random.key(k), 100) for k in (1, 1, 2))
    np.testing.assert_array_equal(one.task.size, again.task.size)
    assert not np.array_equal(one.task.size, other.task.size)


def test_float64_streams_are_float64():
    with jax.enable_x64(True):
        a = stream(bernoulli(), jax.random.key(1), 200)
        assert a.task.size.dtype == a.task.work.dtype == np.float64
    b = stream(bernoulli(), jax.random.key(1), 200)
    assert b.task.size.dtype == np.float32
    np.testing.assert_allclose(a.task.size, b.task.size, rtol=1e-6)
    np.testing.assert_array_equal(a.cursor.position, b.cursor.position)


@pytest.mark.parametrize("make", [bernoulli, uniform])
def test_the_next_task_costs_the_same_however_many_positions(make):
    """No intermediate of the program grows with N."""

    def largest(positions):
        workload = make(positions=positions, slots=4)
        cursor = workload.first(jax.random.key(0)).cursor
        equations = list(jaxpr.every(jaxpr.trace(workload.next, jax.random.key(0), cursor)))
        sizes = [v.aval.size for e in equations for v in e.outvars if hasattr(v.aval, "size")]
        return max(sizes), len(equations)

    assert largest(50) == largest(5000)
    assert largest(5000)[0] < 50


# --- Traces ------------------------------------------------------------------------------

TRACE = {
    "slot": [0, 0, 0, 2, 2, 3],
    "origin": [0, 0, 2, 1, 1, 0],
    "size": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "work": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "result": [0.0, 0.1, 0.0, 0.0, 0.2, 0.0],
}


def test_a_trace_is_played_row_by_row_and_again():
    workload = trace_workload(**TRACE, slots=5)
    a = stream(workload, jax.random.key(0), 12)
    for name, value in (("origin", a.task.origin), ("slot", a.cursor.slot)):
        np.testing.assert_array_equal(value[0], TRACE[name] * 2)
    for name in ("size", "work", "result"):
        np.testing.assert_allclose(getattr(a.task, name)[0], TRACE[name] * 2, rtol=1e-6)
    np.testing.assert_array_equal(a.slots[0], [0, 0, 0, 2, 0, 1, 2, 0, 0, 2, 0, 1])
    np.testing.assert_array_equal(a.new_station[0], [1, 0, 1, 1, 0, 1] * 2)
    np.testing.assert_array_equal(a.episode_over[0], [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(a.cursor.position[0], [0, 1, 0, 0, 1, 0] * 2)
    assert int(workload.slots) == 5 and int(trace_workload(**TRACE).slots) == 4
    assert workload.positions == 2


def test_what_remains_of_a_stations_slot():
    workload = trace_workload(**TRACE)
    cursors = stream(workload, jax.random.key(0), 6).cursor
    remaining = jax.vmap(workload.remaining)(jax.tree.map(lambda x: x[0], cursors))
    np.testing.assert_array_equal(remaining.tasks, [1, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(remaining.work, [0.2, 0, 0, 0.5, 0, 0], atol=1e-7)


def test_what_remains_of_a_slot_that_is_laid_out_is_what_comes():
    workload = bernoulli(positions=12, slots=5, stations=3, laid_out=True)
    a = stream(workload, jax.random.key(10), 600)
    cursor, task = (jax.tree.map(lambda x: x[0], part) for part in (a.cursor, a.task))
    remaining = jax.vmap(workload.remaining)(cursor)
    turn = np.cumsum(a.new_station[0])
    assert len(set(turn.tolist())) > 100
    for number in range(1, turn.max()):  # the last turn is cut off
        works = task.work[turn == number]
        left = np.arange(len(works))[::-1]
        np.testing.assert_array_equal(remaining.tasks[turn == number], left)
        after = np.append(np.cumsum(works[::-1])[::-1][1:], 0)
        np.testing.assert_allclose(remaining.work[turn == number], after, rtol=1e-4, atol=1e-5)


def test_a_trace_without_results_and_with_one_task():
    workload = trace_workload(slot=[3], origin=[-1], size=[2.0], work=[1.0])
    a = stream(workload, jax.random.key(0), 3)
    np.testing.assert_array_equal(a.task.result[0], np.zeros(3))
    np.testing.assert_array_equal(a.task.origin[0], [-1, -1, -1])
    np.testing.assert_array_equal(a.cursor.station[0], [0, 0, 0])
    np.testing.assert_array_equal(a.slots[0], [3, 4, 4])
    np.testing.assert_array_equal(a.episode_over[0], [0, 1, 1])


def test_a_recorded_stream_is_a_trace():
    """An episode written down and played again is the same tasks in the same order."""
    a = stream(bernoulli(slots=3), jax.random.key(9), 2000)
    end = int(np.argmax(a.episode_over[0]))
    task, cursor = (jax.tree.map(lambda x: x[0, :end], x) for x in (a.task, a.cursor))
    workload = trace_workload(cursor.slot, task.origin, task.size, task.work, task.result, slots=3)
    b = stream(workload, jax.random.key(0), end + 1)
    for one, other in zip(task, b.task, strict=True):
        np.testing.assert_array_equal(one, other[0, :end])
    np.testing.assert_array_equal(a.slots[0, :end], b.slots[0, :end])
    np.testing.assert_array_equal(a.new_station[0, :end], b.new_station[0, :end])
    assert b.episode_over[0, end]


def change(field, row, value):
    column = list(TRACE[field])
    column[row] = value
    return {**TRACE, field: column}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (change("slot", 3, 4), r"sorted.*slot.*row [34].*out of order"),
        (change("origin", 0, 1), r"sorted.*origin.*row [01].*out of order"),
        (change("slot", 0, -1), r"slot\[0\].*integer.*at least 0.*got -1"),
        (change("slot", 1, 0.5), r"slot\[1\].*integer.*got 0\.5"),
        (change("slot", 1, np.nan), r"slot\[1\].*number.*got nan"),
        (change("origin", 3, -2), r"origin\[3\].*at least -1.*got -2"),
        (change("size", 2, 0.0), r"size\[2\].*above 0.*got 0"),
        (change("size", 2, np.nan), r"size\[2\].*number.*got nan"),
        (change("work", 5, -1.0), r"work\[5\].*above 0.*got -1"),
        (change("work", 5, np.inf), r"work\[5\].*finite.*got inf"),
        (change("work", 5, np.nan), r"work\[5\].*number.*got nan"),
        (change("result", 1, -0.1), r"result\[1\].*at least 0.*got -0.1"),
        (change("size", 2, 1e-320), r"size\[2\].*float32 holds.*1.18e-38 to 3.4e\+38"),
        (change("work", 5, 1e39), r"work\[5\].*float32 holds.*got 1e\+39"),
        ({**TRACE, "deadline": [1.0]}, r"deadline.*\(6,\).*\(1,\)"),
        ({**TRACE, "deadline": [1.0] * 5 + [0.0]}, r"deadline\[5\].*above 0.*got 0"),
        ({**TRACE, "work": [1.0]}, r"work.*\(6,\).*\(1,\)"),
        ({**TRACE, "slot": [0, 0]}, r"slot.*\(6,\).*\(2,\)"),
        ({**TRACE, "result": [0.0]}, r"result.*\(6,\).*\(1,\)"),
        ({name: [] for name in TRACE}, r"at least one task.*empty"),
        ({**TRACE, "slots": 3}, r"slots.*at least 4.*got 3"),
        (change("origin", 0, -1), r"origin must be -1.*in all rows or in none, got -1.*0 in row 1"),
    ],
)
def test_an_invalid_trace_is_an_error_that_names_the_field(columns, message):
    with pytest.raises(ValueError, match=message):
        trace_workload(**columns)


def test_large_slot_numbers_are_kept():
    """2^24 + 1 is no float32: a trace must not lose a slot to rounding."""
    slots = [2**24, 2**24 + 1, 2**24 + 3]
    workload = trace_workload(slot=slots, origin=[0] * 3, size=[1.0] * 3, work=[1.0] * 3)
    np.testing.assert_array_equal(workload.slot, slots)
    with pytest.raises(ValueError, match="sorted"):
        trace_workload(slot=slots[::-1], origin=[0] * 3, size=[1.0] * 3, work=[1.0] * 3)


# --- Errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bernoulli(p=1.5), r"probability.*at most 1.*got 1\.5"),
        (lambda: bernoulli(p=-0.1), r"probability.*at least 0.*got -0\.1"),
        (lambda: bernoulli(p=0), r"probability.*above 0.*got 0"),
        (lambda: bernoulli(p=np.nan), r"probability.*number.*got nan"),
        (lambda: bernoulli(p=[0.1, 0.2]), r"probability.*scalar.*\(2,\)"),
        (lambda: bernoulli(slots=0), r"slots.*whole number.*got 0"),
        (lambda: bernoulli(slots=1.5), r"slots.*whole number.*got 1\.5"),
        (lambda: bernoulli(stations=0), r"stations.*whole number.*got 0"),
        (lambda: bernoulli(slots=10**8), r"slots x stations x positions.*got 100000000"),
        (lambda: uniform(slots=-1), r"slots.*whole number.*got -1"),
        (lambda: uniform(stations=0), r"stations.*whole number.*got 0"),
        (lambda: sizes(0), r"density.*at least one position"),
    ],
)
def test_invalid_arrivals_are_an_error_that_names_the_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_low": 0}, r"size_low.*above 0.*got 0"),
        ({"size_high": 1}, r"size_high.*at least size_low, 2.*got 1"),
        ({"density": [0.1, -0.2]}, r"density\[1\].*at least 0.*got -0\.2"),
        ({"density": [0.1, np.nan]}, r"density\[1\].*number.*got nan"),
        ({"density": [0.1, 0.0]}, r"position 1.*some work.*got 0"),
        ({"result": [0.1]}, r"result.*\(2,\).*\(1,\)"),
        ({"fixed_work": [-1, 0]}, r"fixed_work\[0\].*at least 0.*got -1"),
    ],
)
def test_invalid_sizes_are_an_error_that_names_the_field(changes, message):
    good = {"size_low": 2, "size_high": 5, "density": [0.1, 0.2]}
    good |= {"fixed_work": [0, 0], "result": [0, 0]}
    with pytest.raises(ValueError, match=message):
        TaskSizes(**{**good, **changes})


def test_every_combination_of_a_tiny_grid_can_occur():
    """Two positions, one slot, two stations at p = 0.5: 15 non-empty episodes of 16."""
    a = stream(bernoulli(p=0.5, positions=2, slots=1, stations=2), jax.random.key(10), 20_000)
    place = places(a, 1, 2, 2)[0]
    episode, within = place // 4, place % 4
    pattern = np.zeros(episode.max() + 1, int)
    np.add.at(pattern, episode, 2**within)
    observed = np.bincount(pattern[:-1], minlength=16)
    assert observed[0] == 0
    statistic = stats.chisquare(observed[1:]).statistic
    assert statistic < 14 + SIGMA * np.sqrt(28)
