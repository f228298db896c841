"""What training returns: the runs of S seeds, and their policies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxmec.agents.base import Agent
from jaxmec.core.types import PyTree
from jaxmec.experiment.policy import Policy
from jaxmec.experiment.setting import PathLike, Setting
from jaxmec.methods import Config
from jaxmec.training.rollout import make_spec
from jaxmec.training.trainer import History


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What `train` returns: S runs that differ in their seed."""

    name: str
    agent: Agent
    setting: Setting
    config: Config
    seeds: tuple[int, ...]
    history: History  # [S, P]
    state: PyTree  # the training states, [S]
    directory: Path | None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The final policy of each seed."""
        env, params = self.setting.make()
        spec = make_spec(env, params)
        learners = self.agent.acting(self.state.learner)
        return tuple(
            Policy(
                self.agent,
                jax.tree.map(lambda leaf, run=run: leaf[run], learners),
                spec,
                self.setting,
                self.name,
            )
            for run in range(len(self.seeds))
        )

    @property
    def policy(self) -> Policy:
        """The final policy of the seed whose last evaluation during training was best.

        For a comparison use `evaluate(result)`, which takes every seed.
        """
        last = np.asarray(self.history.evaluation["return"])[:, -1]
        return self.policies[int(np.nanargmax(last))]

    def save(self, path: PathLike) -> Path:
        """Save :attr:`policy`, for :func:`load_policy`."""
        return self.policy.save(path)
