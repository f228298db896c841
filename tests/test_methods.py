"""The contract of every method by name, with our settings and as published."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec import methods
from jaxmec.agents import PerStation
from jaxmec.envs import find_environment
from jaxmec.methods import METHODS, find_method
from jaxmec.serving.decision import hearing
from jaxmec.struct import replace
from jaxmec.training import rollout
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.rollout import make_spec

SETTINGS = [
    pytest.param(method, published, id=f"{name}{'-published' * published}")
    for name, method in METHODS.items()
    for published in (False, True)
    if not published or method.published is not None
]


def small(agent):
    """The same agent with networks that compile fast."""
    if isinstance(agent, PerStation):
        return PerStation(small(agent.inner))
    sizes = {"hidden": (8,), "critic_hidden": (8,), "denoising_steps": 2, "judged_chains": 2}
    fields = {field.name for field in dataclasses.fields(agent)}
    return dataclasses.replace(agent, **{k: v for k, v in sizes.items() if k in fields})


def made(method, settings, **options):
    preset = {} if method.preset is None else {"preset": method.preset}
    return jaxmec.make(method.env, **preset, **(dict(settings.options) | options))


def transitions(agent, learner, env, params, key_reset, key_step):
    """What the training loop hands an agent of one step in each of two environments."""

    def explore(key, observation, memory):
        return agent.act(learner, memory, observation, key, True)

    memory = agent.init_memory(make_spec(env, params))
    state = rollout.reset(env, params, memory, 2, key_reset)
    return rollout.step(explore, env, params, state, key_step)[1]


@pytest.mark.parametrize(("method", "published"), SETTINGS)
def test_it_decides_and_learns_on_its_environment(method, published):
    """One compiled program: two environments decide, both states are learned from."""
    settings = method.settings(published)
    if not isinstance(settings.config, TrainConfig):
        pytest.skip("learns through the simulator, not from transitions")
    env, params = made(method, settings)
    agent, spec = small(settings.agent()), make_spec(env, params)

    @jax.jit
    def run(key):
        key_init, key_act, key_reset, key_step, key_update = jax.random.split(key, 5)
        learner = agent.init(key_init, spec)
        memory = agent.init_memory(spec)
        batch = transitions(agent, learner, env, params, key_reset, key_step)
        after, metrics = agent.update(learner, batch, key_update)
        judged = agent.act(agent.acting(after), memory, batch.observation[0], key_act, False)[0]
        preferences = agent.preferences(agent.acting(after), batch.observation[0])
        return metrics, batch.action[0], judged, preferences

    metrics, action, judged, preferences = run(jax.random.key(0))
    assert all(np.isfinite(value) for value in metrics.values())
    assert np.isfinite(preferences).all()
    space = env.action_space(params)
    for choice in (action, judged):
        assert choice.shape == space.shape and choice.dtype == action.dtype
        assert space.contains(choice)


@pytest.mark.parametrize(
    "name", [name for name, m in METHODS.items() if find_environment(m.env).schedules]
)
def test_our_settings_know_no_more_than_a_station_can(name):
    """States that differ only in what no station sees give the same decision and split."""
    method = METHODS[name]
    settings = method.tuned
    options = dict(settings.options)
    assert options["information"] in ("local", "slot_start")
    assert options.get("allocation_information", "seen") == "seen"
    env, params = made(method, settings)
    agent = small(settings.agent())
    learner = jax.jit(lambda key: agent.acting(agent.init(key, make_spec(env, params))))(
        jax.random.key(0)
    )
    _, state = env.reset(jax.random.key(1), params)
    others = jnp.arange(env.num_servers) != state.task.origin
    hidden = state._replace(
        queues=state.queues.replace(
            inflight=jnp.arange(env.num_servers) / 7.0,
            uplink=jnp.where(others, 0.3, state.queues.uplink),
        ),
        time=state.time + 5,
        history=jax.tree.map(lambda rows: jnp.where(others[:, None], 3.0, rows), state.history),
    )

    @jax.jit
    def decide(state):
        observation = env.observe_state(state, params)
        memory = agent.init_memory(make_spec(env, params))
        action = agent.act(learner, memory, observation, jax.random.key(2), False)[0]
        return action, env.place(action, state, params)[0].fraction

    for a, b in zip(decide(state), decide(hidden), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.preset == "genai-5"])
def test_what_learns_to_serve_knows_no_more_than_a_station_can(name):
    """True queues, what is resident, what others sent and outages change no decision."""
    method = METHODS[name]
    env, params = made(method, method.tuned)
    agent = method.tuned.agent()
    spec = make_spec(env, params)
    learner = jax.jit(lambda key: agent.acting(agent.init(key, spec)))(jax.random.key(0))
    _, state = env.reset(jax.random.key(1), params)
    queues, outages = state.queues, params.outages
    others = jnp.arange(params.num_stations)[:, None] != state.request.origin
    hidden = state._replace(
        queues=replace(
            queues,
            free=queues.free + 30.0,
            queued=queues.queued + 20.0,
            holds=queues.holds + 1,
            cleared=queues.cleared + 3.0,
            sent_work=jnp.where(others, 9.0, queues.sent_work),
            sent_after=jnp.where(others, queues.beat, queues.sent_after),
        ),
        availability=hearing(params.fleet, outages.draw(jax.random.key(7), params.fleet.elastic)),
        key=jax.random.key(8),
    )

    @jax.jit
    def decide(state):
        observation = env.observe_state(state, params)
        return observation, agent.act(learner, (), observation, jax.random.key(2), False)[0]

    for a, b in zip(decide(state), decide(hidden), strict=True):
        np.testing.assert_array_equal(a, b)


def test_as_published_the_allocation_is_given_the_true_waits():
    for name in ("ddrl-amsa", "amcoedge", "smcoedge", "drlcoedge"):
        options = dict(METHODS[name].settings(published=True).options)
        assert options["allocation_information"] == "true"
        assert (options["information"], options["features"]) == ("slot_start", "raw")
        assert options["allocate"] == "cwa"


def test_a_method_without_published_settings_says_so():
    with pytest.raises(ValueError, match="'sac' has no published settings"):
        jaxmec.train("sac", published=True)
    with pytest.raises(ValueError, match="published and scale go with a method's name"):
        jaxmec.train(jaxmec.SAC(), published=True)
    with pytest.raises(ValueError, match="did you mean 'smcoedge'"):
        find_method("smcoedg")


def test_a_method_that_is_gone_says_what_to_use_instead():
    with pytest.raises(ValueError, match=r"'ddrl-amsa-score' is gone: .*ddrl-amsa-pathwise"):
        jaxmec.train("ddrl-amsa-score")
    assert not methods.GONE.keys() & METHODS.keys()


@pytest.mark.slow
def test_options_reach_the_agent_of_every_station(tmp_path):
    """A published method, changed, trained, saved and loaded again."""
    small = {"steps": 1_200, "num_envs": 4, "prefill": 200, "batch_size": 40, "buffer_size": 1_000}
    result = jaxmec.train(
        *("smcoedge",),
        published=True,
        slots=3,
        eval_every=1_000,
        eval_episodes=2,
        hidden=(8,),
        progress=False,
        **small,
    )
    assert result.name == "smcoedge (published)"
    assert result.agent.inner.hidden == (8,)
    policy = jaxmec.load_policy(result.save(tmp_path / "policy"))
    assert policy.agent.inner == result.agent.inner or dataclasses.asdict(
        policy.agent.inner
    ) == dataclasses.asdict(result.agent.inner)
    env, params = result.setting.make()
    keys = jax.random.split(jax.random.key(0), 6)
    observations = np.stack([env.reset(key, params)[0] for key in keys])
    np.testing.assert_array_equal(policy(observations), result.policy(observations))
    assert policy(observations[0]).shape == (3,)
    np.testing.assert_array_equal(policy(observations[0]), policy(observations)[0])


@pytest.mark.slow
def test_k_is_known_to_the_agent_and_to_the_environment():
    small = {"steps": 600, "num_envs": 4, "prefill": 100, "batch_size": 16, "buffer_size": 400}
    result = jaxmec.train(
        *("smcoedge",),
        k=2,
        slots=2,
        hidden=(8,),
        eval_every=400,
        eval_episodes=1,
        progress=False,
        **small,
    )
    assert result.agent.k == 2 and dict(result.setting.options)["k"] == 2
    env, _ = result.setting.make()
    assert env.action_space().shape == (2,)


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.gpu is not None])
def test_thousands_of_environments_are_the_same_method_otherwise(name):
    method = METHODS[name]
    many, few = method.settings(scale="gpu"), method.settings(scale="cpu")
    assert type(many.agent()) is type(few.agent()) and many.options == few.options
    assert many.config.num_envs >= 4096 and many.config.n_step > 1
    updates = [
        (config.steps - config.prefill) / config.num_envs * config.updates_per_step
        for config in (many.config, few.config)
    ]
    assert updates[0] < updates[1] / 10
    assert method.label(scale="gpu") == f"{name} (gpu)" and method.label() == name


def test_a_scale_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="scale 'gpus' is not one of cpu, gpu; did you mean 'gpu'"):
        jaxmec.train("dsac", scale="gpus")
    with pytest.raises(ValueError, match=r"'ddrl-amsa-taught' has no .* these have: dqn, sac"):
        jaxmec.train("ddrl-amsa-taught", scale="gpu")
    with pytest.raises(ValueError, match="leave published or scale out"):
        jaxmec.train("dsac", published=True, scale="gpu")
    with pytest.raises(ValueError, match="scale go with a method's name"):
        jaxmec.train(jaxmec.DQN(), scale="gpu")
