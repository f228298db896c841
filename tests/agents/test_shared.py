"""Networks shared over the actions, some of which there are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DQN, DSAC
from jaxmec.agents.base import ABSENT, Spec, Transition, masked

LAYOUT = (("load", 1), ("value", 4), ("allowed", 4))
SPEC = Spec(9, 4, LAYOUT)
AGENTS = {
    "dqn": DQN(network="servers", hidden=(8, 8), epsilon_end=1.0, layer_norm=False),
    "softmax": DSAC(network="servers", hidden=(8, 8), denoising_steps=0),
    "diffusion": DSAC(network="servers", hidden=(8, 8), denoising_steps=2),
}


def observed(seed, allowed):
    value = jax.random.uniform(jax.random.key(seed), (5,))
    return jnp.concatenate([value, jnp.asarray(allowed, jnp.float32)])


def test_masked_by_hand():
    values = jnp.array([1.0, 2.0, 3.0, 4.0])
    of_some = masked(values, observed(0, [1, 0, 1, 0]), LAYOUT)
    np.testing.assert_array_equal(of_some, [1, np.float32(ABSENT), 3, np.float32(ABSENT)])
    np.testing.assert_array_equal(masked(values, observed(0, [0] * 4), LAYOUT[:2]), values)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("allowed", [[0, 1, 0, 1], [0, 0, 1, 0]])
def test_what_there_is_not_is_never_taken(name, allowed):
    agent = AGENTS[name]
    learner = agent.init(jax.random.key(1), SPEC)
    there = set(np.flatnonzero(allowed))

    def each(key):
        key_seen, key = jax.random.split(key)
        value = jax.random.uniform(key_seen, (5,), maxval=10)
        seen = jnp.concatenate([value, jnp.asarray(allowed, jnp.float32)])
        explored = agent.act(learner, (), seen, key, explore=True)[0]
        greedy = agent.act(learner, (), seen, key, explore=False)[0]
        return explored, greedy, agent.sample(learner, (), seen, key)[0]

    taken = jax.jit(jax.vmap(each))(jax.random.split(jax.random.key(2), 300))
    for actions in taken:
        assert set(np.unique(actions)) <= there
    if name == "dqn":  # which explores all the time here
        assert set(np.unique(taken[0])) == there


@pytest.mark.parametrize("name", AGENTS)
def test_renumbering_the_actions_renumbers_the_preferences(name):
    agent = AGENTS[name]
    if name == "diffusion":  # whose noise is numbered
        agent = DSAC(network="servers", hidden=(8, 8), denoising_steps=2, judged_chains=0)
    learner, order = agent.init(jax.random.key(1), SPEC), np.array([2, 0, 3, 1])
    seen = observed(3, [1, 1, 1, 0])
    turned = jnp.concatenate([seen[:1], seen[1:5][order], seen[5:][order]])
    ours = agent.preferences(learner, seen)
    np.testing.assert_allclose(agent.preferences(learner, turned), ours[order], rtol=1e-4)


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_ignores_what_there_is_not(name):
    """Values of absent actions change no target: whatever is said of them, the update is finite,
    and where one action is left its value is the next state's."""
    agent = AGENTS[name]
    learner = agent.init(jax.random.key(1), SPEC)
    seen = jax.vmap(lambda key: jnp.concatenate([jax.random.uniform(key, (5,)), jnp.ones(4)]))(
        jax.random.split(jax.random.key(4), 6)
    )
    following = seen.at[:, 5:].set(jnp.array([0.0, 0, 1, 0]))
    batch = Transition(seen, jnp.arange(6) % 4, jnp.ones(6), following, jnp.zeros(6, bool))
    after, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(5))
    for leaf in jax.tree.leaves((after, metrics)):
        assert np.all(np.abs(np.asarray(leaf, float)) < 1e6)
    if name == "dqn":
        value = agent._q(learner, learner.target_critic, following)[:, 2]
        q = agent._q(learner, learner.critic, seen)[jnp.arange(6), batch.action]
        expected = 0.5 * np.mean((np.asarray(q) - (1 + agent.discount * np.asarray(value))) ** 2)
        np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)


def test_observations_without_a_number_for_each_action_are_refused():
    with pytest.raises(ValueError, match="a part of length 4, one number a server"):
        AGENTS["dqn"].init(jax.random.key(0), Spec(3, 4, (("load", 3),)))


def test_a_fresh_policy_with_a_prior_is_the_rule():
    """And one that has learned is the rule and what the network says."""
    layout = (("load", 1), ("worth", 4), ("allowed", 4))
    spec = Spec(9, 4, layout)
    agent = DSAC(network="servers", hidden=(8, 8), denoising_steps=0, prior=20.0)
    learner = agent.init(jax.random.key(1), spec)
    seen = observed(3, [1, 1, 0, 1])
    expected = np.where(seen[5:] > 0, 20 * seen[1:5], ABSENT)
    np.testing.assert_allclose(agent.preferences(learner, seen), expected, rtol=1e-6)
    plain = DSAC(network="servers", hidden=(8, 8), denoising_steps=0)
    trained = plain.init(jax.random.key(2), spec)
    said = plain.preferences(trained, seen)
    both = agent.preferences(learner._replace(judged_actor=trained.judged_actor), seen)
    there = np.array([0, 1, 3])
    np.testing.assert_allclose(both[there], (said + 20 * seen[1:5])[there], rtol=1e-5)
    with pytest.raises(ValueError, match=r"prior is 20\.0; expected 0 where observations have no"):
        agent.init(jax.random.key(0), SPEC)
