"""What a way to train is, and the one ``train`` that serves them all.

A :class:`Trainer` holds the sizes of a training and, on them, pure functions: ``init``,
``prepare``, ``chunk`` and ``point``. ``train`` composes these and does nothing else, so a host
loop that calls them one by one, to show progress and save checkpoints, computes the same.
Nothing here is jitted. All are pure in (agent, params, key or state) and may be vmapped over
any of them: over keys for seeds, over the agent's numbers for a sweep, over the environment's
parameters.

Randomness: a training state holds keys that never change. What is drawn at a step of training
comes from one of them and the count of steps or updates; what is drawn at an evaluation point
comes from another. Evaluation therefore never touches the training stream; every point has new
episodes; and agents trained from the same key are evaluated on the same ones.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmec.agents.base import Actor, Learner, Metrics
from jaxmec.core import checks
from jaxmec.core.types import EnvParams
from jaxmec.training.evaluate import evaluate, greedy
from jaxmec.training.rollout import Environment, make_spec

# Metrics of a chunk that are not the agent's. The first two are NaN, and rightly so, when no
# episode ended in the chunk.
EPISODE_MEANS = ("episode_return", "episode_length")
EPISODE_METRICS = (*EPISODE_MEANS, "episodes", "reward")


class State(Protocol):
    """What every training state has: a NamedTuple, with all that training needs to go on.

    What leads with the environments [E] is named ``rollout``, ``replay`` or ``places``, and is
    shared out over devices (``training.devices``); all else lies on each of them whole.
    """

    @property
    def learner(self) -> Learner: ...

    @property
    def key_evaluation(self) -> jax.Array:
        """[] of the evaluation episodes; constant."""
        ...

    @property
    def env_steps(self) -> jax.Array:
        """[] int32, over all environments, prefill included."""
        ...


class History(NamedTuple):
    """What training showed, at P points: after the prefill and after each chunk."""

    env_steps: jax.Array  # [P] int32
    evaluation: dict[str, jax.Array]  # [P] means over episodes: "return", "length", ...
    training: dict[str, jax.Array]  # [P] means over the chunk before; 0 at point 0


A = TypeVar("A", bound=Actor)
S = TypeVar("S", bound=State)


@dataclasses.dataclass(frozen=True)
class Trainer(abc.ABC, Generic[A, S]):
    """A way to train agents A; its state is an S.

    A frozen dataclass of sizes, hashable, static under ``jit``. Training takes ``stride``
    environment steps at once: what is not a multiple of it is rounded up, and training to whole
    chunks. A new way to train is a subclass with a stride and the abstract methods; ``point`` and
    all that is counted are here.
    """

    state_type: ClassVar[Any]  # S
    needs_demonstrations: ClassVar[bool] = False  # the environment must have ``demonstrate``

    if TYPE_CHECKING:  # fields that every trainer has, each at its own place among its others
        steps: int = 1  # environment steps, over all environments, prefill included
        eval_every: int = 1  # environment steps in a chunk, which an evaluation follows
        eval_episodes: int = 1  # episodes at each evaluation point

    @classmethod
    def trains(cls, agent: object) -> bool:
        """Whether an agent of that kind is trained this way; any is, unless a trainer says."""
        del agent
        return True

    def advice(self, env: Environment, params: EnvParams) -> str:
        """What to tell whoever is about to train there on these sizes; "" where all is well."""
        del env, params
        return ""

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Environment steps that training takes at once."""

    @abc.abstractmethod
    def init(self, agent: A, env: Environment, params: EnvParams, key: jax.Array) -> S:
        """The state before anything is collected or learned."""

    def prepare(self, agent: A, env: Environment, params: EnvParams, state: S) -> S:
        """What comes before the first chunk and learns nothing: a prefill of the replay buffer,
        say; by default nothing does."""
        return state

    @abc.abstractmethod
    def chunk(self, agent: A, env: Environment, params: EnvParams, state: S) -> tuple[S, Metrics]:
        """``chunk_steps`` environment steps of training, and its metrics, scalars."""

    @abc.abstractmethod
    def scaled(self, share: float) -> Self:
        """Training ``share`` times as long, with as many evaluation points."""

    @abc.abstractmethod
    def work(self, agent: A) -> float:
        """How much there is to do for one seed, about in gradient updates of one step of
        denoising."""

    def point(self, agent: A, env: Environment, params: EnvParams, state: S) -> Metrics:
        """The greedy policy's mean over ``eval_episodes`` episodes kept for this point.

        Scalars "return", "length" and each of ``env.metric_names``.
        """
        results = evaluate(
            greedy(agent, state.learner),
            agent.init_memory(make_spec(env, params)),
            env,
            params,
            self.eval_episodes,
            jax.random.fold_in(state.key_evaluation, state.env_steps),
        )
        return {name: jnp.mean(value) for name, value in results.items()}

    @property
    def prefill_steps(self) -> int:
        """Environment steps of the prefill, in whole strides."""
        return 0

    @property
    def chunk_steps(self) -> int:
        """Environment steps of a chunk: ``eval_every`` in whole strides."""
        return math.ceil(self.eval_every / self.stride) * self.stride

    @property
    def num_chunks(self) -> int:
        """Chunks of training, the fewest that reach ``steps``."""
        return max(1, math.ceil((self.steps - self.prefill_steps) / self.chunk_steps))

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole training: ``steps`` in whole chunks after the prefill."""
        return self.prefill_steps + self.num_chunks * self.chunk_steps

    @property
    def num_points(self) -> int:
        """P, evaluation points: one after the prefill and one after each chunk."""
        return self.num_chunks + 1

    def progress(self, strides: jax.Array) -> jax.Array:
        """[] in [0, 1], how far training is after so many strides; learning rates follow it.

        It is 0 at the first update and 1 at the last.
        """
        last = (self.total_steps - self.prefill_steps) // self.stride - 1
        return jnp.clip(strides / jnp.maximum(1, last), 0, 1)

    def check_counts(self) -> None:
        """See that every field that counts something is a positive integer."""
        counts = [field.name for field in dataclasses.fields(self) if type(field.default) is int]
        checks.fields(self, **dict.fromkeys(counts, checks.whole(1)))


AnyTrainer = Trainer[Any, Any]  # of agents and states of whatever kind


def train(
    agent: A, env: Environment, params: EnvParams, trainer: Trainer[A, S], key: jax.Array
) -> tuple[S, History]:
    """One whole training run; pure, to be jitted and vmapped by the caller.

    Args:
        agent: what learns.
        env: a gymnax 1.x environment with vector observations.
        params: its parameters, with ``max_steps_in_episode``.
        trainer: how it learns, and on how much.
        key: what everything random in the run depends on.
    """
    state = trainer.prepare(agent, env, params, trainer.init(agent, env, params, key))
    start, start_steps = trainer.point(agent, env, params, state), state.env_steps

    def step(state: S, _: None) -> tuple[S, tuple[jax.Array, Metrics, Metrics]]:
        state, training = trainer.chunk(agent, env, params, state)
        evaluation = trainer.point(agent, env, params, state)
        return state, (state.env_steps, evaluation, training)

    state, (env_steps, evaluation, training) = jax.lax.scan(step, state, length=trainer.num_chunks)
    return state, History(
        env_steps=jnp.concatenate([start_steps[None], env_steps]),
        evaluation={
            name: jnp.concatenate([start[name][None], value]) for name, value in evaluation.items()
        },
        training={
            name: jnp.concatenate([jnp.zeros(1, value.dtype), value])
            for name, value in training.items()
        },
    )


def known(metrics: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """A chunk's metrics on the host, where a mean over episodes of which none ended is NaN.

    Not before: a program that computes a NaN on purpose stops under ``jax_debug_nans``.
    """
    return {
        name: np.where(metrics["episodes"] == 0, np.nan, value) if name in EPISODE_MEANS else value
        for name, value in metrics.items()
    }


def failures(metrics: Mapping[str, ArrayLike]) -> tuple[str, ...]:
    """The agent's metrics of a chunk that are not finite, on the host; () when all is well.

    ``metrics`` are concrete; with a leading axis of runs, one bad run is enough.
    """
    return tuple(
        name
        for name, value in metrics.items()
        if name not in EPISODE_METRICS and not bool(jnp.all(jnp.isfinite(jnp.asarray(value))))
    )


def denoising_steps(agent: object) -> int:
    """K of a diffusion actor; 1 of any other, and of a chain of no steps."""
    return max(1, getattr(agent, "denoising_steps", 1))


# What were functions of a config, by module, before they became its methods.
_METHODS = {
    "init": "init",
    "prefill": "prepare",
    "train_chunk": "chunk",
    "evaluation_point": "point",
}


def as_functions(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that had these functions: they go with the next version."""

    def find(name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        method = _METHODS[name]
        warnings.warn(
            f"{module}.{name} is the config's method {method} now; "
            "the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )

        def call(agent: Any, env: Any, params: EnvParams, config: Any, given: Any) -> Any:
            return operator.methodcaller(method, agent, env, params, given)(config)

        return call

    return find
