"""What is the score agent's own: its start, its symmetry, its critics' view, its gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import ScoreTD3, Spec, Transition
from jaxmec.envs import make
from jaxmec.training import rollout

OPTIONS = {
    "action": "score",
    "information": "local",
    "allocation_information": "seen",
    "features": "times",
}
AGENT = ScoreTD3(hidden=(16, 16), critic_hidden=(16, 16), denoising_steps=3)


@pytest.fixture(scope="module")
def played():
    """Environment, specification and 6 x 100 transitions of random scores on `amcoedge`."""
    env, params = make("MultiServerOffloading-v0", preset="amcoedge", privileged=True, **OPTIONS)
    spec = rollout.make_spec(env, params)

    def decide(key, observation, memory):
        return jax.random.normal(key, (spec.num_actions,)), memory, ()

    @jax.jit
    def run(key):
        state = rollout.reset(env, params, (), 6, key)

        def step(state, key):
            after, transition, _ = rollout.step(decide, env, params, state, key)
            return after, (state.env_state, transition)

        return jax.lax.scan(step, state, jax.random.split(key, 100))[1]

    states, transitions = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), run(jax.random.key(0))
    )
    return env, params, spec, states, transitions


@functools.cache
def fresh(spec, agent=AGENT, seed=0):
    """A new learner."""
    return jax.jit(lambda key: agent.init(key, spec))(jax.random.key(seed))


WILD = AGENT.replace(initial_scale=30.0)  # its scores are far from zero


def renumbered(spec, order, observation):
    """Observations with the servers in another order."""
    servers, parts, start = spec.num_actions // 2, [], 0
    for _, length in spec.layout:
        part = observation[..., start : start + length]
        parts.append(part[..., order] if length == servers else part)
        start += length
    return jnp.concatenate(parts, axis=-1)


def test_at_the_start_it_is_water_filling_on_what_is_seen(played):
    env, params, spec, states, batch = played
    learner = fresh(spec)

    @jax.jit
    @jax.vmap
    def fractions(state, observation):
        scores = AGENT.preferences(learner, observation)
        plain = env.decode(jnp.zeros(spec.num_actions), state, params)
        return scores, env.decode(scores, state, params), plain

    scores, mine, plain = fractions(states, batch.observation)
    assert 0 < jnp.abs(scores).max() < 0.05
    assert jnp.abs(mine - plain).mean() < 0.01


def test_the_critics_judge_the_split_that_the_environment_makes(played):
    env, params, spec, states, batch = played
    decode = jax.jit(jax.vmap(lambda action, state: env.decode(action, state, params)))
    layout = fresh(spec).layout
    inputs = jax.jit(lambda b: AGENT._inputs(layout, b.observation, b.action, b.privileged))
    servers, _, fraction = inputs(batch)
    np.testing.assert_allclose(fraction, decode(batch.action, states), atol=1e-4)
    # The last servers' parts: true wait, fraction, when it finishes, what is left behind.
    makespan = 0.2 * jnp.max(servers[..., -2], axis=-1)
    on_time = batch.reward > -1  # elsewhere the reward is the penalty
    np.testing.assert_allclose(makespan[on_time], -batch.reward[on_time], rtol=1e-3)
    assert jnp.mean(on_time) > 0.95


def test_renumbering_the_servers_renumbers_the_scores(played):
    _, _, spec, _, batch = played
    order = np.array([3, 1, 4, 0, 2])
    learner, observation = fresh(spec, WILD), batch.observation[:20]
    scores = jax.jit(jax.vmap(AGENT.preferences, in_axes=(None, 0)))
    mine = scores(learner, observation).reshape(20, 2, 5)
    other = scores(learner, renumbered(spec, order, observation)).reshape(20, 2, 5)
    np.testing.assert_allclose(other, mine[..., order], rtol=1e-4, atol=1e-4)
    assert jnp.abs(mine - mine[..., order]).max() > 0.1


def test_renumbering_the_servers_leaves_the_values(played):
    _, _, spec, _, batch = played
    order = np.array([3, 1, 4, 0, 2])
    both = np.concatenate([order, order + 5])
    learner = fresh(spec)
    q = jax.jit(lambda *x: AGENT._q(learner.layout, learner.critics, *x))
    mine = q(batch.observation, batch.action, batch.privileged)
    there = renumbered(spec, order, batch.observation)
    told = batch.privileged._replace(wait=batch.privileged.wait[:, order])
    np.testing.assert_allclose(q(there, batch.action[:, both], told), mine, rtol=1e-4, atol=1e-4)
    assert jnp.abs(q(there, batch.action, told) - mine).max() > 1e-3


def of_size(servers):
    """What a learner for so many servers looks like, and how to specify it; not computed."""
    layout = (("size", 1), *((name, servers) for name in ("wait", "serve", "compute")))
    spec = Spec(1 + 3 * servers, 2 * servers, layout)
    return spec, jax.eval_shape(lambda key: AGENT.init(key, spec), jax.random.key(0))


def test_one_agent_for_any_number_of_servers():
    shapes = [
        [leaf.shape for leaf in jax.tree.leaves((learner.actor, learner.critics))]
        for learner in (of_size(servers)[1] for servers in (3, 12))
    ]
    assert shapes[0] == shapes[1]


def test_a_decision_costs_in_proportion_to_the_servers():
    def flops(servers):
        spec, learner = of_size(servers)
        observation = jax.ShapeDtypeStruct((spec.observation_size,), jnp.float32)
        compiled = jax.jit(AGENT.preferences).lower(learner, observation).compile()
        return compiled.cost_analysis()["flops"]

    first, second, third = flops(16), flops(64), flops(112)
    assert (third - second) / (second - first) == pytest.approx(1, rel=0.1)


def test_what_the_simulator_tells_reaches_the_critics_and_no_decision(played):
    _, _, spec, _, batch = played
    learner = fresh(spec, WILD)
    update = jax.jit(AGENT.update)
    batch = jax.tree.map(lambda x: x[:64], batch)
    told, told_metrics = update(learner, batch, jax.random.key(1))
    other = batch.privileged._replace(wait=batch.privileged.wait + 1)
    _, metrics = update(learner, batch._replace(privileged=other), jax.random.key(1))
    assert abs(metrics["q"] - told_metrics["q"]) > 1e-3
    blind = batch._replace(privileged=(), next_privileged=())  # it learns without, too
    shapes, _ = jax.eval_shape(AGENT.update, learner, blind, jax.random.key(1))
    assert jax.tree.structure(shapes) == jax.tree.structure(told)
    assert [x.shape for x in jax.tree.leaves(shapes)] == [x.shape for x in jax.tree.leaves(told)]


def test_exploring_adds_noise_of_the_size_that_is_asked_for(played):
    _, _, spec, _, batch = played
    learner, keys = fresh(spec), jax.random.split(jax.random.key(0), 2000)
    for size in (0.0, 0.3):
        agent = AGENT.replace(exploration=size)
        draw = jax.jit(
            jax.vmap(lambda key, a=agent: a.act(learner, (), batch.observation[0], key, True)[0])
        )
        spread = jnp.std(draw(keys), axis=0)
        np.testing.assert_allclose(spread, size, atol=0.03)  # of a fresh chain there is little


def test_gradient_without_the_critics_slope_agrees_with_theirs(played):
    """A fresh critic hardly jumps, so that both estimate one gradient."""
    _, _, spec, _, batch = played
    batch = jax.tree.map(lambda x: x[:4], batch)
    learner = fresh(spec)

    def gradient(agent, keys):
        def of(scores, key):
            return jnp.sum(agent._gain(learner.layout, learner.critics, batch, scores, key))

        each = jax.vmap(jax.grad(of), in_axes=(None, 0))(jnp.zeros((4, 10)), keys)
        return jnp.mean(each, axis=0).ravel()

    smooth = AGENT.replace(activation="tanh", smoothing=0.02)
    along, without = (
        jax.jit(lambda keys, n=n: gradient(smooth.replace(candidates=n), keys))(
            jax.random.split(jax.random.key(3 + n), 512)
        )
        for n in (0, 64)
    )
    assert jnp.corrcoef(along, without)[0, 1] > 0.95
    ratio = float(jnp.linalg.norm(without) / jnp.linalg.norm(along))
    assert ratio == pytest.approx(1, rel=0.1)


def test_where_a_slot_begins_its_usual_value_is_taken_off(played):
    _, _, _, _, batch = played
    agent = AGENT.replace(slot_rate=0.5)
    begins = batch.next_privileged.turn < batch.privileged.turn
    assert 0 < begins.sum() < 60
    value = jnp.where(begins, 8.0, 3.0)
    left, average = agent._slot_by_slot(value, batch, jnp.float32(2.0))
    assert average == pytest.approx(2 + 0.5 * (8 - 2))
    np.testing.assert_allclose(left, jnp.where(begins, 8 - average, 3.0))
    blind = batch._replace(privileged=(), next_privileged=())
    left, average = agent._slot_by_slot(value, blind, jnp.float32(2.0))
    assert average == 2 and jnp.array_equal(left, value)


def learn(task, agent, spec, updates):
    @jax.jit
    def run(key):
        key_init, key_updates = jax.random.split(key)

        def step(learner, key):
            key_batch, key_update = jax.random.split(key)
            return agent.update(learner, task(key_batch), key_update)

        return jax.lax.scan(
            step, agent.init(key_init, spec), jax.random.split(key_updates, updates)
        )[0]

    return run(jax.random.key(3))


def test_it_learns_which_server_is_bad_though_it_takes_part_at_a_jump():
    """Two like servers, one of which costs 1 as soon as it is used: no slope tells it so."""
    layout = (("size", 1), ("wait", 2), ("serve", 2), ("compute", 2))
    spec = Spec(7, 4, layout)
    agent = AGENT.replace(discount=0.0, actor_learning_rate=3e-3, reward_scale=1.0, bound=3.0)

    def observe(bad):
        """[7] both wait 0 and serve in 1; the bad one has the larger part of computing."""
        compute = jnp.where(jnp.arange(2) == bad, 0.9, 0.1)
        return jnp.concatenate([jnp.ones(1), jnp.zeros(2), jnp.ones(2), compute])

    def task(key):
        key_bad, key_action = jax.random.split(key)
        bad = jax.random.randint(key_bad, (64,), 0, 2)
        observation = jax.vmap(observe)(bad)
        action = jax.random.normal(key_action, (64, 4))
        layout_of = agent.init(jax.random.key(0), spec).layout
        fraction = agent._inputs(layout_of, observation, action, ())[2]
        used = jnp.take_along_axis(fraction, bad[:, None], axis=1)[:, 0] > 0
        reward = -used.astype(jnp.float32)
        return Transition(observation, action, reward, observation, jnp.ones(64, bool))

    learner = learn(task, agent, spec, 400)
    for bad in (0, 1):
        scores = agent.preferences(learner, observe(bad))
        fraction = agent._inputs(learner.layout, observe(bad), scores, ())[2]
        assert fraction[bad] == 0


@pytest.mark.parametrize(
    "layout", [(), (("wait", 5), ("serve", 5)), (("wait", 4), ("serve", 4), ("compute", 4))]
)
def test_observations_without_times_are_refused(layout):
    size = sum(length for _, length in layout)
    with pytest.raises(ValueError, match="'wait', 'serve' and 'compute' of 5 servers"):
        AGENT.init(jax.random.key(0), Spec(size, 10, layout))


def test_a_slot_that_begins_between_two_steps_is_not_looked_for():
    rows = jnp.zeros((3, 15))
    batch = Transition(rows, rows[:, :10], rows[:, 0], rows, rows[:, 0] > 0, steps=jnp.full(3, 2))
    agent = dataclasses.replace(AGENT, slot_rate=0.1)
    with pytest.raises(ValueError, match=r"slot_rate is 0\.1; expected 0 with n_step above 1"):
        agent.update(None, batch, jax.random.key(0))


def test_the_simulator_tells_only_where_it_is_asked_to():
    env, params = make("MultiServerOffloading-v0", preset="amcoedge", **OPTIONS)
    _, state = env.reset(jax.random.key(0), params)
    step = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(10), params)
    assert not {"privileged", "final_privileged"} & set(step[-1])
    with pytest.raises(ValueError, match="privileged must be True or False, got 1"):
        make("MultiServerOffloading-v0", privileged=1, **OPTIONS)
