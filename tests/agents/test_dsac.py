"""What is DSAC's own: the diffusion actor inside soft actor-critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DSAC, Spec, Transition

SPEC = Spec(observation_size=3, num_actions=4)


def test_published_actor_is_as_published():
    agent = DSAC.published()
    assert (agent.predict, agent.clip, agent.schedule, agent.denoising_steps) == (
        "noise",
        "none",
        "vp",
        5,
    )
    rates = (agent.actor_learning_rate, agent.critic_learning_rate, agent.temperature_learning_rate)
    assert rates == (1e-4, 1e-3, 3e-4)
    assert (agent.temperature, agent.target_entropy, agent.tau) == (0.05, -1.0, 0.005)
    changed = DSAC.published(denoising_steps=3, clip="hard", bound=5.0)
    assert (changed.denoising_steps, changed.clip, changed.predict) == (3, "hard", "noise")
    with pytest.raises(ValueError, match="denoising_steps"):
        DSAC.published(denoising_steps=0, start="last", places=3)  # what a chain starts from


@pytest.mark.parametrize("network", ["flat", "servers"])
def test_without_steps_it_is_a_soft_actor_critic_on_the_same_network(network):
    """K = 0: no noise is drawn, and what is explored with and what is judged have one law."""
    spec = Spec(observation_size=5, num_actions=4, layout=(("size", 1), ("backlog", 4)))
    agent = DSAC(denoising_steps=0, network=network, hidden=(8,))
    learner = agent.init(jax.random.key(0), spec)
    observation = jnp.array([1.0, 0.3, 0.1, 0.7, 0.2])
    drawn = agent.draw(learner.latent, observation, 4, jax.random.key(1))
    assert drawn.shape == (0, 4)
    logits = agent.logits(learner.actor, learner.latent, observation, 4, drawn)
    np.testing.assert_array_equal(agent.preferences(learner, observation), logits)
    assert np.ptp(logits) > 0


def test_what_is_drawn_is_of_the_actor_that_is_judged():
    agent = DSAC(hidden=(8,), judged_chains=0)
    learner = agent.init(jax.random.key(0), SPEC)
    other = jax.tree.map(lambda x: x + 1, learner.actor)
    observation, keys = jnp.ones(3), jax.random.split(jax.random.key(1), 300)

    def share(learner, explore):
        def draw(key):
            if explore:
                return agent.act(learner, (), observation, key, True)[0]
            return agent.sample(learner, (), observation, key)[0]

        return np.bincount(jax.vmap(draw)(keys), minlength=4)

    np.testing.assert_array_equal(
        share(agent.acting(learner._replace(judged_actor=other)), explore=False),
        share(learner._replace(actor=other), explore=True),
    )


def test_published_temperature_falls_whatever_the_policy_does(batch):
    agent = DSAC.published(hidden=(16,), temperature_learning_rate=1e-2)

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 50)
        step = lambda learner, key: agent.update(learner, batch, key)  # noqa: E731
        return jax.lax.scan(step, agent.init(key, SPEC), keys)[1]["temperature"]

    temperature = run(jax.random.key(0))
    assert np.all(np.diff(temperature) < 0)
    assert temperature[-1] == pytest.approx(0.05 * np.exp(-0.49), rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_number_of_steps_updates_the_actor(batch, steps):
    agent = DSAC(hidden=(16,), denoising_steps=steps)
    learner = agent.init(jax.random.key(0), SPEC)
    after, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(1))
    assert metrics["actor_gradient_norm"] > 1e-4
    first = (x.actor["params"]["layers_0"]["kernel"] for x in (learner, after))
    moved = np.abs(np.subtract(*(np.asarray(x) for x in first))).max(axis=1)
    assert moved.shape == (4 + 16 + 3,)
    assert np.all(moved > 0)  # x, step and state all reach the policy


def test_judged_by_no_chains_it_follows_the_one_without_noise(batch):
    agent = DSAC(hidden=(16,), judged_chains=0)
    learner = agent.init(jax.random.key(0), SPEC)
    expected = agent._actor(learner.latent).logits(
        learner.actor, batch.observation[0], jnp.zeros((5, 4))
    )
    preferences = agent.preferences(learner, batch.observation[0])
    np.testing.assert_allclose(preferences, expected, rtol=1e-5, atol=1e-6)


def test_judged_by_many_chains_it_follows_the_policy_that_explores(batch):
    """Averaged over the noise, the published actor's one-hot draws become probabilities."""
    agent = DSAC.published(hidden=(16,), judged_chains=4000)
    learner = agent.init(jax.random.key(0), SPEC)
    observations = batch.observation[:3]
    together = jax.jit(lambda s: agent.greedy_logits(learner.actor, learner.latent, s, 4))(
        observations
    )
    alone = jax.jit(agent.preferences)(learner, observations[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.exp(together).sum(axis=-1), 1, rtol=1e-4)

    keys = jax.random.split(jax.random.key(9), 20_000)
    draw = jax.jit(jax.vmap(lambda key: agent.act(learner, (), observations[1], key, True)[0]))
    share = np.bincount(np.asarray(draw(keys)), minlength=4) / 20_000
    np.testing.assert_allclose(jnp.exp(alone), share, atol=0.03)


def test_exploring_draws_the_noise_and_then_the_action(batch):
    """The published actor's policy is another at each draw, and nearly certain each time."""
    agent = DSAC.published(hidden=(64, 64))
    learner = agent.init(jax.random.key(0), SPEC)
    observation = batch.observation[0]
    keys = jax.random.split(jax.random.key(1), 4000)

    @jax.jit
    @jax.vmap
    def draw(key):
        action, _, _ = agent.act(learner, (), observation, key, True)
        noise = agent.draw(learner.latent, observation, 4, key)
        logits = agent.logits(learner.actor, learner.latent, observation, 4, noise)
        return action, jax.nn.softmax(logits)

    action, probability = draw(keys)
    assert jnp.median(probability.max(axis=-1)) > 0.95
    share = np.bincount(np.asarray(action), minlength=4) / 4000
    np.testing.assert_allclose(share, probability.mean(axis=0), atol=0.05)
    assert share.max() < 0.6  # seen from outside it is far from certain


def test_next_state_and_state_have_noise_of_their_own(batch):
    """The critics' loss of a terminated batch has no chain in it; the actor's always has."""
    agent = DSAC(hidden=(16,))
    learner = agent.init(jax.random.key(0), SPEC)
    update = jax.jit(lambda batch, key: agent.update(learner, batch, key)[1])
    ended = batch._replace(terminated=jnp.ones(32, bool))
    one, other = update(ended, jax.random.key(1)), update(ended, jax.random.key(2))
    assert one["critic_loss"] == other["critic_loss"]
    assert one["actor_loss"] != other["actor_loss"]
    one, other = update(batch, jax.random.key(1)), update(batch, jax.random.key(2))
    assert one["critic_loss"] != other["critic_loss"]


# --- Started from its last answers (LAD-TS) ----------------------------------------------

PLACED = Spec(observation_size=3, num_actions=4, layout=(("size", 2), ("place", 1)))


@pytest.fixture(scope="module")
def latent():
    agent = DSAC(hidden=(16,), denoising_steps=3, start="last", places=10, judged_chains=0)
    return agent, agent.init(jax.random.key(0), PLACED)


def placed(places):
    numbers = jax.random.normal(jax.random.key(1), (len(places), 2))
    return jnp.concatenate([numbers, jnp.array(places, jnp.float32)[:, None]], axis=1)


def test_the_chain_starts_from_the_answer_kept_for_the_place(latent):
    agent, learner = latent
    kept = jnp.array([0.7, 0.1, 0.1, 0.1])
    answers = learner.latent.answers.at[4].set(kept)
    learner = learner._replace(latent=learner.latent.replace(answers=answers))
    observation = placed([4])[0]
    noise = jnp.zeros((3, 4)).at[0].set(kept)
    expected = agent._actor(learner.latent).logits(learner.judged_actor, observation[:2], noise)
    np.testing.assert_allclose(agent.preferences(learner, observation), expected, rtol=1e-5)
    elsewhere = agent.preferences(learner, observation.at[2].set(5.0))
    assert np.max(np.abs(np.asarray(elsewhere) - np.asarray(expected))) > 1e-4


def test_an_update_renews_the_answers_of_its_places_and_no_others(latent):
    agent, learner = latent
    observation = placed([2, 7])
    batch = Transition(
        observation=observation,
        action=jnp.array([0, 1]),
        reward=jnp.ones(2),
        next_observation=placed([3, 8]),
        terminated=jnp.zeros(2, bool),
    )
    after, _ = jax.jit(agent.update)(learner, batch, jax.random.key(2))
    moved = np.flatnonzero(
        np.any(np.asarray(after.latent.answers != learner.latent.answers), axis=1)
    )
    np.testing.assert_array_equal(moved, [2, 7])
    np.testing.assert_allclose(np.sum(after.latent.answers, axis=1), 1, rtol=1e-5)


def test_the_place_is_no_input_of_the_networks(latent):
    """Two places with the same answer kept are the same to actor and critics."""
    agent, learner = latent
    here, there = (agent.preferences(learner, placed([n])[0]) for n in (1, 1_000_001))
    np.testing.assert_array_equal(here, there)


def test_observations_that_do_not_say_the_place_are_an_error():
    agent = DSAC(hidden=(16,), start="last", places=10)
    with pytest.raises(ValueError, match="show_place=True"):
        agent.init(jax.random.key(0), SPEC)
    with pytest.raises(ValueError, match="places must be a whole number of at least 1"):
        DSAC(start="last")
