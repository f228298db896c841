"""jaxmec: train task schedulers for generative AI at the network's edge, in JAX.

    env, params = jaxmec.make("MultiServerOffloading-v0", preset="amcoedge")
    result = jaxmec.train("ddrl-amsa", seeds=3)
    print(jaxmec.evaluate(result), jaxmec.evaluate("optimal"))
    result.save("policy"); policy = jaxmec.load_policy("policy")

The physics is in `jaxmec.mec`, the environments in `jaxmec.envs`, the learning algorithms in
`jaxmec.agents`, the published methods by name in `jaxmec.methods`, the rules that do not
learn in `jaxmec.schedulers`, and the training loop in `jaxmec.training`.
"""

from jaxmec.agents import DQN, DSAC, SAC
from jaxmec.envs import ENVIRONMENTS, PRESETS, make, to_gymnasium
from jaxmec.experiment import Policy, Report, TrainResult, evaluate, load_policy, train
from jaxmec.methods import METHODS
from jaxmec.schedulers import SCHEDULERS
from jaxmec.training.loop import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "DQN",
    "DSAC",
    "ENVIRONMENTS",
    "METHODS",
    "PRESETS",
    "SAC",
    "SCHEDULERS",
    "Policy",
    "Report",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "load_policy",
    "make",
    "to_gymnasium",
    "train",
]
