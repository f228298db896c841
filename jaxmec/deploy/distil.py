"""A K-step diffusion actor taught to answer in one step, and what that costs in quality.

The student is the same agent with one denoising step from x_1 = 0: the same network, begun with
the teacher's parameters, evaluated once instead of K times for each judged chain. It learns the
teacher's preferences on observations of whole episodes, first of those that the teacher meets
and then of those that it meets itself (Ross et al. 2011, "DAgger"). How much worse it schedules
is measured on episodes that both play with the same arrivals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnax.environments import spaces

from jaxmec.agents.base import Agent, DenoisingAgent, Learner
from jaxmec.agents.per_station import PerStation, of_station
from jaxmec.core import checks
from jaxmec.core.types import Memory, PyTree
from jaxmec.envs.spaces import Ranking
from jaxmec.experiment import Policy, evaluate
from jaxmec.training import rollout


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """How the student learns."""

    updates: int = 4_000  # steps of Adam in each of the two rounds
    batch_size: int = 256
    learning_rate: float = 1e-3  # at first; falls to 0 along a cosine
    num_envs: int = 16  # E, environments that observations are taken from
    kept: int = 2_048  # observations kept of each environment, spread over its episodes
    random: float = 0.1  # share of decisions taken at random while observing, for variety
    episodes: int = 20  # that teacher and student are compared on
    seed: int = 0

    def __post_init__(self) -> None:
        checks.fields(
            self,
            updates=checks.whole(1),
            batch_size=checks.whole(1),
            num_envs=checks.whole(1),
            kept=checks.whole(1),
            episodes=checks.whole(1),
            learning_rate=checks.number(above=0),
            random=checks.number(0, most=1),
        )


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What one step costs against K: both policies on the same episodes."""

    denoising_steps: int  # K of the teacher
    judged_chains: int  # of the teacher; 0: one without noise
    metric: str  # "makespan" in s, or "return"
    teacher: float  # mean over the episodes
    student: float
    ratio: float  # mean of the student over the mean of the teacher
    agreement: float  # share of unseen observations on which both prefer the same action;
    # of scores, which are no choice, 1 − the mean squared difference over the variance
    episodes: int


def distil(policy: Policy, config: DistilConfig | None = None) -> tuple[Policy, Distilled]:
    """The one-step policy, and what was measured.

    Raises:
        ValueError: a policy that has no chain, or one of a single step without noise.
    """
    config = config or DistilConfig()
    agent, teacher = one_step(policy.agent), _denoising(policy.agent)
    student = Policy(agent, policy.learner, policy.spec, policy.setting, policy.name)

    # Each of these is compiled once; all sets of observations have one size for that.
    observe, observe_own = (observer(each, config) for each in (policy, student))
    prefer, prefer_own = (_preferences(each) for each in (policy, student))
    chooses = _chooses(policy)
    learn = _learner(student, chooses, config)
    keys = iter(jax.random.split(jax.random.key(config.seed), 7))
    first = observe(policy.learner, next(keys))
    seen = jnp.concatenate([first, observe(policy.learner, next(keys))])
    student.learner = learn(student.learner, seen, prefer(policy.learner, seen), next(keys))
    seen = jnp.concatenate([first, observe_own(student.learner, next(keys))])
    student.learner = learn(student.learner, seen, prefer(policy.learner, seen), next(keys))
    held = jnp.concatenate([observe_own(student.learner, key) for key in keys])
    agreement = _agreement(prefer(policy.learner, held), prefer_own(student.learner, held), chooses)

    reports = [evaluate(each, episodes=config.episodes, seed=1) for each in (policy, student)]
    metric = "makespan" if "makespan" in reports[0].values else "return"
    before, after = (report.mean(metric) for report in reports)
    return student, Distilled(
        denoising_steps=teacher.denoising_steps,
        judged_chains=teacher.judged_chains,
        metric=metric,
        teacher=before,
        student=after,
        ratio=after / before,
        agreement=agreement,
        episodes=config.episodes,
    )


def one_step(agent: Any) -> Any:
    """The same agent with one denoising step and no noise; raises as :func:`distil` does."""
    if isinstance(agent, PerStation):
        return dataclasses.replace(agent, inner=one_step(agent.inner))
    teacher = _denoising(agent)
    if teacher.denoising_steps == 1 and not teacher.judged_chains:
        raise ValueError("the policy decides in one step without noise already")
    changes = {"denoising_steps": 1, **({"judged_chains": 0} if teacher.judged_chains else {})}
    return dataclasses.replace(agent, **changes)


def _denoising(agent: Agent) -> DenoisingAgent:
    """What each station has, if it has a chain."""
    each = of_station(agent)
    if not isinstance(each, DenoisingAgent):
        raise ValueError(
            f"{type(each).__name__} has no chain of denoising steps: it decides in one already"
        )
    return each


def observer(policy: Policy, config: DistilConfig) -> Callable[[Any, jax.Array], jax.Array]:
    """A function (learner, key) -> [E · kept, S], what a policy meets over whole episodes."""
    env, params = policy.setting.make()
    agent, spec = policy.agent, policy.spec
    stride = max(1, int(getattr(params, "max_steps_in_episode", config.kept)) // config.kept)
    space = env.action_space(params)

    def run(learner: Learner, key: jax.Array) -> jax.Array:
        def decide(key: jax.Array, observation: jax.Array, memory: Memory) -> tuple[Any, Any, Any]:
            key_act, key_coin, key_random = jax.random.split(key, 3)
            action, memory, _ = agent.act(learner, memory, observation, key_act, False)
            other = space.sample(key_random).astype(action.dtype)
            strays = jax.random.bernoulli(key_coin, config.random)
            return jnp.where(strays, other, action), memory, ()

        def one(state: PyTree, key: jax.Array) -> tuple[Any, None]:
            return rollout.step(decide, env, params, state, key)[0], None

        def several(state: PyTree, key: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = jax.lax.scan(one, state, jax.random.split(key, stride))
            return state, state.observation

        key_reset, key_steps = jax.random.split(key)
        memory = agent.init_memory(spec)
        start = rollout.reset(env, params, memory, config.num_envs, key_reset)
        _, seen = jax.lax.scan(several, start, jax.random.split(key_steps, config.kept))
        return seen.reshape(-1, spec.observation_size)

    return jax.jit(run)


def _chooses(policy: Policy) -> bool:
    """Whether an action is one or several of those that preferences rank, or the scores."""
    env, params = policy.setting.make()
    return isinstance(env.action_space(params), spaces.Discrete | Ranking)


def _preferences(policy: Policy) -> Callable[[Any, jax.Array], jax.Array]:
    """A function (learner, [n, S]) -> [n, A], some at a time: a chain needs room."""

    def run(learner: Learner, observation: jax.Array) -> jax.Array:
        def one(row: jax.Array) -> jax.Array:
            return policy.agent.preferences(learner, row)

        return jax.lax.map(one, observation, batch_size=1024)

    return jax.jit(run)


def _learner(student: Policy, chooses: bool, config: DistilConfig) -> Callable[..., Any]:
    """A function (learner, observations [n, S], preferences [n, A], key) -> learner, taught."""
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))

    def loss_of(learner: Learner, observation: Any, target: Any, spread: Any) -> jax.Array:
        given = jax.vmap(student.agent.preferences, in_axes=(None, 0))(learner, observation)
        if not chooses:
            return jnp.mean(jnp.square((given - target) / spread))
        log_given = jax.nn.log_softmax(given)
        log_target = jax.nn.log_softmax(target)
        return jnp.mean(jnp.sum(jnp.exp(log_target) * (log_target - log_given), axis=-1))

    def run(learner: Learner, seen: jax.Array, wanted: jax.Array, key: jax.Array) -> PyTree:
        # Scores are compared in units of their own spread.
        spread = jnp.maximum(jnp.std(wanted), 1e-6)

        def update(carry: PyTree, key: jax.Array) -> tuple[Any, None]:
            learner, state = carry
            rows = jax.random.randint(key, (config.batch_size,), 0, seen.shape[0])
            gradient = jax.grad(loss_of)(learner, seen[rows], wanted[rows], spread)
            step, state = optimiser.update(gradient, state)
            return (optax.apply_updates(learner, step), state), None

        start = (learner, optimiser.init(learner))
        return jax.lax.scan(update, start, jax.random.split(key, config.updates))[0][0]

    return jax.jit(run)


def _agreement(wanted: jax.Array, given: jax.Array, chooses: bool) -> float:
    if chooses:
        return float(np.mean(np.argmax(wanted, axis=-1) == np.argmax(given, axis=-1)))
    return float(1 - jnp.mean(jnp.square(wanted - given)) / jnp.var(wanted))
