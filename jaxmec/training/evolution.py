"""Evolution strategies: an actor follows the ranks of whole episodes' returns.

Nothing is differentiated, so jumps of the return do no harm, and nothing is stored. Every update
plays P pairs of actors, each moved by a noise and by its negative, in the same episodes; the actor
goes along the noises, weighed by how the ranks of the two differ (Salimans et al. 2017, "Evolution
strategies as a scalable alternative to reinforcement learning"; antithetic pairs: Geweke 1988).
Any agent with an actor will do: it is trained as it is judged, greedily. Where all candidates do as
well nothing moves, so the spread must reach actors that differ.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmec.agents.base import Learner, Metrics, StartingAgent
from jaxmec.core import checks
from jaxmec.core.types import EnvParams, PyTree
from jaxmec.training import rollout
from jaxmec.training.evaluate import evaluate, greedy
from jaxmec.training.rollout import Environment, make_spec
from jaxmec.training.trainer import Trainer, denoising_steps


class EvolutionState(NamedTuple):
    """All that training needs to go on to the bit from where it stands."""

    learner: Learner
    optimiser: optax.OptState  # of the actor
    key: jax.Array  # [] of the training stream; constant
    key_evaluation: jax.Array  # [] of the evaluation episodes; constant
    env_steps: jax.Array  # [] int32, as counted
    updates: jax.Array  # [] int32


@dataclass(frozen=True)
class EvolutionConfig(Trainer[StartingAgent, EvolutionState]):
    """How long to train, on how much; hashable, static under ``jit``.

    Raises:
        ValueError: a count that is not positive, or a spread or rate that is not.
    """

    state_type: ClassVar[type[EvolutionState]] = EvolutionState

    steps: int = 20_000_000  # environment steps, each episode counted as episode_steps
    pairs: int = 32  # P, of candidates in an update
    episodes: int = 2  # that each candidate plays, the same for all of an update
    episode_steps: int = 500  # what an episode counts as, whatever its length
    spread: float = 0.1  # σ, standard deviation of the noise on a parameter
    learning_rate: float = 0.02  # of Adam
    eval_every: int = 2_000_000  # environment steps in a chunk, which an evaluation follows
    eval_episodes: int = 16  # episodes at each evaluation point

    def __post_init__(self) -> None:
        self.check_counts()
        checks.fields(self, spread=checks.number(above=0), learning_rate=checks.number(above=0))
        if self.total_steps >= 2**31:
            raise ValueError(f"steps is {self.steps}; expected less, to count in 32 bits")

    @classmethod
    def trains(cls, agent: object) -> bool:
        """Agents with an actor that training can begin with."""
        return isinstance(agent, StartingAgent)

    @property
    def stride(self) -> int:
        """Environment steps of an update, as counted."""
        return 2 * self.pairs * self.episodes * self.episode_steps

    def scaled(self, share: float) -> EvolutionConfig:
        """Training ``share`` times as long, with as many evaluation points."""
        steps, every = math.ceil(share * self.steps), math.ceil(share * self.eval_every)
        return dataclasses.replace(self, steps=max(1, steps), eval_every=max(1, every))

    def work(self, agent: StartingAgent) -> float:
        """About 300 decisions cost as much as a gradient update."""
        return self.total_steps / 300 * denoising_steps(agent)

    def init(
        self, agent: StartingAgent, env: Environment, params: EnvParams, key: jax.Array
    ) -> EvolutionState:
        """A fresh learner.

        Raises:
            TypeError: an agent without an actor.
        """
        if not self.trains(agent):
            raise TypeError(
                f"{type(agent).__name__} has no actor to train by evolution: it lacks "
                "judged_actor() and started()"
            )
        key_learner, key_train, key_evaluation = jax.random.split(key, 3)
        learner = rollout.strong(agent.init(key_learner, make_spec(env, params)))
        return EvolutionState(
            learner=learner,
            optimiser=rollout.strong(self._optimiser().init(agent.judged_actor(learner))),
            key=key_train,
            key_evaluation=key_evaluation,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
        )

    def chunk(
        self, agent: StartingAgent, env: Environment, params: EnvParams, state: EvolutionState
    ) -> tuple[EvolutionState, Metrics]:
        """``chunk_steps`` environment steps of updates.

        Returns the state and means over the updates: "fitness", the candidates' mean return, and
        "gradient_norm".
        """
        memory = agent.init_memory(make_spec(env, params))

        def update(state: EvolutionState, _: None) -> tuple[EvolutionState, Metrics]:
            key_noise, key_play = jax.random.split(jax.random.fold_in(state.key, state.updates))
            actor = agent.judged_actor(state.learner)
            noise = _noise(actor, self.pairs, key_noise)

            def fitness(noise: PyTree, sign: jax.Array) -> jax.Array:
                moved = jax.tree.map(lambda p, n: p + sign * self.spread * n, actor, noise)
                policy = greedy(agent, agent.started(state.learner, moved))
                played = evaluate(policy, memory, env, params, self.episodes, key_play)
                return jnp.mean(played["return"])

            both = jax.vmap(jax.vmap(fitness, in_axes=(0, None)), in_axes=(None, 0))
            returns = both(noise, jnp.array([1.0, -1.0]))  # [2, P]
            up, down = centred_ranks(returns.ravel()).reshape(returns.shape)
            weight = (up - down) / (2 * self.pairs * self.spread)
            descent = jax.tree.map(lambda n: -jnp.tensordot(weight, n, 1), noise)
            step, optimiser = self._optimiser().update(descent, state.optimiser)
            learner = agent.started(state.learner, optax.apply_updates(actor, step))
            metrics = {"fitness": jnp.mean(returns), "gradient_norm": optax.tree.norm(descent)}
            state = state._replace(
                learner=learner,
                optimiser=optimiser,
                env_steps=state.env_steps + self.stride,
                updates=state.updates + 1,
            )
            return rollout.strong(state), metrics

        state, metrics = jax.lax.scan(update, state, length=self.chunk_steps // self.stride)
        return state, {name: jnp.mean(value) for name, value in metrics.items()}

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def _noise(actor: PyTree, pairs: int, key: jax.Array) -> PyTree:
    """Standard normal, [P] for each of the actor's numbers."""
    leaves, structure = jax.tree.flatten(actor)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(key, (pairs, *leaf.shape), leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def centred_ranks(values: jax.Array) -> jax.Array:
    """[n] in [−1/2, 1/2], the ranks of values [n], the greatest 1/2; equal ones share theirs.

    So candidates that all do as well move nothing. NaN, of an episode that did not end, is least.
    """
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    below = jnp.sum(values[:, None] > values, axis=1)
    equal = jnp.sum(values[:, None] == values, axis=1)
    return (below + (equal - 1) / 2) / jnp.maximum(values.size - 1, 1) - 0.5
