"""The methods by name: which agent, on which environment, with which settings.

A new method is one row here. Its agent is made by a function, so that importing this
module computes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxmec.agents import DQN, DSAC, SAC
from jaxmec.agents.base import Agent
from jaxmec.naming import look_up
from jaxmec.training.loop import TrainConfig

CARTPOLE = TrainConfig(
    steps=100_000,
    num_envs=16,
    prefill=4_000,
    buffer_size=100_000,
    batch_size=128,
    updates_per_step=4,
    eval_every=4_000,
    eval_episodes=16,
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A named way to train."""

    name: str
    about: str  # one line for `jaxmec list`
    source: str  # where it was published
    agent: Callable[[], Agent]  # with the tuned hyperparameters
    env: str  # the environment it is for, unless another is named
    preset: str | None = None
    options: tuple[tuple[str, Any], ...] = ()  # of `jaxmec.make`, beside the preset
    config: TrainConfig = CARTPOLE


AMCOEDGE = TrainConfig(
    steps=100_000,
    num_envs=64,
    prefill=10_000,
    buffer_size=100_000,
    batch_size=256,
    updates_per_step=4,
    eval_every=10_000,
    eval_episodes=4,
)
LAD_TS = TrainConfig(
    steps=1_000_000,
    num_envs=64,
    prefill=20_000,
    buffer_size=500_000,
    batch_size=256,
    updates_per_step=8,
    eval_every=100_000,
    eval_episodes=4,
)

METHODS = {
    method.name: method
    for method in (
        Method(
            name="dqn",
            about="Deep Q-network with double targets, on any environment",
            source="Mnih et al. 2015; van Hasselt et al. 2016",
            agent=DQN,
            env="CartPole-v1",
            config=dataclasses.replace(CARTPOLE, updates_per_step=16),
        ),
        Method(
            name="sac",
            about="Discrete soft actor-critic, on any environment",
            source="Haarnoja et al. 2018; Christodoulou 2019",
            agent=SAC,
            env="CartPole-v1",
            config=CARTPOLE,
        ),
        Method(
            name="dsac",
            about="Soft actor-critic whose actor is a diffusion model, on any environment",
            source="the DDRL abstract of 2024; Du et al. 2024 (D2SAC)",
            agent=DSAC,
            env="CartPole-v1",
            config=CARTPOLE,
        ),
        Method(
            name="ddrl-amsa",
            about="DSAC picks a set of servers, CWA splits the task among them",
            source="the DDRL abstract of 2024",
            agent=lambda: DSAC(
                discount=0.9,
                temperature=0.01,
                target_entropy_ratio=0.1,
                tau=0.005,
                hidden=(64, 64),
            ),
            env="MultiServerOffloading-v0",
            preset="amcoedge",
            options=(("action", "subset"), ("allocate", "cwa")),
            config=AMCOEDGE,
        ),
        Method(
            name="ddrl-ats",
            about="DSAC picks one server for each task",
            source="the DDRL abstract of 2024",
            agent=lambda: DSAC(discount=0.95, tau=0.005, hidden=(64, 64)),
            env="SingleServerOffloading-v0",
            preset="lad-ts",
            config=LAD_TS,
        ),
    )
}


def find_method(name: str) -> Method:
    """The method of that name, or a ``ValueError`` that suggests the nearest one."""
    return look_up("method", name, METHODS)
