"""Networks: multilayer perceptrons and the diffusion actors. They know nothing of agents."""

from jaxmec.networks.diffusion import DiffusionActor, NoiseSchedule, noise_schedule
from jaxmec.networks.equivariant import EquivariantDiffusionActor, ServerMLP
from jaxmec.networks.mlp import MLP, StackedMLP

__all__ = [
    "MLP",
    "DiffusionActor",
    "EquivariantDiffusionActor",
    "NoiseSchedule",
    "ServerMLP",
    "StackedMLP",
    "noise_schedule",
]
