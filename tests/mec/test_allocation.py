"""The allocation rules against hand-worked numbers, an independent oracle and their properties."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmec.mec import cwa, hecwa, water_filling

RULES = {"cwa": cwa, "hecwa": hecwa, "water_filling": water_filling}
SIZES = (1, 2, 3, 6, 17, 33, 64)  # a compile each; 33 and 64 lie beyond the pairwise limit
EPS32 = float(np.finfo(np.float32).eps)


@functools.cache
def compiled(name: str | None = None):
    """One rule, or all of them as a [rules, B] array: one compilation for each B and dtype."""
    if name is not None:
        return jax.jit(RULES[name])
    return jax.jit(lambda w, s, m: jnp.stack([rule(w, s, m) for rule in RULES.values()]))


def instance(servers: int, regime: str, seed: int):
    """Waits, service times and a set: light (no waits), mixed, near the level, or overloaded."""
    rng = np.random.default_rng(seed)
    serve = np.exp(rng.uniform(np.log(0.01), np.log(1.0), servers))
    wait = {
        "light": np.zeros(servers),
        "mixed": rng.uniform(0, 1, servers) * rng.integers(0, 2, servers),
        "near": rng.uniform(0, 4, servers) / np.sum(1 / serve),  # about half stay out
        "overloaded": 100 * rng.uniform(0.1, 1, servers),
    }[regime]
    selected = rng.random(servers) < rng.uniform(0.2, 1.0)
    selected[rng.integers(servers)] = True
    return wait, serve, selected


instances = st.builds(
    instance,
    st.sampled_from(SIZES),
    st.sampled_from(["light", "mixed", "near", "overloaded"]),
    st.integers(0, 2**32 - 1),
)

# Few servers with the values where things break: ties, zero waits, both ends of the scale.
corners = st.tuples(
    st.lists(
        st.sampled_from([0.0, 1e-9, 0.1, 0.5, 1.0, 1e4]) | st.floats(0, 1e3), min_size=3, max_size=3
    ),
    st.lists(
        st.sampled_from([1e-6, 0.1, 0.5, 1.0, 1e4]) | st.floats(1e-3, 1e3), min_size=3, max_size=3
    ),
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
).map(lambda lists: tuple(np.array(entries) for entries in lists))


def fraction_tolerance(wait, serve, selected, expected, eps):
    """How far rounding to `eps` may move each fraction.

    x_i = (L − w_i)/serve_i cancels: L and w_i carry relative errors of about B eps, so x_i an
    absolute one of that times max(|L|, |w_i|)/serve_i. A common wait may be taken off first:
    the shortest one's, or the fastest server's. Only w_i ≤ L matters, a larger wait gives 0
    either way. The normalisation adds as much in all as its terms do. HECWA cancels nothing
    and stays far inside.
    """
    shifted = (wait - wait[selected].min())[selected]
    each = serve[selected]
    level = (1 + np.sum(shifted / each)) / np.sum(1 / each)
    part = shifted < level
    total = np.sum(np.maximum(level - shifted, 0) / each)
    reach = max(level, abs(level - shifted[np.argmin(each)]))
    error = (len(wait) + 8) * eps * reach
    absolute = np.zeros(len(wait))
    absolute[selected] = error / each / total
    return absolute + expected * error * np.sum(part / each) / total + 4 * eps


# --- Hand-worked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "wait", "serve", "selected", "expected"),
    [
        # Two equal servers share equally; a head start of 0.5 s shifts a quarter.
        (cwa, [0, 0], [1, 1], [1, 1], [1 / 2, 1 / 2]),
        (cwa, [0, 0.5], [1, 1], [1, 1], [3 / 4, 1 / 4]),
        (water_filling, [0, 0.5], [1, 1], [1, 1], [3 / 4, 1 / 4]),
        (hecwa, [0, 0.5], [1, 1], [1, 1], [1 / 2, 1 / 2]),
        # L = 43/170 with waits 0.2, 0.15 and service times 0.2, 0.14.
        (cwa, [0.2, 0.15], [0.2, 0.14], [1, 1], [9 / 34, 25 / 34]),
        (hecwa, [0.2, 0.15], [0.2, 0.14], [1, 1], [7 / 17, 10 / 17]),
        # L = 12/3 = 4 gives (4, 3, -6): cut and divided by 7. Exact filling drops the third
        # and has L = 1, which the second only just reaches.
        (cwa, [0, 1, 10], [1, 1, 1], [1, 1, 1], [4 / 7, 3 / 7, 0]),
        (water_filling, [0, 1, 10], [1, 1, 1], [1, 1, 1], [1, 0, 0]),
        (water_filling, [0, 0.5, 10], [1, 1, 1], [1, 1, 1], [3 / 4, 1 / 4, 0]),
        # Filling two servers up to the third's wait takes 1.1 of the task, or 0.9 of it.
        (water_filling, [0, 0.5, 0.8], [1, 1, 1], [1, 1, 1], [3 / 4, 1 / 4, 0]),
        (water_filling, [0, 0.5, 0.7], [1, 1, 1], [1, 1, 1], [11 / 15, 7 / 30, 1 / 30]),
        (hecwa, [0, 1, 10], [1, 2, 4], [1, 1, 1], [4 / 7, 2 / 7, 1 / 7]),
        # Outside the set nothing happens, however attractive the server.
        (cwa, [5, 0, 5], [1, 1e-3, 1], [1, 0, 1], [1 / 2, 0, 1 / 2]),
        (water_filling, [5, 0, 5], [1, 1e-3, 1], [1, 0, 1], [1 / 2, 0, 1 / 2]),
        (hecwa, [5, 0, 5], [1, 1e-3, 1], [1, 0, 1], [1 / 2, 0, 1 / 2]),
    ],
)
def test_hand_worked(rule, wait, serve, selected, expected):
    fraction = rule(jnp.array(wait, float), jnp.array(serve, float), jnp.array(selected, bool))
    np.testing.assert_allclose(fraction, expected, atol=4e-7)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_one_server_takes_all(rule):
    for chosen in range(3):
        selected = np.arange(3) == chosen
        fraction = rule(jnp.array([1e6, 0.0, 3.0]), jnp.array([1e-3, 2.0, 1e4]), selected)
        np.testing.assert_array_equal(fraction, selected.astype(float))


def test_hecwa_does_not_overflow():
    """The published product of 63 service times would be 1e630, or 1e-630."""
    for scale in (1e10, 1e-10):
        fraction = hecwa(jnp.zeros(64), jnp.full(64, scale), np.ones(64, bool))
        np.testing.assert_allclose(fraction, np.full(64, 1 / 64), rtol=1e-6)


# --- Against the oracle ------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(instances | corners)
def test_equal_the_oracle_in_float64(case):
    wait, serve, selected = case
    with jax.enable_x64(True):
        fractions = np.asarray(compiled()(wait, serve, selected))
        assert fractions.dtype == np.float64
    for (name, rule), fraction in zip(oracle.RULES.items(), fractions, strict=True):
        expected = rule(wait, serve, selected)
        tolerance = np.maximum(
            fraction_tolerance(wait, serve, selected, expected, np.finfo(float).eps), 1e-9
        )
        assert np.all(np.abs(fraction - expected) <= tolerance), (name, fraction, expected)
        makespan, best = (
            oracle.makespan_of(name, wait, serve, selected, x) for x in (fraction, expected)
        )
        # A share at the edge of the set is 0 or a rounding error, and its server then takes
        # part or not; its wait is the level either way. The oracle's linear system rounds
        # too: by as much as a fraction may be off, times its server's service time.
        rounding = fraction_tolerance(wait, serve, selected, expected, np.finfo(float).eps)
        assert makespan == pytest.approx(best, rel=1e-9, abs=float(np.max(rounding * serve)))


@settings(max_examples=80, deadline=None)
@given(instances | corners)
def test_equal_the_oracle_in_float32(case):
    wait, serve, selected = case
    wait, serve = (np.asarray(v, np.float32).astype(float) for v in (wait, serve))
    fractions = np.asarray(compiled()(jnp.float32(wait), jnp.float32(serve), selected), np.float64)
    for (name, rule), fraction in zip(oracle.RULES.items(), fractions, strict=True):
        expected = rule(wait, serve, selected)
        tolerance = fraction_tolerance(wait, serve, selected, expected, EPS32)
        assert np.all(np.abs(fraction - expected) <= tolerance), (name, fraction, expected)
        makespan, best = (
            oracle.makespan_of(name, wait, serve, selected, x) for x in (fraction, expected)
        )
        assert makespan == pytest.approx(best, rel=1e-5)


# --- Properties --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(instances | corners)
def test_a_simplex_on_the_set(case):
    wait, serve, selected = case
    fractions = np.asarray(compiled()(jnp.float32(wait), jnp.float32(serve), selected))
    assert np.all(np.isfinite(fractions))
    assert np.all(fractions >= 0)
    assert np.all(fractions[:, ~np.asarray(selected)] == 0)
    np.testing.assert_allclose(fractions.sum(axis=1), 1, rtol=0, atol=len(wait) * EPS32)


@settings(max_examples=60, deadline=None)
@given(instances | corners)
def test_water_filling_is_never_worse(case):
    wait, serve, selected = case
    with jax.enable_x64(True):
        fractions = dict(zip(RULES, np.asarray(compiled()(wait, serve, selected)), strict=True))
    makespan = {
        name: oracle.makespan_of(name, wait, serve, selected, x) for name, x in fractions.items()
    }
    assert makespan["water_filling"] <= makespan["cwa"] * (1 + 1e-12)
    assert makespan["water_filling"] <= makespan["hecwa"] * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((1, 2, 3, 6)),
    st.sampled_from(["light", "mixed", "near"]),
    st.integers(0, 2**32),
)
def test_water_filling_is_the_best_cwa_of_all_subsets(servers, regime, seed):
    wait, serve, _ = instance(servers, regime, seed)
    everyone = np.ones(servers, bool)
    with jax.enable_x64(True):
        fraction = np.asarray(compiled("water_filling")(wait, serve, everyone))
    makespan = oracle.makespan_of("water_filling", wait, serve, everyone, fraction)
    assert makespan == pytest.approx(oracle.best_subset(wait, serve), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((3, 6, 33)))
def test_water_filling_beats_every_other_split(seed, servers):
    """The minimiser over the simplex, not only over the rules."""
    wait, serve, _ = instance(servers, "near", seed)
    everyone = np.ones(servers, bool)
    with jax.enable_x64(True):
        fraction = np.asarray(compiled("water_filling")(wait, serve, everyone))
    makespan = oracle.makespan_of("water_filling", wait, serve, everyone, fraction)
    rng = np.random.default_rng(seed)
    for concentration in (0.2, 1.0, 1000.0):
        other = rng.dirichlet(concentration * fraction + 1e-3, size=20)
        finish = np.where(other > 0, wait + other * serve, 0).max(axis=1)
        assert np.all(finish >= makespan * (1 - 1e-12))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((6, 33)))
def test_the_order_of_the_servers_does_not_matter(seed, servers):
    wait, serve, selected = instance(servers, "mixed", seed)
    order = np.random.default_rng(seed).permutation(servers)
    with jax.enable_x64(True):
        plain = np.asarray(compiled()(wait, serve, selected))
        permuted = np.asarray(compiled()(wait[order], serve[order], selected[order]))
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("servers", [6, 33])
@pytest.mark.parametrize("name", RULES)
def test_vmap_and_jit_change_nothing(name, servers):
    """float32, 32 instances: eager on some of them, jit one by one, and vmapped at once."""
    rows = [instance(servers, regime, seed) for seed in range(8) for regime in ("light", "mixed")]
    wait, serve, selected = (np.stack(column) for column in zip(*rows, strict=True))
    wait, serve = jnp.float32(wait), jnp.float32(serve)
    together = np.asarray(jax.jit(jax.vmap(RULES[name]))(wait, serve, selected))
    for row in range(len(rows)):
        single = compiled(name)(wait[row], serve[row], selected[row])
        np.testing.assert_allclose(single, together[row], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(
        RULES[name](wait[1], serve[1], selected[1]), together[1], atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("servers", [5, 40])
@pytest.mark.parametrize("name", RULES)
def test_gradients_equal_finite_differences(name, servers):
    """Of a weighted sum of the fractions in the waits and service times, in float64."""
    with jax.enable_x64(True):
        wait, serve, selected = instance(servers, "mixed", 3)
        rng = np.random.default_rng(0)
        wait = wait + rng.uniform(0, 0.01, servers)  # no ties: the rules have corners there
        weight = rng.normal(size=servers)

        def value(w, s):
            return jnp.sum(weight * RULES[name](w, s, selected))

        value_at = jax.jit(value)
        gradients = jax.jit(jax.grad(value, (0, 1)))(wait, serve)
        step = 1e-6
        for argument, gradient in enumerate(gradients):
            for i in range(min(servers, 8)):
                shift = [np.zeros(servers), np.zeros(servers)]
                shift[argument][i] = step
                above = value_at(wait + shift[0], serve + shift[1])
                below = value_at(wait - shift[0], serve - shift[1])
                slope = (above - below) / (2 * step)
                np.testing.assert_allclose(gradient[i], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_finite_at_ties_and_outside_the_set(name):
    def value(w, s):
        return jnp.sum(jnp.arange(4.0) * RULES[name](w, s, jnp.array([True, True, True, False])))

    for wait in (jnp.zeros(4), jnp.array([0.0, 0.0, 1.0, 0.0]), jnp.array([5.0, 6.0, 7.0, 0.0])):
        for gradient in jax.grad(value, (0, 1))(wait, jnp.ones(4)):
            assert np.all(np.isfinite(gradient))


# --- Errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_known_empty_set_is_an_error(rule):
    with pytest.raises(ValueError, match=r"selected.*at least one"):
        rule(jnp.zeros(3), jnp.ones(3), np.zeros(3, bool))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_shapes_that_disagree_are_an_error(rule):
    with pytest.raises(ValueError, match=r"serve.*\(3,\).*\(2,\)"):
        rule(jnp.zeros(3), jnp.ones(2), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"selected.*\(3,\).*\(4,\)"):
        rule(jnp.zeros(3), jnp.ones(3), np.ones(4, bool))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_an_empty_set_met_while_running_gives_no_nan(rule):
    fraction = jax.jit(rule)(jnp.ones(3), jnp.ones(3), jnp.zeros(3, bool))
    np.testing.assert_array_equal(fraction, np.zeros(3))
