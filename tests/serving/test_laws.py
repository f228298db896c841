"""Availability from records of spot instances, against the records themselves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxmec.serving import Spot

# Runs of 3, 1, 4, 2, 5, 6, 7 and 2 entries, up and down in turn.
LENGTHS = [3, 1, 4, 2, 5, 6, 7, 2]
RECORD = np.repeat(np.arange(8) % 2 == 0, LENGTHS)


def drawn(law, servers=400, seed=0, steady=None):
    steady = np.zeros(servers, bool) if steady is None else steady
    return jax.jit(law.draw)(jax.random.key(seed), steady)


def speed_at(availability, server, times):
    breaks, speed = np.asarray(availability.breaks[server]), np.asarray(availability.speed[server])
    return speed[np.searchsorted(breaks, times, "right") - 1]


def test_an_episode_is_a_stretch_of_the_record():
    gap, window = 10.0, 95.0
    availability = drawn(Spot.of([RECORD], [gap], window))
    breaks = np.asarray(availability.breaks)
    assert np.all(breaks[:, 0] == 0)
    finite = np.isfinite(breaks)
    assert np.all(np.diff(np.where(finite, breaks, 1e9 + np.arange(breaks.shape[1]))) > 0)
    inside = np.arange(0.5, window, 1.0)
    offsets = np.arange(0, (len(RECORD) - 10) * gap, 0.25) + 0.125
    stretches = {tuple(RECORD[((o + inside) // gap).astype(int)]) for o in offsets}
    for server in range(len(breaks)):
        assert tuple(speed_at(availability, server, inside) > 0) in stretches
        assert np.all(speed_at(availability, server, [window + 1, 1e6]) == 1)
    assert len(np.unique(breaks[:, 1])) > 300  # each begins at a moment of its own


def test_servers_are_up_for_the_share_that_the_record_is():
    record = np.random.default_rng(0).random(20_000) < 0.8
    availability = drawn(Spot.of([record], [1.0], 100.0), servers=2000)
    times = np.linspace(0.5, 99.5, 50)
    share = np.mean([speed_at(availability, i, times) for i in range(2000)])
    assert share == pytest.approx(record.mean(), abs=0.005)


def test_each_server_follows_its_record_and_a_cloud_none():
    up, down = np.ones(50, bool), np.zeros(50, bool)
    law = Spot.of([up, down], [1.0, 2.0], 20.0)
    availability = drawn(law, servers=5, steady=np.array([0, 0, 0, 0, 1], bool))
    assert [float(speed_at(availability, i, 10.0)) for i in range(5)] == [1, 0, 1, 0, 1]
    assert float(speed_at(availability, 1, 21.0)) == 1


def test_weeks_are_told_apart_to_the_second():
    """In float32 seconds two months are steps of half a second."""
    record = np.arange(60 * 86_400) % 2 == 0
    availability = drawn(Spot.of([record], [1.0], 20.0), servers=100)
    lengths = np.diff(np.asarray(availability.breaks)[:, 1:20], axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_every_run_of_a_window_has_its_place():
    record = np.tile([True, False], 30)
    law = Spot.of([record], [1.0], 10.0)
    assert law.pieces == 11
    availability = drawn(law, servers=50)
    breaks = np.asarray(availability.breaks)
    np.testing.assert_array_equal(np.sum((breaks > 0) & (breaks < 10), axis=1), 10)
    np.testing.assert_array_equal(breaks[:, 11], 10)


@pytest.mark.parametrize(
    ("records", "gaps", "window", "says"),
    [
        ([], [], 10.0, "records must be one a gap and one at least, got 0"),
        ([RECORD], [1.0, 2.0], 10.0, "records must be one a gap"),
        ([RECORD], [0.0], 10.0, r"gaps\[0\] must be a finite number above 0"),
        ([RECORD], [1.0], -1.0, "window must be a finite number above 0"),
        ([RECORD], [1.0], 30.0, r"records\[0\] must have at least 31 entries, got 30"),
    ],
)
def test_records_that_cannot_be(records, gaps, window, says):
    with pytest.raises(ValueError, match=says):
        Spot.of(records, gaps, window)
