"""One environment behind Gymnasium's interface, for learners that are not written in JAX."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnax.environments import environment
from gymnax.environments.spaces import gymnax_space_to_gym_space


class GymnasiumAdapter(gymnasium.Env):
    """A gymnax environment that returns NumPy arrays and Python numbers.

    gymnax environments start over within ``step``; Gymnasium's do not. So the step that
    ends an episode returns what was really seen last, and ``reset`` must follow it.

    Transition i after a seed uses ``fold_in(key(seed), i)``: the same seed and actions
    give the same episodes. Without a seed, ``reset`` goes on with the stream.
    """

    def __init__(self, env: environment.Environment, params: Any = None, seed: int = 0) -> None:
        """Args: as for :func:`to_gymnasium`."""
        params = env.default_params if params is None else params
        self.observation_space = gymnax_space_to_gym_space(env.observation_space(params))
        self.action_space = gymnax_space_to_gym_space(env.action_space(params))
        # Gymnasium's own checks make the environment again from its spec.
        self.spec = EnvSpec(
            id=f"jaxmec/{env.name}",
            entry_point="jaxmec.envs.gymnasium:GymnasiumAdapter",
            disable_env_checker=True,
            order_enforce=False,
            kwargs={"env": env, "params": params, "seed": seed},
        )

        def first(key: jax.Array, count: int) -> Any:
            return env.reset(jax.random.fold_in(key, count), params)

        def transition(key: jax.Array, count: int, state: Any, action: Any) -> Any:
            key_step = jax.random.fold_in(key, count)
            _, state, reward, terminated, truncated, info = env.step(
                key_step, state, action, params
            )
            # Where the episode goes on, the final observation is the next one.
            return state, (info.pop("final_observation"), reward, terminated, truncated, info)

        self._first = jax.jit(first)
        self._transition = jax.jit(transition)
        self._seed(seed)

    def _seed(self, seed: int) -> None:
        self._key = jax.random.key(seed)
        self._count = 0  # draws made from the key
        self._state: Any = None  # of the episode that is running, if one is

    def _draw(self) -> int:
        self._count += 1
        return self._count

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ``seed`` begins a new random stream, ``options`` are not used."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed(seed)
        observation, self._state = self._first(self._key, self._draw())
        return self._observation(jax.device_get(observation)), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One transition.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
            gymnasium.error.InvalidAction: an action outside the action space.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded(
                "step needs a running episode: call reset first, and again after the step "
                "that returned terminated or truncated"
            )
        if not self.action_space.contains(action):
            raise gymnasium.error.InvalidAction(
                f"action must be in {self.action_space}, got {action!r}"
            )
        self._state, result = self._transition(
            self._key, self._draw(), self._state, np.asarray(action)
        )
        observation, reward, terminated, truncated, info = jax.device_get(result)
        if terminated or truncated:
            self._state = None
        numbers = {name: v.item() if np.ndim(v) == 0 else v for name, v in info.items()}
        return (
            self._observation(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            numbers,
        )

    def _observation(self, observation: Any) -> np.ndarray:
        return np.asarray(observation, self.observation_space.dtype)


def to_gymnasium(env: environment.Environment, params: Any = None, seed: int = 0) -> gymnasium.Env:
    """A Gymnasium environment that plays a gymnax one.

    Args:
        env: the environment; its step is compiled once, when first called.
        params: its parameters, fixed from here on; ``env.default_params`` by default.
        seed: of the random stream until ``reset(seed=...)`` begins another.
    """
    return GymnasiumAdapter(env, params, seed)
