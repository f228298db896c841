"""What an episode is made of: laws of arrivals, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from serving_worlds import genai5

from jaxmec.serving import Mix, Poisson, Requests

MIX = {
    "share": [3, 1],
    "quality": [0.4, 0.9],
    "limit": [5.0, 40.0],
    "images": [1, 8],
    "images_share": [1, 3],
    "size": [1.0, 3.0],
    "result": [0.7, 0.7],
    "origin_share": [1, 0, 1],
}


def test_requests_have_the_means_that_their_law_says():
    law = Requests(Poisson(4.0), Mix(**MIX))

    def one(key, carry):
        request, memory = law.next(key, *carry)
        return (request.arrival, memory), request

    keys = jax.random.split(jax.random.key(0), 8000)
    _, requests = jax.lax.scan(lambda c, k: one(k, c), (jnp.zeros(()), law.begin(keys[0])), keys)
    gaps = np.diff(requests.arrival)
    assert np.all(gaps >= 0) and np.mean(gaps) == pytest.approx(0.25, rel=0.05)
    assert np.std(gaps) == pytest.approx(0.25, rel=0.07)
    assert np.mean(requests.quality == jnp.float32(0.4)) == pytest.approx(0.75, abs=0.02)
    np.testing.assert_array_equal(requests.limit == 5.0, requests.quality < 0.5)
    assert np.mean(requests.images == 8) == pytest.approx(0.75, abs=0.02)
    assert set(np.unique(requests.origin)) == {0, 2}
    assert np.mean(requests.size) == pytest.approx(2.0, abs=0.03)
    assert requests.size.min() >= 1 and requests.size.max() <= 3


def test_a_world_knows_how_long_its_episodes_can_be():
    params = genai5(load=0.4)
    mean = float(params.arrivals.times.rate) * 600
    assert mean + 5 * mean**0.5 < params.max_requests < 4 * mean
    assert params.max_steps_in_episode == 3 * params.max_requests
    assert params.num_options == 7 and params.num_stations == 5
    # The GTX 1070 and the RTX 2060 hold the large variant, the cloud offers its one option.
    assert np.asarray(params.allowed).sum(axis=1).tolist() == [7, 7, 7, 7, 7, 1]


def test_worlds_of_about_the_same_load_can_be_stacked():
    worlds = [genai5(seed=seed, load=0.35 + 0.05 * seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
    assert stacked.fleet.load_time.shape == (3, 6, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": [5.0, 0.0]}, r"limit\[1\] must be a number above 0, got 0"),
        ({"share": [0, 0]}, "share must have a share above 0"),
        ({"images": [1.5, 2]}, "images must be whole numbers"),
        ({"size": [3.0, 1.0]}, r"size\[1\] must be at least size\[0\], 3, got 1"),
        ({"quality": [0.4, 1.9]}, r"quality\[1\] must be a finite number .* at most 1, got 1.9"),
        ({"share": [1.0]}, "quality must have the shape of share"),
    ],
)
def test_what_nobody_can_ask_for_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Mix(**(MIX | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quality": [0.45, 0.4, 0.72, 0.84, 0.88, 0.95, 1.0]},
            r"quality\[1\] must be at least quality\[0\], 0.45, since .* got 0.4",
        ),
        ({"variant": [0, 0, 1, 1, 1, 2, 3]}, r"variant\[6\] must be .* at most 2, got 3"),
        ({"steps": [0, 4, 10, 20, 30, 20, 30]}, r"steps\[0\] must be .* at least 1, got 0"),
        ({"steps": [1, 4]}, "steps must have the shape of quality"),
        ({"offered": np.ones((5, 7))}, r"offered must have shape \(6, 7\)"),
        ({"offered": np.zeros((6, 7))}, r"offered\[:, 0\] must have a server"),
        ({"horizon": 0.0}, "horizon must be a finite number above 0"),
        ({"attempts": 0}, "attempts must be a whole number of at least 1, got 0"),
        (
            {"arrivals": Requests(Poisson(1.0), Mix(**(MIX | {"origin_share": np.ones(7)})))},
            "arrivals.num_stations must be at most the number of servers",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        genai5(**changes)
