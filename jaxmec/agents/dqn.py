"""DQN: deep Q-learning over discrete actions.

Sources: Mnih et al. 2015; van Hasselt et al. 2016 for the double target.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.agents import losses
from jaxmec.agents.base import ABSENT
from jaxmec.agents.q_learning import QLearning
from jaxmec.struct import pytree


@pytree
class DQN(QLearning):
    """Deep Q-network: one value for each of A discrete actions, the best of which is taken.

    Fields, errors and algorithm are those of :class:`jaxmec.agents.q_learning.QLearning`.
    """

    def greedy(self, q: jax.Array) -> jax.Array:
        """[] int32, the action of the largest value."""
        return jnp.argmax(q, axis=-1).astype(jnp.int32)

    def random(self, key: jax.Array, q: jax.Array) -> jax.Array:
        """[] int32, any action that there is."""
        if self.network == "flat":
            return jax.random.randint(key, (), 0, q.shape[-1], jnp.int32)
        there = jnp.where(q > ABSENT, 0.0, -jnp.inf)
        return jax.random.categorical(key, there).astype(jnp.int32)

    def taken(self, q: jax.Array, action: jax.Array) -> jax.Array:
        """[M] Q(s, a) for values [M, A] and actions [M]."""
        return losses.chosen(q, action)

    def next_value(self, target_q: jax.Array, judge: jax.Array) -> jax.Array:
        """[M] the value of the action that is best by ``judge`` [M, A]."""
        return losses.double_q_value(target_q, judge)
