"""SAC: discrete soft actor-critic with a multilayer perceptron for an actor."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Spec
from jaxmec.agents.soft import SoftActorCritic
from jaxmec.core.types import PyTree
from jaxmec.networks.mlp import MLP, Params
from jaxmec.struct import pytree


@pytree
class SAC(SoftActorCritic):
    """Soft actor-critic (Christodoulou 2019) whose actor is one MLP from state to logits.

    All fields are :class:`~jaxmec.agents.soft.SoftActorCritic`'s.
    """

    def init_actor(self, key: jax.Array, spec: Spec) -> Params:
        """Fresh parameters of the actor."""
        return self._actor(spec.num_actions).init(key, jnp.zeros(spec.observation_size))

    def logits(
        self, actor: Params, latent: PyTree, observation: jax.Array, num_actions: int, noise: PyTree
    ) -> jax.Array:
        """[..., A] the policy's logits, which are not random."""
        return self.greedy_logits(actor, latent, observation, num_actions)

    def greedy_logits(
        self, actor: Params, latent: PyTree, observation: jax.Array, num_actions: int
    ) -> jax.Array:
        """[..., A] the policy's logits."""
        logits: jax.Array = self._actor(num_actions).apply(actor, observation)
        return logits

    def _actor(self, num_actions: int) -> MLP:
        return MLP(self.hidden, num_actions, self.activation)
