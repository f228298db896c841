"""Networks: multilayer perceptrons and the diffusion actor. They know nothing of agents."""

from jaxmec.networks.diffusion import DiffusionActor, NoiseSchedule, noise_schedule
from jaxmec.networks.mlp import MLP, StackedMLP

__all__ = ["MLP", "DiffusionActor", "NoiseSchedule", "StackedMLP", "noise_schedule"]
