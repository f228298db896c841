"""One step of E environments in lock-step: decide, step, and say what happened.

The same step fills the replay buffer with random actions and collects data in training;
they differ in the function that decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.agents.base import Memory, Spec, Transition
from jaxmec.core.types import EnvParams, EnvState, Info, PyTree
from jaxmec.training import devices

# (key, observation, memory) -> (action, memory, extras), for one environment
Decide = Callable[[jax.Array, jax.Array, Memory], tuple[jax.Array, Memory, PyTree]]


class Environment(Protocol):
    """What training asks of an environment: the interface of gymnax 1.x."""

    @property
    def num_actions(self) -> int: ...

    def observation_space(self, params: EnvParams) -> Any: ...

    def action_space(self, params: EnvParams) -> Any: ...

    def reset(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]: ...

    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, Info]: ...


@runtime_checkable
class Staggering(Protocol):
    """An environment whose copies can begin at different points of an episode."""

    def expected_steps(self, params: EnvParams) -> jax.Array:
        """[] steps of an episode, on average."""
        ...

    def fair_step(
        self, key: jax.Array, state: EnvState, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, Info]:
        """A step whose action is the environment's own: one that leaves fair states behind."""
        ...


class RolloutState(NamedTuple):
    """Where E environments stand."""

    observation: jax.Array  # [E, observation_size]
    env_state: EnvState  # [E] the environment's own
    memory: Memory  # [E] the policy's own; it outlives episodes
    episode_return: jax.Array  # [E] sum of rewards of the episode so far
    episode_length: jax.Array  # [E] int32, steps of the episode so far


class Episodes(NamedTuple):
    """The episodes that one step of E environments ended, and its mean reward."""

    finished: jax.Array  # [] int32
    total_return: jax.Array  # [] sum over the finished episodes
    total_length: jax.Array  # [] int32, sum over the finished episodes
    reward: jax.Array  # [] mean over the environments


def make_spec(env: Environment, params: EnvParams) -> Spec:
    """The sizes that an agent needs; ``ValueError`` where observations are no vectors.

    An environment that can say what its observations consist of has ``feature_layout(params)``.
    """
    shape = env.observation_space(params).shape
    if len(shape) != 1:
        raise ValueError(f"observations have shape {tuple(shape)}; expected one axis")
    layout = getattr(env, "feature_layout", lambda params: ())(params)
    return Spec(int(shape[0]), int(env.num_actions), layout)


def reset(
    env: Environment, params: EnvParams, memory: Memory, num_envs: int, key: jax.Array
) -> RolloutState:
    """``num_envs`` environments at the start of an episode; ``memory`` is that of one."""
    keys = devices.spread(jax.random.split(key, num_envs))
    observation, env_state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *jnp.shape(x))), memory)
    return RolloutState(
        observation=strong(observation),
        env_state=strong(env_state),
        memory=strong(memory),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def stagger(
    env: Staggering, params: EnvParams, state: RolloutState, steps: jax.Array, key: jax.Array
) -> RolloutState:
    """Each environment so many steps [E] on, played by its own fair rule."""

    def play(key: jax.Array, state: RolloutState, steps: jax.Array) -> RolloutState:
        def one(index: jax.Array, state: RolloutState) -> RolloutState:
            observation, env_state, reward, terminated, truncated, _ = env.fair_step(
                jax.random.fold_in(key, index), state.env_state, params
            )
            done = terminated | truncated
            return RolloutState(
                observation=strong(observation),
                env_state=strong(env_state),
                memory=state.memory,
                episode_return=jnp.where(done, 0.0, state.episode_return + reward),
                episode_length=jnp.where(done, 0, state.episode_length + 1),
            )

        return jax.lax.fori_loop(0, steps, one, state)

    keys = devices.spread(jax.random.split(key, steps.size))
    return jax.vmap(play)(keys, state, steps)


def step(
    decide: Decide, env: Environment, params: EnvParams, state: RolloutState, key: jax.Array
) -> tuple[RolloutState, Transition, Episodes]:
    """One decision and one step in each environment; the transition's leaves lead with [E].

    ``next_observation`` is the one before the automatic reset, and ``terminated`` leaves
    time limits out, so that a truncated episode is bootstrapped.
    """

    def one(key: jax.Array, state: RolloutState) -> tuple[RolloutState, Transition, jax.Array]:
        key_act, key_env = jax.random.split(key)
        action, memory, extras = decide(key_act, state.observation, state.memory)
        observation, env_state, reward, terminated, truncated, info = env.step(
            key_env, state.env_state, action, params
        )
        reward = jnp.asarray(reward, state.episode_return.dtype)
        transition = Transition(
            observation=state.observation,
            action=action,
            reward=reward,
            next_observation=info["final_observation"],
            terminated=terminated,
            extras=extras,
            ended=terminated | truncated,
        )
        state = RolloutState(
            observation=observation,
            env_state=env_state,
            memory=memory,
            episode_return=state.episode_return + reward,
            episode_length=state.episode_length + 1,
        )
        return state, strong(transition), terminated | truncated

    num_envs = state.episode_length.shape[0]
    keys = devices.spread(jax.random.split(key, num_envs))
    state, transition, done = jax.vmap(one)(keys, state)
    episodes = Episodes(
        finished=jnp.sum(done, dtype=jnp.int32),
        total_return=jnp.sum(jnp.where(done, state.episode_return, 0.0)),
        total_length=jnp.sum(jnp.where(done, state.episode_length, 0)),
        reward=jnp.mean(transition.reward),
    )
    state = state._replace(
        episode_return=jnp.where(done, 0.0, state.episode_return),
        episode_length=jnp.where(done, 0, state.episode_length),
    )
    return state, transition, episodes


def strong(tree: PyTree) -> PyTree:
    """The tree without weak types, which would retrace what it is next given to."""

    def leaf(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):  # keys have no weak types
            return x
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(leaf, tree)
