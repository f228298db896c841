"""A run's metrics where people watch them: TensorBoard and Weights & Biases, each an extra.

Host side only, between compiled chunks. ``metrics.jsonl`` is written in any case.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmec.core import files

WANDB_ID = "wandb-id"  # the file of a run's directory by which a resumed run is the same run there


class Tracker(Protocol):
    """What a run tells its metrics, point by point."""

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        """The run begins, or goes on, with what comes after ``step``; the first point may be at 0.

        Args:
            home: the run's directory.
            seeds: S.
            step: environment steps; −1 for a new run.
        """
        ...

    def log(
        self, step: int, evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
    ) -> None:
        """One point: metrics [S] by name."""
        ...

    def end(self, failed: bool) -> None:
        """The run is over, or was stopped."""
        ...


def scalars(
    seeds: tuple[int, ...], evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Means over the seeds, and of evaluations each seed's own; what is not finite is left out."""
    numbers = {
        f"{kind}/{name}": float(np.mean(values))
        for kind, metrics in (("evaluation", evaluation), ("training", training))
        for name, values in metrics.items()
    }
    if len(seeds) > 1:
        for name, values in evaluation.items():
            numbers |= {f"seeds/{name}/{s}": float(v) for s, v in zip(seeds, values, strict=True)}
    return {name: number for name, number in numbers.items() if np.isfinite(number)}


class TensorBoard:
    """An event file beside ``metrics.jsonl``; ``tensorboard --logdir runs`` shows it.

    Raises:
        ImportError: the extra ``tensorboard`` is missing.
    """

    def __init__(self) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError(
                f"TensorBoard's event files need tensorboardX: pip install 'jaxmec[tensorboard]' "
                f"({error})",
                name=error.name,
            ) from error
        self._library = tensorboardX
        self._writer: Any = None

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        """Start an event file in ``home``; points after ``step`` in earlier ones are void.

        Raises:
            ValueError: no directory.
        """
        if home is None:
            raise ValueError("TensorBoard needs a directory, where its event file goes, got none")
        self._seeds = seeds
        home.mkdir(parents=True, exist_ok=True)
        self._writer = self._library.SummaryWriter(
            str(home),
            purge_step=None if step < 0 else step + 1,
            filename_suffix=f".{step + 1}",  # a file of its own, however soon the run goes on
        )

    def log(
        self, step: int, evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
    ) -> None:
        """One point, on disk when this returns."""
        for name, number in scalars(self._seeds, evaluation, training).items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def end(self, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WandB:
    """A run of a Weights & Biases project; WANDB_MODE=offline keeps it here.

    Raises:
        ImportError: the extra ``wandb`` is missing.
    """

    def __init__(self, project: str, name: str, config: Mapping[str, object]) -> None:
        """
        Args:
            project: of Weights & Biases.
            name: of the run.
            config: what it shows of the run, JSON data.
        """
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"Weights & Biases needs wandb: pip install 'jaxmec[wandb]' ({error})",
                name=error.name,
            ) from error
        self._library = wandb
        self._project, self._name, self._config = project, name, dict(config)
        self._run: Any = None

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        """Start the run, or go on with the one of ``home``."""
        self._seeds = seeds
        known = None if home is None else home / WANDB_ID
        identity = uuid.uuid4().hex[:12]
        if known is not None:
            if step >= 0 and known.exists():
                identity = known.read_text(encoding="utf-8").strip()
            files.write_whole(known, identity + "\n")
        self._run = self._library.init(
            project=self._project,
            name=self._name,
            config={**self._config, "seeds": list(seeds)},
            dir=None if home is None else str(home),
            id=identity,
            resume="allow",
        )

    def log(
        self, step: int, evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
    ) -> None:
        """One point."""
        self._run.log(scalars(self._seeds, evaluation, training), step=step)

    def end(self, failed: bool) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
