"""Twin critics and a diffusion actor over scores: the model-free agent of action mode "score".

The actor denoises an offset to each server's wait and a log-factor on its service time; the
environment turns them into a set of servers and fractions. Source: deterministic policy
gradients with twin critics (Fujimoto et al. 2018, TD3) through an unrolled diffusion actor
(Wang et al. 2023, "Diffusion-QL"), both networks shared over the servers.

What a station sees ends with its turn: of what it did to the others' waits its next
observation tells nothing, and a critic of observations cannot learn a price for it. Where the
environment tells what the simulator knows (``privileged``), the critics therefore see the true
waits while they learn, and the actor never does (Pinto et al. 2018, "Asymmetric actor critic").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmec.agents import checks, losses
from jaxmec.agents.base import Metrics, Spec, Transition
from jaxmec.networks.diffusion import CLIPS, PREDICTIONS, SCHEDULES
from jaxmec.networks.equivariant import EquivariantDiffusionActor
from jaxmec.networks.mlp import ACTIVATIONS
from jaxmec.networks.pooled import StackedPooledMLP, sparse_split
from jaxmec.struct import pytree, static

MAX_LOG_FACTOR = 5.0  # the environment counts log-factors within ±5


class ScoreLearner(NamedTuple):
    """What learning changes."""

    actor: Any
    target_actor: Any  # its moving average, by which the policy is judged
    critics: Any  # [2] stacked
    target_critics: Any  # [2]
    mean_reward: jax.Array  # [] moving average, taken off every reward
    actor_optimiser: Any
    critic_optimiser: Any
    layout: Any = ()
