"""The methods by name: which agent, on which environment, with which settings.

A new method is one row here. Its agent is made by a function, so that importing this
module computes nothing. A row has our tuned settings, and those as published beside them
where there are any: ``jaxmec.train(name, published=True)``.

"As published" means: the networks (one for each station), hyperparameters, replay, ratio of
updates to decisions and number of decisions of the published code; what is seen (the task's
size, its work where it has one server, and the slot's starting backlogs, in Mbit and Gcycles: with
inputs of order 1 networks of 20 units at a rate of 1e-4 hardly learn); and the true waits for the
allocation. Ours is one network for all stations, which is told whose task it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxmec.agents import DQN, DSAC, SAC, Pathwise, PerStation, TopKDQN
from jaxmec.agents.base import Agent
from jaxmec.core.naming import look_up
from jaxmec.core.types import Keywords
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.evolution import EvolutionConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.trainer import AnyTrainer

Options = tuple[tuple[str, object], ...]
Config = AnyTrainer

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
# Thousands of environments. A GPU should take about as long for a step of all of them as for one
# of a few, so what counts is how many updates come one after the other: a thousand instead of
# 24,000 or more, each looking 8 or 16 steps ahead. Those steps are others' unless the buffer is
# young: it holds the last 245 steps of every environment. One update a step and not two, or the
# policy is led astray. Chosen on seeds 100 to 103 (docs/scale.md).
CARTPOLE_GPU = TrainConfig(
    steps=4_200_000,
    num_envs=4_096,
    prefill=65_536,
    buffer_size=1_000_000,
    batch_size=1_024,
    updates_per_step=1,
    n_step=8,
    eval_every=204_800,
    eval_episodes=16,
)
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
    steps=400_000,
    num_envs=16,  # each comes through an episode of some 30,000 decisions
    prefill=10_000,
    buffer_size=400_000,
    batch_size=128,
    updates_per_step=1,
    eval_every=130_000,
    eval_episodes=2,
)

# Every station's learner makes an update each ten slots of some 75 tasks.
AMCOEDGE_PUBLISHED = TrainConfig(
    steps=2_250_000,  # 500 episodes
    num_envs=750,
    prefill=15_000,  # 200 slots
    buffer_size=3_000,  # some 500 a station
    batch_size=160,  # 32 a station
    updates_per_step=1,
    eval_every=225_000,
    eval_episodes=4,
    staggered=False,  # every episode begins at its first slot
)
# Every station's learner makes an update each slot of some 510 tasks.
LAD_TS_PUBLISHED = TrainConfig(
    steps=15_000_000,  # 500 episodes
    num_envs=500,
    prefill=6_000,  # 300 a station
    buffer_size=20_000,  # 1000 a station
    batch_size=1_280,  # 64 a station
    updates_per_step=1,
    eval_every=1_500_000,
    eval_episodes=4,
    staggered=False,
)

# What a station can know, and an allocation that knows no more: the terms of our claims.
FAIR: Options = (
    ("information", "local"),
    ("features", "times"),
    ("allocation_information", "seen"),
)
# On `lad-ts` queues outlive their slot by far: what a decision causes later is no part of its
# own delay, and a discounted return of thousands of decisions hides it. So all methods learn
# from the charged reward, with nothing discounted on top, and see what they are charged for.
PRICED: Options = (("information", "local"), ("features", "priced"), ("reward", "charged"))
GIVEN: Options = (
    ("information", "slot_start"),
    ("features", "raw"),
    ("allocation_information", "true"),
)


SCALES = {"cpu": "few environments side by side", "gpu": "thousands of them"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One way to run a method."""

    agent: Callable[[], Agent]
    options: Options = ()  # of `jaxmec.make`, beside the preset
    config: Config = CARTPOLE


@dataclasses.dataclass(frozen=True)
class Method:
    """A named way to train."""

    name: str
    about: str  # one line for `jaxmec list`
    source: str  # where it was published
    env: str  # the environment it is for, unless another is named
    tuned: Settings  # ours
    published: Settings | None = None  # as its authors ran it
    preset: str | None = None
    start: str | None = None  # the method that is trained first, from whose actor this one goes on
    gpu: Settings | None = None  # ours with thousands of environments, where there are any

    @property
    def agent(self) -> Callable[[], Agent]:
        """The agent with our settings."""
        return self.tuned.agent

    @property
    def options(self) -> Options:
        """Our options of `jaxmec.make`, beside the preset."""
        return self.tuned.options

    @property
    def config(self) -> Config:
        """Our sizes of the training."""
        return self.tuned.config

    def label(self, published: bool = False, scale: str = "cpu") -> str:
        """The name, with what settings."""
        kind = "published" if published else scale
        return self.name if kind == "cpu" else f"{self.name} ({kind})"

    def settings(self, published: bool = False, scale: str = "cpu") -> Settings:
        """Our settings, for few environments (scale "cpu") or for thousands ("gpu"), or those as
        published.

        Raises:
            ValueError: nothing was published; an unknown scale, or one that the method lacks.
        """
        look_up("scale", scale, SCALES)
        if scale == "gpu":
            if published:
                raise ValueError("scale 'gpu' is of our own settings; leave published or scale out")
            if self.gpu is None:
                others = ", ".join(row.name for row in METHODS.values() if row.gpu is not None)
                raise ValueError(
                    f"method {self.name!r} has no settings for scale 'gpu'; these have: {others}"
                )
            return self.gpu
        if not published:
            return self.tuned
        if self.published is None:
            raise ValueError(f"method {self.name!r} has no published settings; leave published out")
        return self.published


def _published_dqn(kind: type[Any] = DQN, **changes: object) -> Callable[[], Agent]:
    """The DQN of AMCoEdge and SMCoEdge: a copied target, ε from 1 to 0.01, no double targets."""
    fields: Keywords = {
        "discount": 0.9,
        "learning_rate": 1e-3,
        "tau": 1.0,
        "target_period": 200,
        "epsilon_end": 0.01,
        "epsilon_updates": 990,
        "max_gradient_norm": 1e6,  # not clipped
        "hidden": (20, 20),
        "activation": "relu",
        "layer_norm": False,
        "judged_by": "online",
        "double": False,
    }
    return lambda: PerStation(kind(**(fields | changes)))


def _published_sac(kind: Callable[..., Agent], **changes: object) -> Callable[[], Agent]:
    """The soft actor-critic of LAD-TS's code, whatever its actor."""
    fields: Keywords = {
        "discount": 0.95,
        "hidden": (20, 20),
        "activation": "relu",
        "actor_learning_rate": 1e-4,
        "critic_learning_rate": 1e-3,
        "temperature_learning_rate": 3e-4,
        "temperature": 0.05,
        "target_entropy": -1.0,
        "tau": 0.005,
    }
    return lambda: PerStation(kind(**(fields | changes)))


def _multi(
    name: str,
    about: str,
    source: str,
    tuned: Callable[[], Agent],
    published: Callable[[], Agent],
    action: str,
    allocate: str = "cwa",
    published_episodes: int = 500,
) -> Method:
    """A method for `amcoedge`: tuned on fair terms, published with the true waits."""
    config = dataclasses.replace(
        AMCOEDGE_PUBLISHED, steps=AMCOEDGE_PUBLISHED.steps * published_episodes // 500
    )
    return Method(
        name=name,
        about=about,
        source=source,
        env="MultiServerOffloading-v0",
        preset="amcoedge",
        tuned=Settings(tuned, (("action", action), ("allocate", allocate), *FAIR), AMCOEDGE),
        published=Settings(published, (("action", action), ("allocate", "cwa"), *GIVEN), config),
    )


def _single(
    name: str,
    about: str,
    source: str,
    tuned: Callable[[], Agent],
    published: Callable[[], Agent],
    show_place: bool = False,
) -> Method:
    """A method for `lad-ts`."""
    return Method(
        name=name,
        about=about,
        source=source,
        env="SingleServerOffloading-v0",
        preset="lad-ts",
        tuned=Settings(tuned, (*PRICED, ("show_place", show_place)), LAD_TS),
        published=Settings(published, (*GIVEN[:2], ("show_place", show_place)), LAD_TS_PUBLISHED),
    )


def _tuned_dqn(kind: type[Any] = DQN, **changes: object) -> Callable[[], Agent]:
    fields: Keywords = {"discount": 0.9, "hidden": (64, 64), "activation": "relu"}
    return lambda: kind(**(fields | changes))


def _tuned_sac(kind: Callable[..., Agent], **changes: object) -> Callable[[], Agent]:
    fields: Keywords = {
        "discount": 0.9,
        "temperature": 0.01,
        "target_entropy_ratio": 0.1,
        "tau": 0.005,
        "actor_tau": 0.002,
        "hidden": (64, 64),
    }
    return lambda: kind(**(fields | changes))


def _tuned_ts(kind: Callable[..., Agent], **changes: object) -> Callable[[], Agent]:
    """A soft actor-critic for `lad-ts`, on the charged reward."""
    fields: Keywords = {
        "discount": 0.0,
        "actor_learning_rate": 1e-3,
        "temperature": 0.02,
        "target_entropy_ratio": 0.03,
        "actor_tau": 0.005,
    }
    return _tuned_sac(kind, **(fields | changes))


# One network for all servers: with it every soft actor-critic on `lad-ts` learns, flat hardly one.
BY_SERVER: Keywords = {"network": "servers", "hidden": (32, 32)}


def _pathwise(name: str, about: str, steps: int, start: str | None = None) -> Method:
    """A method for `amcoedge` that learns through the simulator."""
    return Method(
        name=name,
        about=about,
        source="ours; Clavera et al. 2020 (MAAC), Xu et al. 2022 (SHAC), for the idea",
        env="MultiServerOffloading-v0",
        preset="amcoedge",
        tuned=Settings(
            lambda: Pathwise(denoising_steps=steps),
            (("action", "score"), *FAIR, ("entry_gradient", 2.0)),
            PathwiseConfig(),
        ),
        start=start,
    )


def _cloned(name: str, about: str, steps: int) -> Method:
    """A method for `amcoedge` that imitates the planner."""
    return Method(
        name=name,
        about=about,
        source="ours; Wang et al. 2023 (Diffusion-QL), for the loss",
        env="MultiServerOffloading-v0",
        preset="amcoedge",
        tuned=Settings(
            lambda: Pathwise(denoising_steps=steps),
            (("action", "score"), *FAIR),
            CLONING,
        ),
    )


def _carried(name: str, about: str, steps: int) -> Method:
    """A method for `smcoedge`, and whatever else has queues that outlive their slot."""
    config = PathwiseConfig(
        steps=4_000_000, num_envs=32, window=160, carried=True, validation_envs=4,
        eval_every=500_000,
    )  # fmt: skip
    return Method(
        name=name,
        about=about,
        source="ours; Clavera et al. 2020 (MAAC), Xu et al. 2022 (SHAC), for the idea",
        env="MultiServerOffloading-v0",
        preset="smcoedge",
        tuned=Settings(
            lambda: Pathwise(denoising_steps=steps),
            (
                ("action", "score"),
                ("information", "local"),
                ("features", "priced"),
                ("allocation_information", "seen"),
                ("entry_gradient", 2.0),
            ),
            config,
        ),
    )


def _pathwise_ts(name: str, about: str, steps: int) -> Method:
    """A method for `lad-ts` that learns through the simulator, one server a task."""
    config = PathwiseConfig(
        steps=4_000_000, num_envs=16, window=512, carried=True, validation_envs=2,
        eval_every=500_000,
    )  # fmt: skip
    return Method(
        name=name,
        about=about,
        source="ours; Bengio et al. 2013 (straight through), for the gradient of a choice",
        env="SingleServerOffloading-v0",
        preset="lad-ts",
        tuned=Settings(
            # What is queued is felt by a whole episode's tasks: gradients are large in earnest.
            lambda: Pathwise(
                denoising_steps=steps,
                network="servers",
                hidden=(32, 32),
                gradient_limit=1e4,
            ),
            (("information", "local"), ("features", "priced"), ("action", "score")),
            config,
        ),
    )


# Requests come and go within some twenty decisions; what a decision causes later is felt that long.
SERVING = TrainConfig(
    steps=384_000,
    num_envs=128,
    prefill=5_000,
    buffer_size=200_000,
    batch_size=512,
    updates_per_step=2,
    eval_every=64_000,
    eval_episodes=32,
)
# Of 600 s at load 0.4 an episode has some 190 decisions.
EVOLUTION = EvolutionConfig(
    steps=40_960_000,
    pairs=32,
    episodes=16,
    episode_steps=200,
    spread=0.05,
    learning_rate=0.01,
    eval_every=4_096_000,
    eval_episodes=32,
)
SERVING_SOFT: Keywords = {
    "network": "servers",
    "hidden": (64, 64),
    "discount": 0.97,
    "actor_learning_rate": 4e-4,
    "critic_learning_rate": 6e-4,
    "temperature": 0.02,
    "target_entropy_ratio": 0.03,
    "tau": 0.01,
    "actor_tau": 0.002,
}


def _of_serving(
    name: str,
    about: str,
    source: str,
    agent: Callable[[], Agent],
    config: Config = SERVING,
    start: str | None = None,
) -> Method:
    """A method for `genai-5`: one network for all servers and options, by what is known of each."""
    return Method(
        name=name,
        about=about,
        source=source,
        env="GenerativeServing-v0",
        preset="genai-5",
        tuned=Settings(agent, (("information", "local"), ("features", "options")), config),
        start=start,
    )


SOFT_GPU: Keywords = {
    "critic_learning_rate": 2e-3,
    "temperature_learning_rate": 3e-3,
    "tau": 0.1,
}
CLONING = CloningConfig()
DDRL = "the DDRL abstract of 2024"
AMCO = "AMCoEdge (Xu et al.), its code"
SMCO = "SMCoEdge (Xu et al.), its code"
LAD = "LAD-TS (Xu et al.), its code"
LAD_PLACES = 59 * 20 * 50  # slots x stations x positions of `lad-ts`

METHODS = {
    method.name: method
    for method in (
        Method(
            name="dqn",
            about="Deep Q-network with double targets, on any environment",
            source="Mnih et al. 2015; van Hasselt et al. 2016",
            env="CartPole-v1",
            tuned=Settings(DQN, config=dataclasses.replace(CARTPOLE, updates_per_step=16)),
            # Its buffer must remember exploring, or it forgets what happens to a pole that falls.
            gpu=Settings(
                lambda: DQN(learning_rate=1e-3, tau=0.1, epsilon_updates=300, epsilon_end=0.3),
                config=dataclasses.replace(CARTPOLE_GPU, buffer_size=4_000_000),
            ),
        ),
        Method(
            name="sac",
            about="Discrete soft actor-critic, on any environment",
            source="Haarnoja et al. 2018; Christodoulou 2019",
            env="CartPole-v1",
            tuned=Settings(SAC, config=CARTPOLE),
            gpu=Settings(
                lambda: SAC(**SOFT_GPU), config=dataclasses.replace(CARTPOLE_GPU, n_step=16)
            ),
        ),
        Method(
            name="dsac",
            about="Soft actor-critic whose actor is a diffusion model, on any environment",
            source=f"{DDRL}; Du et al. 2024 (D2SAC)",
            env="CartPole-v1",
            tuned=Settings(DSAC, config=CARTPOLE),
            published=Settings(DSAC.published, config=CARTPOLE),
            gpu=Settings(lambda: DSAC(**SOFT_GPU), config=CARTPOLE_GPU),
        ),
        _multi(
            name="ddrl-amsa",
            about="DSAC picks a set of servers, and an allocation rule splits the task among them",
            source=DDRL,
            tuned=_tuned_sac(DSAC),
            published=_published_sac(DSAC.published, discount=0.9),
            action="subset",
            allocate="water_filling",
        ),
        _multi(
            name="amcoedge",
            about="DQN over all sets of servers",
            source=AMCO,
            tuned=_tuned_dqn(),
            published=_published_dqn(hidden=(20, 20, 20), target_period=100),
            action="subset",
        ),
        _multi(
            name="smcoedge",
            about="top-k DQN: one value a server, the k best act together (k = 3)",
            source=SMCO,
            tuned=_tuned_dqn(TopKDQN),
            published=_published_dqn(TopKDQN),
            action="top_k",
            published_episodes=300,
        ),
        _multi(
            name="drlcoedge",
            about="DQN picks one server beside the task's own",
            source=AMCO,
            tuned=_tuned_dqn(),
            published=_published_dqn(),
            action="local_plus_one",
            published_episodes=200,
        ),
        _single(
            name="ddrl-ats",
            about="DSAC picks one server for each task",
            source=DDRL,
            tuned=_tuned_ts(DSAC, **BY_SERVER, denoising_steps=2, judged_chains=0),
            published=_published_sac(DSAC.published),
        ),
        _single(
            name="dqn-ts",
            about="DQN picks one server",
            source=LAD,
            tuned=_tuned_dqn(discount=0.0, learning_rate=1e-3),
            published=_published_dqn(
                discount=0.95,
                learning_rate=1e-4,
                epsilon_start=0.01,
                judged_by="online",
            ),
        ),
        _single(
            name="sac-ts",
            about="discrete SAC picks one server",
            source=LAD,
            tuned=_tuned_ts(DSAC, **BY_SERVER, denoising_steps=0),  # no chain: a soft actor-critic
            published=_published_sac(SAC),
        ),
        _single(
            name="d2sac-ts",
            about="D2SAC picks one server: the diffusion actor as published, nothing clipped",
            source="Du et al. 2024 (D2SAC)",
            tuned=_tuned_ts(DSAC.published, **BY_SERVER, target_entropy=None, judged_chains=0),
            published=_published_sac(DSAC.published, hidden=(256, 256), activation="mish"),
        ),
        _single(
            name="lad-ts",
            about="diffusion SAC whose chain starts from its last answer for the same place",
            source=LAD,
            tuned=_tuned_ts(DSAC, **BY_SERVER, start="last", places=LAD_PLACES, judged_chains=0),
            published=_published_sac(DSAC.published, start="last", places=LAD_PLACES),
            show_place=True,
        ),
        _pathwise(
            name="ddrl-amsa-pathwise",
            about="a diffusion actor that follows the simulator's own gradient, over scores",
            steps=5,
        ),
        _cloned(
            name="ddrl-amsa-cloned",
            about="a diffusion actor that imitates the planner, which knows its slot's tasks",
            steps=5,
        ),
        _pathwise(
            name="ddrl-amsa-taught",
            about="ddrl-amsa-pathwise, started from ddrl-amsa-cloned",
            steps=5,
            start="ddrl-amsa-cloned",
        ),
        _carried(
            name="ddrl-amsa-carried",
            about="ddrl-amsa-pathwise where queues outlive their slot: a window's end has a value",
            steps=5,
        ),
        _pathwise_ts(
            name="ddrl-ats-pathwise",
            about="a diffusion actor that follows the simulator's own gradient, one server a task",
            steps=2,
        ),
        _pathwise(
            name="mlp-pathwise",
            about="the same without diffusion: a plain network",
            steps=0,
        ),
        _carried(
            name="mlp-carried",
            about="ddrl-amsa-carried without diffusion: a plain network",
            steps=0,
        ),
        _cloned(
            name="mlp-cloned",
            about="a plain network that imitates the planner",
            steps=0,
        ),
        _pathwise(
            name="mlp-taught",
            about="mlp-pathwise, started from mlp-cloned",
            steps=0,
            start="mlp-cloned",
        ),
        _of_serving(
            name="serving-dqn",
            about="DQN over the servers and options of a request, one network for all of them",
            source="Mnih et al. 2015; Zaheer et al. 2017, for the network",
            agent=lambda: DQN(
                network="servers",
                hidden=(64, 64),
                activation="relu",
                layer_norm=False,
                discount=0.97,
                epsilon_updates=1_500,
            ),
        ),
        _of_serving(
            name="serving-sac",
            about="soft actor-critic likewise, the actor a plain softmax",
            source="Christodoulou 2019; Zaheer et al. 2017, for the network",
            agent=lambda: DSAC(denoising_steps=0, **SERVING_SOFT),
        ),
        _of_serving(
            name="serving-dsac",
            about="soft actor-critic likewise, the actor a diffusion model",
            source=f"{DDRL}, for the actor; Zaheer et al. 2017, for the network",
            agent=lambda: DSAC(denoising_steps=2, **SERVING_SOFT),
        ),
        _of_serving(
            name="serving-es",
            about="the tuned rule and a small network beside it, by evolution strategies",
            source="Salimans et al. 2017",
            agent=lambda: DSAC(
                denoising_steps=0, prior=20.0, **{**SERVING_SOFT, "hidden": (16, 16)}
            ),
            config=EVOLUTION,
        ),
    )
}


# Methods of earlier versions, and what to use instead.
GONE = {
    "ddrl-amsa-score": "it learned for hours what ddrl-amsa-pathwise does better in minutes; train "
    "that one, with network='servers' where the number of servers is to vary",
}


def trainer_of(agent: Agent) -> Config:
    """The default sizes of how an agent of one's own is trained."""
    return next(kind() for kind in (PathwiseConfig, TrainConfig) if kind.trains(agent))


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the message suggests the nearest, or what stands in for it.
    """
    if name in GONE:
        raise ValueError(f"method {name!r} is gone: {GONE[name]}")
    return look_up("method", name, METHODS)
