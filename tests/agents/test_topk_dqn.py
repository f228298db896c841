"""What is top-k DQN's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import Spec, TopKDQN, Transition
from jaxmec.networks.mlp import MLP

SPEC = Spec(observation_size=3, num_actions=4)


@pytest.fixture
def batch():
    keys = jax.random.split(jax.random.key(7), 5)
    order = jax.vmap(lambda key: jax.random.permutation(key, 4)[:2])
    return Transition(
        observation=jax.random.normal(keys[0], (32, 3)),
        action=order(jax.random.split(keys[1], 32)).astype(jnp.int32),
        reward=jax.random.normal(keys[2], (32,)),
        next_observation=jax.random.normal(keys[3], (32, 3)),
        terminated=jax.random.bernoulli(keys[4], 0.5, (32,)),
    )


@pytest.mark.parametrize("double", [False, True])
def test_the_jth_next_value_is_the_target_of_the_jth_server(batch, double):
    agent = TopKDQN(k=2, hidden=(16,), double=double, discount=0.9)
    learner, other = (agent.init(key, SPEC) for key in jax.random.split(jax.random.key(0)))
    learner = learner._replace(target_critic=other.target_critic)
    q_of = MLP((16,), 4, agent.activation, agent.layer_norm).apply
    q, online, target = (
        np.asarray(q_of(*arguments), np.float64)
        for arguments in (
            (learner.critic, batch.observation),
            (learner.critic, batch.next_observation),
            (learner.target_critic, batch.next_observation),
        )
    )
    errors = []
    for m in range(32):
        ranking = np.argsort(-(online if double else target)[m])
        for j in range(2):
            future = 0.0 if batch.terminated[m] else target[m, ranking[j]]
            wanted = float(batch.reward[m]) + 0.9 * future
            errors.append(0.5 * (q[m, batch.action[m, j]] - wanted) ** 2)
    _, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(1))
    assert metrics["critic_loss"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_it_acts_on_the_largest_values_the_largest_first():
    agent = TopKDQN(k=3, hidden=(16,))
    np.testing.assert_array_equal(agent.greedy(jnp.array([0.1, 3.0, -1.0, 2.0])), [1, 3, 0])


def test_exploring_it_tries_every_set_and_names_no_server_twice():
    agent = TopKDQN(k=2, hidden=(16,))
    learner = agent.init(jax.random.key(0), SPEC)
    act = jax.jit(jax.vmap(lambda key: agent.act(learner, (), jnp.zeros(3), key, True)[0]))
    actions = np.sort(np.asarray(act(jax.random.split(jax.random.key(1), 2000))), axis=1)
    assert (actions[:, 0] < actions[:, 1]).all()
    assert len(np.unique(actions, axis=0)) == 6


def test_with_one_server_it_is_dqn(batch):
    """Same values, same targets: k = 1 is the ordinary algorithm."""
    from jaxmec.agents import DQN

    fields = {"hidden": (16,), "discount": 0.9}
    one, plain = TopKDQN(k=1, **fields), DQN(**fields)
    learner = plain.init(jax.random.key(0), SPEC)
    ranked = batch._replace(action=batch.action[:, :1])
    single = batch._replace(action=batch.action[:, 0])
    a, _ = jax.jit(one.update)(learner, ranked, jax.random.key(1))
    b, _ = jax.jit(plain.update)(learner, single, jax.random.key(1))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_more_servers_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="k must be at most the number of servers, 4, got 5"):
        TopKDQN(k=5).greedy(jnp.zeros(4))
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
        TopKDQN(k=0)


def test_the_published_target_is_copied_at_its_period_alone(batch):
    agent = TopKDQN(k=2, hidden=(16,), tau=1.0, target_period=3)
    learner = agent.init(jax.random.key(0), SPEC)
    first = jax.tree.leaves(learner.target_critic)
    update = jax.jit(agent.update)
    for count in range(1, 4):
        learner, _ = update(learner, batch, jax.random.key(count))
        target, online = (jax.tree.leaves(tree) for tree in (learner.target_critic, learner.critic))
        same = online if count == 3 else first
        for a, b in zip(target, same, strict=True):
            np.testing.assert_array_equal(a, b)
