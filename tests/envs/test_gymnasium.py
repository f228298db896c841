"""Our environments behind Gymnasium's interface."""

import json
import pickle
import subprocess
import sys
import warnings

import cloudpickle
import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from jaxmec.envs import ENVIRONMENTS, make, to_gymnasium
from jaxmec.envs.cartpole import CartPole, CartPoleParams


def cartpole(seed=0, **params):
    return to_gymnasium(CartPole(), CartPoleParams(**params), seed=seed)


def play(env, steps, action=1, seed=None):
    """[steps, 4] observations, starting over where an episode ends."""
    seen = [env.reset(seed=seed)[0]]
    while len(seen) < steps:
        observation, _, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        if terminated or truncated:
            seen.append(env.reset()[0])
    return np.array(seen[:steps])


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("CartPole-v1", {}),
        ("SingleServerOffloading-v0", {"preset": "lad-ts"}),
        ("SingleServerOffloading-v0", {"preset": "fdedge", "information": "full"}),
        ("MultiServerOffloading-v0", {"preset": "amcoedge"}),
        ("MultiServerOffloading-v0", {"preset": "smcoedge", "action": "mask"}),
        ("MultiServerOffloading-v0", {"preset": "amcoedge", "action": "fraction"}),
    ],
)
def test_gymnasiums_checker_has_nothing_to_say(env_id, options):
    env = to_gymnasium(*make(env_id, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_the_checker_does_speak_up():
    env = cartpole()
    env.spec = None  # without it the checker cannot make the environment again
    with pytest.warns(UserWarning, match="spec"):
        check_env(env)


def test_it_returns_numpy_and_python_numbers():
    env = cartpole()
    observation, info = env.reset(seed=0)
    assert type(observation) is np.ndarray and observation.dtype == np.float32 and info == {}
    observation, reward, terminated, truncated, info = env.step(np.int64(1))
    assert type(observation) is np.ndarray and observation.dtype == np.float32
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert info == {"terminated": False, "truncated": False, "discount": 1.0}
    offloading = to_gymnasium(*make("MultiServerOffloading-v0"))
    offloading.reset(seed=0)
    info = offloading.step(3)[4]
    assert type(info["makespan"]) is float and type(info["fraction"]) is np.ndarray


def test_an_episode_ends_with_its_own_last_observation():
    env = cartpole()
    env.reset(seed=0)
    terminated = False
    while not terminated:
        before = env._state
        observation, reward, terminated, truncated, _ = env.step(1)
    expected = CartPole().step(jax.random.key(0), before, 1, CartPoleParams())
    np.testing.assert_allclose(observation, expected[5]["final_observation"], rtol=1e-6)
    assert abs(observation[2]) > 0.2 and reward == 1 and not truncated
    assert np.all(np.abs(env.reset()[0]) < 0.05)


def test_a_time_limit_is_a_truncation():
    env = cartpole(max_steps_in_episode=3)
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in (0, 1, 0)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_step_needs_a_running_episode():
    env = cartpole(max_steps_in_episode=1)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


@pytest.mark.parametrize("action", [2, -1, 0.5, [0]])
def test_an_action_outside_the_space_is_refused(action):
    env = cartpole()
    env.reset()
    with pytest.raises(gymnasium.error.InvalidAction, match=r"Discrete\(2\)"):
        env.step(action)


def test_seeds_repeat_and_differ():
    env = cartpole(seed=7)
    first = play(env, 40)
    np.testing.assert_array_equal(first, play(cartpole(seed=7), 40))
    np.testing.assert_array_equal(first, play(env, 40, seed=7))
    assert not np.array_equal(first, play(env, 40, seed=8))
    starts = np.array([env.reset()[0] for _ in range(5)])
    assert len(np.unique(starts, axis=0)) == 5, "reset without a seed must go on"


def test_copies_without_a_seed_play_different_episodes_and_with_one_the_same():
    def starts(vector, **seed):
        return vector.reset(**seed)[0]

    vector = gymnasium.vector.SyncVectorEnv([cartpole_without_seed] * 3)
    first = starts(vector)
    assert len(np.unique(first, axis=0)) == 3
    again = gymnasium.vector.SyncVectorEnv([cartpole_without_seed] * 3)
    assert not np.array_equal(first, starts(again))
    seeded = starts(vector, seed=5)
    assert len(np.unique(seeded, axis=0)) == 3
    np.testing.assert_array_equal(seeded, starts(again, seed=5))
    np.testing.assert_array_equal(starts(vector), starts(again))  # the streams go on alike
    made = gymnasium.make_vec("jaxmec/CartPole-v1", 2, vectorization_mode="sync")
    assert len(np.unique(starts(made), axis=0)) == 2


def cartpole_without_seed():
    return to_gymnasium(CartPole(), CartPoleParams())


def test_any_seed_of_gymnasiums_is_taken():
    env = cartpole()
    assert not np.array_equal(env.reset(seed=2**80 + 1)[0], env.reset(seed=2**80 + 2)[0])


def test_worker_processes_are_started_anew():
    vector = gymnasium.make_vec(
        "jaxmec/CartPole-v1",
        1,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
    )
    try:
        observation = vector.reset(seed=3)[0]
        np.testing.assert_allclose(observation[0], cartpole().reset(seed=3)[0], rtol=1e-6)
        assert vector.step(np.array([1]))[1] == [1]
    finally:
        vector.close()


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("made_before", [False, True])
def test_a_forked_worker_says_what_to_do_and_does_not_hang(capfd, made_before):
    env, params = CartPole(), CartPoleParams()
    copies = [(lambda: to_gymnasium(env, params)) if made_before else cartpole_by_name]
    with pytest.raises((EOFError, OSError)):  # the worker has ended
        gymnasium.vector.AsyncVectorEnv(copies, context="fork")
    assert 'context="spawn"' in capfd.readouterr().err


def cartpole_by_name():
    return gymnasium.make("jaxmec/CartPole-v1")


@pytest.mark.parametrize(
    "code",
    [
        "import jaxmec, gymnasium; name = 'jaxmec/{name}'",
        "import gymnasium, jaxmec; name = 'jaxmec/{name}'",
        "import gymnasium; name = 'jaxmec:jaxmec/{name}'",
    ],
)
def test_importing_jaxmec_registers_the_environments_and_imports_nothing(code):
    code = "\n".join(
        [
            "import sys",
            "heavy = {'gymnasium', 'jax', 'gymnax'}",
            "if " + str(code.startswith("import jaxmec")) + ":",
            "    import jaxmec; assert not heavy & set(sys.modules), heavy & set(sys.modules)",
            code.format(name="MultiServerOffloading-v0"),
            "if ':' in name: print(gymnasium.envs.registration._find_spec(name).id)",
            "else: print(gymnasium.spec(name).id)",
            "assert 'jax' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "jaxmec/MultiServerOffloading-v0\n", done.stderr


def test_environments_are_made_by_name_with_preset_and_options():
    assert {f"jaxmec/{name}" for name in ENVIRONMENTS} <= set(gymnasium.registry)
    env = gymnasium.make(
        "jaxmec/MultiServerOffloading-v0", preset="smcoedge", information="full", slots=2
    )
    expected = to_gymnasium(*make("MultiServerOffloading-v0", "smcoedge", information="full"))
    assert env.observation_space == expected.observation_space
    again = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert json.loads(env.spec.to_json())["kwargs"]["slots"] == 2
    np.testing.assert_array_equal(env.reset(seed=1)[0], gymnasium.make(again).reset(seed=1)[0])
    with pytest.raises(ValueError, match="did you mean 'smcoedge'"):
        gymnasium.make("jaxmec/MultiServerOffloading-v0", preset="smcoedg")
    with pytest.raises(ValueError, match=r'gymnasium.make\("jaxmec/...", preset=...'):
        expected.spec.to_json()


@pytest.mark.parametrize("how", [pickle, cloudpickle])
def test_a_pickled_environment_goes_on_where_it_was(how):
    env = to_gymnasium(*make("MultiServerOffloading-v0"))
    env.reset()
    env.step(3)
    copy = how.loads(how.dumps(env))
    for action in (1, 2):
        np.testing.assert_array_equal(env.step(action)[0], copy.step(action)[0])
    np.testing.assert_array_equal(env.reset()[0], copy.reset()[0])


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_picture_of_the_state(env_id):
    env = gymnasium.make(f"jaxmec/{env_id}", render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    fresh = gymnasium.make(f"jaxmec/{env_id}", render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        fresh.render()
    fresh.reset(seed=0)
    before = fresh.render()
    assert before.dtype == np.uint8 and before.ndim == 3 and before.shape[2] == 3
    fresh.step(0)
    assert not np.array_equal(before, fresh.render())


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    import gymnax

    with pytest.raises(ValueError, match="render_mode must be None for Pendulum-v1"):
        to_gymnasium(*gymnax.make("Pendulum-v1"), render_mode="rgb_array")
    with pytest.raises(ValueError, match="None or 'rgb_array' for CartPole-v1, got 'ansi'"):
        to_gymnasium(CartPole(), render_mode="ansi")
    with pytest.warns(UserWarning, match="render needs a render_mode"):
        assert cartpole().render() is None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"jaxmec\[plot\]"):
        to_gymnasium(CartPole(), render_mode="rgb_array")


def test_a_transition_does_not_reuse_the_randomness_of_the_reset():
    # Arrivals are random in both; the same draws would give the same sizes.
    env = to_gymnasium(*make("MultiServerOffloading-v0"))
    sizes = [env.reset(seed=0)[0][0]] + [env.step(0)[0][0] for _ in range(20)]
    assert len(set(sizes)) == 21


def test_it_is_compiled_once_whatever_kind_the_action_is():
    env = cartpole()
    env.reset(seed=0)
    for action in (0, np.int64(1), np.int32(0), np.array(1)):
        env.step(action)
    env.reset(seed=3)
    assert env._transition._cache_size() == 1
    assert env._first._cache_size() == 1


def test_it_serves_any_gymnax_environment():
    import gymnax

    env = to_gymnasium(*gymnax.make("Pendulum-v1"))
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (3,)


@pytest.mark.slow
def test_stable_baselines3_learns_to_offload():
    sb3 = pytest.importorskip("stable_baselines3")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    env = to_gymnasium(*make("MultiServerOffloading-v0", preset="amcoedge", information="local"))

    def mean_makespan(policy):
        observation, _ = env.reset(seed=1000)
        makespans, over = [], False
        while not over:
            observation, _, terminated, truncated, info = env.step(policy(observation))
            makespans.append(info["makespan"])
            over = terminated or truncated
        return np.mean(makespans)

    env.action_space.seed(0)
    random = mean_makespan(lambda observation: env.action_space.sample())
    learner = sb3.DQN(
        *("MlpPolicy", env),
        gamma=0.9,
        learning_rate=5e-4,
        learning_starts=1000,
        train_freq=2,
        target_update_interval=500,
        exploration_fraction=0.5,
        seed=0,
    ).learn(16_000)
    learned = mean_makespan(lambda observation: learner.predict(observation, deterministic=True)[0])
    assert learned < random
