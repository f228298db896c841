"""Q-learning with a network, whatever an action is: what DQN and TopKDQN share.

Sources: Mnih et al. 2015; van Hasselt et al. 2016 for the double target. A subclass says
what an action is by four methods: the greedy one, a random one, the values of those that
were taken, and the values of the next ones.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxmec.agents import losses
from jaxmec.agents.base import Layout, Metrics, Spec, Transition, masked
from jaxmec.agents.chain import NETWORKS
from jaxmec.core import checks
from jaxmec.core.types import PyTree
from jaxmec.networks.mlp import ACTIVATIONS, MLP, Params
from jaxmec.networks.servers import ServerValues, shared_layout
from jaxmec.struct import pytree, static


@pytree
class SharedOver:
    """What a network that is shared over the actions must know of its observations."""

    layout: Layout = static(default=())
    num_actions: int = static(default=0)  # A


class ValueLearner(NamedTuple):
    """What learning changes."""

    critic: Params  # of Q
    target_critic: Params  # their moving average, Q̂
    optimiser: optax.OptState
    updates: jax.Array  # [] int32, gradient updates made; epsilon follows it
    seen: SharedOver = SharedOver()


@pytree
class QLearning:
    """One network of A values and its target (:class:`jaxmec.agents.base.Agent`).

    While exploring it takes a uniformly random action with probability ε, which falls
    linearly from ``epsilon_start`` to ``epsilon_end`` over the first ``epsilon_updates``
    updates. The target network follows by Polyak averaging; being an average, it is the
    steadier of the two, and the policy is judged by it unless ``judged_by`` says "online".
    The published methods copy the network instead (``tau`` 1) every ``target_period`` updates.

    With ``network`` "servers" the network is shared over the actions, as in
    :class:`jaxmec.agents.DSAC`, and actions that an observation says there are not are never taken.

    Raises:
        ValueError: a field outside what its comment allows.
    """

    discount: float = 0.99  # γ, in [0, 1]
    learning_rate: float = 3e-4  # of Adam, > 0
    tau: float = 0.005  # share of the online network that the target takes each time, (0, 1]
    target_period: float = 1  # updates from one such time to the next, >= 1
    epsilon_start: float = 1.0  # probability of a random action at first, in [0, 1]
    epsilon_end: float = 0.05  # and at last, in [0, 1]
    epsilon_updates: float = 5_000  # updates from the one to the other, >= 1
    max_gradient_norm: float = 10.0  # longer gradients are scaled down to it, > 0
    hidden: tuple[int, ...] = static(default=(128, 128))  # widths of the hidden layers
    activation: str = static(default="tanh")  # relu, tanh, silu, mish or gelu
    layer_norm: bool = static(default=True)  # layer normalisation in the network
    loss: str = static(default="squared")  # huber or squared
    judged_by: str = static(default="target")  # target or online: whose actions when judged
    double: bool = static(default=True)  # double Q-learning
    network: str = static(default="flat")  # flat, or shared over "servers", any number of them

    def __post_init__(self) -> None:
        checks.fields(
            self,
            discount=checks.number(0, most=1),
            learning_rate=checks.number(above=0),
            tau=checks.number(above=0, most=1),
            target_period=checks.number(1),
            epsilon_start=checks.number(0, most=1),
            epsilon_end=checks.number(0, most=1),
            epsilon_updates=checks.number(1),
            max_gradient_norm=checks.number(above=0),
            hidden=checks.widths,
            activation=checks.one_of(ACTIVATIONS),
            layer_norm=checks.flag,
            loss=checks.one_of(("huber", "squared")),
            judged_by=checks.one_of(("target", "online")),
            double=checks.flag,
            network=checks.one_of(NETWORKS),
        )

    # What a subclass says.

    def greedy(self, q: jax.Array) -> jax.Array:
        """The best action by values [A]."""
        raise NotImplementedError

    def random(self, key: jax.Array, q: jax.Array) -> jax.Array:
        """An action, all that there are by values [A] equally likely."""
        raise NotImplementedError

    def taken(self, q: jax.Array, action: jax.Array) -> jax.Array:
        """[M, ...] the values, of [M, A], that belong to the actions taken."""
        raise NotImplementedError

    def next_value(self, target_q: jax.Array, judge: jax.Array) -> jax.Array:
        """[M, ...] the values, of [M, A], of the actions that ``judge`` [M, A] would take."""
        raise NotImplementedError

    # The algorithm.

    def init(self, key: jax.Array, spec: Spec) -> ValueLearner:
        """Fresh parameters; the target starts equal to the online network."""
        seen = SharedOver()
        if self.network == "servers":
            seen = SharedOver(shared_layout(spec.layout, spec.num_actions), spec.num_actions)
        network = self._network(spec.num_actions, seen)
        critic = network.init(key, jnp.zeros(spec.observation_size))
        return ValueLearner(
            critic=critic,
            target_critic=critic,
            optimiser=self._optimiser().init(critic),
            updates=jnp.zeros((), jnp.int32),
            seen=seen,
        )

    def init_memory(self, spec: Spec) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def act(
        self,
        learner: ValueLearner,
        memory: tuple[()],
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, tuple[()], tuple[()]]:
        """Epsilon-greedy while exploring, greedy when judged."""
        if not explore:
            action = self.greedy(self.preferences(learner, observation))
        else:
            q = self._q(learner, learner.critic, observation)
            action = self.greedy(q)
            key_whether, key_which = jax.random.split(key)
            random = self.random(key_which, q)
            dice = jax.random.uniform(key_whether)
            action = jnp.where(dice < self.epsilon(learner.updates), random, action)
        return action, memory, ()

    def sample(
        self, learner: ValueLearner, memory: tuple[()], observation: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """The greedy action: the policy that is judged is not random."""
        return self.greedy(self.preferences(learner, observation)), memory

    def acting(self, learner: ValueLearner) -> ValueLearner:
        """The network that it is judged by, alone."""
        nothing: PyTree = ()
        if self.judged_by == "target":
            return ValueLearner(nothing, learner.target_critic, nothing, nothing, learner.seen)
        return ValueLearner(learner.critic, nothing, nothing, nothing, learner.seen)

    def preferences(self, learner: ValueLearner, observation: jax.Array) -> jax.Array:
        """[A] Q(s, ·) of the network that it is judged by."""
        critic = learner.target_critic if self.judged_by == "target" else learner.critic
        return self._q(learner, critic, observation)

    def epsilon(self, updates: jax.Array) -> jax.Array:
        """[] the probability of a random action after so many updates."""
        progress = jnp.minimum(updates / self.epsilon_updates, 1.0)
        return self.epsilon_start + progress * (self.epsilon_end - self.epsilon_start)

    def update(
        self, learner: ValueLearner, batch: Transition, key: jax.Array
    ) -> tuple[ValueLearner, Metrics]:
        """One step of Adam on the error to the TD target; ``key`` is not used."""
        target_q = self._q(learner, learner.target_critic, batch.next_observation)  # [M, A]
        judge = target_q
        if self.double:
            judge = self._q(learner, learner.critic, batch.next_observation)
        next_value = self.next_value(target_q, judge)
        each = (...,) + (None,) * (next_value.ndim - 1)  # the task's reward for each of them
        reward, terminated, steps = jax.tree.map(
            lambda leaf: leaf[each], (batch.reward, batch.terminated, batch.steps)
        )
        target = losses.td_target(reward, terminated, next_value, self.discount, steps)
        error = losses.huber_error if self.loss == "huber" else losses.squared_error

        def loss_of(critic: Params) -> tuple[jax.Array, jax.Array]:
            q = self.taken(self._q(learner, critic, batch.observation), batch.action)
            return jnp.mean(error(q, target)), jnp.mean(q)

        (loss, mean_q), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.critic)
        step, optimiser = self._optimiser().update(gradient, learner.optimiser)
        critic = optax.apply_updates(learner.critic, step)
        metrics = {
            "critic_loss": loss,
            "q": mean_q,
            "epsilon": self.epsilon(learner.updates),
            "critic_gradient_norm": optax.tree.norm(gradient),
        }
        updates = learner.updates + 1
        share = jnp.where(updates % self.target_period == 0, self.tau, 0.0)
        learner = ValueLearner(
            critic=critic,
            target_critic=optax.incremental_update(critic, learner.target_critic, share),
            optimiser=optimiser,
            updates=updates,
            seen=learner.seen,
        )
        return learner, metrics

    def _network(self, num_actions: int, seen: SharedOver) -> nn.Module:
        if self.network == "flat":
            return MLP(self.hidden, num_actions, self.activation, self.layer_norm)
        return ServerValues(self.hidden, seen.layout, num_actions, self.activation)

    def _q(self, learner: ValueLearner, critic: Params, observation: jax.Array) -> jax.Array:
        """[..., A] of observations [..., S]; ``ABSENT`` for actions that are not."""
        seen = learner.seen
        if self.network == "servers":
            of_all: jax.Array = self._network(seen.num_actions, seen).apply(critic, observation)
            return masked(of_all, observation, seen.layout)
        # The number of actions is that of the parameters.
        num_actions = critic["params"][f"layers_{len(self.hidden)}"]["bias"].shape[-1]
        q: jax.Array = self._network(num_actions, seen).apply(critic, observation)
        return q

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate)
        )
