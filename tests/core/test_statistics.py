"""Statistics against hand-worked numbers, independent NumPy, and their promises in simulation."""

import itertools

import numpy as np
import pytest

from jaxmec.core.statistics import (
    area_under_curve,
    bootstrap_interval,
    first_reached,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    performance_profile,
    relative_change,
    t_interval,
)


def test_interval_is_student_t():
    mean, half = mean_interval([[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert mean == pytest.approx([3.0])
    # t of 4 degrees of freedom at 0.975, from a table: 2.776
    assert half == pytest.approx([2.776445 * np.sqrt(2.5) / np.sqrt(5)], rel=1e-6)


def test_the_t_interval_against_a_hand_worked_one():
    # Four numbers of mean 2.5 and standard error 0.6455; t(0.975, 3) = 3.1824.
    low, high = t_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert low == pytest.approx(2.5 - 3.182446 * 0.6454972, abs=1e-5)
    assert high == pytest.approx(2.5 + 3.182446 * 0.6454972, abs=1e-5)
    assert all(np.isnan(t_interval(np.array([1.0]))))
    assert t_interval([0.1] * 3) == (0.1, 0.1)


def test_interval_covers_the_mean_95_times_in_100():
    samples = np.random.default_rng(0).normal(7.0, 3.0, (5, 20_000))
    mean, half = mean_interval(samples)
    assert np.mean(np.abs(mean - 7.0) <= half) == pytest.approx(0.95, abs=0.005)


def test_one_seed_has_no_interval():
    mean, half = mean_interval([[4.0, 5.0]])
    assert mean.tolist() == [4.0, 5.0]
    assert np.isnan(half).all()
    assert np.isnan(bootstrap_interval([4.0])).all()


def test_bootstrap_interval_of_a_mean_against_all_resamples():
    """Of 5 samples there are 5^5 equally likely resamples: the exact distribution."""
    samples = np.array([1.0, 2.3, 4.1, 9.7, 13.2])
    means = np.mean(list(itertools.product(samples, repeat=5)), axis=1)
    # sqrt(5/4) t(0.975, 4) = 1.118034 * 2.776445 = 3.104160, and Phi(-3.104160) = 0.000954.
    expected = np.quantile(means, [0.000954, 1 - 0.000954])
    assert bootstrap_interval(samples) == pytest.approx(expected, abs=0.3)
    # sqrt(5/4) t(0.75, 4) = 1.118034 * 0.740697 = 0.828124, and Phi(-0.828124) = 0.20380.
    expected = np.quantile(means, [0.20380, 1 - 0.20380])
    assert bootstrap_interval(samples, level=0.5) == pytest.approx(expected, abs=0.1)


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1)
    normal = [bootstrap_interval(draws.normal(0, 1, 10)) for _ in range(300)]
    # 0.95 of them; the plain percentile interval comes to 0.87 to 0.88.
    assert np.mean([low <= 0 <= high for low, high in normal]) > 0.91


def test_bootstrap_is_repeatable_and_exact_where_nothing_varies():
    assert bootstrap_interval([1.0, 2.0, 4.0]) == bootstrap_interval([1.0, 2.0, 4.0])
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_pairing_takes_out_what_is_common():
    seeds = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    ours = 0.8 * seeds
    paired = bootstrap_interval(ours, seeds, statistic=relative_change, paired=True)
    assert paired == pytest.approx((-0.2, -0.2))
    apart = bootstrap_interval(ours, seeds, statistic=relative_change)
    assert apart[0] < -0.4 and apart[1] > 0
    with pytest.raises(ValueError, match=r"equally long, got \[4, 5\]"):
        bootstrap_interval(ours, seeds[:4], statistic=relative_change, paired=True)
    with pytest.raises(ValueError, match=r"arrays \[S\]"):
        bootstrap_interval(np.ones((2, 2)))


def test_interquartile_mean_is_of_the_middle_half():
    values = [[100.0, 1.0], [2.0, 3.0], [4.0, -50.0], [5.0, 6.0]]
    assert interquartile_mean(values) == np.mean([2.0, 3.0, 4.0, 5.0])
    assert interquartile_mean([7.0]) == 7.0


def test_interquartile_interval_resamples_seeds_within_settings():
    # Two settings far apart and constant over seeds: resampling seeds changes nothing.
    assert interquartile_interval([[1.0, 9.0]] * 4) == (5.0, 5.0)
    low, high = interquartile_interval([[1.0, 9.0], [1.5, 9.5], [2.0, 10.0], [2.5, 10.5]])
    assert 4.0 < low < 5.75 < high < 7.5


def test_profile_against_counting():
    scores = np.random.default_rng(2).normal(1.0, 0.2, (3, 50))
    thresholds = [0.5, 1.0, 1.5]
    counted = [[np.count_nonzero(row <= t) / 50 for t in thresholds] for row in scores]
    np.testing.assert_allclose(performance_profile(scores, thresholds), counted)


def test_area_is_the_mean_height():
    # Trapezoids over 0..1..3: (0 + 1)/2 * 1 + (1 + 3)/2 * 2 = 4.5, over a width of 3.
    assert area_under_curve([0, 1, 3], [[0.0, 1.0, 3.0]]) == pytest.approx([1.5])
    with pytest.raises(ValueError, match="at least two"):
        area_under_curve([1], [[1.0]])


def test_first_reached():
    curves = [[1.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 4.0]]
    reached = first_reached([10, 20, 30, 40], curves, 5.0)
    assert reached[0] == 20 and np.isnan(reached[1])
