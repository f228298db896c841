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

# The agents whose saved policies can be loaded, by the name of their class. One of your own is
# added where it is defined: ``AGENTS["Mine"] = Mine``.
AGENTS: dict[str, type] = {
    kind.__name__: kind for kind in (PerStation, DQN, TopKDQN, SAC, DSAC, Pathwise)
}

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
