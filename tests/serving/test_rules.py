"""Rules of serving: what they may know, that they name what there is, and what they are worth."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from serving_worlds import genai5

import jaxmec
from jaxmec.envs.serving import GenerativeServing
from jaxmec.serving.rules import NUMBERS, RULES, find_rule, fixed_price, tuned


@functools.lru_cache
def states():
    """What decisions are made in: 4 busy episodes played at random."""
    params = genai5(load=0.8, horizon=60.0)
    env = GenerativeServing(params)

    def episode(key):
        _, state = env.reset(key, params)

        def step(state, key):
            action = jax.random.categorical(key, jnp.where(env.action_mask(params), 0, -jnp.inf))
            return env.step(key, state, action, params)[1], state

        return jax.lax.scan(step, state, jax.random.split(key, 30))[1]

    out = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), 4))
    return params, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def decisions(name: str, limit: float | None = None):
    """What a rule decides in each of the states: views, servers and options.

    Args:
        limit: of all requests, s, instead of their own.
    """
    rule, (params, every) = RULES[name], states()
    env = GenerativeServing(params, information=rule.information)

    def one(state, key):
        view = env.view(state, params)
        if limit is not None:
            view = view._replace(request=view.request._replace(limit=limit))
        choice, _ = rule.decide(params, view, rule.init_memory(params), key)
        return view._replace(truth=None), choice

    keys = jax.random.split(jax.random.key(2), every.now.shape[0])
    return params, jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(every, keys))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_names_what_can_be_had(name):
    params, (view, (server, option)) = decisions(name)
    allowed = np.asarray(params.allowed)
    assert np.all(allowed[server, option])  # there is a cloud, so nobody is refused
    assert np.all(np.asarray(params.quality)[option] >= view.request.quality)


def test_triage_sends_away_what_would_be_late():
    assert np.all(decisions("triage", 0.1)[1][1][0] == 5)
    soonest = decisions("shortest", 1e6)[1][1][0]
    np.testing.assert_array_equal(decisions("triage", 1e6)[1][1][0], soonest)
    assert np.any(soonest < 5)


@pytest.mark.slow
def test_without_a_cloud_what_would_be_late_is_refused():
    report = jaxmec.evaluate("triage", env="GenerativeServing-v0", preset="genai-5", cloud=False,
                             load=2.0, horizon=30.0, episodes=4)  # fmt: skip
    assert report.mean("lost") > 0.1 and report.mean("cloud") == 0
    again = jaxmec.evaluate("shortest", env="GenerativeServing-v0", preset="genai-5", cloud=False,
                            load=2.0, horizon=30.0, episodes=4)  # fmt: skip
    assert again.mean("served") < report.mean("served")


@pytest.mark.slow
def test_what_they_are_worth():
    """Triage over power of two, and knowledge over none."""
    served = {
        name: jaxmec.evaluate(
            name, env="GenerativeServing-v0", load=0.7, heartbeat=2.0, horizon=300.0, episodes=32
        ).mean("served")
        for name in ("power-of-two", "triage", "fixed-price-full")
    }
    assert served["power-of-two"] < served["triage"] < served["fixed-price-full"]


def test_a_rule_keeps_to_its_information():
    with pytest.raises(ValueError, match="rule 'triage' needs information 'local', got 'stale'"):
        jaxmec.evaluate("triage", env="GenerativeServing-v0", information="stale")
    with pytest.raises(ValueError, match="did you mean 'triage'"):
        find_rule("triag")
    with pytest.raises(ValueError, match="did you mean 'triage'"):
        jaxmec.evaluate("triag", env="GenerativeServing-v0")
    with pytest.raises(ValueError, match="action must be 'option'"):
        jaxmec.evaluate("triage", env="GenerativeServing-v0", action="shares")
    with pytest.raises(ValueError, match="serves requests; CartPole-v1 has none"):
        jaxmec.evaluate(RULES["triage"], env="CartPole-v1")


def test_a_price_of_nothing_takes_the_best_quality_that_is_in_time():
    params, (views, _) = decisions("fixed-price")
    view = jax.tree.map(lambda x: jnp.asarray(x[3]), views)
    view = view._replace(told=jnp.zeros(6), sent=jnp.zeros(6), missed=jnp.zeros(6, int))
    view = view._replace(request=view.request._replace(limit=1e6, arrival=view.now))
    (_, option), _ = fixed_price(0.0)(params, view, (), jax.random.key(0))
    assert float(params.quality[option]) == 1.0
    (server, _), _ = fixed_price(1e3)(params, view, (), jax.random.key(0))
    assert int(server) == 5  # the cloud costs nothing but time


def test_numbers_of_ones_own_make_a_rule():
    middle = tuple(middle for middle, _ in NUMBERS.values())
    report = jaxmec.evaluate(tuned(middle, "mine"), load=0.4, horizon=60.0, episodes=4)
    assert report.name == "mine" and 0.5 < report.mean("served") <= 1
    assert {"delay_p50", "delay_p99", "cold_starts", "cloud"} <= set(report.values)
