"""Off-policy training: what is counted, what is the same run however it is composed."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents.dqn import DQN
from jaxmec.agents.dsac import DSAC
from jaxmec.core import compilation
from jaxmec.envs.cartpole import CartPole
from jaxmec.training import trainer
from jaxmec.training.off_policy import TrainConfig

CONFIG = TrainConfig(
    steps=300,
    num_envs=4,
    prefill=62,
    buffer_size=100,
    batch_size=16,
    updates_per_step=2,
    eval_every=78,
    eval_episodes=3,
)
AGENT = DQN(hidden=(16,))
ENV = CartPole()
PARAMS = ENV.default_params.replace(max_steps_in_episode=20)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, plain(a), plain(b))


def plain(tree):
    """Arrays of numbers: keys as their data."""

    def leaf(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, tree)


def row(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def bind(method, agent=AGENT, env=ENV, params=PARAMS, config=CONFIG):
    """A method of the trainer, or its whole training, of what is left to give."""
    if method == "train":
        return functools.partial(trainer.train, agent, env, params, config)
    return functools.partial(getattr(config, method), agent, env, params)


@pytest.fixture(scope="module")
def train():
    """`train` of a key, compiled once for all tests."""
    return jax.jit(bind("train"))


@pytest.fixture(scope="module")
def trained(train):
    """One run of it, (state, history), from key 7."""
    return train(jax.random.key(7))


def test_steps_are_rounded_up_to_whole_vectorised_steps_and_chunks():
    assert (CONFIG.prefill_steps, CONFIG.chunk_steps) == (64, 80)
    assert (CONFIG.num_chunks, CONFIG.num_points, CONFIG.total_steps) == (3, 4, 304)
    assert CONFIG.buffer.capacity == 100
    assert TrainConfig(steps=63, num_envs=4, prefill=62, batch_size=16).num_chunks == 1
    assert hash(CONFIG) == hash(TrainConfig(**vars(CONFIG)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: 0}, f"{name} must be .*, got 0") for name in vars(CONFIG)),
        ({"num_envs": 4.0}, "num_envs must be .*, got 4.0"),
        ({"steps": True}, "steps must be .*, got True"),
        ({"prefill": 15}, "prefill is 15; expected at least batch_size, 16"),
        ({"buffer_size": 15}, "buffer_size is 15; expected at least batch_size, 16"),
        ({"steps": 62}, "steps is 62; expected more than prefill, 62"),
        ({"steps": 2**31}, "to count in 32 bits"),
    ],
)
def test_a_config_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**(vars(CONFIG) | change))


def test_a_scaled_training_keeps_its_points():
    config = TrainConfig(steps=100_000, num_envs=64, prefill=10_000, eval_every=10_000)
    short = config.scaled(0.25)
    assert (short.steps, short.prefill, short.eval_every) == (25_000, 2_500, 2_500)
    assert short.num_points == config.num_points
    assert config.scaled(1.0) is config
    assert config.scaled(4.0).prefill == 10_000
    least = config.scaled(1e-6)  # a batch, and a chunk
    assert (least.prefill, least.eval_every, least.steps) == (128, 1, 129)


def test_its_work_is_the_gradient_updates_of_each_step_of_denoising():
    assert CONFIG.work(DQN()) == 120
    assert CONFIG.work(DSAC(denoising_steps=3)) == 360


def test_counts_and_history(trained):
    state, history = trained
    assert (int(state.env_steps), int(state.updates)) == (304, 120)
    assert int(state.learner.updates) == 120
    assert (int(state.replay.size), int(state.replay.position)) == (100, 304 % 100)
    np.testing.assert_array_equal(history.env_steps, [64, 144, 224, 304])
    assert set(history.evaluation) == {"return", "length"}
    for value in history.evaluation.values():
        assert value.shape == (4,)
        assert np.isfinite(value).all()
    assert set(trainer.EPISODE_METRICS) < set(history.training)
    for value in history.training.values():
        assert value[0] == 0  # nothing was trained yet
        assert np.isfinite(value).all()
    np.testing.assert_array_equal(history.training["reward"][1:], 1.0)


def written(state, start, stop):
    """The transitions of some vectorised steps, [steps, E]."""
    return jax.tree.map(lambda x: np.asarray(x[start:stop]), state.replay.items)


def test_what_the_environments_did_is_what_the_buffer_holds(walk, walk_params, counting):
    """Prefill and chunk of an agent that writes down what it was asked, step by step."""
    config = TrainConfig(**(vars(CONFIG) | {"buffer_size": 200}))
    run = functools.partial(bind, agent=counting, env=walk, params=walk_params, config=config)
    start = run("init")(jax.random.key(0))
    state = run("prepare")(start)
    assert_equal(state.learner, start.learner)
    stored = written(state, 0, 16)
    actions = stored.action
    # Uniformly random and not the agent's choice: 64/3 of each and of those that agree with
    # it are expected, and the standard deviation of such a count is sqrt(64 · 1/3 · 2/3).
    alike = np.sum(actions == np.arange(16)[:, None] % 3)
    found = np.array([*np.bincount(actions.ravel(), minlength=3), alike])
    assert (np.abs(found - 64 / 3) < 5 * math.sqrt(64 * 2 / 9)).all()
    np.testing.assert_array_equal(stored.reward, actions)
    counts = np.broadcast_to(np.arange(16)[:, None], (16, 4))
    np.testing.assert_array_equal(stored.extras["count"], counts)

    state, metrics = run("chunk")(state)
    stored = written(state, 16, 36)
    counts = np.broadcast_to(np.arange(16, 36)[:, None], (20, 4))
    np.testing.assert_array_equal(stored.extras["count"], counts)
    np.testing.assert_array_equal(stored.action, counts % 3)
    # Episodes have five steps: those that end after steps 20, 25, 30 and 35 of the run.
    assert float(metrics["episodes"]) == 16
    assert float(metrics["episode_length"]) == 5
    rewards = np.concatenate([actions, counts % 3])
    episodes = rewards[:35].reshape(7, 5, 4).sum(axis=1)[3:]
    np.testing.assert_allclose(metrics["episode_return"], episodes.mean(), rtol=2**-22)
    np.testing.assert_allclose(metrics["reward"], (counts % 3).mean(), rtol=2**-22)
    # Forty updates, numbered from 1, each with a key and a batch of its own.
    assert float(metrics["update"]) == 20.5
    assert len(np.unique(state.learner.dice)) == 40
    assert len(np.unique(state.learner.positions)) == 40


def test_what_is_not_finite_is_seen_and_no_finished_episode_is_no_failure(
    walk, walk_params, counting
):
    """A chunk has 40 updates; the last of them fails, and in the other run none does."""
    params = walk_params.replace(max_steps_in_episode=1000)

    def one_chunk(nan_at):
        agent = counting.replace(nan_at=nan_at)
        run = functools.partial(bind, agent=agent, env=walk, params=params)
        return run("chunk")(run("prepare")(run("init")(jax.random.key(0))))[1]

    metrics = jax.jit(jax.vmap(one_chunk))(jnp.array([39, 40]))
    failed, well = row(metrics, 0), row(metrics, 1)
    assert float(well["episodes"]) == 0
    assert float(well["episode_return"]) == float(well["episode_length"]) == 0
    told = trainer.known(jax.device_get(well))
    assert np.isnan(told["episode_return"]) and np.isnan(told["episode_length"])
    assert told["loss"] == well["loss"]
    assert trainer.failures(well) == ()
    assert trainer.failures(failed) == trainer.failures(metrics) == ("loss",)
    assert trainer.failures({"loss": jnp.array([1.0, jnp.inf])}) == ("loss",)


@pytest.mark.parametrize(
    ("staggered", "steps", "apart"),
    [
        (None, 39, True),  # 36 steps after the prefill's 4: 10 in each environment, of 5.2 a piece
        (None, 43, False),  # 11 in each
        (True, 43, True),
        (False, 39, False),
    ],
)
def test_environments_begin_apart_where_each_sees_less_than_two_episodes(
    walk, walk_params, counting, staggered, steps, apart
):
    class Long(type(walk)):
        def expected_steps(self, params):
            return jnp.asarray(5.2)

        def fair_step(self, key, state, params):
            return self.step(key, state, 1, params)

    config = TrainConfig(
        steps=steps, num_envs=4, prefill=4, batch_size=4, buffer_size=8, updates_per_step=1,
        eval_every=4, eval_episodes=1, staggered=staggered,
    )  # fmt: skip
    env = Long()
    params = walk_params.replace(max_steps_in_episode=100)
    state = config.init(counting, env, params, jax.random.key(0))
    state = config.prepare(counting, env, params, state)
    before = [0, 1, 2, 3] if apart else [0] * 4  # e/4 of 5.2 steps, rounded down, then the prefill
    np.testing.assert_array_equal(state.rollout.env_state.time, np.array(before) + 1)
    assert int(state.env_steps) == 4  # play before the training is none of its steps
    np.testing.assert_array_equal(state.rollout.memory, 1)  # nor of the policy's


def test_what_cannot_begin_apart_says_so(walk, walk_params, counting):
    config = dataclasses.replace(CONFIG, staggered=True)
    state = config.init(counting, walk, walk_params, jax.random.key(0))
    with pytest.raises(ValueError, match="staggered is True; expected None or False, since Walk"):
        config.prepare(counting, walk, walk_params, state)


def test_names_of_metrics_must_not_clash(walk, walk_params, counting):
    class Clash(type(counting)):
        def update(self, learner, batch, key):
            return learner, {"reward": jnp.zeros(())}

    run = functools.partial(bind, agent=Clash(), env=walk, params=walk_params)
    with pytest.raises(ValueError, match="reward"):
        jax.eval_shape(run("chunk"), run("init")(jax.random.key(0)))


def test_a_host_loop_computes_what_train_computes(trained):
    """To the bit on the CPU, with donated states, and each function compiled once."""
    prefill = jax.jit(bind("prepare"), donate_argnums=0)
    chunk = jax.jit(bind("chunk"), donate_argnums=0)
    point = jax.jit(bind("point"))
    state = prefill(jax.jit(bind("init"))(jax.random.key(7)))
    evaluations, metrics = [point(state)], []
    for _ in range(CONFIG.num_chunks):
        state, chunk_metrics = chunk(state)
        metrics.append(chunk_metrics)
        evaluations.append(point(state))
    assert chunk._cache_size() == point._cache_size() == 1

    final, history = trained
    assert_equal(state, final)
    stack = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)  # noqa: E731
    assert_equal(stack(evaluations), history.evaluation)
    assert_equal(stack(metrics), {name: x[1:] for name, x in history.training.items()})


def test_seeds_side_by_side_are_what_they_are_alone(train):
    keys = jax.vmap(jax.random.key)(jnp.array([7, 8, 9]))
    start = jax.vmap(bind("init"))(keys)
    weights = start.learner.critic["params"]["layers_0"]["kernel"]
    assert len(np.unique(weights)) == weights.size

    state, history = jax.jit(jax.vmap(bind("train")))(keys)
    for seed in range(3):
        alone, alone_history = train(keys[seed])
        assert_close(row(state.learner, seed), alone.learner)
        assert_close(row(history, seed), alone_history)
        assert_equal(row(state.replay.items.action, seed), alone.replay.items.action)
    final = state.learner.critic["params"]["layers_0"]["kernel"]
    assert np.abs(final[0] - final[1]).min() > 1e-4  # far more than the tolerance


def assert_close(a, b):
    """Numbers of order 1, rounded once in each of the 120 updates, by half a unit in each run."""
    tolerance = 120 * 2.0**-23
    compare = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(compare, plain(a), plain(b))


def test_a_sweep_over_an_agents_and_an_environments_numbers_is_a_vmap(walk, walk_params, counting):
    def one_chunk(agent, params):
        run = functools.partial(bind, agent=agent, env=walk, params=params)
        return run("chunk")(run("prepare")(run("init")(jax.random.key(0))))

    agents = counting.replace(discount=jnp.array([0.5, 0.9]), nan_at=jnp.array([-1, -1]))
    params = walk_params.replace(max_steps_in_episode=jnp.array([5, 7]), goal=jnp.array([1e9, 1e9]))
    state, metrics = jax.jit(jax.vmap(one_chunk))(agents, params)
    single = jax.jit(one_chunk)
    for i in range(2):
        alone, alone_metrics = single(row(agents, i), row(params, i))
        assert_close(state.learner.weight[i], alone.learner.weight)
        assert_close(row(metrics, i), alone_metrics)
    np.testing.assert_array_equal(metrics["episode_length"], [5, 7])
    assert abs(float(state.learner.weight[0] - state.learner.weight[1])) > 0.1


def test_agents_are_evaluated_on_the_same_episodes_new_at_every_point(walk, walk_params, counting):
    class Lazy(type(counting)):
        def act(self, learner, memory, observation, key, explore):
            return jnp.int32(0), memory, {"count": memory}

    state = bind("init", counting, walk, walk_params)(jax.random.key(0))
    busy, lazy = (jax.jit(bind("point", agent, walk, walk_params)) for agent in (counting, Lazy()))
    here, later = state, state._replace(env_steps=state.env_steps + 80)
    assert float(busy(here)["return"]) > float(lazy(here)["return"]) == 0
    assert float(busy(here)["noise"]) == float(lazy(here)["noise"])
    assert float(busy(here)["noise"]) != float(busy(later)["noise"])


def test_functions_are_traced_a_stated_number_of_times(walk, walk_params, counting):
    traces = dict.fromkeys(("act", "step", "update"), 0)

    class Agent(type(counting)):
        def act(self, *args):
            traces["act"] += 1
            return super().act(*args)

        def update(self, *args):
            traces["update"] += 1
            return super().update(*args)

    class Env(type(walk)):
        def step(self, *args):
            traces["step"] += 1
            return super().step(*args)

    run = functools.partial(bind, agent=Agent(), env=Env(), params=walk_params)
    expected = {  # whatever the number of seeds, environments, steps and updates
        "init": {"act": 1, "step": 1, "update": 0},
        "prepare": {"act": 1, "step": 1, "update": 0},
        "chunk": {"act": 1, "step": 1, "update": 1},
        "point": {"act": 1, "step": 1, "update": 0},
    }
    value = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    for name, counts in expected.items():
        traces.update(act=0, step=0, update=0)
        result = jax.eval_shape(jax.vmap(run(name)), value)
        assert traces == counts, name
        if name in ("init", "prepare"):
            value = result


@pytest.mark.parametrize("seeds", [None, 5])
def test_a_chunk_writes_to_the_buffer_where_it_is(seeds, walk, walk_params, counting):
    """What a compiled chunk needs beside its donated state does not grow with the buffer."""

    def memory(buffer_size):
        config = TrainConfig(**(vars(CONFIG) | {"buffer_size": buffer_size}))
        run = functools.partial(bind, agent=counting, env=walk, params=walk_params, config=config)
        init, chunk, key = run("init"), run("chunk"), jax.random.key(0)
        if seeds:
            init, chunk, key = jax.vmap(init), jax.vmap(chunk), jax.random.split(key, seeds)
        state = jax.eval_shape(init, key)
        compiled = jax.jit(
            chunk,
            donate_argnums=0,
            # As users have it, where there is another way.
            compiler_options=compilation.understood({"xla_cpu_use_fusion_emitters": True}),
        )
        return compiled.lower(state).compile().memory_analysis()

    small, large = memory(10_000), memory(1_000_000)
    item = (2 + 2) * 4 + 4 + 4 + 1 + 4  # bytes: observations, reward, action, flag, extra
    assert large.alias_size_in_bytes > 1_000_000 * item * (seeds or 1)
    assert large.temp_size_in_bytes <= small.temp_size_in_bytes + 10_000
