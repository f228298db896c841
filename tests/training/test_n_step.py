"""Several steps as one, against a walk through each environment's history in plain Python."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmec.agents import DQN, losses
from jaxmec.agents.base import Transition
from jaxmec.training import n_step
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.replay import ReplayBuffer

DISCOUNT = 0.9


def history(seed, steps, envs):
    """[steps, E] of every field: an observation is its step and environment, and nothing else."""
    rng = np.random.default_rng(seed)
    step, env = np.meshgrid(np.arange(steps), np.arange(envs), indexing="ij")
    observation = np.stack([step, env], -1).astype(np.float32)
    terminated = rng.random((steps, envs)) < 0.15
    return Transition(
        observation=observation,
        action=rng.integers(0, 3, (steps, envs)).astype(np.int32),
        reward=rng.normal(size=(steps, envs)).astype(np.float32),
        next_observation=observation + np.float32([0.5, 0]),  # of the step alone
        terminated=terminated,
        extras={"e": step.astype(np.int32)},
        ended=terminated | (rng.random((steps, envs)) < 0.15),
    )


@functools.cache
def drawn(envs, capacity, n, steps):
    buffer = ReplayBuffer(capacity, envs)

    @jax.jit
    def run(whole, key):
        kept = n_step.stored(whole, n)
        state = buffer.init(jax.tree.map(lambda x: x[0, 0], kept))
        state = jax.lax.fori_loop(
            0, steps, lambda t, s: buffer.add(s, jax.tree.map(lambda x: x[t], kept)), state
        )
        return n_step.sample(buffer, state, key, (2, 60), n, DISCOUNT)

    return buffer, run


def expected(whole, step, env, n):
    """What n steps from there on are, one after the other."""
    reward, k = 0.0, 0
    while True:
        reward += DISCOUNT**k * float(whole.reward[step + k, env])
        k += 1
        last = step + k - 1
        if k == n or whole.ended[last, env] or last + 1 == len(whole.reward):
            return reward, k, last


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 5, 2, 3), (3, 20, 3, 4), (3, 20, 3, 19), (4, 24, 6, 13), (2, 64, 1, 9)]),
)
def test_they_are_those_that_followed(seed, sizes):
    envs, capacity, n, steps = sizes
    whole = history(seed, steps, envs)
    buffer, run = drawn(envs, capacity, n, steps)
    batch = jax.device_get(run(whole, jax.random.key(seed)))
    oldest = max(0, steps - buffer.rows)
    for index in np.ndindex(2, 60):
        step, env = (int(x) for x in batch.observation[index])
        assert oldest <= step < steps
        reward, k, last = expected(whole, step, env, n)
        assert batch.reward[index] == pytest.approx(reward, rel=1e-5, abs=1e-6)
        assert batch.steps == () if n == 1 else batch.steps[index] == k
        assert batch.terminated[index] == whole.terminated[last, env]
        np.testing.assert_array_equal(
            batch.next_observation[index], whole.next_observation[last, env]
        )
        # And of the first step:
        assert batch.action[index] == whole.action[step, env]
        assert batch.extras["e"][index] == step
    assert batch.ended == ()


def test_with_one_step_nothing_is_kept_or_computed_beside():
    whole = history(0, 1, 2)
    one = n_step.stored(whole, 1)
    assert one.ended == () and n_step.stored(whole, 2).ended is whole.ended
    buffer = ReplayBuffer(4, 2)
    state = buffer.init(jax.tree.map(lambda x: x[0, 0], one))
    state = buffer.add(state, jax.tree.map(lambda x: x[0], one))
    key = jax.random.key(1)
    batch, plain = n_step.sample(buffer, state, key, (5,), 1, 0.9), buffer.sample(state, key, (5,))
    jax.tree.map(np.testing.assert_array_equal, batch, plain)


def test_training_hands_them_to_the_agent(walk, walk_params, counting):
    """Of the walk's episodes of five steps: how many steps each minibatch had."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Looking:
        discount: float = 0.5

        def __getattr__(self, name):
            return getattr(counting, name)

        def update(self, learner, batch, key):
            jax.debug.callback(lambda *x: seen.append(x), batch.observation, batch.steps,
                               batch.reward, batch.next_observation)  # fmt: skip
            return counting.update(learner, batch, key)

    config = TrainConfig(
        steps=200, num_envs=2, prefill=100, buffer_size=200, batch_size=64, updates_per_step=1,
        n_step=3, eval_every=2, eval_episodes=1,
    )  # fmt: skip
    agent = Looking()
    state = config.init(agent, walk, walk_params, jax.random.key(0))
    state = config.prepare(agent, walk, walk_params, state)
    config.chunk(agent, walk, walk_params, state)
    jax.effects_barrier()
    (observation, steps, reward, following), *_ = seen
    time = observation[:, 0]
    np.testing.assert_array_equal(following[:, 0] - time, steps)
    until_the_end = 5 - time
    assert np.all(steps <= np.minimum(3, until_the_end))
    assert np.mean(steps == np.minimum(3, until_the_end)) > 0.9  # all but the newest
    assert np.all(reward <= 2 * (2 - 0.5 ** (steps - 1)) + 1e-6)  # rewards are at most 2


def test_each_run_of_a_sweep_counts_rewards_with_its_own_discount(walk, walk_params):
    config = TrainConfig(
        steps=20, num_envs=2, prefill=10, buffer_size=20, batch_size=8, updates_per_step=1,
        n_step=3, eval_every=10, eval_episodes=1,
    )  # fmt: skip

    def trained(agent):
        state = config.init(agent, walk, walk_params, jax.random.key(0))
        state = config.prepare(agent, walk, walk_params, state)
        return config.chunk(agent, walk, walk_params, state)[1]

    agents = [DQN(discount=discount, hidden=(4,)) for discount in (0.99, 0.5)]
    batch = jax.tree.map(lambda *numbers: jnp.asarray(numbers, jnp.float32), *agents)
    alone, swept = jax.jit(trained)(agents[1]), jax.jit(jax.vmap(trained))(batch)
    assert not np.isclose(*swept["critic_loss"], rtol=1e-3)
    for name, value in alone.items():
        np.testing.assert_allclose(swept[name][1], value, rtol=1e-5, err_msg=name)


def test_more_steps_than_the_buffer_holds_are_refused():
    with pytest.raises(ValueError, match="n_step is 5; expected at most 4, the steps of each"):
        TrainConfig(num_envs=4, buffer_size=16, prefill=16, batch_size=8, n_step=5)
    with pytest.raises(ValueError, match="n_step must be a whole number of at least 1, got 0"):
        TrainConfig(n_step=0)


def test_a_value_looks_as_far_ahead_as_it_is_told():
    steps = jnp.array([1, 2, 3])
    target = losses.td_target(
        jnp.ones(3), jnp.array([False, False, True]), jnp.full(3, 8.0), 0.5, steps
    )
    np.testing.assert_allclose(target, [1 + 4, 1 + 2, 1])
