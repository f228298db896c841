"""Small agents that learn fast, and minibatches."""

from __future__ import annotations

import jax
import pytest

from jaxmec.agents import DQN, DSAC, SAC, Spec, Transition

# Next to no temperature, and a fixed one, so that soft values are values.
FAST = {
    "hidden": (16,),
    "activation": "tanh",
    "discount": 0.5,
    "tau": 0.1,
    "actor_learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "temperature": 1e-3,
    "temperature_learning_rate": 0.0,
}

SMALL = {
    "dqn": DQN(hidden=(16,), activation="tanh", discount=0.5, tau=0.1, learning_rate=1e-2),
    "sac": SAC(**FAST),
    "dsac": DSAC(**FAST, denoising_steps=3),
}


@pytest.fixture(params=SMALL)
def agent(request):
    """Each agent in turn."""
    return SMALL[request.param]


@pytest.fixture
def spec():
    """Four actions."""
    return Spec(observation_size=3, num_actions=4)


@pytest.fixture
def batch(spec):
    """32 random transitions, half of them terminated."""
    keys = jax.random.split(jax.random.key(7), 5)
    observation, next_observation = jax.random.normal(keys[0], (2, 32, spec.observation_size))
    return Transition(
        observation=observation,
        action=jax.random.randint(keys[1], (32,), 0, spec.num_actions),
        reward=jax.random.normal(keys[2], (32,)),
        next_observation=next_observation,
        terminated=jax.random.bernoulli(keys[4], 0.5, (32,)),
        extras=(),
    )


@pytest.fixture
def learner(agent, spec):
    """A fresh learner of ``agent``."""
    return jax.jit(lambda key: agent.init(key, spec))(jax.random.key(0))
