"""DSAC: discrete soft actor-critic with the diffusion actor (docs/model.md)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmec.agents.base import WORTH, Spec, masked, part_of
from jaxmec.agents.chain import DiffusionPolicy, ordered_repr
from jaxmec.agents.latent import Latent, fresh_answers
from jaxmec.agents.soft import SoftActorCritic, SoftLearner
from jaxmec.core import checks
from jaxmec.core.types import Keywords
from jaxmec.networks.chain import ReverseChainActor
from jaxmec.networks.mlp import Params
from jaxmec.networks.servers import StackedServerValues, shared_layout, without_output
from jaxmec.struct import pytree, static

STARTS = ("noise", "last")


@pytree
class DSAC(DiffusionPolicy, SoftActorCritic):
    """Soft actor-critic whose policy is softmax(x_0) of a reverse chain from noise x_K.

    A decision while exploring draws the chain's noise and then the action. Judged, it takes
    the most probable action of the policy that explores: the probabilities averaged over
    ``judged_chains`` chains, whose noise is the same at every decision; with 0 of them it
    follows one chain without noise (x_K = 0 and z = 0) instead. The entropy that the
    temperature controls is that of π(·|s, noise), averaged over the noise: the policy as
    seen from outside has more.

    With ``start`` "last" the chain starts from the action probabilities that the actor last
    gave for the same slot, station and position of an episode, instead of noise: the latent
    action diffusion of LAD-TS. The environment then says where it is (its option
    ``show_place``), the learner keeps ``places`` answers, renewed by every update, and the place
    is no input of the networks. The published method renews an answer when a task is
    decided, and one environment has one table; here a thousand environments share one, and
    a policy that is saved takes it along.

    With ``network`` "servers" an action is a server, or one of its options, and actor and critics
    are networks shared over the actions (`jaxmec.networks.servers`): what is learned of one holds
    for all, and the cost grows linearly in their number. The observation must then say all there
    is to know of an action in its own part (the environment's ``features`` "times" or "options").
    Actions that it says there are not are never taken.

    With ``prior`` above 0 the logits are the chain's and so many times what a rule gives for each
    action, where observations of a shared network say that (the part "worth" of serving). A fresh
    network says nothing, so that training begins at the rule.

    The defaults bound x̂_0 softly and predict it directly; :meth:`published` is the actor of
    D2SAC as published. See the traps in docs/model.md.

    Raises:
        ValueError: a field outside what its comment allows.
    """

    judged_chains: int = static(default=8)  # averaged over when judged; 0: one without noise
    start: str = static(default="noise")  # what x_K is: noise, or the last probabilities ("last")
    places: int = static(default=0)  # of "last": answers kept, slots x stations x positions
    prior: float = static(default=0.0)  # times what a rule gives for each action, in the logits

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_chain(least_steps=1 if self.start == "last" else 0)
        checks.fields(
            self,
            judged_chains=checks.whole(0),
            start=checks.one_of(STARTS),
            places=checks.whole(1 if self.start == "last" else 0),
            prior=checks.number(0),
        )

    def __repr__(self) -> str:
        return ordered_repr(
            self,
            ("denoising_steps", "schedule", "predict", "clip", "judged_chains", "embedding_size",
             "start", "places", "network", "bound", "prior"),
        )  # fmt: skip

    @classmethod
    def published(cls, **changes: object) -> DSAC:
        """The published D2SAC: x̂_0 from the noise, not clipped, and α on its way to nothing.

        A target entropy of −1 is out of a discrete policy's reach, so α only falls. For
        comparison; ``changes`` override fields.
        """
        fields: Keywords = {
            "predict": "noise",
            "clip": "none",
            "activation": "mish",
            "actor_learning_rate": 1e-4,
            "critic_learning_rate": 1e-3,
            "temperature_learning_rate": 3e-4,
            "temperature": 0.05,
            "target_entropy": -1.0,
            "tau": 0.005,
        }
        return cls(**(fields | changes))

    def init_actor(self, key: jax.Array, spec: Spec) -> Params:
        """Fresh parameters of the noise network."""
        latent = self.init_latent(spec)
        size = self.inputs(jnp.zeros(spec.observation_size)).shape[-1]
        actor = self._actor(latent).init(key, size)
        if self.prior and part_of(jnp.zeros(size), latent.layout, WORTH) is None:
            raise ValueError(
                f"prior is {self.prior}; expected 0 where observations have no part {WORTH!r}, "
                f"got {latent.layout!r}"
            )
        return without_output(actor, len(self.hidden)) if self.prior else actor

    def draw(
        self, latent: Latent, observation: jax.Array, num_actions: int, key: jax.Array
    ) -> jax.Array:
        """[K, ..., A] the noise of one chain for each observation [..., S], x_K first."""
        shape = (self.denoising_steps, *observation.shape[:-1], num_actions)
        if self.start == "noise":
            return jax.random.normal(key, shape)
        rest = jax.random.normal(key, (shape[0] - 1, *shape[1:]))
        return jnp.concatenate([latent.last(observation)[None], rest])

    def logits(
        self,
        actor: Params,
        latent: Latent,
        observation: jax.Array,
        num_actions: int,
        noise: jax.Array,
    ) -> jax.Array:
        """[..., A] x_0 of the chain from noise [K, ..., A] at observations [..., S].

        ``ABSENT`` for actions that an observation says there are not.
        """
        seen = self.inputs(observation)
        said = self._actor(latent).logits(actor, seen, noise)
        worth = part_of(seen, latent.layout, WORTH)
        if self.prior and worth is not None:
            said = said + self.prior * worth
        return masked(said, seen, latent.layout)

    def greedy_logits(
        self, actor: Params, latent: Latent, observation: jax.Array, num_actions: int
    ) -> jax.Array:
        """[..., A] log of the probabilities averaged over the judged chains, or x_0 without noise.

        Any fixed key would do for the noise; the average over more chains depends on it less.
        """
        batch = observation.shape[:-1]
        chains = max(1, self.judged_chains)
        shape = (self.denoising_steps, chains, num_actions)
        drawn = jnp.zeros(shape, observation.dtype)
        if self.judged_chains:
            drawn = jax.random.normal(jax.random.key(0), shape)

        def of_chain(noise: jax.Array) -> jax.Array:
            middle = noise.reshape(noise.shape[0], *(1,) * len(batch), num_actions)
            noise = jnp.broadcast_to(middle, (noise.shape[0], *batch, num_actions))
            if self.start == "last":
                noise = jnp.concatenate([latent.last(observation)[None], noise[1:]])
            return self.logits(actor, latent, observation, num_actions, noise)

        if self.judged_chains == 0 or self.denoising_steps == 0:
            return of_chain(drawn[:, 0])
        logits = jax.vmap(of_chain, in_axes=1)(drawn)  # [chains, ..., A]
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(self.judged_chains)

    def chains(
        self, learner: SoftLearner, observation: jax.Array, key: jax.Array, number: int
    ) -> jax.Array:
        """[number, K + 1, A] chains x_K, ..., x_0 of the judged actor at one observation [S]."""
        latent = learner.latent
        actor = self._actor(latent)
        state = jnp.broadcast_to(observation, (number, *observation.shape))
        noise = self.draw(latent, state, latent.num_actions, key)
        path = actor.path(learner.judged_actor, self.inputs(state), noise)
        return jnp.moveaxis(path, 0, 1)

    def init_latent(self, spec: Spec) -> Latent:
        """No preference at any place, and what the networks must know of an observation.

        Raises:
            ValueError: observations that do not say where in the episode they are, or
                nothing of each server, where that is needed.
        """
        answers = fresh_answers(spec, self.places) if self.start == "last" else ()
        if self.network == "flat":
            return Latent(answers, (), spec.num_actions)
        layout = spec.layout[:-1] if self.start == "last" else spec.layout
        return Latent(answers, shared_layout(layout, spec.num_actions), spec.num_actions)

    def remember(
        self, latent: Latent, observation: jax.Array, log_probability: jax.Array
    ) -> Latent:
        """The answers [places, A] with those at observations [M, S] renewed."""
        if self.start == "noise":
            return latent
        return latent.renewed(observation, log_probability)

    def inputs(self, observation: jax.Array) -> jax.Array:
        """[..., S'] observations without the place, which is a label and no quantity."""
        return observation if self.start == "noise" else observation[..., :-1]

    def critics(self, num_actions: int, latent: Latent) -> nn.Module:
        """The twin critics, of the network's kind."""
        if self.network == "flat":
            return super().critics(num_actions, latent)
        return StackedServerValues(self.hidden, latent.layout, num_actions, self.activation)

    def _num_actions(self, learner: SoftLearner) -> int:
        return learner.latent.num_actions

    def _actor(self, latent: Latent) -> ReverseChainActor:
        return self.chain_actor(
            latent.num_actions,
            latent.layout,
            outputs=1,
            hidden=self.hidden,
            activation=self.activation,
        )
