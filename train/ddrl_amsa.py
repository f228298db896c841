"""DDRL-AMSA on the published setting `amcoedge`, and how it compares: `make run`.

Trains S seeds side by side, then plays the same episodes with every seed's policy, the
simple schedulers and the published "Optimal", and writes a table, the figures and the
checkpoint of the policy under --out. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import jax
import tyro
from rich.console import Console

import jaxmec
from jaxmec import plots
from jaxmec.comparison import Comparison
from jaxmec.methods import find_method

PRESET = "amcoedge"
SCHEDULERS = ("water-filling", "weighted-coin", "random-subset", "random", "local")


@dataclasses.dataclass(frozen=True)
class Options:
    """Train DDRL-AMSA and compare it."""

    out: Path = Path("runs/ddrl-amsa")  # where everything goes
    seeds: int = 5  # training seeds, side by side
    steps: int = find_method("ddrl-amsa").config.steps  # decisions to train on, per seed
    episodes: int = 20  # episodes to compare on, the same for all
    progress: bool = True  # show a progress display


def main(options: Options) -> None:
    """Train, compare, draw."""
    console = Console()
    started = time.perf_counter()
    unfinished = (options.out / "checkpoints").exists()
    if unfinished:
        console.print(f"going on with the run in {options.out}; remove it to start afresh")
    result = jaxmec.train(
        "ddrl-amsa",
        preset=PRESET,
        seeds=options.seeds,
        steps=options.steps,
        directory=options.out,
        resume=unfinished,
        progress=options.progress,
    )
    trained = time.perf_counter()
    optimal = jaxmec.evaluate("optimal", preset=PRESET, episodes=options.episodes)
    reports = [optimal, jaxmec.evaluate(result, episodes=options.episodes)]
    reports += [
        jaxmec.evaluate(name, preset=PRESET, episodes=options.episodes) for name in SCHEDULERS
    ]
    comparison = Comparison(reports, optimal)
    console.print(
        comparison.table(
            f"{PRESET}: mean make-span (s), {options.episodes} episodes, the same for all"
        )
    )
    console.print(
        '"optimal" is the published one: the best set for the task at hand with full '
        "information.\nIt is greedy, so a policy can go below it.",
        style="dim",
    )
    comparison.save(options.out / "comparison.json", device=str(jax.devices()[0]))

    curve = plots.Curve(result.history.env_steps[0], result.history.evaluation["makespan"])
    references = {report.name: report.mean("makespan") for report in (optimal, *reports[2:4])}
    plots.save(
        plots.learning_curves(
            {"ddrl-amsa": curve},
            ylabel="mean make-span (s)",
            xlabel="decisions",
            references=references,
        ),
        options.out / "learning_curve",
    )
    bars = {report.name: report.samples("makespan") for report in comparison.by_metric}
    plots.save(
        plots.comparison_bars(
            bars,
            xlabel="mean make-span (s)",
            references={"optimal (greedy)": optimal.mean("makespan")},
            highlight=("ddrl-amsa",),
        ),
        options.out / "comparison",
    )
    finished = time.perf_counter()
    console.print(
        f"policy      {options.out / 'policy'}   (jaxmec.load_policy)\n"
        f"checkpoints {options.out}\n"
        f"metrics     {options.out / 'metrics.jsonl'}\n"
        f"comparison  {options.out / 'comparison.json'}\n"
        f"plots       {options.out / 'learning_curve.png'}, {options.out / 'comparison.png'}\n"
        f"trained in {trained - started:.0f} s, compared in {finished - trained:.0f} s "
        f"on {jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
