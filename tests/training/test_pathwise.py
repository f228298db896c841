"""Training through the environment: gradients, windows, seeds, and that it learns."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec.agents import SAC, Pathwise
from jaxmec.training import checkpoint
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import (
    PathwiseConfig,
    Simulation,
    bounded_gradient,
)
from jaxmec.training.rollout import make_spec

OPTIONS = {
    "preset": "amcoedge",
    "capacity": (10, 20, 30),
    "rate": (400, 450, 500),
    "positions": 10,
    "probability": 0.5,
    "slots": 3,
    "information": "local",
    "features": "times",
    "action": "score",
    "allocation_information": "seen",
}
CONFIG = PathwiseConfig(
    steps=2_000, num_envs=8, window=20, validation_envs=16, eval_every=400, eval_episodes=2
)
AGENT = Pathwise(hidden=(8,), denoising_steps=2)


def make(**options):
    return jaxmec.make("MultiServerOffloading-v0", **{**OPTIONS, **options})


def drawn(agent, env, params, dtype=jnp.float32):
    learner = jax.jit(lambda key: agent.init(key, make_spec(env, params)))(jax.random.key(3))
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, learner
    )


def test_gradient_is_that_of_finite_differences():
    """In float64, through the chain, the decoder, the queues and what is seen of them."""
    with jax.enable_x64(True):
        env, params = make()
        agent = Pathwise(hidden=(8,), activation="tanh", denoising_steps=2, gradient_limit=1e9)
        learner = drawn(agent, env, params, jnp.float64)

        def cost(parameters):
            return CONFIG.windows_cost(
                Simulation(agent, learner, env, params),
                parameters,
                jax.random.key(5),
                4,
                explore=True,
            )[0]

        gradient = jax.jit(jax.grad(cost))(learner.candidate)
        cost = jax.jit(cost)
        for seed in range(3):
            random = np.random.default_rng(seed)
            ray = jax.tree.map(
                lambda p, random=random: random.normal(size=p.shape), learner.candidate
            )
            ahead, behind = (
                cost(jax.tree.map(lambda p, d, s=s: p + s * d, learner.candidate, ray))
                for s in (1e-7, -1e-7)
            )
            slope = sum(
                float(jnp.sum(g * d))
                for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(ray), strict=True)
            )
            assert abs(slope) > 1e-4
            assert slope == pytest.approx(float(ahead - behind) / 2e-7, rel=1e-4)


def test_jumps_change_the_gradient_and_no_value():
    values, gradients = [], []
    for weight in (0.0, 1.0):
        env, params = make(entry_gradient=weight)
        learner = drawn(AGENT, env, params)
        simulation = Simulation(AGENT, learner, env, params)

        def cost(parameters, simulation=simulation):
            key = jax.random.key(1)
            return CONFIG.windows_cost(simulation, parameters, key, 8, explore=True)[0]

        value, gradient = jax.jit(jax.value_and_grad(cost))(learner.candidate)
        values.append(float(value))
        gradients.append(jax.flatten_util.ravel_pytree(gradient)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert float(jnp.linalg.norm(gradients[0] - gradients[1])) > 1e-3


def test_windows_cost_what_the_environment_says_step_by_step():
    env, params = make(probability=0.2)
    config = dataclasses.replace(CONFIG, counted_slots=2, window=18)
    learner = drawn(AGENT, env, params)
    key = jax.random.key(11)
    total, decisions = jax.jit(
        lambda: config.windows_cost(
            Simulation(AGENT, learner, env, params), learner.candidate, key, 3, explore=False
        )
    )()
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    expected, counted, left_out = 0.0, 0, 0
    for window in jax.random.split(key, 3):
        key_reset, key_env, _ = jax.random.split(window, 3)
        observation, state = reset(key_reset, params)
        over = False
        for index in range(18):
            action = AGENT.decide(learner, learner.candidate, observation, None)
            observation, state, _, _, truncated, info = step(
                jax.random.fold_in(key_env, index), state, action, params
            )
            if info["slot"] < 2 and not over:
                expected += float(info["makespan"])
                counted += 1
            else:
                left_out += 1
            over = over or bool(truncated)
    assert counted == int(decisions)
    assert left_out > 0
    assert float(total) == pytest.approx(expected, rel=1e-4)


CARRIED = PathwiseConfig(
    steps=1_000, num_envs=3, window=25, carried=True, validation_envs=2, eval_every=150
)
LONG_QUEUES = {"features": "priced", "probability": 0.9, "capacity": (3, 4, 5)}


def test_carried_windows_go_on_where_they_ended_and_count_what_they_leave():
    """Two windows in a row are what one environment says step by step, over an episode's end."""
    env, params = make(**LONG_QUEUES)
    learner = drawn(AGENT, env, params)
    key = jax.random.key(4)
    state = jax.jit(lambda: CARRIED.init(AGENT, env, params, key))()
    window = jax.jit(
        lambda places, key: CARRIED.carried_cost(
            Simulation(AGENT, learner, env, params), learner.candidate, key, places
        )
    )
    places, over = state.places, 0
    step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))
    decide = jax.jit(jax.vmap(AGENT.decide, in_axes=(None, None, 0, 0)))
    observation, env_state = places
    for number in range(4):
        key_window = jax.random.fold_in(key, number)
        ahead, cost, places = window(places, key_window)
        expected = 0.0
        keys = [jax.random.split(k) for k in jax.random.split(key_window, 3)]
        for index in range(25):
            key_env, key_act = (
                jnp.stack([jax.random.fold_in(pair[part], index) for pair in keys])
                for part in (0, 1)
            )
            action = decide(learner, learner.candidate, observation, key_act)
            observation, env_state, _, _, truncated, info = step(key_env, env_state, action, params)
            expected += float(jnp.sum(info["makespan"]))
            over += int(jnp.sum(truncated))
        assert float(cost) == pytest.approx(expected, rel=1e-4)
        outlooks = jax.vmap(env.outlook, in_axes=(0, None))(env_state, params)
        assert float(ahead) == pytest.approx(float(jnp.sum(outlooks)), rel=1e-3)
        for a, b in zip(
            jax.tree.leaves(places[1].queues), jax.tree.leaves(env_state.queues), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert over > 0


def test_what_a_window_leaves_behind_has_a_gradient():
    """The slope of costs and outlook together is that of finite differences, in float64."""
    with jax.enable_x64(True):
        env, params = make(**LONG_QUEUES)
        agent = Pathwise(hidden=(8,), activation="tanh", denoising_steps=0, gradient_limit=1e9)
        learner = drawn(agent, env, params, jnp.float64)
        places = jax.jit(lambda: CARRIED.init(agent, env, params, jax.random.key(0)).places)()

        def parts(parameters):
            return jnp.stack(
                CARRIED.carried_cost(
                    Simulation(agent, learner, env, params), parameters, jax.random.key(5), places
                )[:2]
            )

        parts = jax.jit(parts)
        gradients = jax.jit(jax.jacrev(parts))(learner.candidate)
        random = np.random.default_rng(0)
        ray = jax.tree.map(lambda p: random.normal(size=p.shape), learner.candidate)
        ahead, behind = (
            parts(jax.tree.map(lambda p, d, s=s: p + s * d, learner.candidate, ray))
            for s in (1e-7, -1e-7)
        )
        slopes = sum(
            jnp.tensordot(g, d, axes=d.ndim)
            for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(ray), strict=True)
        )
        expected = np.asarray(ahead - behind) / 2e-7
        assert float(slopes[1]) == pytest.approx(expected[1], rel=1e-3)
        # The outlook takes what was sent as given, which is not all of its slope.
        assert float(slopes[0]) == pytest.approx(expected[0], rel=0.5)
        assert np.all(np.abs(expected) > 1e-2)


@pytest.mark.slow
def test_carried_training_goes_on_over_chunks_and_validates_on_whole_episodes():
    env, params = make(**LONG_QUEUES)
    key = jax.random.key(2)

    @jax.jit
    def run(key):
        state = CARRIED.init(AGENT, env, params, key)
        start = CARRIED.prepare(AGENT, env, params, state)
        return start, CARRIED.chunk(AGENT, env, params, start)

    start, (state, metrics) = run(key)
    # Spread over an episode: e/E of 3 x 3 x 10 positions, so 0, 30 and 60 decisions.
    assert int(start.places[1].time[0]) == 0
    assert len({int(time) for time in start.places[1].time}) == 3
    assert not np.array_equal(start.places[0], state.places[0])
    learner = state.learner

    def policy(key, observation, env_state, memory):
        return AGENT.decide(learner, learner.candidate, observation, None), memory

    played = jaxmec.training.evaluate(policy, (), env, params, 2, state.key_validation)
    assert float(metrics["validation"]) == pytest.approx(
        float(jnp.mean(played["makespan"])), rel=1e-4
    )
    with pytest.raises(ValueError, match="features='priced'"):
        CARRIED.init(AGENT, *make(), key)
    with pytest.raises(ValueError, match="carried must be True or False, got 1"):
        PathwiseConfig(carried=1)


def test_a_bounded_gradient_is_held_entry_by_entry_and_nan_is_nothing():
    def loss(x, limit):
        held = bounded_gradient({"x": x, "count": jnp.arange(3)}, limit)["x"]
        return jnp.sum(held * jnp.array([0.5, -7.0, jnp.nan]))

    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(3), 2.0), [0.5, -2.0, 0.0])
    tree = {"x": jnp.ones(3), "count": jnp.arange(3)}
    np.testing.assert_array_equal(bounded_gradient(tree, 1.0)["x"], tree["x"])


def test_seeds_side_by_side_are_single_runs():
    env, params = make(entry_gradient=1.5)
    config = dataclasses.replace(CONFIG, eval_every=320)  # two updates
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1)])

    def run(key):
        state = config.init(AGENT, env, params, key)
        return config.chunk(AGENT, env, params, state)

    together, metrics = jax.jit(jax.vmap(run))(keys)
    alone, single = jax.jit(run)(keys[1])
    np.testing.assert_array_equal(together.env_steps, [320, 320])
    np.testing.assert_array_equal(together.updates, [2, 2])
    np.testing.assert_allclose(metrics["cost"][1], single["cost"], rtol=1e-4)
    candidates = together.learner.candidate, alone.learner.candidate
    for a, b in zip(*map(jax.tree.leaves, candidates), strict=True):
        assert not np.allclose(a[0], a[1])
        np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-4)


SMALL = {
    "steps": 40_000,
    "num_envs": 16,
    "window": 20,
    "validation_envs": 64,
    "eval_every": 20_000,
    "eval_episodes": 1,
    "hidden": (16,),
    "seeds": 2,
    "progress": False,
    **{name: OPTIONS[name] for name in ("capacity", "rate", "positions", "probability", "slots")},
}


@pytest.fixture(scope="module")
def trained():
    return jaxmec.train("mlp-pathwise", **SMALL)


def test_it_learns_what_it_is_judged_by(trained):
    setting = {name: SMALL[name] for name in ("capacity", "rate", "positions", "probability")}
    rule = jaxmec.evaluate(
        "water-filling",
        information="local",
        allocation_information="seen",
        slots=SMALL["slots"],
        episodes=64,
        seed=5,
        **setting,
    )
    report = jaxmec.evaluate(trained, episodes=64, seed=5)
    assert np.all(report.ratio(rule) < 0.97)
    kept = np.nanmin(trained.history.training["validation"], axis=1)
    np.testing.assert_allclose(trained.state.learner.cost, kept, rtol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_the_learning_rate_comes_down_whatever_share_of_a_training_is_made(share):
    """As --steps, a study's steps and the teacher's shorter training make it."""
    for config in (CONFIG, CloningConfig(steps=4_096, eval_every=1_024)):
        short = config.scaled(share)
        last = short.total_steps // short.stride - 1
        rates = [AGENT.rate_at(short.progress(update), update) for update in (0, last)]
        np.testing.assert_allclose(rates, [AGENT.learning_rate, AGENT.final_learning_rate])


@pytest.mark.slow
def test_a_run_of_fewer_steps_ends_at_the_final_learning_rate():
    """By the updates of the run at hand, with our methods' own settings."""
    sizes = {**SMALL, "steps": 480, "eval_every": 160, "num_envs": 4, "validation_envs": 4}
    result = jaxmec.train("mlp-pathwise", **{**sizes, "window": 40, "seeds": 1})
    rates = result.history.training["learning_rate"][0, 1:]  # of each update, one a chunk
    np.testing.assert_allclose(rates[[0, -1]], [3e-3, 5e-5], rtol=1e-5)


@pytest.mark.slow
def test_a_policy_that_training_makes_worse_is_kept(trained):
    """With a learning rate that spoils it at once, what is judged is still what it started with."""
    options = SMALL | {
        "steps": 640, "num_envs": 4, "eval_every": 320, "validation_envs": 64,
        "learning_rate": 3.0, "final_learning_rate": 3.0,
    }  # fmt: skip
    spoilt = jaxmec.train("mlp-pathwise", start=trained, **options)
    for a, b in zip(
        *(jax.tree.leaves(result.state.learner.actor) for result in (spoilt, trained)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_training_starts_from_a_policy(trained, tmp_path):
    """With a rate of next to nothing it stays there: each seed at its own, or all at one."""
    options = SMALL | {
        "steps": 160, "num_envs": 4, "eval_every": 80, "validation_envs": 4,
        "learning_rate": 1e-12, "final_learning_rate": 1e-13,
    }  # fmt: skip
    on = jaxmec.train("mlp-pathwise", start=trained, **options)
    one = trained.policies[1]
    same = jaxmec.train("mlp-pathwise", start=one.save(tmp_path / "policy"), **options)
    for ours, theirs in ((on.policies, trained.policies), (same.policies, (one, one))):
        for a, b in zip(ours, theirs, strict=True):
            leaves = map(jax.tree.leaves, (a.learner.actor, b.learner.actor))
            for x, y in zip(*leaves, strict=True):
                np.testing.assert_allclose(x, y, atol=1e-6)
    for error, message, changes in (
        (ValueError, r"start has the seeds \(0, 1\); expected \(0, 1, 2\)", {"seeds": 3}),
        (ValueError, r"start: mlp-pathwise's actor has .* of shape \(16,\); expected \(8,\)",
         {"hidden": (8,)}),
        (ValueError, "trials must be 1 where training starts from a policy, got 2", {"trials": 2}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            jaxmec.train("mlp-pathwise", start=trained, **(options | changes))
    with pytest.raises(TypeError, match="start goes with agents that have an actor, got DQN"):
        jaxmec.train("amcoedge", start=trained, progress=False)


def test_its_policy_is_saved_and_decides_as_before(trained, tmp_path):
    loaded = jaxmec.load_policy(trained.save(tmp_path / "policy"))
    size = loaded.spec.observation_size
    observations = np.random.default_rng(0).uniform(size=(8, size)).astype(np.float32)
    scores = loaded(observations)
    assert scores.shape == (8, 6)
    np.testing.assert_array_equal(scores, trained.policy(observations))
    np.testing.assert_allclose(loaded(observations[0]), scores[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_resumed_ends_with_the_bits_of_one_never_stopped(tmp_path):
    sizes = {**SMALL, "steps": 1_280, "eval_every": 640}
    whole = jaxmec.train("mlp-pathwise", directory=tmp_path / "whole", **sizes)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(checkpoint.checkpoints(tmp_path / "part" / "checkpoints")[-1])
    resumed = jaxmec.train("mlp-pathwise", directory=tmp_path / "part", resume=True, **sizes)
    for name in ("actor", "candidate", "optimiser", "cost", "updates", "rate", "starts"):
        for a, b in zip(
            *(jax.tree.leaves(getattr(run.state.learner, name)) for run in (whole, resumed)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_agents_and_configurations_that_do_not_fit_are_refused():
    env, params = make()
    with pytest.raises(TypeError, match="SAC learns from transitions"):
        CONFIG.init(SAC(), env, params, jax.random.key(0))
    with pytest.raises(TypeError, match="give its training a PathwiseConfig"):
        jaxmec.train(
            AGENT,
            env="MultiServerOffloading-v0",
            config=TrainConfig(steps=300, prefill=200, batch_size=8, buffer_size=300),
            progress=False,
            env_options={name: OPTIONS[name] for name in ("action", "features")},
        )
    with pytest.raises(ValueError, match="window must be a whole number of at least 1, got 0"):
        PathwiseConfig(window=0)


@pytest.mark.slow
def test_twenty_seeds_stay_finite():
    sizes = {**SMALL, "seeds": 20, "denoising_steps": 5, "learning_rate": 1e-2}
    result = jaxmec.train("ddrl-amsa-pathwise", **sizes)
    for name, values in result.history.training.items():
        assert np.all(np.isfinite(values[:, 1:])), name
    assert not np.any(result.history.training["unusable_gradients"][:, 1:])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state.learner.actor))
