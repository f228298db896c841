"""What the planner would do, seen with a station's eyes: examples to learn from.

The planner (:mod:`jaxmec.solvers.planner`) knows all tasks of a slot and a policy does not. Its
plan is carried out in the environment, and what the policy would have seen at each decision is
kept beside the action that stands for what was planned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.core.types import PyTree
from jaxmec.envs.offloading import OffloadingEnvironment, OffloadingParams, OffloadingState
from jaxmec.solvers import PlannerConfig, Window, plan
from jaxmec.training.rollout import strong

# Two rounds get most of what eight do, in a quarter of the time and more (docs/solvers.md).
DEMONSTRATING = PlannerConfig(restarts=2, rounds=2, sweeps=1)


class Demonstrations(NamedTuple):
    """Decisions of plans, in order; with a leading axis, those of many windows."""

    observation: jax.Array  # [K, observation_size]
    action: jax.Array  # [K, A] scores
    makespan: jax.Array  # [K] s, as the environment has it
    counts: jax.Array  # [K] bool; False beyond the window's slot


class Demonstrator:
    """An environment that can also show what the planner does there.

    In all else it is the environment that it is made from.

    Raises:
        ValueError: an environment whose actions are not scores, or that has neighbours: the plan
            is not made for them.
    """

    def __init__(self, env: OffloadingEnvironment, planner: PlannerConfig = DEMONSTRATING) -> None:
        if getattr(env, "action", None) != "score":
            raise ValueError(
                "the planner is imitated by scores: make an offloading environment with "
                f"action='score', got {type(env).__name__} with "
                f"action={getattr(env, 'action', None)!r}"
            )
        if env.neighbours is not None:
            raise ValueError(
                f"neighbours must be None where the planner is imitated, got {env.neighbours}"
            )
        vars(self).update(vars(env))  # what it is made of is what a run's identity is made of
        self.env = env
        self.planner = planner

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not made yet
            raise AttributeError(name)
        return getattr(self.env, name)

    def demonstrate(self, key: jax.Array, params: OffloadingParams, length: int) -> Demonstrations:
        """[K] decisions of the plan of an episode's first slot, with room for K = ``length``.

        What the slot has beyond that is not planned for.
        """
        env, network = self.env, params.network
        key_reset, key_env, key_plan = jax.random.split(key, 3)
        observation, start = env.reset(key_reset, params)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key_env, jnp.arange(length))
        nothing = jnp.zeros(env.num_actions)

        def arrive(carry: PyTree, key: jax.Array) -> tuple[PyTree, PyTree]:
            state, over = carry
            counts = ~over & (state.cursor.slot == start.cursor.slot)
            _, following, _, _, truncated, _ = env.step(key, state, nothing, params)
            return strong((following, over | truncated)), (state.task, counts)

        # Arrivals do not depend on actions: any action shows them.
        _, (task, counts) = jax.lax.scan(arrive, strong((start, jnp.zeros((), bool))), keys)
        zeros = jnp.zeros(length, jnp.int32)
        window = Window(task, zeros, counts, jnp.zeros_like(network.capacity))
        problem = "multi" if env.splits else "single"
        planned = plan(network, window, key_plan, problem, self.planner)

        def follow(carry: PyTree, inputs: PyTree) -> tuple[PyTree, Demonstrations]:
            observation, state = carry
            key, fraction, counts = inputs
            action = self._encoded(fraction, state, params)
            after, following, _, _, _, info = env.step(key, state, action, params)
            seen = Demonstrations(observation, action, info["makespan"], counts)
            return strong((after, following)), seen

        inputs = (keys, planned.fraction, counts)
        return jax.lax.scan(follow, strong((observation, start)), inputs)[1]

    def _encoded(
        self, fraction: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        encoding: Any = self.env  # in the action mode "score" it has the decoder's inverse
        return encoding.encode(fraction, state, params)
