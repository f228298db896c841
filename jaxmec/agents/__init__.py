"""Learning algorithms: each a frozen dataclass of hyperparameters with pure functions.

The interface is :class:`jaxmec.agents.base.Agent`.
"""

from jaxmec.agents.base import Agent, Spec, Transition
from jaxmec.agents.dqn import DQN
from jaxmec.agents.dsac import DSAC
from jaxmec.agents.pathwise import Pathwise
from jaxmec.agents.per_station import PerStation
from jaxmec.agents.sac import SAC
from jaxmec.agents.topk_dqn import TopKDQN

AGENTS = (PerStation, DQN, TopKDQN, SAC, DSAC, Pathwise)

__all__ = [
    "AGENTS",
    "DQN",
    "DSAC",
    "SAC",
    "Agent",
    "Pathwise",
    "PerStation",
    "Spec",
    "TopKDQN",
    "Transition",
]
