"""Plans in hindsight: no worse than the best rule, and what is planned is what is gathered."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from serving_worlds import genai5

from jaxmec.envs.serving import GenerativeServing
from jaxmec.serving.rules import RULES
from jaxmec.solvers.hindsight import HindsightConfig, plan_in_hindsight

NAMES = ("random", "shortest", "fixed-price-full")


def test_a_plan_is_no_worse_than_the_best_rule_it_starts_from():
    params = genai5(load=0.8, horizon=12.0, max_requests=32)
    env = GenerativeServing(params)
    rules = [RULES[name] for name in NAMES]

    @jax.jit
    @jax.vmap
    def searched(key):
        _, state = env.reset(key, params)
        plan = plan_in_hindsight(
            env, params, state, key, rules, HindsightConfig(rounds=2, ahead=16)
        )
        # Played once more, the environment's own step at each decision.
        _, (reward, over) = jax.lax.scan(
            lambda state, _: (lambda out: (out[1], (out[2], out[4])))(
                env.step(key, state, plan.of(state), params)
            ),
            state,
            length=40,
        )
        before = jnp.cumsum(over) - over == 0
        return plan, jnp.sum(jnp.where(before, reward, 0))

    plan, gathered = searched(jax.random.split(jax.random.key(4), 6))
    np.testing.assert_allclose(plan.total, gathered, rtol=1e-5, atol=1e-5)
    history = np.asarray(plan.history)
    assert np.all(np.diff(history, axis=1) >= 0)
    assert np.all(plan.total == history[:, -1]) and np.any(history[:, -1] > history[:, 0] + 0.05)


def test_what_cannot_be_planned_is_refused():
    params = genai5(horizon=12.0)
    _, state = GenerativeServing(params).reset(jax.random.key(0), params)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="rules must be one rule at least"):
        plan_in_hindsight(GenerativeServing(params), params, state, key, [])
    env = GenerativeServing(params, action="shares")
    with pytest.raises(ValueError, match="env must decide by an index"):
        plan_in_hindsight(env, params, state, key, [RULES["triage"]])
    with pytest.raises(ValueError, match="ahead must be"):
        HindsightConfig(ahead=0)
