"""Evolution strategies: ranks by hand, a gradient by hand, and a policy that gets better."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxmec
from jaxmec.agents import DQN, DSAC, SAC
from jaxmec.training import EvolutionConfig, parts, runner, train
from jaxmec.training.evolution import centred_ranks
from jaxmec.training.rollout import make_spec

CONFIG = EvolutionConfig(
    steps=400, pairs=4, episodes=2, episode_steps=5, eval_every=160, eval_episodes=2
)
AGENT = SAC(hidden=(4,))


def test_ranks_are_those_of_scipy_and_equal_ones_share_theirs():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, 12).astype(np.float32)
    expected = (scipy.stats.rankdata(values) - 1) / 11 - 0.5
    np.testing.assert_allclose(centred_ranks(jnp.asarray(values)), expected, atol=1e-6)
    np.testing.assert_array_equal(centred_ranks(jnp.full(6, 3.0)), 0)
    np.testing.assert_allclose(centred_ranks(jnp.array([jnp.nan, 1.0, 2.0])), [-0.5, 0, 0.5])


def test_steps_are_counted_in_whole_updates():
    assert (CONFIG.stride, CONFIG.chunk_steps, CONFIG.num_chunks) == (80, 160, 3)
    shorter = CONFIG.scaled(0.5)
    assert (shorter.steps, shorter.eval_every, shorter.num_chunks) == (200, 80, 3)
    assert CONFIG.work(DSAC(denoising_steps=5)) == 5 * CONFIG.work(AGENT)
    for name, value in (("pairs", 0), ("spread", 0.0), ("learning_rate", -1.0)):
        with pytest.raises(ValueError, match=f"{name} must be a .*, got {value}"):
            dataclasses.replace(CONFIG, **{name: value})


class Sum:
    """Its one number is what it does; the return of an episode is that, whatever the noise."""

    discount = 1.0

    def init(self, key, spec):
        return {"actor": {"number": jnp.float32(0.0)}}

    def init_memory(self, spec):
        return ()

    def act(self, learner, memory, observation, key, explore):
        return learner["actor"]["number"], memory, ()

    def acting(self, learner):
        return learner

    def preferences(self, learner, observation):
        return jnp.zeros(3)

    def judged_actor(self, learner):
        return learner["actor"]

    def started(self, learner, actor):
        return {"actor": actor}


def test_an_update_is_that_of_the_equations(walk, walk_params):
    """Five steps whose reward is the number: the return rises with the noise, so ranks are its."""
    config = dataclasses.replace(CONFIG, steps=80, eval_every=80, spread=0.5, learning_rate=0.1)
    key = jax.random.key(3)
    given = (Sum(), walk, walk_params)
    start = config.init(*given, key)
    state, metrics = config.chunk(*given, start)
    key_noise, _ = jax.random.split(jax.random.fold_in(start.key, 0))
    noise = np.asarray(jax.random.normal(jax.random.split(key_noise, 1)[0], (4,)), float)
    returns = np.concatenate([5 * 0.5 * noise, -5 * 0.5 * noise])
    ranks = scipy.stats.rankdata(returns - 0.0) - 1
    up, down = (ranks / 7 - 0.5).reshape(2, 4)
    gradient = np.sum((up - down) * noise) / (2 * 4 * 0.5)
    assert gradient > 0
    np.testing.assert_allclose(metrics["gradient_norm"], gradient, rtol=1e-5)
    np.testing.assert_allclose(state.learner["actor"]["number"], 0.1, rtol=1e-4)  # Adam's first
    np.testing.assert_allclose(metrics["fitness"], 0, atol=1e-5)
    assert int(state.env_steps) == 80 and int(state.updates) == 1


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_and_seeds_are_what_they_are_alone(walk, walk_params, tmp_path):
    given = (AGENT, walk, walk_params)
    whole = parts.run(*given, CONFIG, 2, progress=False)
    shorter = dataclasses.replace(CONFIG, steps=160)
    runner.run(*given, shorter, 2, directory=tmp_path, progress=False)
    resumed = runner.run(*given, CONFIG, 2, directory=tmp_path, resume=True, progress=False)
    alone, _ = jax.jit(lambda key: train(*given, CONFIG, key))(jax.random.key(1))
    for a, b, c in zip(
        *map(jax.tree.leaves, (whole.state.learner, resumed.state.learner, alone.learner)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a[1], c, rtol=1e-5, atol=1e-6)


def test_an_agent_without_an_actor_is_refused(walk, walk_params):
    with pytest.raises(TypeError, match="DQN has no actor to train by evolution"):
        CONFIG.init(DQN(), walk, walk_params, jax.random.key(0))
    spec = make_spec(walk, walk_params)
    learner = AGENT.init(jax.random.key(0), spec)
    moved = jax.tree.map(lambda x: x + 1, AGENT.judged_actor(learner))
    started = AGENT.started(learner, moved)
    assert started.actor is moved and started.judged_actor is moved


def test_cartpole_gets_better():
    agent = DSAC(hidden=(8,), denoising_steps=1, judged_chains=0)
    config = EvolutionConfig(
        steps=640_000, pairs=16, episodes=1, eval_every=640_000, learning_rate=0.05, spread=0.1
    )
    result = jaxmec.train(agent, env="CartPole-v1", seeds=2, config=config, progress=False)
    returns = result.history.evaluation["return"]  # [S, points]
    assert (returns[:, 0] < 20).all() and (returns[:, -1] > 50).all()
