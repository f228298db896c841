"""Latent action diffusion: a chain that starts from the policy's last answer (LAD-TS).

The last answer is that for the same slot, station and position of an episode, its place. The
environment says where it is (its option ``show_place``) as the last entry of an observation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Layout, Spec
from jaxmec.core.types import PyTree
from jaxmec.struct import pytree, static

PLACE = "place"  # the name of the feature that says where in an episode a task is


@pytree
class Latent:
    """What a learner with a diffusion actor keeps beside its parameters."""

    answers: PyTree = ()  # [places, A] the last probabilities of each place; () without a table
    layout: Layout = static(default=())  # of what the networks see, where they are to know
    num_actions: int = static(default=0)  # A

    def last(self, observation: jax.Array) -> jax.Array:
        """[..., A] the last answers for the places of observations [..., S].

        The barrier keeps the compiler from reading them again where they are used: read after
        :meth:`renewed`, the whole table would be copied first.
        """
        answers = jax.lax.optimization_barrier(self.answers[self._place(observation)])
        return jax.lax.stop_gradient(answers)

    def renewed(self, observation: jax.Array, log_probability: jax.Array) -> Latent:
        """With the answers [M, A] at observations [M, S] in place of the last ones."""
        answers = self.answers.at[self._place(observation)].set(jnp.exp(log_probability))
        return Latent(answers, self.layout, self.num_actions)

    def _place(self, observation: jax.Array) -> jax.Array:
        """[...] int32, the rows of observations [..., S]; places beyond the table share rows."""
        return observation[..., -1].astype(jnp.int32) % self.answers.shape[0]


def fresh_answers(spec: Spec, places: int) -> jax.Array:
    """[places, A] no preference at any place.

    Raises:
        ValueError: observations that do not say where in the episode they are.
    """
    if spec.layout[-1:] != ((PLACE, 1),):
        raise ValueError(
            "start 'last' needs observations that end with their place in the episode; "
            "make the environment with show_place=True"
        )
    return jnp.full((places, spec.num_actions), 1 / spec.num_actions)
