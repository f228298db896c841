"""What the pathwise agent does with a gradient and with a verdict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import Pathwise, Spec

B = 3
LAYOUT = (("size", 1), ("wait", B), ("serve", B))
SPEC = Spec(observation_size=7, num_actions=2 * B, layout=LAYOUT)
SMALL = {"hidden": (8,), "activation": "tanh", "learning_rate": 0.1, "final_learning_rate": 0.01}


def make(**fields):
    return Pathwise(**{**SMALL, **fields})


def fresh(agent):
    return jax.jit(lambda key: agent.init(key, SPEC))(jax.random.key(0))


def moved(learner, by):
    return learner._replace(candidate=jax.tree.map(lambda p: p + by, learner.candidate))


def ones(learner, value=1.0):
    return jax.tree.map(lambda p: jnp.full_like(p, value), learner.candidate)


def same(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_the_first_step_is_the_learning_rate_downhill():
    agent = make()
    learner = fresh(agent)
    after, metrics = jax.jit(agent.improve)(learner, ones(learner), 0.0)
    step = jax.tree.map(lambda a, b: a - b, after.candidate, learner.candidate)
    for leaf in jax.tree.leaves(step):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-3)
    assert same(after.actor, learner.actor)
    assert metrics["unusable_gradients"] == 0


@pytest.mark.parametrize("length", [6, 11])
@pytest.mark.parametrize("trials", [1, 2])
def test_the_learning_rate_falls_by_a_cosine_to_the_end_of_the_training(length, trials):
    """However long it is; while starts are tried, it has not begun to."""
    agent = make(trials=trials, trial_updates=3)
    tried = 6 if trials > 1 else 0
    learner = fresh(agent)
    improve = jax.jit(agent.improve)
    rates = []
    for update in range(tried + length):
        learner = learner._replace(updates=jnp.array(update))
        metrics = improve(learner, ones(learner), update / (tried + length - 1))[1]
        rates.append(float(metrics["learning_rate"]))
    cosine = 0.01 + 0.09 * (1 + np.cos(np.pi * np.linspace(0, 1, length))) / 2
    np.testing.assert_allclose(rates, [0.1] * tried + cosine.tolist(), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    agent = make()
    learner = fresh(agent)
    after, metrics = jax.jit(agent.improve)(learner, ones(learner, bad), 0.0)
    assert same(after.candidate, learner.candidate)
    assert metrics["unusable_gradients"] == 1
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_best_is_kept_and_who_falls_behind_goes_back_to_it():
    agent = make(tolerance=0.1, trial_updates=2)
    start = fresh(agent)
    judge = jax.jit(agent.judge)
    first = judge(moved(start, 1.0), 2.0)
    assert same(first.actor, moved(start, 1.0).candidate)
    assert first.cost == 2.0

    worse = judge(moved(first, 1.0), 2.1)  # within the tolerance: it may go on
    assert same(worse.actor, first.actor)
    assert same(worse.candidate, moved(first, 1.0).candidate)
    assert (worse.cost, worse.rate) == (2.0, 1.0)

    busy, _ = agent.improve(worse, ones(worse), 0.0)
    early = judge(busy, 2.3)  # after one update of two that it is let be
    assert same(early.candidate, busy.candidate) and early.rate == 1.0
    late = busy._replace(updates=jnp.array(3))
    for lost in (judge(late, 2.3), judge(busy, jnp.nan)):
        assert same(lost.candidate, first.actor)
        assert (lost.cost, lost.rate) == (2.0, 0.5)
        assert same(lost.optimiser, start.optimiser)

    better = judge(moved(lost, 1.0), 1.9)
    assert same(better.actor, moved(first, 1.0).candidate)
    assert better.cost == np.float32(1.9)


def test_starts_are_tried_in_turn_and_the_best_goes_on():
    agent = make(trials=3, trial_updates=10, tolerance=0.1)
    judge = jax.jit(agent.judge)
    first = fresh(agent)

    early = judge(first._replace(updates=jnp.array(5)), 2.0)
    assert same(early.candidate, first.candidate)
    second = judge(early._replace(updates=jnp.array(10)), 1.5)
    assert same(second.actor, first.candidate)
    assert not same(second.candidate, first.candidate)
    assert not np.allclose(*(jax.tree.leaves(x.candidate)[1] for x in (first, second)))

    behind = judge(second._replace(updates=jnp.array(15)), 9.0)  # its time is not up
    assert same(behind.candidate, second.candidate)
    assert behind.rate == 1
    third = judge(behind._replace(updates=jnp.array(20)), 1.0)
    assert same(third.actor, second.candidate)
    assert not same(third.candidate, second.candidate)
    after = judge(third._replace(updates=jnp.array(30)), 1.05)
    assert same(after.candidate, second.candidate)  # the best of the three
    assert (after.cost, after.rate) == (1.0, 1.0)
    lost = judge(moved(after, 1.0)._replace(updates=jnp.array(40)), 1.2)
    assert same(lost.candidate, second.candidate)
    assert lost.rate == 0.5
    _, metrics = agent.improve(after._replace(updates=jnp.array(30)), ones(after), 30 / 40)
    assert metrics["learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("network", ["flat", "servers"])
@pytest.mark.parametrize("steps", [0, 2])
def test_judged_it_is_the_best_policy_and_exploring_the_trained_one(network, steps):
    agent = make(network=network, denoising_steps=steps)
    learner = moved(fresh(agent), 0.3)
    observation = jnp.arange(7.0) / 7

    @jax.jit
    def act(learner, key):
        judged = agent.act(agent.acting(learner), (), observation, key, False)
        return judged[0], agent.act(learner, (), observation, key, True)[0]

    (judged, trained), (again, other) = (act(learner, jax.random.key(k)) for k in (0, 1))
    assert judged.shape == trained.shape == (2 * B,)
    np.testing.assert_array_equal(judged, again)
    assert np.array_equal(trained, other) == (steps == 0)  # the chain's noise
    assert not np.allclose(judged, trained)


def test_what_acts_is_the_actor_alone_and_stays_it():
    agent = make()
    acting = agent.acting(fresh(agent))
    assert len(jax.tree.leaves(acting)) == len(jax.tree.leaves(acting.actor)) > 0
    assert same(agent.acting(acting), acting)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", 0.0, "above 0"),
        ("final_learning_rate", -1.0, "above 0"),
        ("squared_decay", 1.5, "at most 1"),
        ("trials", 0, "at least 1"),
        ("trial_updates", 0, "at least 1"),
        ("gradient_limit", 0.0, "above 0"),
        ("max_gradient_norm", float("inf"), "finite"),
        ("tolerance", -0.1, "at least 0"),
        ("network", "server", "one of flat, servers"),
        ("denoising_steps", -1, "at least 0"),
        ("embedding_size", 7, "even"),
        ("bound", 0.0, "above 0"),
    ],
)
def test_wrong_field_is_refused(field, value, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        Pathwise(**{field: value})
    assert str(caught.value).startswith(field)


def test_actions_that_are_not_numbers_of_servers_are_refused():
    agent = make(network="servers")
    with pytest.raises(ValueError, match=r"each of 3 servers, got 31 in all.*action='score'"):
        agent.init(jax.random.key(0), SPEC._replace(num_actions=31))


def test_transitions_teach_it_nothing():
    with pytest.raises(TypeError, match="give its training a PathwiseConfig"):
        make().update(None, None, None)
