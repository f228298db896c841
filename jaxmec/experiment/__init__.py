"""Train a method, keep what it learned, and compare it with others on the same arrivals.

The three verbs of the public API, `train`, `evaluate` and `load_policy`, put together what
the rest of the package provides. `train` and `evaluate` compile what they run.
"""

from jaxmec.experiment.evaluation import Player, evaluate, evaluation_key, opened, player_of
from jaxmec.experiment.learning import train
from jaxmec.experiment.policy import Policy, load_policy, read_policy
from jaxmec.experiment.recipes import SHARED, Recipe, RunOptions, option_layers, recipe
from jaxmec.experiment.report import Report
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import PathLike, Setting, check_same_tasks
from jaxmec.experiment.tuning import TunedRule, tune_rule

__all__ = [
    "SHARED",
    "PathLike",
    "Player",
    "Policy",
    "Recipe",
    "Report",
    "RunOptions",
    "Setting",
    "TrainResult",
    "TunedRule",
    "check_same_tasks",
    "evaluate",
    "evaluation_key",
    "load_policy",
    "opened",
    "option_layers",
    "player_of",
    "read_policy",
    "recipe",
    "train",
    "tune_rule",
]
