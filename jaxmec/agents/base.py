"""What an agent is: a frozen dataclass of hyperparameters with three pure functions.

An agent's numbers (learning rates, discount, temperature) are pytree leaves, so that a
sweep over them is one ``vmap``; its sizes and choices (hidden layers, denoising steps,
activation) are static. An agent holds no parameters and no optimiser: those live in the
learner that ``init`` makes and ``update`` returns.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.core.types import Memory, PyTree
from jaxmec.networks.mlp import Params
from jaxmec.networks.servers import Layout

Learner = Any  # the agent's own NamedTuple: parameters, targets, optimiser state, counters
Metrics = dict[str, jax.Array]  # scalars, the same keys at every update


class Spec(NamedTuple):
    """What an agent must know of an environment to size its networks."""

    observation_size: int
    num_actions: int  # A; of a vector action, its length
    layout: Layout = ()  # of the observation; () where its parts have no names


MASK = "allowed"  # the part of an observation that is 1 for the actions that there are, else 0
WORTH = "worth"  # the part that says what a rule would give for each action
ABSENT = -1e9  # the logit or value of an action that there is not


def masked(values: jax.Array, observation: jax.Array, layout: Layout) -> jax.Array:
    """[..., A] ``values``, but ``ABSENT`` for actions that observations [..., S] say there are not.

    Where the layout has no part ``MASK`` there are all.
    """
    there = part_of(observation, layout, MASK)
    return values if there is None else jnp.where(there > 0, values, ABSENT)


def part_of(observation: jax.Array, layout: Layout, wanted: str) -> jax.Array | None:
    """[..., n] the part of observations [..., S] of that name; None where there is none."""
    place = place_of(layout, wanted)
    return None if place is None else observation[..., place]


def place_of(layout: Layout, wanted: str) -> slice | None:
    """Where the part of that name lies in an observation; None where there is none."""
    start = 0
    for name, length in layout:
        if name == wanted:
            return slice(start, start + length)
        start += length
    return None


class Transition(NamedTuple):
    """One step of one environment; with a leading [M] axis, a minibatch.

    Of several ``steps``, ``reward`` is their discounted sum; what is called next, and
    ``terminated``, are of the last of them.
    """

    observation: jax.Array  # [observation_size]
    action: jax.Array  # [] int32, or [n] where an action is a vector
    reward: jax.Array  # []
    next_observation: jax.Array  # [observation_size] the final one where an episode ended
    terminated: jax.Array  # [] bool; a time limit is not a termination
    extras: PyTree = ()  # what `act` returned beside the action
    ended: Any = ()  # [] bool: the episode ended; in a buffer that looks several steps ahead
    steps: Any = ()  # [] int32: how many steps these are; () is one


class Actor(Protocol):
    """What acts: the part of a learning algorithm that evaluation and deployment need."""

    @property
    def discount(self) -> ArrayLike:
        """[] the γ of the return that it maximises, or reports."""
        ...

    def init(self, key: jax.Array, spec: Spec) -> Learner:
        """Fresh parameters, targets and optimiser state."""
        ...

    def init_memory(self, spec: Spec) -> Memory:
        """The memory of one environment at its first decision; () where there is none."""
        ...

    def act(
        self,
        learner: Learner,
        memory: Memory,
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, Memory, PyTree]:
        """One decision for one observation [observation_size]: (action, memory, extras).

        ``explore`` is a Python bool: True while data is collected, False when the policy
        is judged, and then the action does not depend on ``key``.
        """
        ...

    def acting(self, learner: Learner) -> Learner:
        """The part of the learner that ``act(explore=False)`` and ``preferences`` read.

        Everything else (optimiser states, targets, critics of an actor) is replaced by
        ``()``: this is what leaves for inference.
        """
        ...

    def preferences(self, learner: Learner, observation: jax.Array) -> jax.Array:
        """[num_actions] what the greedy policy takes the argmax of.

        Differentiable in the learner's parameters, so that a policy can be distilled. What a
        learner holds beside them, such as a table of answers, takes no gradient
        (``stop_gradient``).
        """
        ...


@runtime_checkable
class SamplingAgent(Actor, Protocol):
    """An agent whose policy can be drawn from, as well as asked for its greedy action."""

    def sample(
        self, learner: Learner, memory: Memory, observation: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Memory]:
        """A draw from the policy that is judged, and the memory; needs ``acting(learner)`` alone.

        Where that policy is not random it is the greedy action.
        """
        ...


class Agent(Actor, Protocol):
    """The interface of every algorithm that learns from transitions."""

    def update(
        self, learner: Learner, batch: Transition, key: jax.Array
    ) -> tuple[Learner, Metrics]:
        """One gradient update on a minibatch whose leaves lead with [M]."""
        ...


@runtime_checkable
class PathwiseAgent(Actor, Protocol):
    """An agent that learns from the gradient of its own cost, through the environment."""

    @property
    def gradient_limit(self) -> ArrayLike:
        """[] what every entry that passes from decision to decision may move the cost by."""
        ...

    def parameters(self, learner: Learner) -> Params:
        """What the gradient is taken with respect to."""
        ...

    def decide(
        self, learner: Learner, parameters: Params, observation: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """The action for one observation, differentiable; without a key, without noise."""
        ...

    def improve(
        self, learner: Learner, gradient: PyTree, progress: jax.Array
    ) -> tuple[Learner, Metrics]:
        """One step along the gradient of the cost.

        ``progress`` [] is 0 at a training's first update and 1 at its last; the learning rate
        follows it.
        """
        ...

    def judge(self, learner: Learner, cost: jax.Array) -> Learner:
        """Take note of what the trained policy costs [] where it is not trained."""
        ...


@runtime_checkable
class StartingAgent(Actor, Protocol):
    """An agent whose training can begin with the actor of another policy."""

    def judged_actor(self, learner: Learner) -> Params:
        """The parameters of the actor by which the policy is judged."""
        ...

    def started(self, learner: Learner, actor: Params) -> Learner:
        """A fresh learner, with the parameters of another policy's actor in place of its own."""
        ...


@runtime_checkable
class DenoisingAgent(Protocol):
    """An agent whose actor makes its logits from noise, by a chain of denoising steps."""

    @property
    def denoising_steps(self) -> int:
        """K; 0: this one has no chain."""
        ...

    @property
    def judged_chains(self) -> int:
        """How many chains the judged policy averages over; 0: it follows one without noise."""
        ...

    def chains(
        self, learner: Learner, observation: jax.Array, key: jax.Array, number: int
    ) -> jax.Array:
        """[number, K + 1, A] chains x_K, ..., x_0 of the judged actor at one observation [S]."""
        ...


@runtime_checkable
class ImitatingAgent(Actor, Protocol):
    """An agent that can learn to give the actions that it is shown."""

    def imitate(
        self,
        learner: Learner,
        observations: jax.Array,
        actions: jax.Array,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[Learner, Metrics]:
        """One step to giving ``actions`` [M, A] at ``observations`` [M, observation_size]."""
        ...

    def imitation_loss(
        self, learner: Learner, observations: jax.Array, actions: jax.Array, key: jax.Array
    ) -> jax.Array:
        """[M] how far the trained policy is from giving ``actions`` [M, A]."""
        ...

    def judge(self, learner: Learner, cost: jax.Array) -> Learner:
        """As for :class:`PathwiseAgent`, of the loss on what it was not trained on."""
        ...
