"""jaxmec: train task schedulers for generative AI at the network's edge, in JAX.

    env, params = jaxmec.make("MultiServerOffloading-v0", preset="amcoedge")
    result = jaxmec.train("ddrl-amsa", seeds=3)
    print(jaxmec.evaluate(result), jaxmec.evaluate("optimal"))
    result.save("policy"); policy = jaxmec.load_policy("policy")

The physics is in `jaxmec.mec`, the environments in `jaxmec.envs`, the learning algorithms in
`jaxmec.agents`, the published methods by name in `jaxmec.methods`, the rules that do not
learn in `jaxmec.schedulers`, and the training loop in `jaxmec.training`.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jaxmec.core import moved, registration

if TYPE_CHECKING:
    from jaxmec.agents import DQN, DSAC, SAC, PerStation, TopKDQN
    from jaxmec.envs import ENVIRONMENTS, PRESETS, make, to_gymnasium
    from jaxmec.experiment import (
        Policy,
        Recipe,
        Report,
        RunOptions,
        TrainResult,
        evaluate,
        load_policy,
        train,
    )
    from jaxmec.experiment.recipes import recipe
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS
    from jaxmec.training.off_policy import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "DQN",
    "DSAC",
    "ENVIRONMENTS",
    "METHODS",
    "PRESETS",
    "SAC",
    "SCHEDULERS",
    "PerStation",
    "Policy",
    "Recipe",
    "Report",
    "RunOptions",
    "TopKDQN",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "load_policy",
    "make",
    "recipe",
    "to_gymnasium",
    "train",
]

# The public names are loaded at their first use: importing gymnax starts JAX's backends and
# matplotlib, and who imports jaxmec may still want to choose devices or join other hosts.
_HOMES = {
    "agents": ("DQN", "DSAC", "SAC", "PerStation", "TopKDQN"),
    "envs": ("ENVIRONMENTS", "PRESETS", "make", "to_gymnasium"),
    "experiment": (
        "Policy",
        "Recipe",
        "Report",
        "RunOptions",
        "TrainResult",
        "evaluate",
        "load_policy",
        "recipe",
        "train",
    ),
    "methods": ("METHODS",),
    "schedulers": ("SCHEDULERS",),
    "training.off_policy": ("TrainConfig",),
}
_PARTS = {
    "comparison": "studies.comparison",
    "compilation": "core.compilation",
    "episode": "experiment.episode",
    **dict.fromkeys(
        ("agents", "deploy", "envs", "mec", "methods", "plots", "schedulers", "serving",
         "solvers", "studies", "traces", "training"),
        "",
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"jaxmec.{home}"), name)
            globals()[name] = value
            return value
    if name in _PARTS:
        return importlib.import_module(f"jaxmec.{_PARTS[name] or name}")
    raise AttributeError(f"module 'jaxmec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})


moved.find_moved()
# For gymnasium.make and gymnax.make, which are not imported by this. The edge has no environments.
if importlib.util.find_spec("jaxmec.envs"):
    registration.register(lambda: importlib.import_module("jaxmec.envs.table").ENVIRONMENTS)
