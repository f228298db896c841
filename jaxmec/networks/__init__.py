"""Networks: multilayer perceptrons and the diffusion actors. They know nothing of agents."""

from jaxmec.networks.chain import DiffusionActor, NoiseSchedule, noise_schedule
from jaxmec.networks.mlp import MLP, StackedMLP
from jaxmec.networks.servers import EquivariantDiffusionActor, ServerMLP

__all__ = [
    "MLP",
    "DiffusionActor",
    "EquivariantDiffusionActor",
    "NoiseSchedule",
    "ServerMLP",
    "StackedMLP",
    "noise_schedule",
]
