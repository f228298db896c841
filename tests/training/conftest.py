"""A small environment and a small agent whose every number can be worked out by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from gymnax.environments import spaces

from jaxmec.agents.base import Spec, Transition
from jaxmec.struct import pytree


@pytree
class WalkParams:
    """When an episode of the walk ends."""

    max_steps_in_episode: Any = 5  # [] truncated after so many steps
    goal: Any = 1e9  # [] terminated once the position is beyond it


class WalkState(NamedTuple):
    time: jax.Array  # [] int32
    position: jax.Array  # []


class Walk:
    """Walks by the action plus a noise that the actions do not touch; the reward is the action."""

    metric_names = ("noise",)
    num_actions = 3

    def observation_space(self, params: WalkParams) -> Any:
        return jax.ShapeDtypeStruct((2,), jnp.float32)

    def action_space(self, params: WalkParams) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observe(self, state: WalkState) -> jax.Array:
        return jnp.stack([state.time.astype(jnp.float32), state.position])

    def reset(self, key: jax.Array, params: WalkParams) -> tuple[jax.Array, WalkState]:
        state = WalkState(jnp.zeros((), jnp.int32), -jax.random.uniform(key))
        return self.observe(state), state

    def step(self, key: jax.Array, state: WalkState, action: Any, params: WalkParams) -> Any:
        key_noise, key_reset = jax.random.split(key)
        noise = jax.random.uniform(key_noise)
        moved = WalkState(state.time + 1, state.position + action + noise)
        terminated = moved.position > params.goal
        truncated = moved.time >= params.max_steps_in_episode
        _, start = self.reset(key_reset, params)
        after = jax.tree.map(
            lambda new, old: jnp.where(terminated | truncated, new, old), start, moved
        )
        info = {"noise": noise, "final_observation": self.observe(moved)}
        return self.observe(after), after, 1.0 * action, terminated, truncated, info


class CountingLearner(NamedTuple):
    weight: jax.Array  # [] starts at random
    updates: jax.Array  # [] int32
    dice: jax.Array  # [40] a draw from the key of each of the first updates
    positions: jax.Array  # [40] the mean position in the batch of each


@pytree
class Counting:
    """Learns nothing, but remembers how often each environment was asked, and what it saw.

    The memory is the count of decisions, which is also handed on as the extra; at its
    update number ``nan_at`` the loss is NaN.
    """

    discount: Any = 0.9
    nan_at: Any = -1

    def init(self, key: jax.Array, spec: Spec) -> CountingLearner:
        return CountingLearner(
            jax.random.normal(key), jnp.zeros((), jnp.int32), jnp.zeros(40), jnp.zeros(40)
        )

    def init_memory(self, spec: Spec) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def act(
        self, learner: Any, memory: Any, observation: Any, key: jax.Array, explore: bool
    ) -> tuple[jax.Array, Any, Any]:
        return (memory % 3).astype(jnp.int32), memory + 1, {"count": memory}

    def acting(self, learner: Any) -> Any:
        return learner

    def preferences(self, learner: Any, observation: jax.Array) -> jax.Array:
        return jnp.zeros(3)

    def update(self, learner: Any, batch: Transition, key: jax.Array) -> tuple[Any, Any]:
        loss = jnp.where(learner.updates == self.nan_at, jnp.nan, jnp.mean(batch.reward))
        learner = CountingLearner(
            weight=learner.weight + 0.1 * self.discount * jnp.mean(batch.reward),
            updates=learner.updates + 1,
            dice=learner.dice.at[learner.updates].set(jax.random.uniform(key)),
            positions=learner.positions.at[learner.updates].set(batch.observation[:, 1].mean()),
        )
        return learner, {"loss": loss, "update": learner.updates}


@pytest.fixture
def walk() -> Walk:
    return Walk()


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def walk_params() -> WalkParams:
    return WalkParams()
