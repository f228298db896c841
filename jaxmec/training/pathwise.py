"""Training through a differentiable environment.

The cost of a window of decisions is differentiated through everything in it: the policy, what
an action means, the queues, and what later decisions make of them. A window is played in
``num_envs`` environments side by side for each update, on arrivals never seen before. It starts
with an episode; or, where queues outlive their slot (``carried``), where the environment's last
one ended, and then what it leaves queued counts with what the environment says that it will cost
(``env.outlook``, in the place of a critic). Validation is the same at every chunk's end: so many
windows, or episodes. It tells the best policy, and is neither trained on nor reported.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Learner, Metrics, PathwiseAgent
from jaxmec.core import checks
from jaxmec.core.types import EnvParams, EnvState, Memory, PyTree
from jaxmec.training import devices, rollout
from jaxmec.training.evaluate import evaluate
from jaxmec.training.rollout import Environment, make_spec
from jaxmec.training.trainer import Trainer, as_functions, denoising_steps

PLACES, SPREAD = 2**31, 2**31 + 1  # beyond any count of updates: draws of carried windows' starts


class PathwiseState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    key_validation: jax.Array  # [] of the validation windows; constant
    env_steps: jax.Array  # [] int32, decisions over all environments
    updates: jax.Array  # [] int32
    places: PyTree = ()  # [E] (observation, environment's state) where windows go on, if carried


class Simulation(NamedTuple):
    """What windows are played by and in, but for the parameters that are trained."""

    agent: PathwiseAgent
    learner: Learner
    env: Environment
    params: EnvParams  # the environment's


@runtime_checkable
class Slotted(Protocol):
    """An environment whose decisions come in slots."""

    def tasks_of_a_slot(self, params: EnvParams) -> jax.Array:
        """[] decisions in a slot, on average."""
        ...


@dataclass(frozen=True)
class PathwiseConfig(Trainer[PathwiseAgent, PathwiseState]):
    """How long to train through the environment, on how much; hashable, static under ``jit``."""

    state_type: ClassVar[type[PathwiseState]] = PathwiseState

    steps: int = 9_000_000  # decisions, over all environments
    num_envs: int = 64  # windows side by side in an update
    window: int = 96  # decisions in a window
    counted_slots: int = 1  # slots of the window that count; what it has of later ones is left out
    carried: bool = False  # a window goes on where the last one ended; all of its slots count
    validation_envs: int = 512  # windows that decide which policy is kept; if carried, episodes
    eval_every: int = 600_000  # decisions in a chunk, which an evaluation follows
    eval_episodes: int = 1  # episodes at each evaluation point
    cost: str = "makespan"  # which entry of a step's info is to be made small

    def __post_init__(self) -> None:
        self.check_counts()
        checks.fields(self, carried=checks.flag)
        if self.total_steps >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    @classmethod
    def trains(cls, agent: object) -> bool:
        """Agents that learn from the gradient of their cost."""
        return isinstance(agent, PathwiseAgent)

    def advice(self, env: Environment, params: EnvParams) -> str:
        """Windows should hold the slots that they count."""
        if self.carried or not isinstance(env, Slotted):
            return ""
        tasks = self.counted_slots * float(env.tasks_of_a_slot(params))
        if self.window >= tasks:
            return ""
        return (
            f"window is {self.window}, and {self.counted_slots} of the slots that a "
            f"window should hold have {tasks:.0f} tasks: later ones are never trained on; "
            f"make window about {math.ceil(tasks + 2.4 * math.sqrt(tasks))}"
        )

    @property
    def stride(self) -> int:
        """Decisions of one update."""
        return self.num_envs * self.window

    def scaled(self, share: float) -> PathwiseConfig:
        """Training ``share`` times as long, with as many evaluation points."""
        if share == 1:
            return self
        every = max(1, math.ceil(self.eval_every * share))
        steps = max(every, math.ceil(self.steps * share))
        return dataclasses.replace(self, steps=steps, eval_every=every)

    def work(self, agent: PathwiseAgent) -> float:
        """About 300 decisions cost as much as a gradient update."""
        return self.total_steps / 300 * denoising_steps(agent)

    def init(
        self, agent: PathwiseAgent, env: Environment, params: EnvParams, key: jax.Array
    ) -> PathwiseState:
        """A fresh learner; environments at their start, if windows are carried on.

        Raises:
            TypeError: an agent that learns from transitions.
            ValueError: windows to be carried on in an environment that cannot tell its outlook.
        """
        if not self.trains(agent):
            raise TypeError(
                f"{type(agent).__name__} learns from transitions; "
                "give its training a TrainConfig instead of a PathwiseConfig"
            )
        key_learner, key_train, key_evaluation, key_validation = jax.random.split(key, 4)
        places: PyTree = ()
        if self.carried:
            if not hasattr(env, "outlook"):
                raise ValueError(
                    f"carried is True; expected False, since {type(env).__name__} has no outlook"
                )
            keys = jax.random.split(jax.random.fold_in(key_train, PLACES), self.num_envs)
            places = rollout.strong(jax.vmap(env.reset, in_axes=(0, None))(keys, params))
            jax.eval_shape(jax.vmap(env.outlook, in_axes=(0, None)), places[1], params)
        return PathwiseState(
            learner=rollout.strong(agent.init(key_learner, make_spec(env, params))),
            key=key_train,
            key_evaluation=key_evaluation,
            key_validation=key_validation,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
            places=places,
        )

    def prepare(
        self, agent: PathwiseAgent, env: Environment, params: EnvParams, state: PathwiseState
    ) -> PathwiseState:
        """The verdict on the policy that training starts with; carried windows spread out.

        Environment e of E has then played e/E of an episode, as long as episodes at most are,
        with that policy.
        """
        cost = self._validate(agent, env, params, state)
        learner = agent.judge(state.learner, cost)
        state = state._replace(learner=learner)
        if not self.carried:
            return state
        parameters = agent.parameters(learner)
        longest = jnp.asarray(params.max_steps_in_episode)
        numbers = jnp.arange(self.num_envs)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            jax.random.fold_in(state.key, SPREAD), numbers
        )

        def play(place: PyTree, key: jax.Array, number: jax.Array) -> PyTree:
            def step(index: jax.Array, place: PyTree) -> PyTree:
                observation, env_state = place
                action = agent.decide(learner, parameters, observation, None)
                key_env = jax.random.fold_in(key, index)
                return rollout.strong(env.step(key_env, env_state, action, params)[:2])

            return jax.lax.fori_loop(0, number * longest // self.num_envs, step, place)

        return state._replace(places=jax.vmap(play)(state.places, keys, numbers))

    def chunk(
        self, agent: PathwiseAgent, env: Environment, params: EnvParams, state: PathwiseState
    ) -> tuple[PathwiseState, Metrics]:
        """``chunk_steps`` decisions of updates, then the verdict of the validation windows.

        The environment's step can be differentiated in its action and state, and its ``info`` has
        ``cost`` [] and, where its time has slots, "slot" [].

        Returns the state and the chunk's metrics, scalars: the mean over updates of each of the
        agent's and of "cost", the mean over decisions; "validation", the trained policy's cost
        on the validation windows.
        """

        def update(state: PathwiseState, _: None) -> tuple[PathwiseState, Metrics]:
            key = jax.random.fold_in(state.key, state.updates)
            simulation = Simulation(agent, state.learner, env, params)

            def total_cost(parameters: PyTree) -> tuple[jax.Array, PyTree]:
                if self.carried:
                    ahead, cost, places = self.carried_cost(
                        simulation, parameters, key, state.places
                    )
                    return cost + ahead, (cost, self.stride, places)
                cost, decisions = self.windows_cost(
                    simulation, parameters, key, self.num_envs, explore=True
                )
                return cost, (cost, decisions, ())

            gradient, (cost, decisions, places) = jax.grad(total_cost, has_aux=True)(
                agent.parameters(state.learner)
            )
            gradient = jax.tree.map(lambda g: g / decisions, gradient)
            learner, metrics = agent.improve(state.learner, gradient, self.progress(state.updates))
            state = state._replace(
                learner=learner,
                env_steps=state.env_steps + self.stride,
                updates=state.updates + 1,
                places=places,
            )
            return state, {**metrics, "cost": cost / decisions}

        state, metrics = jax.lax.scan(update, state, length=self.chunk_steps // self.stride)
        cost = self._validate(agent, env, params, state)
        learner = agent.judge(state.learner, cost)
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        return state._replace(learner=learner), {**metrics, "validation": cost}

    def _validate(
        self, agent: PathwiseAgent, env: Environment, params: EnvParams, state: PathwiseState
    ) -> jax.Array:
        """[] the mean cost of the trained policy on the validation windows, or episodes."""
        learner, parameters = state.learner, agent.parameters(state.learner)
        key, count = state.key_validation, self.validation_envs
        if not self.carried:
            total, decisions = self.windows_cost(
                Simulation(agent, learner, env, params), parameters, key, count, explore=False
            )
            return total / decisions

        def policy(
            key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
        ) -> PyTree:
            del key, state
            return agent.decide(learner, parameters, observation, None), memory

        memory = agent.init_memory(make_spec(env, params))
        return jnp.mean(evaluate(policy, memory, env, params, count, key)[self.cost])

    def windows_cost(
        self,
        simulation: Simulation,
        parameters: PyTree,
        key: jax.Array,
        num_envs: int,
        *,
        explore: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """The summed cost of so many windows and the decisions that count in it, both [].

        Differentiable in ``parameters``. With ``explore`` the policy draws its noise. Windows
        depend on ``key`` alone: other parameters meet the same arrivals.
        """
        env, params = simulation.env, simulation.params

        def of_window(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            key_reset, key_env, key_act = jax.random.split(key, 3)
            place = env.reset(key_reset, params)
            keys = (key_env, key_act if explore else None)
            cost, slot, over, _ = self._play(simulation, parameters, place, *keys)
            counts = ~over & (slot < self.counted_slots)
            return jnp.sum(jnp.where(counts, cost, 0)), jnp.sum(counts)

        keys = devices.spread(jax.random.split(key, num_envs))
        cost, decisions = jax.vmap(of_window)(keys)
        return jnp.sum(cost), jnp.maximum(jnp.sum(decisions), 1)

    def carried_cost(
        self, simulation: Simulation, parameters: PyTree, key: jax.Array, places: PyTree
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        """What windows cost that go on from ``places`` [E], with the policy's noise.

        Returns:
            The summed outlook where they end and the summed cost of their decisions, both [] and
            differentiable in ``parameters``, and the places where they end [E].
        """
        env: Any = simulation.env

        def of_window(key: jax.Array, place: PyTree) -> tuple[jax.Array, jax.Array, PyTree]:
            key_env, key_act = jax.random.split(key)
            cost, _, _, place = self._play(simulation, parameters, place, key_env, key_act)
            return env.outlook(place[1], simulation.params), jnp.sum(cost), place

        keys = devices.spread(jax.random.split(key, self.num_envs))
        ahead, cost, places = jax.vmap(of_window)(keys, places)
        return jnp.sum(ahead), jnp.sum(cost), jax.lax.stop_gradient(places)

    def _play(
        self,
        simulation: Simulation,
        parameters: PyTree,
        place: PyTree,
        key_env: jax.Array,
        key_act: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, PyTree]:
        """One window of W decisions from a place (observation, environment's state).

        Returns:
            [W] costs; [W] the slot of each decision; [W] whether the first episode was over
            before it; the place after the last.
        """
        agent, learner, env, params = simulation

        def step(carry: PyTree, index: jax.Array) -> tuple[PyTree, tuple[jax.Array, ...]]:
            observation, state, over = carry
            observation, state = bounded_gradient((observation, state), agent.gradient_limit)
            key = None if key_act is None else jax.random.fold_in(key_act, index)
            action = agent.decide(learner, parameters, observation, key)
            action = bounded_gradient(action, agent.gradient_limit)
            observation, state, _, terminated, truncated, info = env.step(
                jax.random.fold_in(key_env, index), state, action, params
            )
            seen = (info[self.cost], info.get("slot", jnp.zeros((), jnp.int32)), over)
            return rollout.strong((observation, state, over | terminated | truncated)), seen

        start = rollout.strong((*place, jnp.zeros((), bool)))
        (observation, state, _), seen = jax.lax.scan(step, start, jnp.arange(self.window))
        cost, slot, ended = seen
        return cost, slot, ended, (observation, state)


@jax.custom_vjp
def bounded_gradient(tree: PyTree, limit: jax.Array) -> PyTree:
    """The tree as it is; every entry of its gradient is held within ±``limit``, NaN is 0.

    What explodes on its way back through a window is then of order ``limit`` for that
    window, instead of deciding the direction of the whole batch.
    """
    return tree


def _forward(tree: PyTree, limit: jax.Array) -> tuple[PyTree, PyTree]:
    return tree, limit


def _backward(limit: jax.Array, gradient: PyTree) -> tuple[PyTree, PyTree]:
    def held(g: jax.Array) -> jax.Array:
        if g.dtype == jax.dtypes.float0:  # of whole numbers and flags
            return g
        return jnp.clip(jnp.nan_to_num(g), -limit, limit)

    return jax.tree.map(held, gradient), jnp.zeros_like(limit)


bounded_gradient.defvjp(_forward, _backward)

__getattr__ = as_functions(__name__)
