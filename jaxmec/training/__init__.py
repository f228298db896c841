"""Training and evaluation of any agent on any environment, compiled and vmappable."""

from jaxmec.training.evaluate import Policy, evaluate, greedy
from jaxmec.training.loop import (
    History,
    TrainConfig,
    TrainState,
    evaluation_point,
    failures,
    init,
    prefill,
    train,
    train_chunk,
)
from jaxmec.training.replay import ReplayBuffer, ReplayState
from jaxmec.training.rollout import make_spec

__all__ = [
    "History",
    "Policy",
    "ReplayBuffer",
    "ReplayState",
    "TrainConfig",
    "TrainState",
    "evaluate",
    "evaluation_point",
    "failures",
    "greedy",
    "init",
    "make_spec",
    "prefill",
    "train",
    "train_chunk",
]
