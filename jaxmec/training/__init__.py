"""Training and evaluation of any agent on any environment, compiled and vmappable."""

from jaxmec.training.evaluate import Policy, evaluate, greedy, sampled
from jaxmec.training.evolution import EvolutionConfig
from jaxmec.training.off_policy import TrainConfig, TrainState
from jaxmec.training.replay import ReplayBuffer, ReplayState
from jaxmec.training.rollout import make_spec
from jaxmec.training.trainer import History, Trainer, as_functions, failures, known, train

__all__ = [
    "EvolutionConfig",
    "History",
    "Policy",
    "ReplayBuffer",
    "ReplayState",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "evaluate",
    "failures",
    "greedy",
    "known",
    "make_spec",
    "sampled",
    "train",
]

__getattr__ = as_functions(__name__)
