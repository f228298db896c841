"""An agent of a user's own, in one file: it is trained, saved and loaded like ours."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec.agents import AGENTS
from jaxmec.agents.base import Spec, Transition
from jaxmec.struct import pytree, static
from jaxmec.training.checkpoint import CheckpointIncompatible

TINY: dict[str, Any] = {
    "steps": 600, "num_envs": 4, "prefill": 100, "buffer_size": 400, "batch_size": 16,
    "eval_every": 300, "eval_episodes": 1, "progress": False,
}  # fmt: skip
OFFLOADING = {"env": "MultiServerOffloading-v0", "preset": "amcoedge", "slots": 2}


class Weights(NamedTuple):
    """What learning changes: values that are linear in the observation."""

    weights: jax.Array  # [S, A]
    offsets: jax.Array  # [A]


@pytree
class LinearQ:
    """Q-learning with linear values and plain gradient steps, written from the interface alone."""

    discount: float = 0.9
    learning_rate: float = 1e-2
    epsilon: float = 0.1
    parts: tuple[int, ...] = static(default=(3,))  # JSON has no tuples

    def init(self, key: jax.Array, spec: Spec) -> Weights:
        shape = (spec.observation_size, spec.num_actions)
        return Weights(0.01 * jax.random.normal(key, shape), jnp.zeros(spec.num_actions))

    def init_memory(self, spec: Spec) -> tuple[()]:
        return ()

    def act(self, learner, memory, observation, key, explore):
        action = jnp.argmax(self.preferences(learner, observation))
        if explore:
            key_whether, key_which = jax.random.split(key)
            any_action = jax.random.randint(key_which, (), 0, learner.offsets.shape[0])
            action = jnp.where(jax.random.uniform(key_whether) < self.epsilon, any_action, action)
        return action.astype(jnp.int32), memory, ()

    def acting(self, learner: Weights) -> Weights:
        return learner

    def preferences(self, learner: Weights, observation: jax.Array) -> jax.Array:
        return observation @ learner.weights + learner.offsets

    def update(self, learner: Weights, batch: Transition, key: jax.Array):
        following = jnp.max(self.preferences(learner, batch.next_observation), axis=-1)
        target = batch.reward + self.discount * jnp.where(batch.terminated, 0, following)

        def loss_of(learner):
            q = self.preferences(learner, batch.observation)
            q = jnp.take_along_axis(q, batch.action[:, None], axis=-1)[:, 0]
            return jnp.mean(0.5 * jnp.square(q - target))

        loss, gradient = jax.value_and_grad(loss_of)(learner)
        learner = jax.tree.map(lambda w, g: w - self.learning_rate * g, learner, gradient)
        return learner, {"critic_loss": loss}


@pytest.mark.parametrize("where", [{}, OFFLOADING], ids=["CartPole", "amcoedge"])
def test_it_is_trained_saved_and_loaded(tmp_path, monkeypatch, where):
    result = jaxmec.train(LinearQ(parts=(1, 2)), seeds=2, **where, **TINY)
    assert result.name == "linearq"
    assert np.isfinite(result.history.training["critic_loss"][:, 1:]).all()  # none before it learns
    fresh = LinearQ().init(jax.random.key(0), result.policy.spec)
    assert jax.tree.map(jnp.shape, result.policy.learner) == jax.tree.map(jnp.shape, fresh)
    assert np.any(np.asarray(result.policy.learner.offsets) != 0)  # it learned

    path = result.save(tmp_path / "policy")
    with pytest.raises(CheckpointIncompatible, match=r"'LinearQ'; .*AGENTS\['LinearQ'\] = LinearQ"):
        jaxmec.load_policy(path)
    monkeypatch.setitem(AGENTS, "LinearQ", LinearQ)
    policy = jaxmec.load_policy(path)
    assert isinstance(policy.agent, LinearQ) and policy.agent.parts == (1, 2)
    observations = np.random.default_rng(0).random((50, policy.spec.observation_size), np.float32)
    np.testing.assert_array_equal(policy(observations), result.policy(observations))


def test_its_options_are_options_of_training():
    result = jaxmec.train(LinearQ(), learning_rate=1e-3, **TINY | {"steps": 300})
    assert result.agent.learning_rate == 1e-3
    with pytest.raises(TypeError, match="did you mean 'epsilon'"):
        jaxmec.train(LinearQ(), epsilom=0.5, **TINY)
