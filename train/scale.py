"""Our settings for few environments beside those for thousands (scale "gpu"), in wall clock.

Trains methods at both scales, and writes every seed's evaluation at every point with the seconds
and the gradient updates up to it (results.json) and a figure, under --out. An interrupted run
goes on where it stopped. Seeds are trained side by side: seconds are those of all of them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxmec
from jaxmec import plots
from jaxmec.cli import guarded
from jaxmec.core import files, tables
from jaxmec.core.terminal import Screen
from jaxmec.methods import METHODS, SCALES, find_method
from jaxmec.studies.cells import machine
from jaxmec.training import checkpoint, runner
from jaxmec.training.off_policy import TrainConfig

SOLVED = 475.0  # Gymnasium's threshold for CartPole-v1
BOTH = tuple(name for name, method in METHODS.items() if method.gpu is not None)


@dataclasses.dataclass(frozen=True)
class Options:
    """Train methods at both scales."""

    out: Path = Path("runs/scale")  # where everything goes
    methods: tuple[str, ...] = BOTH  # those that have both scales, on CartPole-v1
    seeds: int = 5  # side by side
    shorten: float = 1.0  # of every training, the share that is done
    progress: bool = True  # show a progress display


def trained(options: Options, name: str, scale: str) -> dict[str, Any]:
    """Train, or go on; every point's seconds, updates and evaluations [S]."""
    config = find_method(name).settings(scale=scale).config
    assert isinstance(config, TrainConfig)
    directory = options.out / f"{name}_{scale}"
    length = config.steps - config.prefill
    jaxmec.train(
        name,
        scale=scale,
        seeds=options.seeds,
        steps=config.prefill + max(config.eval_every, int(options.shorten * length)),
        directory=directory,
        resume=bool(checkpoint.checkpoints(directory / runner.CHECKPOINTS)),
        progress=options.progress,
    )
    lines = (directory / runner.METRICS_FILE).read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    steps = np.array([point["env_steps"] for point in points])
    updates = (steps - config.prefill_steps) // config.num_envs * config.updates_per_step
    return {
        "env_steps": steps.tolist(),
        "updates": updates.tolist(),
        "seconds": [point["seconds"] for point in points],
        "returns": [point["evaluation"]["return"] for point in points],  # [P][S]
    }


def main(options: Options) -> None:
    """Train, tabulate, draw."""
    console = Screen(soft_wrap=False)
    for name in options.methods:
        find_method(name).settings(scale="gpu")  # who has none is told before any is trained
    results = {
        name: {scale: trained(options, name, scale) for scale in SCALES} for name in options.methods
    }
    table = tables.results_table(f"CartPole-v1, {options.seeds} seeds side by side")
    for header in ("method", "scale", "updates", "s", f"all at {SOLVED:g} by", "last return"):
        table.add_column(header, justify="left" if header in ("method", "scale") else "right")
    curves: dict[str, plots.Curve] = {}
    for name, of_scale in results.items():
        for scale, found in of_scale.items():
            returns = np.array(found["returns"])  # [P, S]
            reached = np.logical_or.accumulate(returns >= SOLVED).all(axis=1)
            first = int(np.argmax(reached))
            table.add_row(
                name,
                scale,
                f"{found['updates'][-1]:,}",
                f"{found['seconds'][-1]:.0f}",
                f"{found['seconds'][first]:.0f} s, {found['updates'][first]:,} updates"
                if reached.any()
                else "not reached",
                f"{returns[-1].mean():.1f}",
            )
            curves[f"{name}, {scale}"] = plots.Curve(found["seconds"], returns.T)
    console.print(table)
    figure = plots.learning_curves(
        curves,
        ylabel="mean evaluation return",
        xlabel="seconds, of all seeds",
        references={"solved": SOLVED},
        log_steps=True,
    )
    plots.save(figure, options.out / "scale")
    document = {
        "machine": machine(),
        "jax": jax.__version__,
        "seeds": options.seeds,
        "methods": results,
    }
    files.write_whole(options.out / "results.json", json.dumps(document) + "\n")
    console.print(f"written: {options.out / 'results.json'}, {options.out / 'scale.png'}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
