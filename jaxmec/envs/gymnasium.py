"""One environment behind Gymnasium's interface, for learners that are not written in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnax.environments import environment
from gymnax.environments.spaces import gymnax_space_to_gym_space
from jax.typing import ArrayLike

from jaxmec.core.types import EnvParams, EnvState, Info, PyTree
from jaxmec.envs.processes import refuse_after_fork
from jaxmec.envs.table import make

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@runtime_checkable
class Drawing(Protocol):
    """An environment that can be drawn."""

    def draw(self, axes: Axes, state: EnvState, params: EnvParams) -> None:
        """Draw a state, of NumPy arrays, into the axes of a figure."""


@runtime_checkable
class Masked(Protocol):
    """An environment some of whose actions cannot be taken."""

    def action_mask(self, params: EnvParams) -> Any:
        """[A] bool: those that can."""


class _Spec(EnvSpec):
    """Of an environment made from objects, which no JSON holds."""

    def to_json(self) -> str:
        raise ValueError(
            f"{self.id} was made from objects, which JSON cannot hold; "
            'gymnasium.make("jaxmec/...", preset=..., ...) makes one whose spec it can'
        )


class GymnasiumAdapter(gymnasium.Env):
    """A gymnax environment that returns NumPy arrays and Python numbers.

    gymnax environments start over within ``step``; Gymnasium's do not. So the step that
    ends an episode returns what was really seen last, and ``reset`` must follow it.

    Transition i after a seed uses ``fold_in(key(seed), i)``: the same seed and actions
    give the same episodes. Without a seed, ``reset`` goes on with the stream; where none
    was ever given, the stream begins at random (``np_random``), as Gymnasium's own do.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        env: environment.Environment,
        params: EnvParams = None,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Args: as for :func:`to_gymnasium`."""
        refuse_after_fork()
        params = env.default_params if params is None else params
        # Gymnasium's vector environments write into it, so each has its own.
        modes = self.metadata["render_modes"] if isinstance(env, Drawing) else []
        self.metadata = {**self.metadata, "render_modes": modes}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(
                f"render_mode must be None{''.join(f' or {mode!r}' for mode in modes)} for "
                f"{env.name}, got {render_mode!r}"
            )
        if render_mode is not None:
            _figure(1, 1)  # that matplotlib is missing is better known now
        self.render_mode = render_mode
        self.observation_space = gymnax_space_to_gym_space(env.observation_space(params))
        self.action_space = gymnax_space_to_gym_space(env.action_space(params))
        # Gymnasium's own checks make the environment again from its spec.
        self.spec = _Spec(
            id=f"jaxmec/{env.name}",
            entry_point="jaxmec.envs.gymnasium:GymnasiumAdapter",
            disable_env_checker=True,
            order_enforce=False,
            kwargs={"env": env, "params": params, "seed": seed, "render_mode": render_mode},
        )
        self._env, self._params = env, params
        self._key: np.ndarray | None = None  # [2] of the stream; None before it begins
        self._count = 0  # draws made from the key
        self._state: EnvState = None  # of the episode that is running, if one is
        self._shown: EnvState = None  # the newest state of an episode, running or not
        if seed is not None:
            self._seed(seed)
        self._compile()

    def _compile(self) -> None:
        env, params = self._env, self._params

        def first(key: jax.Array, count: int) -> PyTree:
            key = jax.random.wrap_key_data(key)
            return env.reset(jax.random.fold_in(key, count), params)

        def transition(key: jax.Array, count: int, state: EnvState, action: ArrayLike) -> PyTree:
            key_step = jax.random.fold_in(jax.random.wrap_key_data(key), count)
            _, state, reward, terminated, truncated, info = env.step(
                key_step, state, action, params
            )
            # Where the episode goes on, the final observation is the next one.
            return state, (info.pop("final_observation"), reward, terminated, truncated, info)

        self._first = jax.jit(first)
        self._transition = jax.jit(transition)

    def __getstate__(self) -> Info:
        compiled = ("_first", "_transition")
        return {name: value for name, value in vars(self).items() if name not in compiled}

    def __setstate__(self, state: Info) -> None:
        refuse_after_fork()
        vars(self).update(state)
        self._compile()

    def _seed(self, seed: int) -> None:
        key = jax.random.key(seed % 2**32)  # Gymnasium's seeds have no upper bound
        self._key = np.asarray(jax.random.key_data(key))
        self._count = 0
        self._state = None

    def _draw(self) -> int:
        self._count += 1
        return self._count

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin an episode; ``seed`` begins a new random stream, ``options`` are not used.

        The second value has "action_mask" [A] where some actions cannot be taken, as that of
        ``step`` has.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._seed(seed)
        elif self._key is None:
            self._seed(int(self.np_random.integers(2**32)))
        observation, self._state = self._first(self._key, self._draw())
        self._shown = self._state
        info = {}
        if isinstance(self._env, Masked):  # as `step` has it too
            info["action_mask"] = np.asarray(self._env.action_mask(self._params))
        return self._observation(jax.device_get(observation)), info

    def step(self, action: ArrayLike) -> tuple[np.ndarray, float, bool, bool, Info]:
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
            self._state = None  # it is the first of another episode
        else:
            self._shown = self._state
        numbers = {name: v.item() if np.ndim(v) == 0 else v for name, v in info.items()}
        return (
            self._observation(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            numbers,
        )

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """A picture [height, width, 3] of bytes: every server's queue, or the cart and its pole.

        After an episode's end it is of the last decision. Without ``render_mode`` it is None,
        with a warning, as with Gymnasium's own environments.

        Raises:
            gymnasium.error.ResetNeeded: there was no episode yet.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render needs a render_mode, chosen when the environment is made: "rgb_array"'
            )
            return None
        if self._shown is None:
            raise gymnasium.error.ResetNeeded("render needs an episode: call reset first")
        return _picture(self._env, jax.device_get(self._shown), self._params)

    def _observation(self, observation: ArrayLike) -> np.ndarray:
        return np.asarray(observation, self.observation_space.dtype)


class Registered(GymnasiumAdapter):
    """What ``gymnasium.make("jaxmec/" + env_id, ...)`` returns.

    Its keywords are those of :func:`jaxmec.make`, and ``render_mode``.
    """

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(*make(env_id, **options), render_mode=render_mode)


def to_gymnasium(
    env: environment.Environment,
    params: EnvParams = None,
    seed: int | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """A Gymnasium environment that plays a gymnax one.

    ``gymnasium.make("jaxmec/MultiServerOffloading-v0", preset=...)`` makes one by its name.

    Args:
        env: the environment; its step is compiled once, when first called.
        params: its parameters, fixed from here on; ``env.default_params`` by default.
        seed: of the random stream until ``reset(seed=...)`` begins another; by default
            another one for each environment and process.
        render_mode: "rgb_array", for pictures of our own environments; or None.

    Raises:
        ValueError: another render_mode, or one for an environment that has no ``draw``.
        ModuleNotFoundError: a render_mode without matplotlib.
        RuntimeError: in a process that was forked after JAX had started.
    """
    return GymnasiumAdapter(env, params, seed, render_mode)


def _figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, with its canvas."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "render_mode 'rgb_array' needs matplotlib, the extra \"plot\": "
            'pip install "jaxmec[plot]"'
        ) from error
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _picture(env: Drawing, state: EnvState, params: EnvParams) -> np.ndarray:
    """[height, width, 3] uint8 of a state."""
    figure = _figure(6.4, 3.2)
    env.draw(figure.add_subplot(), state, params)
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3].copy()
