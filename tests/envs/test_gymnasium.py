"""Our environments behind Gymnasium's interface."""

import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from jaxmec.envs import make, to_gymnasium
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
