"""One vectorised step on an environment whose every number is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.training import rollout

E = 4


def play(env, params, decide, memory, steps):
    """The transitions and episodes of so many steps [steps, E], and the states between."""
    key_reset, key = jax.random.split(jax.random.key(0))
    state = rollout.reset(env, params, memory, E, key_reset)
    states, transitions, episodes = [state], [], []
    for i in range(steps):
        state, transition, ended = rollout.step(
            decide, env, params, state, jax.random.fold_in(key, i)
        )
        states.append(state)
        transitions.append(transition)
        episodes.append(ended)
    stack = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)  # noqa: E731
    return stack(states), stack(transitions), stack(episodes)


def always(number):
    return lambda key, observation, memory: (jnp.int32(number), memory, ())


def test_a_truncated_episode_is_bootstrapped_from_its_final_observation(walk, walk_params):
    states, transitions, _ = play(walk, walk_params, always(2), (), steps=5)
    assert not transitions.terminated.any()
    # After the fifth step the environments start again, the transition does not.
    np.testing.assert_array_equal(transitions.next_observation[4, :, 0], 5.0)
    assert (transitions.next_observation[4, :, 1] >= 9.0).all()
    np.testing.assert_array_equal(states.observation[5, :, 0], 0.0)
    assert (states.observation[5, :, 1] <= 0.0).all()
    # Inside an episode the next observation is what the next step begins with.
    np.testing.assert_array_equal(transitions.next_observation[:4], transitions.observation[1:])


def test_a_terminated_episode_is_marked(walk, walk_params):
    params = walk_params.replace(goal=2.0)
    _, transitions, episodes = play(walk, params, always(1), (), steps=6)
    beyond = transitions.next_observation[..., 1] > 2.0
    np.testing.assert_array_equal(transitions.terminated, beyond)
    assert 0 < beyond.sum() < beyond.size
    np.testing.assert_array_equal(episodes.finished, beyond.sum(axis=1))


def test_returns_and_lengths_are_counted_over_whole_episodes(walk, walk_params):
    states, _, episodes = play(walk, walk_params, always(2), (), steps=11)
    ends = np.isin(np.arange(11), [4, 9])
    np.testing.assert_array_equal(episodes.finished, np.where(ends, E, 0))
    np.testing.assert_array_equal(episodes.total_return, np.where(ends, E * 10.0, 0.0))
    np.testing.assert_array_equal(episodes.total_length, np.where(ends, E * 5, 0))
    np.testing.assert_array_equal(episodes.reward, 2.0)
    np.testing.assert_array_equal(states.episode_return[11], 2.0)
    np.testing.assert_array_equal(states.episode_length[11], 1)


def test_each_environment_has_a_memory_that_outlives_episodes(walk, walk_params, counting):
    def decide(key, observation, memory):
        return counting.act(None, memory, observation, key, True)

    states, transitions, _ = play(walk, walk_params, decide, jnp.int32(0), steps=7)
    assert states.memory.shape == (8, E)
    steps = np.broadcast_to(np.arange(7)[:, None], (7, E))
    np.testing.assert_array_equal(states.memory[7], 7)
    np.testing.assert_array_equal(transitions.extras["count"], steps)
    np.testing.assert_array_equal(transitions.action, steps % 3)


def test_environments_and_decisions_draw_apart(walk, walk_params):
    def decide(key, observation, memory):
        return jnp.int32(0), memory, {"dice": jax.random.uniform(key)}

    _, transitions, _ = play(walk, walk_params, decide, (), steps=5)
    noise = (transitions.next_observation - transitions.observation)[..., 1]
    for draws in (noise, transitions.extras["dice"], transitions.observation[0, :, 1]):
        assert len(np.unique(draws)) == draws.size
    assert not np.isin(noise, transitions.extras["dice"]).any()


class Starting:
    """Of a walk, one whose copies can begin apart: its fair step is by 1."""

    def expected_steps(self, params):
        return jnp.asarray(1.0 * params.max_steps_in_episode)

    def fair_step(self, key, state, params):
        return self.step(key, state, 1, params)


def test_environments_begin_apart_by_fair_play(walk, walk_params):
    env = type("StartingWalk", (Starting, type(walk)), {})()
    key_reset, key = jax.random.split(jax.random.key(0))
    start = rollout.reset(env, walk_params, (), E, key_reset)
    state = rollout.stagger(env, walk_params, start, jnp.array([0, 2, 4, 7]), key)
    # The last one's episode ended after 5 steps; what is counted is of the episode that it is in.
    np.testing.assert_array_equal(state.env_state.time, [0, 2, 4, 2])
    np.testing.assert_array_equal(state.episode_length, [0, 2, 4, 2])
    np.testing.assert_array_equal(state.episode_return, [0.0, 2.0, 4.0, 2.0])
    np.testing.assert_array_equal(state.observation, jax.vmap(env.observe)(state.env_state))
    np.testing.assert_array_equal(state.env_state.position[0], start.env_state.position[0])
    assert len(np.unique(state.env_state.position % 1)) == E


def test_spec_is_read_from_the_environment(walk, walk_params):
    spec = rollout.make_spec(walk, walk_params)
    assert spec == (2, 3, ())

    class Picture(type(walk)):
        def observation_space(self, params):
            return jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)

    with pytest.raises(ValueError, match=r"\(8, 8, 3\)"):
        rollout.make_spec(Picture(), walk_params)


def test_weak_types_are_stripped_and_keys_kept():
    tree = rollout.strong({"weak": jax.jit(lambda: 1.0)(), "key": jax.random.key(0), "int": 3})
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(tree))
    assert jax.dtypes.issubdtype(tree["key"].dtype, jax.dtypes.prng_key)
