"""What SAC and DSAC share: the soft losses, the temperature, the categorical policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DSAC, SAC, Spec
from jaxmec.networks.mlp import MLP

SPEC = Spec(observation_size=3, num_actions=4)


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def test_losses_equal_numpy(batch):
    agent = SAC(hidden=(16,), temperature=0.3, discount=0.9, target_entropy_ratio=0.6)
    learner = jax.jit(lambda key: agent.init(key, SPEC))(jax.random.key(0))
    other = jax.jit(lambda key: agent.init(key, SPEC))(jax.random.key(1))
    learner = learner._replace(target_critics=other.critics)  # targets of their own

    network = jax.jit(MLP((16,), 4).apply)

    def twins(stacked, observation):
        (members,) = stacked["params"].values()
        each = [{"params": jax.tree.map(lambda x, j=j: x[j], members)} for j in range(2)]
        return np.stack([np.asarray(network(p, observation), np.float64) for p in each])

    now = log_softmax(np.asarray(network(learner.actor, batch.observation), np.float64))
    then = log_softmax(np.asarray(network(learner.actor, batch.next_observation), np.float64))
    q = twins(learner.critics, batch.observation)
    next_q = twins(learner.target_critics, batch.next_observation)

    critic_loss = actor_loss = entropy = 0.0
    for m in range(32):
        future = sum(
            np.exp(then[m, a]) * (min(next_q[0, m, a], next_q[1, m, a]) - 0.3 * then[m, a])
            for a in range(4)
        )
        target = float(batch.reward[m]) + (0.0 if batch.terminated[m] else 0.9 * future)
        for j in range(2):
            critic_loss += 0.5 * (q[j, m, batch.action[m]] - target) ** 2 / 32
        for a in range(4):
            p = np.exp(now[m, a])
            actor_loss += p * (0.3 * now[m, a] - min(q[0, m, a], q[1, m, a])) / 32
            entropy -= p * now[m, a] / 32

    _, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(2))
    assert metrics["critic_loss"] == pytest.approx(critic_loss, rel=1e-4)
    assert metrics["actor_loss"] == pytest.approx(actor_loss, rel=1e-4)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert metrics["temperature"] == pytest.approx(0.3, rel=1e-5)
    gap = np.log(0.3) * (entropy - 0.6 * np.log(4))
    assert metrics["temperature_loss"] == pytest.approx(gap, rel=1e-3)


@pytest.mark.parametrize("make", [SAC, DSAC])
def test_temperature_brings_the_entropy_to_its_target(make, batch):
    """On a bandit where the first action is best, whichever side α starts from."""
    bandit = batch._replace(
        reward=(batch.action == 0).astype(jnp.float32), terminated=jnp.ones(32, bool)
    )
    sizes = {"denoising_steps": 2} if make is DSAC else {}

    def final_entropy(temperature, ratio):
        agent = make(
            hidden=(16,),
            activation="tanh",
            temperature=temperature,
            target_entropy_ratio=ratio,
            actor_learning_rate=1e-2,
            critic_learning_rate=1e-2,
            temperature_learning_rate=2e-2,
            **sizes,
        )

        def step(learner, key):
            learner, metrics = agent.update(learner, bandit, key)
            return learner, metrics["entropy"]

        keys = jax.random.split(jax.random.key(1), 1500)
        learner = agent.init(jax.random.key(0), SPEC)
        return jax.lax.scan(step, learner, keys)[1][-200:].mean()

    cases = jnp.array([[0.01, 0.5], [3.0, 0.5], [0.5, 0.8]])
    entropy = jax.jit(jax.vmap(final_entropy))(cases[:, 0], cases[:, 1])
    np.testing.assert_allclose(entropy, cases[:, 1] * np.log(4), atol=0.07)


@pytest.mark.parametrize("make", [SAC, DSAC])
def test_target_entropy_may_be_given_in_nats(make, batch):
    plain = make(hidden=(16,), target_entropy_ratio=0.4)
    given = make(hidden=(16,), target_entropy_ratio=0.9, target_entropy=0.4 * float(np.log(4)))
    learner = plain.init(jax.random.key(0), SPEC)
    losses = [
        jax.jit(agent.update)(learner, batch, jax.random.key(1))[1]["temperature_loss"]
        for agent in (plain, given)
    ]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-5)


@pytest.mark.parametrize("make", [SAC, DSAC])
def test_temperature_stays_where_its_rate_is_zero(make, batch):
    agent = make(hidden=(16,), temperature=0.2, temperature_learning_rate=0.0)
    learner = agent.init(jax.random.key(0), SPEC)
    after, _ = jax.jit(agent.update)(learner, batch, jax.random.key(1))
    assert jnp.exp(after.log_temperature) == pytest.approx(0.2)


def test_exploring_draws_from_the_policy(batch):
    agent = SAC(hidden=(16,))
    learner = agent.init(jax.random.key(0), SPEC)
    actor = jax.tree.map(lambda x: 4 * x, learner.actor)
    learner = learner._replace(actor=actor, judged_actor=actor)
    observation = batch.observation[0]
    keys = jax.random.split(jax.random.key(1), 20_000)
    draw = jax.jit(jax.vmap(lambda key: agent.act(learner, (), observation, key, True)[0]))
    share = np.bincount(np.asarray(draw(keys)), minlength=4) / 20_000
    expected = np.asarray(jax.nn.softmax(agent.preferences(learner, observation)))
    assert expected.max() > 0.3  # not uniform, or the test would see nothing
    np.testing.assert_allclose(share, expected, atol=0.02)
