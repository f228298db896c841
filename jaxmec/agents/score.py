"""Twin critics and a diffusion actor over scores: the model-free agent of action mode "score".

The actor denoises an offset to each server's wait and a log-factor on its service time; the
environment turns them into a set of servers and fractions. Source: deterministic policy
gradients with twin critics (Fujimoto et al. 2018, TD3) through an unrolled diffusion actor
(Wang et al. 2023, "Diffusion-QL"), both networks shared over the servers.

What a station sees ends with its turn: of what it did to the others' waits its next
observation tells nothing, and a critic of observations cannot learn a price for it. Where the
environment tells what the simulator knows (``privileged``), the critics therefore see the true
waits while they learn, and the actor never does (Pinto et al. 2018, "Asymmetric actor critic").
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmec.agents import checks, losses
from jaxmec.agents.base import Metrics, Spec, Transition
from jaxmec.networks.chain import CLIPS, PREDICTIONS, SCHEDULES
from jaxmec.networks.mlp import ACTIVATIONS
from jaxmec.networks.pooled import StackedPooledMLP, sparse_split
from jaxmec.networks.servers import EquivariantDiffusionActor
from jaxmec.struct import pytree, static

MAX_LOG_FACTOR = 5.0  # the environment counts log-factors within ±5


class ScoreLearner(NamedTuple):
    """What learning changes."""

    actor: Any
    target_actor: Any  # its moving average, by which the policy is judged
    critics: Any  # [2] stacked
    target_critics: Any  # [2]
    mean_reward: jax.Array  # [] moving average, taken off every reward
    slot_value: jax.Array  # [] moving average of V where a slot begins, taken off there
    updates: jax.Array  # [] int32, gradient updates made
    actor_optimiser: Any
    critic_optimiser: Any
    layout: Any = ()


@pytree
class Layout:
    """Where the parts of an observation are: a tree without leaves, kept in the learner."""

    parts: tuple[tuple[str, int], ...] = static()  # (name, length)
    num_servers: int = static()  # B

    def split(self, observation: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        """The servers' parts by name, each [..., B], and [..., G] all the others."""
        ends = list(itertools.accumulate(length for _, length in self.parts))
        pieces = jnp.split(observation, ends[:-1], axis=-1)
        servers, shared = {}, [observation[..., :0]]
        for (name, length), piece in zip(self.parts, pieces, strict=True):
            if length == self.num_servers:
                servers[name] = piece
            else:
                shared.append(piece)
        return servers, jnp.concatenate(shared, axis=-1)


@pytree
class ScoreTD3:
    """Scores of B servers from a diffusion actor, judged by twin critics of the split they give.

    The critics see the fractions that the scores stand for (:func:`sparse_split` of the waits
    and service times in the observation), which is all that the environment makes of them.
    The actor follows their gradient through the split and all K steps of the chain, from
    scores with noise added, so that it is that of a policy smoothed over the jumps where a
    server enters the set. It starts at scores near 0: water-filling on what is seen.

    Raises:
        ValueError: a field outside what its comment allows; in ``init``, a layout without
            the servers' "wait", "serve" and "compute" (the environment's ``features="times"``).
    """

    discount: float = 0.95  # γ, in [0, 1]
    actor_learning_rate: float = 1e-3  # of Adam, > 0
    critic_learning_rate: float = 1e-3  # of Adam, > 0
    tau: float = 0.01  # share that the targets take per update, in (0, 1]
    reward_scale: float = 0.1  # what a reward counts as 1, > 0
    centring_rate: float = 1e-3  # of the mean reward that is taken off, in [0, 1]; 0: nothing is
    slot_rate: float = 0.0  # of the average of V where slots begin, in [0, 1]; 0: none is taken
    exploration: float = 0.2  # standard deviation of the noise on each score, >= 0
    smoothing: float = 0.2  # the same within the actor's and the critics' losses, > 0
    max_gradient_norm: float = 1.0  # longer gradients of the actor are scaled down to it, > 0
    max_critic_gradient_norm: float = 10.0  # the same of the critics, > 0
    penalty: float = 0.01  # price of a score's square in the actor's loss, reward scales, >= 0
    initial_scale: float = 0.01  # of the actor's last layer, against an ordinary start, >= 0
    hidden: tuple[int, ...] = static(default=(32, 32))  # widths of the actor's hidden layers
    critic_hidden: tuple[int, ...] = static(default=(64, 64))  # widths of the critics'
    activation: str = static(default="relu")  # relu, tanh, silu, mish or gelu
    layer_norm: bool = static(default=False)  # layer normalisation in the critics
    candidates: int = static(default=8)  # scores tried a state in the actor's loss, even; or 0
    denoising_steps: int = static(default=3)  # K, >= 1
    schedule: str = static(default="vp")  # noise schedule: vp, linear or cosine
    predict: str = static(default="x0")  # what the network predicts: x0, or the noise
    clip: str = static(default="soft")  # how x_0's estimate is bounded: soft, hard or none
    embedding_size: int = static(default=16)  # of the step's sinusoidal embedding, even
    bound: float = 2.0  # c, within which clip keeps the scores, > 0

    def __post_init__(self) -> None:
        checks.number("discount", self.discount, least=0, most=1)
        checks.number("actor_learning_rate", self.actor_learning_rate, least=0, above=True)
        checks.number("critic_learning_rate", self.critic_learning_rate, least=0, above=True)
        checks.number("tau", self.tau, least=0, most=1, above=True)
        checks.number("reward_scale", self.reward_scale, least=0, above=True)
        checks.number("centring_rate", self.centring_rate, least=0, most=1)
        checks.number("slot_rate", self.slot_rate, least=0, most=1)
        checks.number("exploration", self.exploration, least=0)
        checks.number("smoothing", self.smoothing, least=0, above=True)
        for name in ("max_gradient_norm", "max_critic_gradient_norm"):
            checks.number(name, getattr(self, name), least=0, above=True)
        checks.number("penalty", self.penalty, least=0)
        checks.number("initial_scale", self.initial_scale, least=0)
        checks.widths("hidden", self.hidden)
        checks.widths("critic_hidden", self.critic_hidden)
        checks.choice("activation", self.activation, ACTIVATIONS)
        checks.flag("layer_norm", self.layer_norm)
        checks.whole("denoising_steps", self.denoising_steps, least=1)
        checks.choice("schedule", self.schedule, SCHEDULES)
        checks.choice("predict", self.predict, PREDICTIONS)
        checks.choice("clip", self.clip, CLIPS)
        checks.whole("embedding_size", self.embedding_size, least=2)
        checks.whole("candidates", self.candidates, least=0)
        if self.candidates % 2:
            raise ValueError(f"candidates must be even, got {self.candidates}")
        if self.embedding_size % 2:
            raise ValueError(f"embedding_size must be even, got {self.embedding_size}")
        checks.number("bound", self.bound, least=0, above=True)

    def init(self, key: jax.Array, spec: Spec) -> ScoreLearner:
        """Fresh parameters; the targets start equal to what they follow."""
        layout = Layout(spec.layout, spec.num_actions // 2)
        of_servers = {name for name, length in spec.layout if length == layout.num_servers}
        if spec.num_actions % 2 or not of_servers >= {"wait", "serve", "compute"}:
            raise ValueError(
                f"layout must have 'wait', 'serve' and 'compute' of {layout.num_servers} servers "
                f"for {spec.num_actions} scores, got {spec.layout!r}; make the environment with "
                "action='score' and features='times'"
            )
        key_actor, key_critics = jax.random.split(key)
        actor = self._actor(layout).init(key_actor, spec.observation_size)
        last = {f"{part}_{len(self.hidden) - 1}" for part in ("own", "pooled")}
        scale = self.initial_scale
        actor = {
            "params": {
                name: jax.tree.map(lambda leaf: scale * leaf, layer) if name in last else layer
                for name, layer in actor["params"].items()
            }
        }
        blank = jnp.zeros(spec.observation_size)
        inputs = self._inputs(layout, blank, jnp.zeros(spec.num_actions), ())
        critics = self._critics(2).init(key_critics, *inputs)
        return ScoreLearner(
            actor=actor,
            target_actor=actor,
            critics=critics,
            target_critics=critics,
            mean_reward=jnp.zeros((), jnp.result_type(float)),
            slot_value=jnp.zeros((), jnp.result_type(float)),
            updates=jnp.zeros((), jnp.int32),
            actor_optimiser=self._actor_optimiser.init(actor),
            critic_optimiser=self._critic_optimiser.init(critics),
            layout=layout,
        )

    def judged_actor(self, learner: ScoreLearner) -> Any:
        """The parameters of the actor by which the policy is judged."""
        return learner.target_actor

    def started(self, learner: ScoreLearner, actor: Any) -> ScoreLearner:
        """A fresh learner, with the parameters of another policy's actor in place of its own."""
        return learner._replace(actor=actor, target_actor=actor)

    def init_memory(self, spec: Spec) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def act(
        self,
        learner: ScoreLearner,
        memory: tuple[()],
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, tuple[()], tuple[()]]:
        """[2 B] the scores of one chain with noise on them; judged, those without any noise."""
        if not explore:
            return self.preferences(learner, observation), memory, ()
        scores = self._scores(
            learner.layout, learner.actor, observation, key, noise=self.exploration
        )
        return scores, memory, ()

    def acting(self, learner: ScoreLearner) -> ScoreLearner:
        """The averaged actor alone."""
        nothing: Any = ()
        return ScoreLearner(nothing, learner.target_actor, *((nothing,) * 7), layout=learner.layout)

    def preferences(self, learner: ScoreLearner, observation: jax.Array) -> jax.Array:
        """[2 B] x_0 of the averaged actor's chain without noise: the scores themselves."""
        return self._actor(learner.layout).greedy_logits(learner.target_actor, observation)

    def chains(
        self, learner: ScoreLearner, observation: jax.Array, key: jax.Array, number: int
    ) -> jax.Array:
        """[number, K + 1, 2 B] chains x_K, ..., x_0 of the judged actor at one observation [S]."""
        actor = self._actor(learner.layout)
        state = jnp.broadcast_to(observation, (number, *observation.shape))
        path = actor.path(learner.target_actor, state, actor.sample_noise(key, number))
        return jnp.moveaxis(path, 0, 1)

    def update(
        self, learner: ScoreLearner, batch: Transition, key: jax.Array
    ) -> tuple[ScoreLearner, Metrics]:
        """One step of Adam on the critics and then on the actor.

        Raises:
            ValueError: ``slot_rate`` with transitions of several steps, of which nothing says
                whether the last begins a slot.
        """
        if not isinstance(batch.steps, tuple) and not (
            isinstance(self.slot_rate, int | float) and self.slot_rate == 0
        ):
            raise ValueError(
                f"slot_rate is {self.slot_rate}; expected 0 with n_step above 1, "
                "where a transition may pass the beginning of a slot"
            )
        layout = learner.layout
        key_next, key_now, key_noise = jax.random.split(key, 3)
        reward = batch.reward / self.reward_scale
        mean_reward = learner.mean_reward
        # At first a plain average: a moving one would take its time to leave 0.
        rate = jnp.maximum(self.centring_rate, 1 / (1 + learner.updates))
        rate = jnp.where(self.centring_rate > 0, rate, 0)
        counted = losses.rewards_counted(self.discount, batch.steps)
        mean_reward += rate * (jnp.mean(reward) / jnp.mean(counted) - mean_reward)

        next_scores = self._scores(
            layout, learner.target_actor, batch.next_observation, key_next, noise=self.smoothing
        )
        target_q = self._q(
            layout,
            learner.target_critics,
            batch.next_observation,
            next_scores,
            batch.next_privileged,
        )
        next_value, slot_value = self._slot_by_slot(
            jnp.mean(target_q, axis=0), batch, learner.slot_value
        )
        target = losses.td_target(
            reward - counted * mean_reward,
            batch.terminated,
            next_value,
            self.discount,
            batch.steps,
        )

        def critic_loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            q = self._q(layout, params, batch.observation, batch.action, batch.privileged)
            error = losses.squared_error(q, target)
            return jnp.sum(jnp.mean(error, axis=-1)), jnp.mean(q)

        (critic_loss, mean_q), critic_gradient = jax.value_and_grad(critic_loss_of, has_aux=True)(
            learner.critics
        )
        step, critic_optimiser = self._critic_optimiser.update(
            critic_gradient, learner.critic_optimiser
        )
        critics = optax.apply_updates(learner.critics, step)

        def actor_loss_of(params: Any) -> tuple[jax.Array, jax.Array]:
            scores = self._scores(layout, params, batch.observation, key_now, noise=0.0)
            square = jnp.mean(jnp.square(scores))
            gain = self._gain(layout, critics, batch, scores, key_noise)
            return self.penalty * square - jnp.mean(gain), jnp.sqrt(square)

        (actor_loss, size), actor_gradient = jax.value_and_grad(actor_loss_of, has_aux=True)(
            learner.actor
        )
        step, actor_optimiser = self._actor_optimiser.update(
            actor_gradient, learner.actor_optimiser
        )
        actor = optax.apply_updates(learner.actor, step)
        metrics = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "q": mean_q,
            "mean_reward": mean_reward,
            "slot_value": slot_value,
            "score": size,
            "critic_gradient_norm": optax.tree.norm(critic_gradient),
            "actor_gradient_norm": optax.tree.norm(actor_gradient),
        }
        learner = ScoreLearner(
            actor=actor,
            target_actor=optax.incremental_update(actor, learner.target_actor, self.tau),
            critics=critics,
            target_critics=optax.incremental_update(critics, learner.target_critics, self.tau),
            mean_reward=mean_reward,
            slot_value=slot_value,
            updates=learner.updates + 1,
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            layout=layout,
        )
        return learner, metrics

    def _slot_by_slot(
        self, next_value: jax.Array, batch: Transition, slot_value: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[M] V(s') less its own average where s' begins a slot, and that average.

        Queues are long at a slot's end and short at its start, so V jumps there, and no state
        tells which task will be the slot's last: the jump is most of the noise in a target.
        No decision changes when slots begin, so a constant taken off there changes no
        preference. The simulator's turn falls where a slot begins.
        """
        if batch.privileged == ():
            return next_value, slot_value
        begins = batch.next_privileged.turn < batch.privileged.turn
        count = jnp.sum(begins)
        mean = jnp.sum(jnp.where(begins, next_value, 0)) / jnp.maximum(count, 1)
        rate = jnp.where(count > 0, self.slot_rate, 0)
        slot_value += rate * (mean - slot_value)
        return next_value - jnp.where(begins, slot_value, 0), slot_value

    def _gain(
        self, layout: Layout, critics: Any, batch: Transition, scores: jax.Array, key: jax.Array
    ) -> jax.Array:
        """[M] what the actor climbs: E Q_1(s, scores + noise), scores [M, 2 B].

        One of the critics is enough, as in TD3. The gradient is followed through it, or
        estimated from its values alone at ``candidates`` points, in opposite pairs: E[Q ξ]/σ
        (Williams 1992; the pairs are those of Salimans et al. 2017). A server that enters the
        set makes the value jump, and only the second way sees a jump.
        """
        first = jax.tree.map(lambda leaf: leaf[:1], critics)

        def q_of(scores: jax.Array) -> jax.Array:
            return self._q(layout, first, batch.observation, scores, batch.privileged)[0]

        if self.candidates == 0:
            noise = jax.random.normal(key, scores.shape, scores.dtype)
            return q_of(scores + self.smoothing * noise)
        shape = (self.candidates // 2, *scores.shape)
        noise = jax.random.normal(key, shape, scores.dtype)
        middle = jax.lax.stop_gradient(scores)
        q = jax.vmap(q_of)(middle + self.smoothing * jnp.concatenate([noise, -noise]))
        above, below = jnp.split(q, 2)
        slope = jnp.mean((above - below)[..., None] * noise, axis=0) / (2 * self.smoothing)
        return jnp.mean(q, axis=0) + jnp.sum(slope * (scores - middle), axis=-1)

    def _scores(
        self, layout: Layout, actor: Any, observation: jax.Array, key: jax.Array, *, noise: Any
    ) -> jax.Array:
        """[..., 2 B] x_0 of one chain for each observation [..., S], with noise added."""
        key_chain, key_noise = jax.random.split(key)
        diffusion = self._actor(layout)
        drawn = diffusion.sample_noise(key_chain, *observation.shape[:-1])
        scores = diffusion.logits(actor, observation, drawn)
        return scores + noise * jax.random.normal(key_noise, scores.shape, scores.dtype)

    def _q(
        self,
        layout: Layout,
        critics: Any,
        observation: jax.Array,
        scores: jax.Array,
        privileged: Any,
    ) -> jax.Array:
        """[C, ...] the values that C critics give scores [..., 2 B] at observations [..., S]."""
        inputs = self._inputs(layout, observation, scores, privileged)
        copies = jax.tree.leaves(critics)[0].shape[0]
        q: Any = self._critics(copies).apply(critics, *inputs)
        return q[..., 0]

    def _inputs(
        self, layout: Layout, observation: jax.Array, scores: jax.Array, privileged: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the critics see: [..., B, F] of the servers, [..., G] of all, [..., B] fractions.

        Beside the observation that is when each server would finish its part, on which the
        make-span depends, and the waits and the transmission that the task leaves behind, on
        which the rest does. Where the simulator tells nothing, the waits that are seen stand
        in for the true ones.
        """
        servers, shared = layout.split(observation)
        wait, serve, compute = servers["wait"], servers["serve"], servers["compute"]
        offset, factor = jnp.split(scores, 2, axis=-1)
        factor = jnp.clip(factor, -MAX_LOG_FACTOR, MAX_LOG_FACTOR)
        fraction = sparse_split(wait + offset, serve * jnp.exp(factor))
        true_wait, turn = (wait, jnp.zeros_like(wait[..., 0])) if privileged == () else privileged
        finish = jnp.where(fraction > 0, true_wait + fraction * serve, 0)
        left = true_wait + fraction * compute
        sent = jnp.sum(fraction * (serve - compute), axis=-1)
        return (
            jnp.stack([*servers.values(), true_wait, fraction, finish, left], axis=-1),
            jnp.concatenate([shared, turn[..., None], sent[..., None]], axis=-1),
            fraction,
        )

    def _actor(self, layout: Layout) -> EquivariantDiffusionActor:
        return EquivariantDiffusionActor(
            num_servers=layout.num_servers,
            layout=layout.parts,
            hidden=self.hidden,
            activation=self.activation,
            steps=self.denoising_steps,
            schedule=self.schedule,
            predict=self.predict,
            clip=self.clip,
            embedding_size=self.embedding_size,
            bound=self.bound,
        )

    def _critics(self, copies: int) -> StackedPooledMLP:
        return StackedPooledMLP(self.critic_hidden, 1, self.activation, self.layer_norm, copies)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_critic_gradient_norm),
            optax.adam(self.critic_learning_rate),
        )

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.adam(self.actor_learning_rate),
        )
