"""Whole episodes: against a plain loop, on common random numbers, and never cut short unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents.sac import SAC
from jaxmec.envs.cartpole import CartPole
from jaxmec.training.evaluate import evaluate, greedy, sampled
from jaxmec.training.rollout import make_spec


def always(number):
    return lambda key, observation, state, memory: (jnp.int32(number), memory)


def test_it_plays_what_a_plain_loop_plays():
    """Also the promise that decision i of episode e gets fold_in(fold_in(key_env, e), i)."""
    env, key = CartPole(), jax.random.key(3)
    params = env.default_params.replace(max_steps_in_episode=12)

    def policy(key, observation, state, memory):  # falls over after some 9 steps or survives
        return jnp.where(observation[0] > 0, 1, 0) ^ (state.time % 2), memory

    results = jax.jit(lambda key: evaluate(policy, (), env, params, 4, key))(key)

    key_reset, key_env, _ = jax.random.split(key, 3)
    lengths = []
    for e in range(4):
        observation, state = env.reset(jax.random.fold_in(key_reset, e), params)
        total, done, i = 0.0, False, 0
        while not done:
            action, _ = policy(None, observation, state, ())
            observation, state, reward, terminated, truncated, _ = env.step(
                jax.random.fold_in(jax.random.fold_in(key_env, e), i), state, action, params
            )
            total, done, i = total + float(reward), bool(terminated | truncated), i + 1
        lengths.append(i)
        assert float(results["return"][e]) == total
    np.testing.assert_array_equal(results["length"], lengths)


def test_episodes_that_end_early_are_counted_to_their_end_and_no_further(walk, walk_params):
    params = walk_params.replace(goal=2.0)
    results = evaluate(always(1), (), walk, params, 50, jax.random.key(0))
    assert set(results) == {"return", "length", "noise"}
    assert len(np.unique(results["length"])) > 1
    np.testing.assert_array_equal(results["return"], results["length"])


def test_two_policies_meet_the_same_draws(walk, walk_params):
    def random(key, observation, state, memory):
        return jax.random.randint(key, (), 0, 3), memory

    play = lambda policy, key: evaluate(policy, (), walk, walk_params, 20, key)  # noqa: E731
    still, wild = (play(policy, jax.random.key(0)) for policy in (always(0), random))
    assert not np.array_equal(still["return"], wild["return"])
    np.testing.assert_array_equal(still["noise"], wild["noise"])
    other = play(always(0), jax.random.key(1))
    assert not np.isin(other["noise"], still["noise"]).any()
    assert len(np.unique(still["noise"])) == 20


def test_metrics_are_means_over_the_decisions_of_an_episode(walk, walk_params):
    """The walk's end is its start plus the noise: seen by the policy, it gives the noise back."""
    key = jax.random.key(2)
    results = evaluate(always(0), (), walk, walk_params, 3, key)
    _, key_env, _ = jax.random.split(key, 3)
    for e in range(3):
        keys = [jax.random.fold_in(jax.random.fold_in(key_env, e), i) for i in range(5)]
        noise = [float(jax.random.uniform(jax.random.split(k)[0])) for k in keys]
        # Five float32 additions and a division, each within half a unit in the last place.
        np.testing.assert_allclose(results["noise"][e], np.mean(noise), rtol=6 * 2**-24)


def test_the_policy_sees_the_state_and_keeps_a_memory(walk, walk_params):
    def policy(key, observation, state, memory):
        return (memory + state.time).astype(jnp.int32), memory + 1

    results = evaluate(policy, jnp.int32(10), walk, walk_params, 2, jax.random.key(0))
    np.testing.assert_array_equal(results["return"], sum((10 + i) + i for i in range(5)))


def test_greedy_asks_the_agent_not_to_explore(walk, walk_params, counting):
    class Asked(type(counting)):
        def act(self, learner, memory, observation, key, explore):
            assert explore is False
            return super().act(learner, memory, observation, key, explore)

    results = evaluate(greedy(Asked(), None), jnp.int32(0), walk, walk_params, 2, jax.random.key(0))
    np.testing.assert_array_equal(results["return"], 0 + 1 + 2 + 0 + 1)


def test_sampled_draws_from_the_policy_that_is_judged(walk, walk_params, counting):
    """An actor that gives action 2 three times in four is drawn so, by the average actor alone."""
    agent = SAC(hidden=(4,))
    learner = agent.acting(agent.init(jax.random.key(0), make_spec(walk, walk_params)))
    bias = jnp.log(jnp.array([0.25, 1e-9, 0.75]))
    actor = jax.tree.map(jnp.zeros_like, learner.judged_actor)
    actor["params"]["layers_1"]["bias"] = bias
    learner = learner._replace(judged_actor=actor)
    params = walk_params.replace(max_steps_in_episode=4_000)
    key = jax.random.key(3)
    drawn = evaluate(sampled(agent, learner), (), walk, params, 1, key)
    assert drawn["return"][0] / 4_000 == pytest.approx(1.5, abs=0.06)  # 4 standard errors
    best = evaluate(greedy(agent, learner), (), walk, params, 1, key)
    assert best["return"][0] == 2 * 4_000
    with pytest.raises(TypeError, match="Counting has no policy to draw from"):
        sampled(counting, None)


def test_an_unfinished_episode_has_no_figures(walk, walk_params):
    params = walk_params.replace(max_steps_in_episode=100, goal=1.0)
    key = jax.random.key(0)
    whole = evaluate(always(0), (), walk, params, 20, key)
    bound = int(np.median(whole["length"]))
    cut = evaluate(always(0), (), walk, params, 20, key, max_steps=bound)
    finished = np.asarray(whole["length"]) <= bound
    assert 0 < finished.sum() < 20
    for name in whole:
        np.testing.assert_array_equal(cut[name][finished], whole[name][finished])
        assert np.isnan(cut[name][~finished]).all()


def test_seeds_and_parameters_side_by_side_are_what_they_are_alone(walk, walk_params):
    """Runs that finish early wait for the last, and must not change while they do."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = walk_params.replace(
        max_steps_in_episode=jnp.array([3, 9, 6]), goal=jnp.array([1.0, 5.0, 2.0])
    )
    play = lambda key, params: evaluate(always(0), (), walk, params, 4, key)  # noqa: E731
    together = jax.vmap(play)(keys, params)
    for run in range(3):
        alone = play(keys[run], jax.tree.map(lambda x, run=run: x[run], params))
        for name in alone:
            np.testing.assert_array_equal(together[name][run], alone[name])


def test_errors_come_before_tracing(walk, walk_params):
    with pytest.raises(ValueError, match=r"episodes must be .*, got 0"):
        evaluate(always(0), (), walk, walk_params, 0, jax.random.key(0))
    with pytest.raises(ValueError, match="has no max_steps_in_episode"):
        evaluate(always(0), (), walk, object(), 1, jax.random.key(0))
