"""An environment in one file, as somebody would add one: to be where a light is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

from jaxmec.envs import Environment
from jaxmec.struct import pytree

ROW = Environment("Toy-v0", "go to the light", "toy_environment:Toy")


@pytree
class ToyParams:
    """Numbers of the toy."""

    reward: float = 1.0  # [] for having gone there
    max_steps_in_episode: int = 20


class ToyState(NamedTuple):
    """Where the light is, 0 or 1."""

    light: jax.Array  # [] int32
    time: jax.Array  # [] int32


class Toy(environment.Environment):
    """Go to the left or to the right, where the light is."""

    Options = ToyParams
    metric_names: tuple[str, ...] = ()
    name = "Toy-v0"
    num_actions = 2

    @property
    def default_params(self) -> ToyParams:
        return ToyParams()

    def reset(self, key: jax.Array, params: Any = None) -> tuple[jax.Array, ToyState]:
        state = ToyState(jax.random.bernoulli(key).astype(jnp.int32), jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def observe(self, state: ToyState) -> jax.Array:
        return jax.nn.one_hot(state.light, 2)

    def step(self, key: jax.Array, state: ToyState, action: Any, params: Any = None) -> Any:
        params = self.default_params if params is None else params
        reward = jnp.where(action == state.light, params.reward, 0.0)
        light = jax.random.bernoulli(key).astype(jnp.int32)
        over = state.time + 1 >= params.max_steps_in_episode
        following = ToyState(light, jnp.where(over, 0, state.time + 1))
        observation = self.observe(following)
        info = {"final_observation": observation}
        return observation, following, reward, jnp.zeros_like(over), over, info

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(2)

    def action_names(self) -> tuple[str, ...]:
        return ("left", "right")

    def observation_space(self, params: Any) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (2,))
