"""Discrete soft actor-critic, whatever the actor is: what SAC and DSAC share.

Source: Christodoulou 2019, "Soft actor-critic for discrete action settings". A subclass
says what the actor is by three methods: how its parameters are made, its logits at a
minibatch of observations (from noise, where it is random), and its greedy logits. An actor
that starts from its own last answers keeps them in the learner's ``latent``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxmec.agents import losses
from jaxmec.agents.base import Metrics, Spec, Transition
from jaxmec.core import checks
from jaxmec.core.types import PyTree
from jaxmec.networks.mlp import ACTIVATIONS, Params, StackedMLP
from jaxmec.struct import pytree, static


class SoftLearner(NamedTuple):
    """What learning changes."""

    actor: Params  # of the policy
    critics: Params  # [2] of the twin critics, stacked
    target_critics: Params  # [2] their moving average
    log_temperature: jax.Array  # [] log α
    actor_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    temperature_optimiser: optax.OptState
    judged_actor: Params  # the actor's moving average, which the policy is judged by
    latent: PyTree = ()  # what the actor keeps of its answers; () for most


@pytree
class SoftActorCritic:
    """Twin critics Q_j(s, ·), an actor π(·|s) and a temperature α, over A discrete actions.

    While exploring it acts by the actor as it is; it is judged, saved and deployed by the
    actor's moving average, which the critics' noise moves less. With ``actor_tau`` 1 the
    two are the same.

    α is tuned so that the mean entropy of the policy comes to a target: ``target_entropy``
    where that is given, else ``target_entropy_ratio`` · log A.

    Raises:
        ValueError: a field outside what its comment allows.
    """

    discount: float = 0.99  # γ, in [0, 1]
    actor_learning_rate: float = 3e-4  # of Adam, > 0
    critic_learning_rate: float = 1e-3  # of Adam, > 0
    temperature_learning_rate: float = 3e-4  # of Adam on log α, >= 0; 0 keeps α where it starts
    tau: float = 0.02  # share of the critics that their targets take per update, in (0, 1]
    actor_tau: float = 1.0  # share of the actor that its average takes per update, in (0, 1]
    temperature: float = 0.5  # α at the start, in the reward's unit per nat, > 0
    target_entropy_ratio: float = 0.5  # the entropy aimed at, as a share of log A, in [0, 1]
    target_entropy: float | None = None  # nats; given, it stands in for the ratio
    hidden: tuple[int, ...] = static(default=(128, 128))  # widths of the hidden layers
    activation: str = static(default="relu")  # relu, tanh, silu, mish or gelu
    layer_norm: bool = static(default=False)  # layer normalisation in the critics

    def __post_init__(self) -> None:
        checks.fields(
            self,
            discount=checks.number(0, most=1),
            actor_learning_rate=checks.number(above=0),
            critic_learning_rate=checks.number(above=0),
            temperature_learning_rate=checks.number(0),
            tau=checks.number(above=0, most=1),
            actor_tau=checks.number(above=0, most=1),
            temperature=checks.number(above=0),
            target_entropy_ratio=checks.number(0, most=1),
        )
        if self.target_entropy is not None:
            checks.fields(self, target_entropy=checks.number())
        checks.fields(
            self,
            hidden=checks.widths,
            activation=checks.one_of(ACTIVATIONS),
            layer_norm=checks.flag,
        )

    # What a subclass says.

    def init_actor(self, key: jax.Array, spec: Spec) -> Params:
        """Fresh parameters of the actor."""
        raise NotImplementedError

    def logits(
        self, actor: Params, latent: PyTree, observation: jax.Array, num_actions: int, noise: PyTree
    ) -> jax.Array:
        """[..., A] of the policy at observations [..., S], with what :meth:`draw` drew for them."""
        raise NotImplementedError

    def greedy_logits(
        self, actor: Params, latent: PyTree, observation: jax.Array, num_actions: int
    ) -> jax.Array:
        """[..., A] of what the policy is judged by at observations [..., S]."""
        raise NotImplementedError

    # What a subclass may say.

    def draw(
        self, latent: PyTree, observation: jax.Array, num_actions: int, key: jax.Array
    ) -> PyTree:
        """What is random in the policy at observations [..., S]: leaves [K, ..., A], or none."""
        return ()

    def init_latent(self, spec: Spec) -> PyTree:
        """What the actor keeps of its answers, at first."""
        return ()

    def remember(
        self, latent: PyTree, observation: jax.Array, log_probability: jax.Array
    ) -> PyTree:
        """``latent`` after the actor's answers [M, A] at observations [M, S]."""
        return latent

    def inputs(self, observation: jax.Array) -> jax.Array:
        """[..., S'] the part of observations [..., S] that the networks see."""
        return observation

    def critics(self, num_actions: int, latent: PyTree) -> nn.Module:
        """The twin critics: a module from observations [..., S'] to values [2, ..., A]."""
        return StackedMLP(self.hidden, num_actions, self.activation, self.layer_norm)

    # The algorithm.

    def init(self, key: jax.Array, spec: Spec) -> SoftLearner:
        """Fresh parameters; the targets start equal to the critics."""
        key_actor, key_critics = jax.random.split(key)
        actor = self.init_actor(key_actor, spec)
        seen = self.inputs(jnp.zeros(spec.observation_size))
        latent = self.init_latent(spec)
        critics = self.critics(spec.num_actions, latent).init(key_critics, seen)
        log_temperature = jnp.log(jnp.asarray(self.temperature, jnp.result_type(float)))
        return SoftLearner(
            actor=actor,
            critics=critics,
            target_critics=critics,
            log_temperature=log_temperature,
            actor_optimiser=optax.adam(self.actor_learning_rate).init(actor),
            critic_optimiser=optax.adam(self.critic_learning_rate).init(critics),
            temperature_optimiser=optax.adam(self.temperature_learning_rate).init(log_temperature),
            judged_actor=actor,
            latent=latent,
        )

    def init_memory(self, spec: Spec) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def act(
        self,
        learner: SoftLearner,
        memory: tuple[()],
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, tuple[()], tuple[()]]:
        """A draw from the policy while exploring, its greedy action when judged."""
        if explore:
            return self._drawn(learner, learner.actor, observation, key), memory, ()
        action = jnp.argmax(self.preferences(learner, observation))
        return action.astype(jnp.int32), memory, ()

    def sample(
        self, learner: SoftLearner, memory: tuple[()], observation: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """A draw from the policy that is judged."""
        return self._drawn(learner, learner.judged_actor, observation, key), memory

    def _drawn(
        self, learner: SoftLearner, actor: Params, observation: jax.Array, key: jax.Array
    ) -> jax.Array:
        key_logits, key_action = jax.random.split(key)
        num_actions = self._num_actions(learner)
        noise = self.draw(learner.latent, observation, num_actions, key_logits)
        logits = self.logits(actor, learner.latent, observation, num_actions, noise)
        return jax.random.categorical(key_action, logits).astype(jnp.int32)

    def acting(self, learner: SoftLearner) -> SoftLearner:
        """The actor that it is judged by alone, and what it keeps of its answers."""
        nothing: PyTree = ()
        return SoftLearner(
            *(nothing,) * 7, judged_actor=learner.judged_actor, latent=learner.latent
        )

    def judged_actor(self, learner: SoftLearner) -> Params:
        """The parameters of the actor by which the policy is judged."""
        return learner.judged_actor

    def started(self, learner: SoftLearner, actor: Params) -> SoftLearner:
        """A fresh learner, with the parameters of another policy's actor in place of its own."""
        return learner._replace(actor=actor, judged_actor=actor)

    def preferences(self, learner: SoftLearner, observation: jax.Array) -> jax.Array:
        """[A] the greedy logits."""
        num_actions = self._num_actions(learner)
        return self.greedy_logits(learner.judged_actor, learner.latent, observation, num_actions)

    def update(
        self, learner: SoftLearner, batch: Transition, key: jax.Array
    ) -> tuple[SoftLearner, Metrics]:
        """One step of Adam on critics, actor and temperature, each from the old parameters.

        So the actor's loss takes Q(s, ·) from the critics' own forward pass.
        """
        num_actions = self._num_actions(learner)
        temperature = jnp.exp(learner.log_temperature)
        # One draw for both: random numbers are a large part of a small update.
        both = jnp.stack([batch.next_observation, batch.observation])
        noise = self.draw(learner.latent, both, num_actions, key)
        noise_next, noise_now = (jax.tree.map(lambda x: x[:, i], noise) for i in range(2))  # noqa: B023
        target = self._target(learner, batch, noise_next, temperature)
        (critic_loss, q), critic_gradient = self._critic_gradient(learner, batch, target)
        (actor_loss, log_probability), actor_gradient = self._actor_gradient(
            learner, batch.observation, noise_now, q, temperature
        )
        entropy = jnp.mean(losses.entropy(log_probability))
        wanted = self.target_entropy
        if wanted is None:
            wanted = self.target_entropy_ratio * math.log(num_actions)
        temperature_loss, temperature_gradient = jax.value_and_grad(losses.temperature_loss)(
            learner.log_temperature, entropy, wanted
        )

        actor, actor_optimiser = _adam(
            self.actor_learning_rate, learner.actor, actor_gradient, learner.actor_optimiser
        )
        new_critics, critic_optimiser = _adam(
            self.critic_learning_rate, learner.critics, critic_gradient, learner.critic_optimiser
        )
        log_temperature, temperature_optimiser = _adam(
            self.temperature_learning_rate,
            learner.log_temperature,
            temperature_gradient,
            learner.temperature_optimiser,
        )
        metrics = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "temperature_loss": temperature_loss,
            "entropy": entropy,
            "temperature": temperature,
            "q": jnp.mean(q),
            "critic_gradient_norm": optax.tree.norm(critic_gradient),
            "actor_gradient_norm": optax.tree.norm(actor_gradient),
        }
        learner = SoftLearner(
            actor=actor,
            critics=new_critics,
            target_critics=optax.incremental_update(new_critics, learner.target_critics, self.tau),
            log_temperature=log_temperature,
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            temperature_optimiser=temperature_optimiser,
            judged_actor=optax.incremental_update(actor, learner.judged_actor, self.actor_tau),
            latent=self.remember(learner.latent, batch.observation, log_probability),
        )
        return learner, metrics

    def _target(
        self, learner: SoftLearner, batch: Transition, noise: PyTree, temperature: jax.Array
    ) -> jax.Array:
        """[M] what the critics are drawn to, by the policy with ``noise`` at the next states."""
        num_actions = self._num_actions(learner)
        critics = self.critics(num_actions, learner.latent)
        seen = self.inputs(batch.next_observation)
        q: jax.Array = critics.apply(learner.target_critics, seen)  # [2, M, A]
        logits = self.logits(
            learner.actor, learner.latent, batch.next_observation, num_actions, noise
        )
        value = losses.soft_value(jax.nn.log_softmax(logits), q, temperature)
        return losses.td_target(batch.reward, batch.terminated, value, self.discount, batch.steps)

    def _critic_gradient(
        self, learner: SoftLearner, batch: Transition, target: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        """The critics' loss [], their values [2, M, A] and the loss's gradient."""
        critics = self.critics(self._num_actions(learner), learner.latent)
        seen = self.inputs(batch.observation)

        def loss_of(params: Params) -> tuple[jax.Array, jax.Array]:
            q: jax.Array = critics.apply(params, seen)
            error = losses.squared_error(losses.chosen(q, batch.action), target)
            return jnp.sum(jnp.mean(error, axis=-1)), q  # each critic learns on its own

        return jax.value_and_grad(loss_of, has_aux=True)(learner.critics)

    def _actor_gradient(
        self,
        learner: SoftLearner,
        observation: jax.Array,
        noise: PyTree,
        q: jax.Array,
        temperature: jax.Array,
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        """The actor's loss [], its log-probabilities [M, A] and the loss's gradient."""
        num_actions = self._num_actions(learner)

        def loss_of(params: Params) -> tuple[jax.Array, jax.Array]:
            logits = self.logits(params, learner.latent, observation, num_actions, noise)
            log_probability = jax.nn.log_softmax(logits)
            return -jnp.mean(losses.soft_value(log_probability, q, temperature)), log_probability

        return jax.value_and_grad(loss_of, has_aux=True)(learner.actor)

    def _num_actions(self, learner: SoftLearner) -> int:
        """A, which the last layer of the actor that it is judged by knows."""
        last = jax.tree_util.DictKey(f"layers_{len(self.hidden)}")
        for path, leaf in jax.tree_util.tree_leaves_with_path(learner.judged_actor):
            if last in path:
                return leaf.shape[-1]
        raise ValueError("the learner's actor has another number of hidden layers than the agent")


def _adam(
    learning_rate: float, params: Params, gradient: Params, state: optax.OptState
) -> tuple[Params, optax.OptState]:
    """One step of Adam: the new parameters and the optimiser's new state."""
    step, state = optax.adam(learning_rate).update(gradient, state)
    return optax.apply_updates(params, step), state
