"""CartPole against Gymnasium's CartPole-v1, gymnax's, and its own promises."""

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.experimental import RolloutWrapper
from gymnax.wrappers import GymnaxToGymWrapper
from scipy import stats

from jaxmec.envs.cartpole import CartPole, CartPoleParams, CartPoleState, push

ENV = CartPole()
PARAMS = CartPoleParams()
STEP = jax.jit(ENV.step)


def state_at(vector, time=0):
    """A state from the four numbers of Gymnasium's, in the default float type."""
    numbers = jnp.asarray(vector, jnp.result_type(float))
    return CartPoleState(*numbers, time=jnp.asarray(time, jnp.int32))


def vector(state):
    """[..., 4] float64"""
    return np.stack([np.asarray(value, np.float64) for value in state[:4]], axis=-1)


def gymnasium_episode(seed, balanced):
    """An episode of Gymnasium's: states [L + 1, 4], actions, rewards, terminated, truncated.

    The start is rounded to float32, so that both precisions can start there exactly. With
    ``balanced`` a controller holds the pole up to the time limit, else actions are random.
    """
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=seed)
    env.unwrapped.state = np.float64(np.float32(env.unwrapped.state))
    rng = np.random.default_rng(seed)
    states, steps, over = [np.array(env.unwrapped.state)], [], False
    while not over:
        x, x_dot, theta, theta_dot = states[-1]
        lean = theta + 0.5 * theta_dot + 0.05 * x + 0.1 * x_dot
        action = int(lean > 0) if balanced else int(rng.integers(2))
        _, reward, terminated, truncated, _ = env.step(action)
        states.append(np.array(env.unwrapped.state))
        steps.append((action, reward, terminated, truncated))
        over = terminated or truncated
    actions, rewards, terminated, truncated = (
        np.array(column) for column in zip(*steps, strict=True)
    )
    return np.array(states), actions, rewards, terminated, truncated


def padded(rows):
    """Rows filled up to 500, so that one compilation serves episodes of every length."""
    return np.concatenate([rows, np.zeros((500 - len(rows), *rows.shape[1:]), rows.dtype)])


@jax.jit
def played(start, actions, params):
    def step(state, action):
        _, state, reward, terminated, truncated, info = ENV.step(
            jax.random.key(0), state, action, params
        )
        return state, (info["final_observation"], reward, terminated, truncated)

    return jax.lax.scan(step, start, actions)[1]


def play(states, actions):
    """Our transitions along an episode, from its first state alone: final observations,
    rewards, terminated, truncated."""
    columns = played(state_at(states[0]), padded(actions), CartPoleParams())
    return [np.asarray(column)[: len(actions)] for column in columns]


@jax.jit
def pushes(starts, actions, params):
    def one(start, action):
        return jnp.stack(push(state_at(start), action, params)[:4])

    reached = jax.vmap(one)(starts, actions)
    return reached, jax.vmap(jax.jacfwd(one))(starts, actions)


def exact_pushes(starts, actions):
    """[L, 4] where one push leads from each start, and [L, 4, 4] its Jacobian; float64."""
    with jax.enable_x64(True):
        both = pushes(jnp.asarray(padded(starts)), padded(actions), CartPoleParams())
        return [np.asarray(values)[: len(actions)] for values in both]


def push_rounding(starts, reached, unit):
    """[L, 4] how much roundings of relative size ``unit`` can move the end of one push.

    The longest path through the equations of ``push`` rounds fewer than 32 times (sine and
    cosine counted as two roundings each, the parameters as one), which bounds the error of
    an acceleration by 32 units of the sum of its terms' magnitudes. A coordinate then adds
    the product with the time step (three roundings) and a sum (one).
    """
    _, x_dot, theta, theta_dot = np.abs(starts).T
    sin, cos = np.abs(np.sin(theta)), np.cos(theta)
    moment, mass = 0.1 * 0.5, 1.0 + 0.1
    pushed = (10 + moment * theta_dot**2 * sin) / mass
    theta_acc = (9.8 * sin + cos * pushed) / (0.5 * (4 / 3 - 0.1 * cos**2 / mass))
    x_acc = pushed + moment * theta_acc * cos / mass
    moved = 0.02 * np.stack([3 * x_dot, 32 * x_acc, 3 * theta_dot, 32 * theta_acc], axis=-1)
    return unit * (np.abs(reached) + moved)


def episode_rounding(states, actions, unit):
    """[L, 4] how far an episode played with such roundings can stray, to first order.

    Each push multiplies the error so far by its Jacobian J, the pole being unstable, and
    adds its own: e ← |J| e + push_rounding.
    """
    reached, jacobian = exact_pushes(states[:-1], actions)
    own = push_rounding(states[:-1], reached, unit)
    bound = np.zeros((len(actions) + 1, 4))
    for t in range(len(actions)):
        bound[t + 1] = np.abs(jacobian[t]) @ bound[t] + own[t]
    return bound[1:]


@pytest.mark.parametrize("seed", range(6))
def test_random_episodes_equal_gymnasiums_in_float64(seed):
    states, actions, rewards, terminated, truncated = gymnasium_episode(seed, balanced=False)
    with jax.enable_x64(True):
        ours = play(states, actions)
    assert ours[0].dtype == np.float64
    np.testing.assert_allclose(ours[0], states[1:], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours[1], rewards)
    np.testing.assert_array_equal(ours[2], terminated)
    np.testing.assert_array_equal(ours[3], truncated)
    assert terminated[-1]


@pytest.mark.parametrize("seed", range(6))
def test_random_episodes_equal_gymnasiums_within_float32_rounding(seed):
    states, actions, rewards, terminated, truncated = gymnasium_episode(seed, balanced=False)
    bound = episode_rounding(states, actions, unit=2.0**-24)
    ours = play(states, actions)
    assert ours[0].dtype == np.float32
    assert np.all(np.abs(ours[0] - states[1:]) <= bound)
    assert np.max(bound) < 1e-3, "the bound says nothing"
    np.testing.assert_array_equal(ours[1], rewards)
    np.testing.assert_array_equal(ours[2], terminated)
    np.testing.assert_array_equal(ours[3], truncated)


@pytest.mark.parametrize("x64", [True, False])
def test_every_transition_of_a_full_episode_equals_gymnasiums(x64):
    # Over 500 steps any rounding grows by about exp(4/s x 10 s), so each transition starts
    # from Gymnasium's own state; time and the limit run through the whole episode.
    states, actions, rewards, terminated, truncated = gymnasium_episode(0, balanced=True)
    assert len(actions) == 500 and truncated[-1] and not terminated.any()
    with jax.enable_x64(x64):
        params = CartPoleParams()
        starts = jnp.asarray(states[:-1], jnp.result_type(float))
        times = jnp.arange(500)

        def step(start, time, action):
            return ENV.step(jax.random.key(0), state_at(start, time), action, params)

        result = jax.jit(jax.vmap(step))(starts, times, actions)
    reached = np.asarray(result[5]["final_observation"])
    if x64:
        np.testing.assert_allclose(reached, states[1:], rtol=0, atol=1e-13)
    else:
        starts = np.asarray(starts, np.float64)
        expected, _ = exact_pushes(starts, actions)
        assert np.all(np.abs(reached - expected) <= push_rounding(starts, expected, 2.0**-24))
    np.testing.assert_array_equal(result[2], rewards)
    np.testing.assert_array_equal(result[3], terminated)
    np.testing.assert_array_equal(result[4], truncated)


@pytest.mark.parametrize(
    ("field", "attribute", "value"),
    [
        ("gravity", "gravity", 3.7),
        ("cart_mass", "masscart", 2.5),
        ("pole_mass", "masspole", 0.7),
        ("half_length", "length", 1.3),
        ("force", "force_mag", 4.0),
        ("time_step", "tau", 0.05),
        ("angle_limit", "theta_threshold_radians", 0.05),
        ("position_limit", "x_threshold", 0.5),
    ],
)
def test_every_parameter_means_what_it_means_in_gymnasium(field, attribute, value):
    peer = gymnasium.make("CartPole-v1").unwrapped
    setattr(peer, attribute, value)
    # Gymnasium keeps the derived numbers as attributes of their own.
    peer.total_mass = peer.masspole + peer.masscart
    peer.polemass_length = peer.masspole * peer.length
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = CartPoleParams(**{field: value})
        for _ in range(20):
            start = rng.uniform(-1, 1, 4) * [1.0, 2.0, 0.1, 2.0]
            action = int(rng.integers(2))
            peer.reset()
            peer.state = start
            _, reward, terminated, _, _ = peer.step(action)
            result = STEP(jax.random.key(0), state_at(start), action, params)
            np.testing.assert_allclose(result[5]["final_observation"], peer.state, atol=1e-13)
            assert (float(result[2]), bool(result[3])) == (reward, terminated)


def test_step_equals_gymnaxs_from_translated_states():
    peer, peer_params = gymnax.make("CartPole-v1")
    rng = np.random.default_rng(1)
    starts = rng.uniform(-1, 1, (256, 4)) * [2.6, 3, 0.25, 3]
    inside = (np.abs(starts[:, 0]) < 2.4) & (np.abs(starts[:, 2]) < 0.209)
    starts = jnp.asarray(starts[inside], jnp.float32)
    actions = jnp.asarray(rng.integers(2, size=len(starts)))
    times = jnp.asarray(rng.integers(480, 500, size=len(starts)), jnp.int32)
    key = jax.random.key(0)

    def theirs(start, time, action):
        state = type(peer.reset(key)[1])(time, *start)
        return peer.step(key, state, action, peer_params)

    def ours(start, time, action):
        return ENV.step(key, state_at(start, time), action, PARAMS)

    expected = jax.jit(jax.vmap(theirs))(starts, times, actions)
    result = jax.jit(jax.vmap(ours))(starts, times, actions)
    assert set(result[5]) == set(expected[5])
    for name in expected[5]:
        np.testing.assert_allclose(result[5][name], expected[5][name], rtol=1e-5, atol=1e-6)
    for i in (2, 3, 4):
        np.testing.assert_array_equal(result[i], expected[i])
    assert np.any(result[3]) and np.any(result[4])


def test_the_gymnax_wrapper_plays_it_like_gymnasium():
    peer = gymnasium.make("CartPole-v1").unwrapped
    wrapped = GymnaxToGymWrapper(ENV, PARAMS)
    observation, _ = wrapped.reset(seed=3)
    peer.reset()
    peer.state = np.float64(observation)
    for action in (0, 1, 1, 0, 1, 0, 0):
        seen, reward, terminated, truncated, _ = wrapped.step(action)
        expected, *rest = peer.step(action)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        assert [float(reward), bool(terminated), bool(truncated)] == rest[:3]


def test_gymnaxs_rollout_wrapper_plays_it():
    wrapper = RolloutWrapper(env=ENV, num_env_steps=60)
    keys = jax.random.split(jax.random.key(0), 64)
    _, _, _, _, done, total = wrapper.batch_rollout(keys, None)
    first_end = np.where(done.any(1), np.argmax(done, 1) + 1, 60)
    np.testing.assert_array_equal(np.ravel(total), first_end)


def test_a_finished_episode_starts_over_with_the_same_draw_as_reset():
    key = jax.random.key(5)
    falling = state_at([0.0, 0.0, 0.205, 3.0], time=17)
    observation, state, reward, terminated, truncated, info = STEP(key, falling, 1, PARAMS)
    expected, expected_state = ENV.reset(key, PARAMS)
    assert terminated and not truncated and reward == 1 and info["discount"] == 0
    np.testing.assert_array_equal(observation, expected)
    np.testing.assert_array_equal(vector(state), vector(expected_state))
    assert state.time == 0 and state.time.dtype == jnp.int32
    assert abs(info["final_observation"][2]) > PARAMS.angle_limit
    going_on = STEP(key, state_at([0.0, 0.0, 0.0, 0.0], time=17), 1, PARAMS)
    np.testing.assert_array_equal(going_on[0], going_on[5]["final_observation"])
    assert going_on[1].time == 18 and going_on[5]["discount"] == 1


def test_the_time_limit_truncates_and_does_not_terminate():
    upright = state_at([0.0, 0.0, 0.0, 0.0], time=499)
    _, state, _, terminated, truncated, info = STEP(jax.random.key(0), upright, 1, PARAMS)
    assert truncated and not terminated and state.time == 0 and info["discount"] == 1
    longer = PARAMS.replace(max_steps_in_episode=501)
    assert not STEP(jax.random.key(0), upright, 1, longer)[4]
    falling = state_at([0.0, 0.0, 0.205, 3.0], time=499)
    both = STEP(jax.random.key(0), falling, 1, PARAMS)
    assert both[3] and both[4]


@pytest.mark.parametrize("source", ["split", "consecutive seeds"])
def test_starts_are_uniform_and_independent(source):
    if source == "split":
        keys = jax.random.split(jax.random.key(0), 8192)
    else:
        keys = jax.vmap(jax.random.key)(jnp.arange(8192))
    starts = np.asarray(jax.jit(jax.vmap(ENV.reset))(keys)[0])
    assert np.all(np.abs(starts) < 0.05)
    for column in starts.T:
        assert stats.kstest(column, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3
    correlation = np.corrcoef(starts.T)
    assert np.all(np.abs(correlation - np.eye(4)) < 4 / np.sqrt(8192))
    assert len(np.unique(starts, axis=0)) == 8192


def test_any_kind_of_key_will_do():
    for impl in ("threefry2x32", "rbg"):
        observation, _ = ENV.reset(jax.random.key(0, impl=impl))
        assert observation.shape == (4,) and np.all(np.abs(observation) < 0.05)


def test_parameters_can_be_vmapped():
    masses = jnp.array([0.05, 0.1, 0.4])
    limits = jnp.array([0.01, 0.2, 0.3])
    params = jax.vmap(lambda mass, limit: CartPoleParams(pole_mass=mass, angle_limit=limit))(
        masses, limits
    )
    start = state_at([0.1, -0.2, 0.03, 0.4])
    key = jax.random.key(0)
    many = jax.jit(jax.vmap(ENV.step, in_axes=(None, None, None, 0)))(key, start, 1, params)
    for i in range(3):
        one = PARAMS.replace(pole_mass=masses[i], angle_limit=limits[i])
        single = STEP(key, start, 1, one)
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(many[3], [True, False, False])


def test_derived_numbers_follow_their_sources():
    heavy = PARAMS.replace(pole_mass=0.5)
    assert float(heavy.total_mass) == pytest.approx(1.5)
    assert float(heavy.pole_moment) == pytest.approx(0.25)


def test_step_is_traced_once_whatever_the_numbers():
    traces = 0

    def step(key, state, action, params):
        nonlocal traces
        traces += 1
        return ENV.step(key, state, action, params)

    compiled = jax.jit(step)
    _, state = ENV.reset(jax.random.key(0), PARAMS)
    for i, params in enumerate((PARAMS, PARAMS, PARAMS.replace(pole_mass=0.3, force=5))):
        _, state, *_ = compiled(jax.random.key(i), state, jnp.int32(i % 2), params)
    assert traces == 1


def test_spaces_and_names():
    space = ENV.observation_space(PARAMS)
    assert space.shape == (4,) and space.dtype == jnp.float32
    np.testing.assert_allclose(space.high[jnp.array([0, 2])], [4.8, 24 * np.pi / 180], rtol=1e-6)
    assert ENV.num_actions == ENV.action_space(PARAMS).n == 2
    assert ENV.metric_names == () and ENV.name == "CartPole-v1"
    with jax.enable_x64(True):
        assert ENV.observation_space(CartPoleParams()).dtype == jnp.float64


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("gravity", -1.0, "at least 0"),
        ("cart_mass", 0.0, "above 0"),
        ("pole_mass", -0.1, "above 0"),
        ("half_length", float("nan"), "number.*got nan"),
        ("force", float("inf"), "finite"),
        ("time_step", 0, "above 0"),
        ("angle_limit", [0.1, 0.2], "a scalar"),
        ("position_limit", "wide", "numbers"),
        ("max_steps_in_episode", 0, "at least 1"),
        ("max_steps_in_episode", 2.5, "an integer"),
    ],
)
def test_invalid_parameters_are_refused(field, value, expected):
    with pytest.raises(ValueError, match=rf"{field} must be.*{expected}"):
        CartPoleParams(**{field: value})
