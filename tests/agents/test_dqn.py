"""What is DQN's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DQN, Spec
from jaxmec.networks.mlp import MLP

SPEC = Spec(observation_size=3, num_actions=4)


def apart(agent, key):
    """A learner whose target network is not its online one."""
    learner, other = (agent.init(k, SPEC) for k in jax.random.split(key))
    return learner._replace(target_critic=other.target_critic)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_loss_equals_numpy(batch, double, loss):
    agent = DQN(hidden=(16,), double=double, loss=loss, discount=0.9)
    learner = jax.jit(lambda key: apart(agent, key))(jax.random.key(0))
    q_of = jax.jit(MLP((16,), 4, agent.activation, agent.layer_norm).apply)
    q = np.asarray(q_of(learner.critic, batch.observation), np.float64)
    next_online = np.asarray(q_of(learner.critic, batch.next_observation), np.float64)
    next_target = np.asarray(q_of(learner.target_critic, batch.next_observation), np.float64)
    total, mean_q = 0.0, 0.0
    for m in range(32):
        best = np.argmax(next_online[m] if double else next_target[m])
        future = 0.0 if batch.terminated[m] else next_target[m, best]
        mean_q += q[m, batch.action[m]] / 32
        error = abs(q[m, batch.action[m]] - float(batch.reward[m]) - 0.9 * future)
        total += error - 0.5 if loss == "huber" and error > 1 else 0.5 * error**2
    _, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(1))
    assert metrics["critic_loss"] == pytest.approx(total / 32, rel=1e-5)
    assert metrics["q"] == pytest.approx(mean_q, rel=1e-4, abs=1e-6)


def test_epsilon_falls_linearly_with_the_updates_and_stays(batch):
    agent = DQN(hidden=(16,), epsilon_start=0.9, epsilon_end=0.1, epsilon_updates=10)

    @jax.jit
    def run(key):
        def step(learner, key):
            learner, metrics = agent.update(learner, batch, key)
            return learner, metrics["epsilon"]

        return jax.lax.scan(step, agent.init(key, SPEC), jax.random.split(key, 15))

    learner, epsilon = run(jax.random.key(0))
    expected = [0.9 - 0.08 * min(n, 10) for n in range(15)]
    np.testing.assert_allclose(epsilon, expected, rtol=1e-5)
    assert learner.updates == 15


@pytest.mark.parametrize(("updates", "epsilon"), [(0, 1.0), (50, 0.6), (1000, 0.2)])
def test_share_of_random_actions_is_epsilon(updates, epsilon):
    agent = DQN(hidden=(16,), epsilon_start=1.0, epsilon_end=0.2, epsilon_updates=100)
    learner = agent.init(jax.random.key(0), SPEC)._replace(updates=jnp.asarray(updates))
    observation = jnp.ones(3)

    @jax.jit
    @jax.vmap
    def explore(key):
        return agent.act(learner, (), observation, key, True)[0]

    action = np.asarray(explore(jax.random.split(jax.random.key(1), 20_000)))
    best = int(jnp.argmax(agent.preferences(learner, observation)))
    share = np.bincount(action, minlength=4) / 20_000
    expected = np.full(4, epsilon / 4)
    expected[best] += 1 - epsilon
    np.testing.assert_allclose(share, expected, atol=0.02)


def test_gradient_is_scaled_down_to_its_bound(batch):
    """Adam does not care for a gradient's length, so its first moment is looked at."""
    far = batch._replace(reward=batch.reward + 1e3)
    for bound, expected in ((0.5, 0.5), (1e6, None)):
        agent = DQN(hidden=(16,), loss="squared", max_gradient_norm=bound)
        learner = agent.init(jax.random.key(0), SPEC)
        after, metrics = jax.jit(agent.update)(learner, far, jax.random.key(1))
        moment = after.optimiser[1][0].mu
        length = 10 * np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(moment)))
        assert metrics["critic_gradient_norm"] > 100  # as it came, not as it was used
        wanted = metrics["critic_gradient_norm"] if expected is None else expected
        assert length == pytest.approx(float(wanted), rel=1e-4)


def test_it_explores_with_the_online_network_and_is_judged_by_the_one_named():
    states = jax.random.normal(jax.random.key(3), (200, 3))
    decided = {}
    for judged_by in ("target", "online"):
        agent = DQN(hidden=(16,), judged_by=judged_by, epsilon_start=0.0, epsilon_end=0.0)
        learner = apart(agent, jax.random.key(0))
        for explore in (True, False):
            act = jax.vmap(
                lambda s, agent=agent, learner=learner, explore=explore: agent.act(
                    learner, (), s, jax.random.key(0), explore
                )[0]
            )
            decided[judged_by, explore] = np.asarray(act(states))
    online = decided["online", False]
    np.testing.assert_array_equal(decided["online", True], online)
    np.testing.assert_array_equal(decided["target", True], online)
    assert (decided["target", False] != online).any()
