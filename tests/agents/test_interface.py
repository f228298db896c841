"""What every agent keeps to: the interface of jaxmec.agents.base."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import DQN, DSAC, SAC, Pathwise, PerStation
from jaxmec.agents.base import DenoisingAgent, StartingAgent
from jaxmec.agents.per_station import of_station


def largest_gap(one, other):
    gaps = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), one, other)
    return max(jax.tree.leaves(gaps))


def critics_of(learner):
    return learner.critic if hasattr(learner, "critic") else learner.critics


def targets_of(learner):
    return learner.target_critic if hasattr(learner, "critic") else learner.target_critics


def test_seeds_side_by_side_start_apart_and_as_they_would_alone(agent, spec):
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(lambda key: agent.init(key, spec)))(keys)
    alone = jax.jit(lambda key: agent.init(key, spec))
    for seed in range(3):
        member = jax.tree.map(lambda x, seed=seed: x[seed], together)
        assert largest_gap(member, alone(keys[seed])) < 1e-6
    for kernel in jax.tree.leaves(together):
        if kernel.ndim > 2 and jnp.any(kernel != 0):  # biases and moments start at zero
            assert not jnp.allclose(kernel[0], kernel[1])
            assert not jnp.allclose(kernel[1], kernel[2])


def test_targets_start_equal_and_follow_by_tau(agent, learner, batch):
    assert largest_gap(critics_of(learner), targets_of(learner)) == 0
    after, _ = jax.jit(agent.update)(learner, batch, jax.random.key(1))
    assert largest_gap(critics_of(learner), critics_of(after)) > 1e-3
    expected = jax.tree.map(
        lambda new, old: 0.1 * new + 0.9 * old, critics_of(after), targets_of(learner)
    )
    assert largest_gap(targets_of(after), expected) < 1e-6


def test_several_steps_are_one_with_a_lower_discount(agent, learner, batch):
    """The rewards being summed already, γ^3 V(s') is all that is left to tell them apart."""
    steps = jnp.full(batch.reward.shape, 3)
    key = jax.random.key(1)
    _, several = jax.jit(agent.update)(learner, batch._replace(steps=steps), key)
    one = dataclasses.replace(agent, discount=agent.discount**3)
    _, alike = jax.jit(one.update)(learner, batch, key)
    _, other = jax.jit(agent.update)(learner, batch, key)
    assert float(several["critic_loss"]) == pytest.approx(float(alike["critic_loss"]), rel=1e-4)
    assert float(several["critic_loss"]) != pytest.approx(float(other["critic_loss"]), rel=1e-4)


def test_metrics_are_finite_scalars_with_the_same_names_each_time(agent, learner, batch):
    update = jax.jit(agent.update)
    names = None
    for step in range(3):
        learner, metrics = update(learner, batch, jax.random.key(step))
        chex.assert_shape(list(metrics.values()), ())
        assert all(bool(jnp.isfinite(value)) for value in metrics.values())
        assert names is None or list(metrics) == names
        names = list(metrics)
    wanted = {"critic_loss", "q", "critic_gradient_norm"}
    if not isinstance(agent, DQN):
        wanted |= {"actor_loss", "actor_gradient_norm"}
    if isinstance(agent, (SAC, DSAC)):
        wanted |= {"entropy", "temperature"}
    assert wanted <= set(names)


@pytest.mark.parametrize(
    ("agent", "protocols"),
    [
        (DQN(), set()),
        (SAC(), {StartingAgent}),
        (DSAC(), {DenoisingAgent, StartingAgent}),
        (Pathwise(), {DenoisingAgent, StartingAgent}),
        (PerStation(DSAC()), set()),
    ],
)
def test_what_it_can_do_is_told_by_protocols(agent, protocols):
    known = {DenoisingAgent, StartingAgent}
    assert {protocol for protocol in known if isinstance(agent, protocol)} == protocols
    assert isinstance(of_station(PerStation(agent)), type(agent))
    assert of_station(agent) is (agent.inner if isinstance(agent, PerStation) else agent)


def test_stations_without_chains_say_so():
    with pytest.raises(TypeError, match="DQN has no chains"):
        PerStation(DQN()).chains(None, None, None, 1)


def test_it_is_written_as_ever():
    """Whichever of its classes defines a field."""
    assert repr(DSAC()) == (
        "DSAC(discount=0.99, actor_learning_rate=0.0003, critic_learning_rate=0.001, "
        "temperature_learning_rate=0.0003, tau=0.02, actor_tau=1.0, temperature=0.5, "
        "target_entropy_ratio=0.5, target_entropy=None, hidden=(128, 128), activation='relu', "
        "layer_norm=False, denoising_steps=5, schedule='vp', predict='x0', clip='soft', "
        "judged_chains=8, embedding_size=16, start='noise', places=0, network='flat', bound=10.0, "
        "prior=0.0)"
    )
    assert repr(PerStation(Pathwise())) == (
        "PerStation(inner=Pathwise(discount=1.0, learning_rate=0.003, final_learning_rate=5e-05, "
        "trials=1, trial_updates=400, squared_decay=0.99, max_gradient_norm=1.0, "
        "gradient_limit=5.0, tolerance=0.03, network='flat', hidden=(64, 64), activation='relu', "
        "denoising_steps=5, schedule='vp', predict='x0', clip='soft', embedding_size=16, "
        "bound=5.0))"
    )


def test_update_is_pure(agent, learner, batch):
    update = jax.jit(agent.update)
    one, other = (update(learner, batch, jax.random.key(5))[0] for _ in range(2))
    assert largest_gap(one, other) == 0


def test_what_follows_a_termination_is_not_looked_at(agent, learner, batch):
    update = jax.jit(lambda batch: agent.update(learner, batch, jax.random.key(1))[0])
    elsewhere = batch.next_observation + 3.0

    ended = batch._replace(terminated=jnp.ones(32, bool))
    moved = ended._replace(next_observation=elsewhere)
    assert largest_gap(critics_of(update(ended)), critics_of(update(moved))) == 0

    going = batch._replace(terminated=jnp.zeros(32, bool))
    moved = going._replace(next_observation=elsewhere)
    assert largest_gap(critics_of(update(going)), critics_of(update(moved))) > 1e-7


def test_not_a_number_is_not_hidden(agent, learner, batch):
    bad = batch._replace(reward=batch.reward.at[3].set(jnp.nan))
    after, metrics = jax.jit(agent.update)(learner, bad, jax.random.key(1))
    assert jnp.isnan(metrics["critic_loss"])
    assert all(bool(jnp.isnan(x).any()) for x in jax.tree.leaves(critics_of(after)))


def test_judged_it_takes_what_it_prefers_whatever_the_key(agent, learner, spec):
    observations = jax.random.normal(jax.random.key(2), (50, spec.observation_size))

    @jax.jit
    @jax.vmap
    def decide(observation, key):
        action, memory, extras = agent.act(
            learner, agent.init_memory(spec), observation, key, False
        )
        assert memory == ()
        assert extras == ()
        return action, agent.preferences(learner, observation)

    action, preferences = decide(observations, jax.random.split(jax.random.key(0), 50))
    again, _ = decide(observations, jax.random.split(jax.random.key(1), 50))
    assert preferences.shape == (50, spec.num_actions)
    np.testing.assert_array_equal(action, again)
    assert action.dtype == jnp.int32
    np.testing.assert_array_equal(action, jnp.argmax(preferences, axis=-1))


def test_exploring_it_tries_every_action(agent, learner, spec):
    @jax.jit
    @jax.vmap
    def explore(key):
        return agent.act(learner, (), jnp.zeros(spec.observation_size), key, True)[0]

    action = explore(jax.random.split(jax.random.key(0), 4000))
    assert action.dtype == jnp.int32
    share = np.bincount(np.asarray(action), minlength=spec.num_actions) / 4000
    assert share.shape == (spec.num_actions,)
    assert np.all(share > 0.1)  # fresh agents are near uniform


def rate_name(agent):
    return "learning_rate" if isinstance(agent, DQN) else "critic_learning_rate"


def test_sweep_over_a_learning_rate_is_one_vmap(agent, learner, batch):
    name = rate_name(agent)

    def update(rate):
        changed = agent.replace(**{name: rate})  # no check stands in a tracer's way
        return critics_of(changed.update(learner, batch, jax.random.key(1))[0])

    rates = jnp.array([1e-3, 1e-2, 1e-1])
    together = jax.jit(jax.vmap(update))(rates)
    single = jax.jit(update)
    for index, rate in enumerate(rates):
        member = jax.tree.map(lambda x, index=index: x[index], together)
        assert largest_gap(member, single(rate)) < 1e-5
    before = critics_of(learner)
    moves = [
        largest_gap(jax.tree.map(lambda x, i=i: x[i], together), before) for i in range(len(rates))
    ]
    np.testing.assert_allclose(moves, rates, rtol=0.05)  # Adam's first step is its rate


def test_numbers_are_traced_and_sizes_are_not(agent, learner, batch):
    traces = []

    @jax.jit
    def update(agent, learner):
        traces.append(agent)
        return agent.update(learner, batch, jax.random.key(1))[1]["critic_loss"]

    update(agent, learner)
    update(agent.replace(discount=0.9, tau=0.5), learner)
    update(agent.replace(**{rate_name(agent): 1e-4}), learner)
    assert len(traces) == 1
    update(agent.replace(activation="relu"), learner)
    assert len(traces) == 2


@pytest.mark.parametrize("make", [DQN, SAC, DSAC])
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("discount", 1.1, "at least 0 and at most 1"),
        ("discount", -0.1, "at least 0"),
        ("discount", float("nan"), "finite"),
        ("discount", "much", "a finite number"),
        ("discount", np.array([0.9, 1.2]), "at most 1"),
        ("tau", 0.0, "above 0 and at most 1"),
        ("hidden", (), "at least one layer"),
        ("hidden", [128], "a tuple"),
        ("hidden", (128, 0), "at least 1"),
        ("hidden", (128.0,), "a whole number"),
        ("activation", "swish", "one of relu, tanh"),
        ("layer_norm", 1, "True or False"),
    ],
)
def test_wrong_field_is_refused(make, field, value, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        make(**{field: value})
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize(
    ("make", "field", "value", "expected"),
    [
        (DQN, "learning_rate", 0.0, "above 0"),
        (DQN, "epsilon_start", 1.5, "at most 1"),
        (DQN, "epsilon_end", -0.5, "at least 0"),
        (DQN, "epsilon_updates", 0, "at least 1"),
        (DQN, "max_gradient_norm", float("inf"), "finite"),
        (DQN, "loss", "l1", "one of huber, squared"),
        (DQN, "double", "yes", "True or False"),
        (SAC, "actor_learning_rate", -1e-3, "above 0"),
        (SAC, "critic_learning_rate", 0, "above 0"),
        (SAC, "temperature_learning_rate", -1, "at least 0"),
        (SAC, "temperature", 0.0, "above 0"),
        (SAC, "target_entropy_ratio", 1.5, "at most 1"),
        (SAC, "target_entropy", float("inf"), "finite"),
        (DSAC, "denoising_steps", -1, "at least 0"),
        (DSAC, "denoising_steps", 2.0, "a whole number"),
        (DSAC, "schedule", "quadratic", "one of vp, linear, cosine"),
        (DSAC, "predict", "x_0", "one of x0, noise"),
        (DSAC, "clip", "tanh", "one of soft, hard, none"),
        (DSAC, "embedding_size", 7, "even"),
        (DSAC, "embedding_size", 0, "at least 2"),
        (DSAC, "bound", 0.0, "above 0"),
    ],
)
def test_wrong_field_of_one_agent_is_refused(make, field, value, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        make(**{field: value})
    assert str(caught.value).startswith(field)
