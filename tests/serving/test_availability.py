"""Speeds over time: what is worked out by hand, properties, laws, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from jaxmec.serving import Alternating, Availability, always_up, given
from jaxmec.serving.availability import Troubles

INF = float("inf")


def pieces(breaks, speed) -> Troubles:
    return jax.tree.map(lambda leaf: leaf[:, 0], Availability([breaks], [speed]).troubles)


def test_a_server_worked_out_by_hand():
    # Up for 5 s, down until 8, half speed until 12, then up.
    server = pieces([0, 5, 8, 12], [1, 0, 0.5, 1])
    assert [float(server.work_by(t)) for t in (0, 3, 5, 7, 8, 10, 12, 20)] == [
        0, 3, 5, 5, 5, 6, 7, 15,
    ]  # fmt: skip
    assert [float(server.time_of(w)) for w in (3, 5, 5.5, 7, 8)] == [3, 5, 9, 12, 13]
    assert [float(server.up_from(t)) for t in (4, 5, 7.5, 8, 100)] == [4, 8, 8, 8, 100]
    assert [float(server.next_outage(t)) for t in (0, 4.9, 5, 9)] == [5, 5, INF, INF]
    assert [float(server.last_outage(t)) for t in (4.9, 5, 9)] == [-INF, 5, 5]


def test_outages_that_follow_one_another_are_one():
    server = pieces([0, 2, 3, 4], [1, 0, 0, 1])
    assert float(server.up_from(2.5)) == 4
    assert float(server.next_outage(2)) == INF and float(server.last_outage(10)) == 2


@examples(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_time_and_work_are_inverse(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        breaks = np.concatenate([[0.0], np.cumsum(rng.exponential(5.0, 5)), [INF]])
        speed = rng.choice([0.0, 0.3, 1.0], 7)
        speed[5] = 1.0
        server = pieces(breaks, speed)
        work = rng.uniform(1e-3, 40)
        time = float(server.time_of(work))
        assert float(server.work_by(time)) == pytest.approx(work, abs=1e-9)
        assert float(server.work_by(time - 1e-6)) < work  # the smallest such time
        assert float(server.up_from(server.up_from(work))) == float(server.up_from(work))


def test_a_law_has_the_medians_it_says():
    law = Alternating(180.0, 1.0, 20.0, 0.8, slow_share=0.25, slow_speed=0.4, troubles=4)
    steady = jnp.asarray([False, True])
    draws = jax.jit(jax.vmap(lambda key: law.draw(key, steady)))(
        jax.random.split(jax.random.key(0), 4000)
    )
    breaks, speed = np.asarray(draws.breaks), np.asarray(draws.speed)
    assert breaks.shape == (4000, 2, 9)
    assert np.median(np.diff(breaks[:, 0])[:, 0::2]) == pytest.approx(180, rel=0.05)
    assert np.median(np.diff(breaks[:, 0])[:, 1::2]) == pytest.approx(20, rel=0.05)
    assert np.mean(speed[:, 0, 1::2] > 0) == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(np.unique(speed[:, 0, 1::2]), [0.0, 0.4], rtol=1e-6)
    assert np.all(speed[:, 0, 0::2] == 1) and np.all(speed[:, 1] == 1)


def test_given_troubles():
    availability = given(3, [(2, 5.0, 6.0, 0.0), (0, 1.0, 2.0, 0.5), (0, 2.0, 4.0, 0.0)])
    np.testing.assert_array_equal(availability.breaks[0], [0, 1, 2, 4])
    np.testing.assert_array_equal(availability.speed[0], [1, 0.5, 0, 1])
    np.testing.assert_array_equal(availability.breaks[1], [0, INF, INF, INF])
    np.testing.assert_array_equal(availability.breaks[2], [0, 5, 6, INF])
    assert given(2, []).breaks.shape == always_up(2).breaks.shape == (2, 1)
    down_at_once = given(1, [(0, 0.0, 3.0, 0.0)])
    np.testing.assert_array_equal(down_at_once.speed[0], [0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Availability([[1.0]], [[1.0]]), r"breaks\[0, 0\] must be 0, got 1"),
        (lambda: Availability([[0, 2, 2]], [[1, 0, 1]]), r"breaks\[0, 2\] must be above"),
        (lambda: Availability([[0, INF, 3]], [[1, 0, 1]]), r"breaks\[0, 2\] must be above"),
        (lambda: Availability([[0, 2]], [[1, 0]]), r"speed\[0, 1\] must be above 0"),
        (lambda: Availability([[0, 2, INF]], [[1, 0, 1]]), r"speed\[0, 1\] must be above 0"),
        (
            lambda: Availability([[0, 2]], [[1, -1]]),
            r"speed\[0, 1\] must be a finite number of at least 0, got -1",
        ),
        (lambda: Availability([[0.0]], [[1.0, 1.0]]), "speed must have the shape of breaks"),
        (lambda: Alternating(0, 1, 1, 1), "up_median must be a finite number above 0"),
        (
            lambda: Alternating(1, 1, 1, 1, slow_share=2),
            "slow_share must be a finite number of at least 0 and at most 1",
        ),
        (
            lambda: Alternating(1, 1, 1, 1, troubles=0),
            "troubles must be a whole number",
        ),
        (lambda: given(1, [(1, 0, 1, 0)]), r"troubles\[0\]: server must be between 0 and 0"),
        (lambda: given(1, [(0, 2, 1, 0)]), r"troubles\[0\] must begin"),
        (lambda: given(1, [(0, 0, 2, 0), (0, 1, 3, 0)]), "must not overlap"),
        (lambda: given(1, [(0, 0, 2, 3)]), "speed must be between 0 and 1, got 3"),
    ],
)
def test_what_is_no_availability_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
