"""Top-k DQN: one value a server, and the k best servers act together (SMCoEdge).

Source: SMCoEdge (Xu et al.); docs/model.md, "Methods". It takes B values, where a network
over sets needs one for each of the B-choose-k.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.agents.q_learning import QLearning
from jaxmec.core import checks
from jaxmec.struct import pytree, static


@pytree
class TopKDQN(QLearning):
    """Deep Q-network whose action is the k servers of largest value, the best first.

    The value of the j-th server chosen is drawn to r + γ times the j-th largest value of the
    next state. Fields, errors and algorithm are those of
    :class:`jaxmec.agents.q_learning.QLearning`; the environment's action is "top_k" with the
    same ``k``.
    """

    k: int = static(default=3)  # servers that one task is split among, 1..B

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(
            self,
            k=checks.whole(1),
        )

    def greedy(self, q: jax.Array) -> jax.Array:
        """[k] int32, the servers of the largest values [B], the largest first.

        Raises:
            ValueError: more servers than there are.
        """
        if self.k > q.shape[-1]:
            raise ValueError(
                f"k must be at most the number of servers, {q.shape[-1]}, got {self.k}"
            )
        return jax.lax.top_k(q, self.k)[1].astype(jnp.int32)

    def random(self, key: jax.Array, q: jax.Array) -> jax.Array:
        """[k] int32, any k different servers in any order."""
        return jax.random.permutation(key, q.shape[-1])[: self.k].astype(jnp.int32)

    def taken(self, q: jax.Array, action: jax.Array) -> jax.Array:
        """[M, k] the values, of [M, B], of the servers chosen [M, k]."""
        return jnp.take_along_axis(q, action, axis=-1)

    def next_value(self, target_q: jax.Array, judge: jax.Array) -> jax.Array:
        """[M, k] values, of ``target_q`` [M, B], of the servers with the k largest in ``judge``."""
        return jnp.take_along_axis(target_q, self.greedy(judge), axis=-1)
