"""Laws of arrivals, against their own equations and simulations in NumPy."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmec.serving import Bursts, Diurnal, Mix, Poisson, Recorded, heavy_tailed
from jaxmec.serving.presets import find_serving_preset

EPISODES, NUMBER = 400, 500


def name_of(law):
    return f"{type(law).__name__} {float(law.rate):g}"


def times_of(law, episodes=EPISODES, number=NUMBER, seed=0):
    """[episodes, number] s, and what each episode remembered at first."""

    def episode(key):
        key_begin, key_next = jax.random.split(key)
        first = law.begin(key_begin)

        def step(carry, key):
            time, memory = law.next(key, *carry)
            return (time, memory), time

        keys = jax.random.split(key_next, number)
        return jax.lax.scan(step, (jnp.zeros(()), first), keys)[1], first

    times, first = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), episodes))
    return np.asarray(times, float), np.asarray(first)


def counts(times, window):
    """Requests of each episode's first ``window`` s."""
    assert times[:, -1].min() > window
    return np.sum(times < window, axis=1)


def bursts_in_numpy(law, window, rng):
    """Requests of one window: the two states in turn, Poisson numbers in each."""
    quiet, busy = (float(rate) for rate in law.rates)
    lasting = {True: float(law.busy), False: float(law.quiet)}
    is_busy, time, total = rng.random() < float(law.busy_share), 0.0, 0
    while time < window:
        stay = min(rng.exponential(lasting[is_busy]), window - time)
        total += rng.poisson((busy if is_busy else quiet) * stay)
        time, is_busy = time + stay, not is_busy
    return total


@pytest.mark.parametrize(
    "law",
    [Bursts(2.0, 8.0, 10.0, 30.0), Bursts(3.0, 50.0, 2.0, 5.0), Bursts(1.0, 1.0)],
    ids=name_of,
)
def test_bursts_come_as_in_a_simulation(law):
    window = 60.0
    ours = counts(times_of(law, 2000, 1200)[0], window)
    rng = np.random.default_rng(1)
    theirs = np.array([bursts_in_numpy(law, window, rng) for _ in range(2000)])
    assert np.mean(ours) == pytest.approx(float(law.rate) * window, rel=0.05)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    spread = np.var(ours) / np.mean(ours)
    assert spread == pytest.approx(np.var(theirs) / np.mean(theirs), rel=0.2)
    assert spread > 5 if float(law.burst) > 1 else spread == pytest.approx(1, abs=0.15)


def test_the_variance_of_bursts_is_the_formula():
    """Var N(t) of two states: mean + 2 s² τ (t − τ(1 − e^(−t/τ))), Fischer and Meier-Hellstern."""
    law, window = Bursts(2.0, 8.0, 10.0, 30.0), 60.0
    quiet, busy = (float(rate) for rate in law.rates)
    share, memory = 0.25, 1 / (1 / 10 + 1 / 30)
    swing = share * (1 - share) * (busy - quiet) ** 2
    decay = window - memory * (1 - np.exp(-window / memory))
    variance = 2 * window + 2 * swing * memory * decay
    assert np.var(counts(times_of(law, 4000, 1200)[0], window)) == pytest.approx(variance, rel=0.1)


def test_gaps_of_bursts_vary_more_than_poisson():
    gaps = np.diff(times_of(Bursts(1.0, 20.0, 5.0, 45.0))[0], axis=1)
    assert np.std(gaps) / np.mean(gaps) > 1.5
    assert np.all(gaps >= 0)


@pytest.mark.parametrize(
    "law", [Diurnal(2.0, 0.8, 60.0), Diurnal(1.0, 1.0, 300.0), Diurnal(5.0, 0.0, 10.0)], ids=name_of
)
def test_a_sine_s_requests_are_poisson_in_its_own_time(law):
    """Λ of the times is a Poisson process of rate 1."""
    times, phase = times_of(law)
    rate, share, period = (float(x) for x in (law.rate, law.amplitude, law.period))
    angle = 2 * np.pi * times / period + phase[:, None]
    passed = rate * (
        times + share * period / (2 * np.pi) * (np.cos(phase)[:, None] - np.cos(angle))
    )
    gaps = np.diff(passed, axis=1, prepend=0).ravel()
    assert np.mean(gaps) == pytest.approx(1, rel=0.02)
    assert stats.kstest(gaps, "expon").pvalue > 1e-3
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.01
    assert stats.kstest(phase, "uniform", (0, 2 * np.pi)).pvalue > 1e-3


def test_a_sine_is_seen_in_the_counts():
    """Of thinned uniform proposals, in NumPy, at the same phases."""
    law = Diurnal(2.0, 0.9, 100.0)
    times, phase = times_of(law, number=1000)
    angle = (2 * np.pi * times / 100 + phase[:, None]) % (2 * np.pi)
    ours = np.histogram(angle[times < 200], 8, (0, 2 * np.pi))[0]
    rng = np.random.default_rng(2)
    proposed = rng.uniform(0, 2 * np.pi, 400_000)
    kept = proposed[rng.random(400_000) * 1.9 < 1 + 0.9 * np.sin(proposed)]
    theirs = np.histogram(kept, 8, (0, 2 * np.pi))[0]
    np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=0.004)


@pytest.mark.parametrize("law", [Poisson(0.5), Bursts(0.5, 10.0, 60.0, 200.0), Diurnal(0.5, 1.0)],
                         ids=name_of)  # fmt: skip
def test_a_bound_on_the_requests_holds(law):
    horizon = 400.0
    times = times_of(law, 2000, law.most(horizon) + 1)[0]
    assert np.sum(times < horizon, axis=1).max() <= law.most(horizon)
    assert law.most(horizon) < 12 * 0.5 * horizon


def test_images_with_a_tail():
    images, share = heavy_tailed(1.2, 50)
    theirs = stats.zipfian.pmf(np.arange(1, 51), 2.2, 50)
    np.testing.assert_array_equal(images, np.arange(1, 51))
    np.testing.assert_allclose(share, theirs, rtol=1e-12)
    mix = Mix([1], [0.5], [9.0], images, share, [0, 1], [0, 0], [1])
    keys = jax.random.split(jax.random.key(0), 40_000)
    drawn = np.asarray(jax.vmap(lambda key: mix.draw(key, 0.0).images)(keys))
    assert np.mean(drawn) == pytest.approx(np.sum(images * share), rel=0.03)
    assert np.mean(drawn > 10) == pytest.approx(share[10:].sum(), abs=0.005)
    with pytest.raises(ValueError, match="tail must be a finite number above 0, got 0"):
        heavy_tailed(0, 5)
    with pytest.raises(ValueError, match="most must be a whole number of 1 to 65536, got 0"):
        heavy_tailed(1.0, 0)


def test_presets_keep_their_load_whatever_the_law():
    preset = find_serving_preset("genai-5")
    usual = preset.params(load=0.5)
    assert isinstance(preset.params(arrivals="bursts", burst=9.0).arrivals.times, Bursts)
    diurnal = preset.params(load=0.5, arrivals="diurnal", period=90.0).arrivals.times
    assert float(diurnal.period) == 90
    assert float(diurnal.rate) == float(usual.arrivals.times.rate)
    heavy = preset.params(load=0.5, images_tail=0.5, most_images=64)
    mixes = [each.arrivals.mix for each in (usual, heavy)]
    images = [float(jnp.average(mix.images, weights=mix.images_share)) for mix in mixes]
    work = [float(each.arrivals.times.rate) for each in (usual, heavy)]
    assert images[1] > 1.5 * images[0]
    assert images[0] * work[0] == pytest.approx(images[1] * work[1], rel=1e-5)


@pytest.mark.parametrize(
    ("law", "changes", "says"),
    [
        (Bursts, {"rate": 0.0}, "rate must be a finite number above 0, got 0"),
        (Bursts, {"rate": 1.0, "burst": 0.5}, "burst must be a finite number of at least 1"),
        (Bursts, {"rate": 1.0, "quiet": 0.0}, "quiet must be a finite number above 0"),
        (Diurnal, {"rate": 1.0, "amplitude": 1.5}, "amplitude must be a finite number of at least "
         "0 and at most 1, got 1.5"),
        (Diurnal, {"rate": 1.0, "period": -1.0}, "period must be a finite number above 0"),
    ],
)  # fmt: skip
def test_laws_that_cannot_be(law, changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        law(**changes)


ROWS = {
    "arrival": [0.5, 2.0, 2.0, 7.0, 8.5],
    "origin": [0, 2, 1, 0, 0],
    "images": [1, 4, 1, 2, 8],
    "size": [1.0, 2.0, 3.0, 4.0, 5.0],
    "result": [0.5] * 5,
    "quality": [0.4, 0.7, 0.9, 0.4, 0.4],
    "limit": [5, 15, 40, 5, np.inf],
}


def played(law, key, number=7):
    memory, time, found = law.begin(key), 0.0, []
    for _ in range(number):
        request, memory = law.next(key, time, memory)
        found.append(jax.tree.map(np.asarray, request))
        time = request.arrival
    return found


def test_a_record_is_played_as_it_is():
    law = Recorded(**ROWS)
    assert law.num_stations == 3 and law.most(600.0) == 5 and law.most(7.0) == 4
    found = played(law, jax.random.key(0))
    for index in range(5):
        for name, values in ROWS.items():
            assert getattr(found[index], name) == pytest.approx(values[index])
    assert [float(request.arrival) for request in found[5:]] == [np.inf, np.inf]
    assert Recorded(**ROWS, num_stations=5).num_stations == 5


def test_an_episode_begins_anywhere_in_a_record():
    law = Recorded(**ROWS, window=4.0)
    starts = []
    for seed in range(40):
        found = played(law, jax.random.key(seed))
        arrivals = np.array([request.arrival for request in found])
        inside = arrivals[np.isfinite(arrivals)]
        assert np.all(inside >= 0) and np.all(inside <= 4.0) and np.all(np.diff(inside) >= 0)
        assert len(inside) <= law.most(600.0)
        start = float(law.begin(jax.random.key(seed))[1])
        starts.append(start)
        expected = [t - start for t in ROWS["arrival"] if start <= t <= start + 4]
        np.testing.assert_allclose(inside, expected, atol=1e-5)
    assert min(starts) >= 0 and max(starts) <= 4.5 and np.std(starts) > 1


def test_gaps_late_in_a_long_record_are_exact():
    """At 30 days float32 seconds are steps of a quarter."""
    arrival = 30 * 86_400 + np.arange(50) * 0.1
    rows = {name: np.resize(values, 50) for name, values in ROWS.items()}
    law = Recorded(**(rows | {"arrival": arrival}))
    np.testing.assert_allclose(law.gap[1:], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arrival": [1, 0, 2, 3, 4]}, "arrival must be one request at least, in order of time"),
        ({"images": [1, 1, 0, 1, 1]}, "images[2] must be a finite number of at least 1, got 0"),
        ({"limit": [1, 1, 0, 1, 1]}, "limit[2] must be a number above 0, got 0"),
        ({"size": [1, 1]}, "size must have the shape of arrival"),
        ({"num_stations": 2}, "origin must be below num_stations, 2, got 2"),
        ({"window": 9.0}, "window must be at most 8.5 s, when the last request arrives, got 9"),
    ],
)
def test_records_that_cannot_be(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Recorded(**(ROWS | changes))
