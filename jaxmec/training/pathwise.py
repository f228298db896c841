"""Training through a differentiable environment: the same pieces as in ``training.loop``.

The cost of a window of decisions is differentiated through everything in it: the policy, what
an action means, the queues, and what later decisions make of them. A window starts with an
episode; it is played in ``num_envs`` environments side by side for each update, on arrivals
never seen before. The validation windows are the same at every chunk's end; they tell the
best policy, and are neither trained on nor reported.

Everything is pure, may be vmapped over keys, and keeps its keys as ``training.loop`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Learner, Metrics, PathwiseAgent
from jaxmec.training import rollout
from jaxmec.training.evaluate import evaluate, greedy
from jaxmec.training.loop import History
from jaxmec.training.rollout import Environment, make_spec


@dataclass(frozen=True)
class PathwiseConfig:
    """How long to train through the environment, on how much; hashable, static under ``jit``."""

    steps: int = 9_000_000  # decisions, over all environments
    num_envs: int = 64  # windows side by side in an update
    window: int = 96  # decisions in a window
    counted_slots: int = 1  # slots of the window that count; what it has of later ones is left out
    validation_envs: int = 512  # windows that decide which policy is kept
    eval_every: int = 600_000  # decisions in a chunk, which an evaluation follows
    eval_episodes: int = 1  # episodes at each evaluation point
    cost: str = "makespan"  # which entry of a step's info is to be made small

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "cost":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a positive integer")
        if self.total_steps >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    @property
    def update_steps(self) -> int:
        """Decisions of one update."""
        return self.num_envs * self.window

    @property
    def prefill_steps(self) -> int:
        """Nothing is collected before training."""
        return 0

    @property
    def chunk_steps(self) -> int:
        """Decisions of a chunk: ``eval_every`` in whole updates."""
        return math.ceil(self.eval_every / self.update_steps) * self.update_steps

    @property
    def num_chunks(self) -> int:
        """Chunks of training, the fewest that reach ``steps``."""
        return math.ceil(self.steps / self.chunk_steps)

    @property
    def total_steps(self) -> int:
        """Decisions of the whole training: ``steps`` in whole chunks."""
        return self.num_chunks * self.chunk_steps

    @property
    def num_points(self) -> int:
        """P, evaluation points: one before training and one after each chunk."""
        return self.num_chunks + 1


class PathwiseState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    key_validation: jax.Array  # [] of the validation windows; constant
    env_steps: jax.Array  # [] int32, decisions over all environments
    updates: jax.Array  # [] int32


def init(
    agent: PathwiseAgent, env: Environment, params: Any, config: PathwiseConfig, key: jax.Array
) -> PathwiseState:
    """A fresh learner.

    Raises:
        TypeError: an agent that learns from transitions.
    """
    if not hasattr(agent, "improve"):
        raise TypeError(
            f"{type(agent).__name__} learns from transitions; "
            "give its training a TrainConfig instead of a PathwiseConfig"
        )
    key_learner, key_train, key_evaluation, key_validation = jax.random.split(key, 4)
    return PathwiseState(
        learner=rollout.strong(agent.init(key_learner, make_spec(env, params))),
        key=key_train,
        key_evaluation=key_evaluation,
        key_validation=key_validation,
        env_steps=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def prefill(
    agent: PathwiseAgent,
    env: Environment,
    params: Any,
    config: PathwiseConfig,
    state: PathwiseState,
) -> PathwiseState:
    """Nothing is collected: the state as it is."""
    return state


def train_chunk(
    agent: PathwiseAgent,
    env: Environment,
    params: Any,
    config: PathwiseConfig,
    state: PathwiseState,
) -> tuple[PathwiseState, Metrics]:
    """``config.chunk_steps`` decisions of updates, then the verdict of the validation windows.

    Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
    agent's and of "cost", the mean over decisions; "validation", the trained policy's cost
    on the validation windows.
    """

    def update(state: PathwiseState, _: None) -> tuple[PathwiseState, Metrics]:
        key = jax.random.fold_in(state.key, state.updates)
        learner = state.learner

        def total_cost(parameters: Any) -> tuple[jax.Array, jax.Array]:
            return windows_cost(
                agent, env, params, config, learner, parameters, key, config.num_envs, True
            )

        gradient, (cost, decisions) = _gradient(total_cost)(agent.parameters(learner))
        gradient = jax.tree.map(lambda g: g / decisions, gradient)
        learner, metrics = agent.improve(learner, gradient)
        state = state._replace(
            learner=learner,
            env_steps=state.env_steps + config.update_steps,
            updates=state.updates + 1,
        )
        return state, {**metrics, "cost": cost / decisions}

    length = config.chunk_steps // config.update_steps
    state, metrics = jax.lax.scan(update, state, length=length)
    total, decisions = windows_cost(
        agent,
        env,
        params,
        config,
        state.learner,
        agent.parameters(state.learner),
        state.key_validation,
        config.validation_envs,
        False,
    )
    learner = agent.judge(state.learner, total / decisions)
    metrics = {name: jnp.mean(value) for name, value in metrics.items()}
    return state._replace(learner=learner), {**metrics, "validation": total / decisions}


def evaluation_point(
    agent: PathwiseAgent,
    env: Environment,
    params: Any,
    config: PathwiseConfig,
    state: PathwiseState,
) -> Metrics:
    """The kept policy's mean over ``config.eval_episodes`` episodes kept for this point.

    Scalars "return", "length" and each of ``env.metric_names``.
    """
    results = evaluate(
        greedy(agent, state.learner),  # type: ignore[arg-type]
        agent.init_memory(make_spec(env, params)),
        env,
        params,
        config.eval_episodes,
        jax.random.fold_in(state.key_evaluation, state.env_steps),
    )
    return {name: jnp.mean(value) for name, value in results.items()}


def train(
    agent: PathwiseAgent, env: Environment, params: Any, config: PathwiseConfig, key: jax.Array
) -> tuple[PathwiseState, History]:
    """One whole training run; pure, to be jitted and vmapped by the caller.

    Args:
        agent: what learns.
        env: a gymnax 1.x environment whose step can be differentiated in its action and
            state, and whose ``info`` has ``config.cost`` [] and, where its time has slots,
            "slot" [].
        params: its parameters.
        config: the sizes.
        key: what everything random in the run depends on.
    """
    state = init(agent, env, params, config, key)
    start = evaluation_point(agent, env, params, config, state)

    def point(state: PathwiseState, _: None) -> tuple[PathwiseState, tuple[Any, Metrics, Metrics]]:
        state, training = train_chunk(agent, env, params, config, state)
        evaluation = evaluation_point(agent, env, params, config, state)
        return state, (state.env_steps, evaluation, training)

    state, (env_steps, evaluation, training) = jax.lax.scan(point, state, length=config.num_chunks)
    return state, History(
        env_steps=jnp.concatenate([jnp.zeros(1, jnp.int32), env_steps]),
        evaluation={
            name: jnp.concatenate([start[name][None], value]) for name, value in evaluation.items()
        },
        training={
            name: jnp.concatenate([jnp.full(1, jnp.nan), value]) for name, value in training.items()
        },
    )


def windows_cost(
    agent: PathwiseAgent,
    env: Environment,
    params: Any,
    config: PathwiseConfig,
    learner: Learner,
    parameters: Any,
    key: jax.Array,
    num_envs: int,
    explore: bool,
) -> tuple[jax.Array, jax.Array]:
    """The summed cost of so many windows and the decisions that count in it, both [].

    Differentiable in ``parameters``. With ``explore`` the policy draws its noise. Windows
    depend on ``key`` alone: other parameters meet the same arrivals.
    """

    def of_window(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_reset, key_env, key_act = jax.random.split(key, 3)
        observation, state = env.reset(key_reset, params)

        def step(carry: Any, index: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            observation, state, over = carry
            observation, state = bounded_gradient((observation, state), agent.gradient_limit)
            key = jax.random.fold_in(key_act, index) if explore else None
            action = agent.decide(learner, parameters, observation, key)
            action = bounded_gradient(action, agent.gradient_limit)
            observation, state, _, terminated, truncated, info = env.step(
                jax.random.fold_in(key_env, index), state, action, params
            )
            counts = ~over & (info.get("slot", 0) < config.counted_slots)
            cost = jnp.where(counts, info[config.cost], 0)
            carry = rollout.strong((observation, state, over | terminated | truncated))
            return carry, (cost, counts)

        start = rollout.strong((observation, state, jnp.zeros((), bool)))
        _, (cost, counts) = jax.lax.scan(step, start, jnp.arange(config.window))
        return jnp.sum(cost), jnp.sum(counts)

    cost, decisions = jax.vmap(of_window)(jax.random.split(key, num_envs))
    return jnp.sum(cost), jnp.maximum(jnp.sum(decisions), 1)


@jax.custom_vjp
def bounded_gradient(tree: Any, limit: Any) -> Any:
    """The tree as it is; every entry of its gradient is held within ±``limit``, NaN is 0.

    What explodes on its way back through a window is then of order ``limit`` for that
    window, instead of deciding the direction of the whole batch.
    """
    return tree


def _forward(tree: Any, limit: Any) -> tuple[Any, Any]:
    return tree, limit


def _backward(limit: Any, gradient: Any) -> tuple[Any, Any]:
    def held(g: Any) -> Any:
        if g.dtype == jax.dtypes.float0:  # of whole numbers and flags
            return g
        return jnp.clip(jnp.nan_to_num(g), -limit, limit)

    return jax.tree.map(held, gradient), jnp.zeros_like(limit)


bounded_gradient.defvjp(_forward, _backward)


def _gradient(function: Callable[[Any], tuple[jax.Array, jax.Array]]) -> Any:
    """parameters -> (gradient of the first output, both outputs)."""

    def both(parameters: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        outputs = function(parameters)
        return outputs[0], outputs

    return jax.grad(both, has_aux=True)
