"""DQN, SAC and DSAC on CartPole-v1: the learning curves, every seed.

Writes results.json (every seed's evaluation at every point, the machine and the time),
and the figure, under --out. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.table import Table

import jaxmec
from jaxmec import plots
from jaxmec.cli import guarded
from jaxmec.core import files
from jaxmec.core.statistics import t_interval
from jaxmec.core.terminal import Screen
from jaxmec.studies.cells import machine
from jaxmec.training import checkpoint, runner

SOLVED = 475.0  # Gymnasium's threshold for CartPole-v1


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the three agents on CartPole-v1."""

    out: Path = Path("runs/cartpole")  # where everything goes
    agents: tuple[str, ...] = ("dsac", "sac", "dqn")
    seeds: int = 5  # side by side, per agent
    steps: int = 100_000  # environment steps, per seed
    progress: bool = True  # show a progress display


def main(options: Options) -> None:
    """Train, tabulate, draw."""
    console = Screen(soft_wrap=False)
    curves: dict[str, plots.Curve] = {}
    results: dict[str, Any] = {}
    for name in options.agents:
        directory = options.out / name
        started = time.perf_counter()
        result = jaxmec.train(
            name,
            env="CartPole-v1",
            seeds=options.seeds,
            steps=options.steps,
            directory=directory,
            resume=bool(checkpoint.checkpoints(directory / runner.CHECKPOINTS)),
            progress=options.progress,
        )
        returns = np.asarray(result.history.evaluation["return"])  # [S, P]
        steps = np.asarray(result.history.env_steps[0])
        curves[name] = plots.Curve(steps, returns)
        results[name] = {
            "env_steps": steps.tolist(),
            "returns": np.round(returns, 2).tolist(),
            "seconds": round(time.perf_counter() - started, 1),
        }

    table = Table(title=f"CartPole-v1, {options.seeds} seeds, mean evaluation return")
    for header in ("agent", "best point", "at steps", "last point", "95 % interval", "first 475"):
        table.add_column(header, justify="left" if header == "agent" else "right")
    for name in curves:
        returns, steps = np.asarray(results[name]["returns"]), results[name]["env_steps"]
        mean = returns.mean(axis=0)
        best = int(np.argmax(mean))
        solved = np.flatnonzero(mean >= SOLVED)
        low, high = t_interval(returns[:, -1])
        table.add_row(
            name,
            f"{mean[best]:.1f}",
            f"{steps[best]:,}",
            f"{mean[-1]:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{steps[solved[0]]:,} steps" if solved.size else "not reached",
        )
    console.print(table)
    figure = plots.learning_curves(
        curves,
        ylabel="mean evaluation return",
        xlabel="environment steps",
        references={"solved": SOLVED},
    )
    plots.save(figure, options.out / "learning_curves")
    document = {
        "machine": machine(),
        "jax": jax.__version__,
        "seeds": options.seeds,
        "agents": results,
    }
    files.write_whole(options.out / "results.json", json.dumps(document) + "\n")
    console.print(f"written: {options.out / 'results.json'}, {options.out / 'learning_curves.png'}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
