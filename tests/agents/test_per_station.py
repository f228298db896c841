"""A learner of its own for every station."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DQN, PerStation, Spec, Transition

SPEC = Spec(5, 4, (("size", 1), ("origin", 3), ("backlog", 1)))
AGENT = PerStation(DQN(hidden=(8,), activation="tanh"))


def transitions(stations):
    """One transition a station named, [M]."""
    keys = jax.random.split(jax.random.key(3), 4)
    count = len(stations)
    numbers = jax.random.normal(keys[0], (2, count, 2))
    origin = jax.nn.one_hot(jnp.array(stations), 3)
    observation = jnp.concatenate([numbers[0, :, :1], origin, numbers[0, :, 1:]], axis=1)
    return Transition(
        observation=observation,
        action=jax.random.randint(keys[1], (count,), 0, 4),
        reward=jax.random.normal(keys[2], (count,)),
        next_observation=observation[::-1],
        terminated=jnp.zeros(count, bool),
    )


@pytest.fixture(scope="module")
def learner():
    return AGENT.init(jax.random.key(0), SPEC)


def of_station(learner, station):
    return jax.tree.leaves(jax.tree.map(lambda x: x[station], learner.stations.critic))


def test_every_station_acts_by_its_own_learner_which_does_not_see_the_station(learner):
    batch = transitions([0, 1, 2])
    for station in range(3):
        own = jax.tree.map(lambda x, station=station: x[station], learner.stations)
        observation = batch.observation[station]
        bare = observation.at[1:4].set(0)
        expected = AGENT.inner.preferences(own, bare)
        np.testing.assert_allclose(
            AGENT.preferences(learner, observation), expected, rtol=1e-5, atol=1e-6
        )
        action, _, _ = AGENT.act(learner, (), observation, jax.random.key(0), False)
        assert action == jnp.argmax(expected)


def test_a_station_learns_from_its_own_tasks_alone(learner):
    """What the others met changes nothing."""
    batch = transitions([0, 1, 1, 2, 1, 0, 2, 1])
    update = jax.jit(AGENT.update)
    after, metrics = update(learner, batch, jax.random.key(1))
    ones = jnp.argmax(batch.observation[:, 1:4], axis=1) == 1
    others = batch._replace(reward=jnp.where(ones, batch.reward, batch.reward + 5))
    changed, _ = update(learner, others, jax.random.key(1))
    for a, b in zip(of_station(after, 1), of_station(changed, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(of_station(after, 0), of_station(changed, 0), strict=True)
    )
    assert np.isfinite(metrics["critic_loss"])


def test_a_station_draws_evenly_from_its_own_and_from_all_where_it_has_none():
    """Its learner is told which transitions an update drew: their rewards are their numbers."""

    class Listener:
        def init(self, key, spec):
            return ()

        def update(self, learner, batch, key):
            return batch.reward, {}

    agent = PerStation(Listener())
    batch = transitions([1, 0, 1, 1, 0, 1] * 2)._replace(reward=jnp.arange(12))
    learner = agent.init(jax.random.key(0), SPEC)
    keys = jax.random.split(jax.random.key(2), 3000)
    drawn = jax.vmap(lambda key: agent.update(learner, batch, key)[0].stations)(keys)
    assert drawn.shape == (3000, 3, 4)
    for station, own in ((0, [1, 4, 7, 10]), (1, [0, 2, 3, 5, 6, 8, 9, 11]), (2, range(12))):
        counts = np.bincount(drawn[:, station].ravel(), minlength=12)
        expected = np.isin(np.arange(12), list(own)) * 12_000 / len(own)
        np.testing.assert_allclose(counts, expected, atol=150)
    assert len(np.unique(drawn[:, 1], axis=0)) > 1000  # four draws an update, each of its own


def test_with_one_station_it_is_the_inner_agent():
    spec = Spec(3, 4, (("size", 1), ("origin", 1), ("backlog", 1)))
    inner = DQN(hidden=(8,), activation="tanh")
    each = PerStation(inner)
    together = each.init(jax.random.key(0), spec)
    alone = jax.tree.map(lambda x: x[0], together.stations)
    observation = jnp.array([0.3, 1.0, -0.2])
    np.testing.assert_allclose(
        each.preferences(together, observation),
        inner.preferences(alone, observation.at[1].set(0)),
        rtol=1e-5,
    )


def test_observations_without_an_origin_are_an_error():
    with pytest.raises(ValueError, match="feature 'origin', got size"):
        AGENT.init(jax.random.key(0), Spec(1, 4, (("size", 1),)))
    with pytest.raises(ValueError, match="none that have names"):
        AGENT.init(jax.random.key(0), Spec(1, 4))
