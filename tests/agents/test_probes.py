"""Probe tasks: the least that an agent must learn, each for one thing that can be broken.

Every minibatch is drawn from the task itself with uniformly random actions, so nothing but
the agent's update is tried. The discount is 0.5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DSAC, Spec, Transition

MINIBATCH = 32


def make_batch(observation, action, reward, next_observation, terminated):
    return Transition(observation[:, None], action, reward, next_observation[:, None], terminated)


def constant_reward(key):
    zeros = jnp.zeros(MINIBATCH)
    action = jax.random.randint(key, (MINIBATCH,), 0, 2)
    return make_batch(zeros, action, zeros + 1, zeros, zeros == 0)


def reward_by_observation(key):
    key_observation, key_action = jax.random.split(key)
    sign = jax.random.rademacher(key_observation, (MINIBATCH,), jnp.float32)
    action = jax.random.randint(key_action, (MINIBATCH,), 0, 2)
    return make_batch(sign, action, sign, sign, sign != 0)


def reward_after_two_steps(key):
    """From 0 to 1 for nothing, from 1 to the end for a reward of 1."""
    key_observation, key_action = jax.random.split(key)
    late = jax.random.bernoulli(key_observation, 0.5, (MINIBATCH,))
    action = jax.random.randint(key_action, (MINIBATCH,), 0, 2)
    place = late.astype(jnp.float32)
    return make_batch(place, action, place, place + 1, late)


def reward_for_ever(key):
    """Nothing ends: each batch is what a time limit leaves, a last step with terminated False."""
    return constant_reward(key)._replace(terminated=jnp.zeros(MINIBATCH, bool))


def reward_by_action(key):
    zeros = jnp.zeros(MINIBATCH)
    action = jax.random.randint(key, (MINIBATCH,), 0, 2)
    return make_batch(zeros, action, 2.0 * action - 1, zeros, zeros == 0)


def reward_by_both(key):
    batch = reward_by_observation(key)
    return batch._replace(reward=batch.reward * (2.0 * batch.action - 1))


def train(agent, task, updates=500):
    """The learner after so many updates on fresh minibatches of the task."""

    @jax.jit
    def run(key):
        key_init, key_updates = jax.random.split(key)

        def step(learner, key):
            key_batch, key_update = jax.random.split(key)
            learner, metrics = agent.update(learner, task(key_batch), key_update)
            return learner, metrics

        spec = Spec(observation_size=1, num_actions=2)
        learner = agent.init(key_init, spec)
        return jax.lax.scan(step, learner, jax.random.split(key_updates, updates))

    return run(jax.random.key(3))


def values(agent, learner, observations):
    """The critics' mean over actions at each observation, as the update's metrics tell it."""

    @jax.jit
    @jax.vmap
    def q(observation):
        batch = constant_reward(jax.random.key(0))
        batch = batch._replace(observation=jnp.full((MINIBATCH, 1), observation))
        return agent.update(learner, batch, jax.random.key(0))[1]["q"]

    return q(jnp.asarray(observations))


def greedy(agent, learner, observations):
    def act(observation):
        return agent.act(learner, (), observation[None], jax.random.key(0), False)[0]

    return jax.jit(jax.vmap(act))(jnp.asarray(observations))


def test_constant_reward(agent):
    learner, _ = train(agent, constant_reward)
    assert values(agent, learner, [0.0])[0] == pytest.approx(1, abs=0.05)


def test_reward_by_observation(agent):
    learner, _ = train(agent, reward_by_observation)
    q = values(agent, learner, [-1.0, 1.0])
    np.testing.assert_allclose(q, [-1, 1], atol=0.05)


def test_reward_after_two_steps_is_discounted(agent):
    learner, _ = train(agent, reward_after_two_steps)
    q = values(agent, learner, [0.0, 1.0])
    np.testing.assert_allclose(q, [0.5, 1], atol=0.05)


def test_time_limit_is_bootstrapped(agent):
    learner, _ = train(agent, reward_for_ever)
    assert values(agent, learner, [0.0])[0] == pytest.approx(1 / (1 - 0.5), abs=0.1)


def test_reward_by_action(agent):
    learner, metrics = train(agent, reward_by_action)
    assert greedy(agent, learner, [0.0])[0] == 1
    assert metrics["critic_loss"][-20:].mean() < 0.01  # of 1 and −1, told apart by the action


def test_reward_by_action_and_observation(agent):
    learner, _ = train(agent, reward_by_both)
    np.testing.assert_array_equal(greedy(agent, learner, [-1.0, 1.0]), [0, 1])


@pytest.mark.parametrize("predict", ["x0", "noise"])
@pytest.mark.parametrize("clip", ["soft", "none"])
def test_diffusion_actor_learns_whatever_it_predicts(predict, clip):
    agent = DSAC(
        hidden=(16,),
        activation="tanh",
        predict=predict,
        clip=clip,
        actor_learning_rate=1e-2,
        critic_learning_rate=1e-2,
        temperature=1e-2,
        temperature_learning_rate=0.0,
    )
    learner, metrics = train(agent, reward_by_both)
    np.testing.assert_array_equal(greedy(agent, learner, [-1.0, 1.0]), [0, 1])
    assert metrics["actor_loss"][-20:].mean() < -0.8  # −V: nearly always right, noise or not
