"""Pathwise learning: a policy that follows the gradient of its cost through the simulator.

Where an environment's step can be differentiated, the cost of a window of decisions has a
gradient with respect to the policy's parameters, through the decoder, the queues and, for a
diffusion actor, all K steps of its chain: no critic stands between (Clavera et al. 2020,
"Model-augmented actor-critic"; Xu et al. 2022, SHAC; diffusion actors by Wang et al. 2023).
The trainer, :mod:`jaxmec.training.pathwise`, takes the gradient; here is what to do with it.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmec.agents.base import Layout, Metrics, Spec, Transition
from jaxmec.agents.chain import DiffusionPolicy, ordered_repr
from jaxmec.core import checks
from jaxmec.core.types import PyTree
from jaxmec.networks.chain import ReverseChainActor
from jaxmec.networks.mlp import ACTIVATIONS, Params
from jaxmec.struct import pytree, static


@pytree
class Sizes:
    """What the networks are sized by: a tree without leaves, kept in the learner."""

    observation_size: int = static()
    num_actions: int = static()  # A
    layout: Layout = static()  # (name, length) of an observation's parts

    @property
    def num_servers(self) -> int:
        """B, the length of an observation's longest parts."""
        return max((length for _, length in self.layout), default=1)


class PathwiseLearner(NamedTuple):
    """What learning changes."""

    actor: Params  # of the best policy so far, by which it is judged
    sizes: Sizes
    candidate: Params  # those that are being trained
    optimiser: optax.OptState
    cost: jax.Array  # [] of the best policy on the validation windows; infinite before any
    updates: jax.Array  # [] int32
    rate: jax.Array  # [] factor on the learning rate, halved whenever it goes back to the best
    key: jax.Array  # [] of the restarts; constant
    starts: jax.Array  # [] int32, starts that have begun; one more once the best of them goes on


@pytree
class Pathwise(DiffusionPolicy):
    """A diffusion actor, or a plain network, that descends the gradient of its own cost.

    An action is A real numbers. The denoising chain's noise is drawn anew at each decision
    while training, so that the cost is averaged over it; judged, the chain has none. With
    ``denoising_steps`` 0 there is no chain.

    The gradient through a long window of decisions explodes now and then. So that one bad window
    does not outweigh the others, the gradient with respect to each number that passes from
    decision to decision is bounded (``gradient_limit``), and so is the norm of the whole.

    The policy that was best on the validation windows is kept. After the first ``trial_updates``,
    one that is worse than it by more than ``tolerance`` goes back to it, with half the learning
    rate.

    Where the descent ends depends on its random initial parameters: some learn to give a task to
    few servers, others stay near splitting each over all. So with ``trials`` above 1 it restarts,
    ``trial_updates`` from each, and the best of them goes on.

    Raises:
        ValueError: a field outside what its comment allows; in ``init``, network "servers"
            where the observation has no parts a server or A is no multiple of B.
    """

    judged_chains: ClassVar[int] = 0  # judged, its chain has no noise

    discount: float = 1.0  # γ of the reported return; the cost of a window is not discounted
    learning_rate: float = 3e-3  # of Adam at the start, > 0
    final_learning_rate: float = 5e-5  # where training ends, > 0; from the trials on a cosine
    trials: int = static(default=1)  # random initialisations to try, >= 1
    trial_updates: int = static(default=400)  # updates before one is compared, >= 1
    squared_decay: float = 0.99  # β_2 of Adam, in [0, 1)
    max_gradient_norm: float = 1.0  # longer gradients are scaled down to it, > 0
    gradient_limit: float = 5.0  # s of cost a unit of observation, score or queue, > 0
    tolerance: float = 0.03  # how much worse than the best it may become, as a share, >= 0
    hidden: tuple[int, ...] = static(default=(64, 64))  # widths of the hidden layers
    activation: str = static(default="relu")  # relu, tanh, silu, mish or gelu
    bound: float = 5.0  # c, within which clip keeps the scores, > 0

    def __post_init__(self) -> None:
        checks.fields(
            self,
            discount=checks.number(0, most=1),
            learning_rate=checks.number(above=0),
            final_learning_rate=checks.number(above=0),
            trials=checks.whole(1),
            trial_updates=checks.whole(1),
            squared_decay=checks.number(0, most=1),
            max_gradient_norm=checks.number(above=0),
            gradient_limit=checks.number(above=0),
            tolerance=checks.number(0),
        )
        self.check_chain(least_steps=0)
        checks.fields(
            self,
            hidden=checks.widths,
            activation=checks.one_of(ACTIVATIONS),
        )

    def __repr__(self) -> str:
        return ordered_repr(
            self,
            ("network", "hidden", "activation", "denoising_steps", "schedule", "predict", "clip",
             "embedding_size", "bound"),
        )  # fmt: skip

    def init(self, key: jax.Array, spec: Spec) -> PathwiseLearner:
        """Fresh parameters; the best policy so far is the one it starts with."""
        sizes = Sizes(spec.observation_size, spec.num_actions, spec.layout)
        if self.network == "servers" and spec.num_actions % sizes.num_servers:
            raise ValueError(
                f"network 'servers' puts out as many numbers for each of {sizes.num_servers} "
                f"servers, got {spec.num_actions} in all; make the environment with "
                "action='score'"
            )
        key_first, key_others = jax.random.split(key)
        parameters = self._actor(sizes).init(key_first, spec.observation_size)
        dtype = jnp.result_type(float)
        return PathwiseLearner(
            actor=parameters,
            sizes=sizes,
            candidate=parameters,
            optimiser=self._optimiser().init(parameters),
            cost=jnp.full((), jnp.inf, dtype),
            updates=jnp.zeros((), jnp.int32),
            rate=jnp.ones((), dtype),
            key=key_others,
            starts=jnp.ones((), jnp.int32),
        )

    def init_memory(self, spec: Spec) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def act(
        self,
        learner: PathwiseLearner,
        memory: tuple[()],
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, tuple[()], tuple[()]]:
        """[A] scores: the trained policy's while exploring, the best one's when judged."""
        if explore:
            return self.decide(learner, learner.candidate, observation, key), memory, ()
        return self.preferences(learner, observation), memory, ()

    def sample(
        self, learner: PathwiseLearner, memory: tuple[()], observation: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """[A] scores by the best policy's chain from noise."""
        return self.decide(learner, learner.actor, observation, key), memory

    def acting(self, learner: PathwiseLearner) -> PathwiseLearner:
        """The best policy alone."""
        nothing: PyTree = ()
        return PathwiseLearner(learner.actor, learner.sizes, *(nothing,) * 7)

    def preferences(self, learner: PathwiseLearner, observation: jax.Array) -> jax.Array:
        """[A] the scores that the best policy gives, without noise."""
        return self._actor(learner.sizes).greedy_logits(learner.actor, observation)

    def chains(
        self, learner: PathwiseLearner, observation: jax.Array, key: jax.Array, number: int
    ) -> jax.Array:
        """[number, K + 1, A] chains x_K, ..., x_0 of the best policy at one observation; K >= 1."""
        actor = self._actor(learner.sizes)
        state = jnp.broadcast_to(observation, (number, *observation.shape))
        path = actor.path(learner.actor, state, actor.sample_noise(key, number))
        return jnp.moveaxis(path, 0, 1)

    def update(
        self, learner: PathwiseLearner, batch: Transition, key: jax.Array
    ) -> tuple[PathwiseLearner, Metrics]:
        """There is nothing to learn from transitions: always a ``TypeError``."""
        raise TypeError(
            "Pathwise learns from the gradient of the environment and not from transitions; "
            "give its training a PathwiseConfig instead of a TrainConfig"
        )

    # What the trainer asks for.

    def parameters(self, learner: PathwiseLearner) -> Params:
        """What the gradient is taken with respect to."""
        return learner.candidate

    def decide(
        self,
        learner: PathwiseLearner,
        parameters: Params,
        observation: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """[A] scores for one observation, differentiable; without a key, without noise."""
        actor = self._actor(learner.sizes)
        if key is None:
            return actor.greedy_logits(parameters, observation)
        return actor.logits(parameters, observation, actor.sample_noise(key))

    def improve(
        self, learner: PathwiseLearner, gradient: Params, progress: jax.Array
    ) -> tuple[PathwiseLearner, Metrics]:
        """One step of Adam along the gradient; none where it is not finite.

        ``progress`` [] is 0 at a training's first update and 1 at its last.
        """
        norm = optax.tree.norm(gradient)
        usable = jnp.isfinite(norm)
        gradient = jax.tree.map(lambda g: jnp.where(usable, g, 0), gradient)
        step, optimiser = self._optimiser().update(gradient, learner.optimiser)
        rate = self.rate_at(progress, learner.updates) * learner.rate
        candidate = jax.tree.map(
            lambda p, s: (p - rate * s).astype(p.dtype), learner.candidate, step
        )
        metrics = {
            "gradient_norm": jnp.where(usable, norm, 0),
            "unusable_gradients": 1 - usable.astype(norm.dtype),
            "learning_rate": rate.astype(norm.dtype),
        }
        learner = learner._replace(
            candidate=candidate, optimiser=optimiser, updates=learner.updates + 1
        )
        return learner, metrics

    def imitate(
        self,
        learner: PathwiseLearner,
        observations: jax.Array,
        actions: jax.Array,
        key: jax.Array,
        progress: jax.Array,
    ) -> tuple[PathwiseLearner, Metrics]:
        """One step of Adam to giving ``actions`` [M, A] at ``observations`` [M, S].

        Along the gradient of the actor's diffusion loss (:meth:`imitation_loss`), nothing else;
        ``progress`` [] is as for :meth:`improve`.
        """

        def loss(parameters: Params) -> jax.Array:
            moved = learner._replace(candidate=parameters)
            return jnp.mean(self.imitation_loss(moved, observations, actions, key))

        value, gradient = jax.value_and_grad(loss)(learner.candidate)
        learner, metrics = self.improve(learner, gradient, progress)
        return learner, {**metrics, "imitation_loss": value}

    def imitation_loss(
        self, learner: PathwiseLearner, observations: jax.Array, actions: jax.Array, key: jax.Array
    ) -> jax.Array:
        """[M] how far the trained policy is from giving ``actions`` [M, A]."""
        keys = jax.random.split(key, observations.shape[0])
        each = jax.vmap(self._actor(learner.sizes).imitation_loss, in_axes=(None, 0, 0, 0))
        return each(learner.candidate, observations, actions, keys)

    def judged_actor(self, learner: PathwiseLearner) -> Params:
        """The parameters of the actor by which the policy is judged."""
        return learner.actor

    def started(self, learner: PathwiseLearner, actor: Params) -> PathwiseLearner:
        """A fresh learner, with the parameters of another policy's actor in place of its own.

        Raises:
            ValueError: several trials, whose later starts are drawn.
        """
        if self.trials > 1:
            raise ValueError(
                f"trials must be 1 where training starts from a policy, got {self.trials}"
            )
        return learner._replace(actor=actor, candidate=actor)

    def judge(self, learner: PathwiseLearner, cost: jax.Array) -> PathwiseLearner:
        """Keep the trained policy if its cost on the validation windows is the least so far."""
        better = cost < learner.cost
        # From a policy that was learned in another way, the cost may rise at first.
        behind = (cost > learner.cost * (1 + self.tolerance)) & (
            learner.updates > self.trial_updates
        )
        fallen = behind | jnp.isnan(cost)
        restart = tried = jnp.zeros((), bool)
        if self.trials > 1:
            due = learner.updates >= learner.starts * self.trial_updates
            restart = due & (learner.starts < self.trials)
            tried = due & (learner.starts == self.trials)
            fallen &= learner.starts > self.trials  # while trials last, none goes back

        def chosen(this: jax.Array, one: PyTree, other: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(this, a, b), one, other)

        actor = chosen(better, learner.candidate, learner.actor)
        candidate = chosen(fallen | tried, actor, learner.candidate)
        if self.trials > 1:
            key = jax.random.fold_in(learner.key, learner.starts)
            fresh = self._actor(learner.sizes).init(key, learner.sizes.observation_size)
            candidate = chosen(restart, fresh, candidate)
        begins = fallen | tried | restart
        return learner._replace(
            actor=actor,
            candidate=candidate,
            optimiser=chosen(begins, self._optimiser().init(actor), learner.optimiser),
            starts=learner.starts + (restart | tried),
            cost=jnp.where(better, cost, learner.cost),
            rate=jnp.where(fallen, learner.rate / 2, learner.rate),
        )

    def rate_at(self, progress: jax.Array, updates: jax.Array) -> jax.Array:
        """[] the learning rate at so much ``progress`` [] in [0, 1], before any fall.

        While starts are tried it stays where it begins, and comes down over what is left:
        ``updates`` [] are those made until now, of which the tried ones are a known number.
        """
        if self.trials > 1:
            tried = self.trials * self.trial_updates
            # Of T updates: progress is updates/T, and wanted is (updates - tried)/(T - tried).
            left = jnp.maximum(1, updates - tried * progress)
            progress = jnp.clip(progress * (updates - tried) / left, 0, 1)
        cosine = (1 + jnp.cos(jnp.pi * progress)) / 2
        return self.final_learning_rate + cosine * (self.learning_rate - self.final_learning_rate)

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.scale_by_adam(b2=self.squared_decay),
        )

    def _actor(self, sizes: Sizes) -> ReverseChainActor:
        return self.chain_actor(
            sizes.num_actions,
            sizes.layout,
            outputs=sizes.num_actions // sizes.num_servers,
            hidden=self.hidden,
            activation=self.activation,
        )
