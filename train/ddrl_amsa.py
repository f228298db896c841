"""DDRL-AMSA on the published setting `amcoedge`, and how it compares: `make run`.

Trains it twice, S seeds side by side: model-free, on the terms of the papers (CWA on the true
waits), and taught by the planner and then by the differentiable simulator, playing with what a
station can know and nothing else. Then it plays the same episodes with every seed's policy, the
simple schedulers and the published "Optimal", and writes a table, the figures and the
checkpoints of the policies under --out. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import tyro

import jaxmec
from jaxmec import plots
from jaxmec.cli import guarded
from jaxmec.core.terminal import Screen
from jaxmec.studies.comparison import Comparison
from jaxmec.training import parts
from jaxmec.training.runner import START, Interrupted

PRESET = "amcoedge"
SCHEDULERS = ("static-sets", "water-filling", "weighted-coin", "random-subset", "random", "local")


@dataclasses.dataclass(frozen=True)
class Part:
    """One way to train."""

    label: str
    folder: str
    method: str
    options: dict[str, Any]


# On the terms of the papers: what the policy and whoever allocates see, with our settings.
GIVEN = {
    "information": "slot_start",
    "features": "queues",
    "allocate": "cwa",
    "allocation_information": "true",
}
MODEL_FREE = Part("ddrl-amsa (CWA)", "model-free", "ddrl-amsa", GIVEN)
TAUGHT = Part("ddrl-amsa-taught", "taught", "ddrl-amsa-taught", {})


@dataclasses.dataclass(frozen=True)
class Options:
    """Train DDRL-AMSA and compare it."""

    out: Path = Path("runs/ddrl-amsa")  # where everything goes
    seeds: int = 5  # training seeds of the model-free part, side by side
    steps: int = 100_000  # decisions that each of them trains on
    taught_seeds: int = 2  # training seeds of the part that is taught
    taught_updates: int = 1_000  # gradient updates through the simulator that each of them makes
    episodes: int = 20  # episodes to compare on, the same for all
    progress: bool = True  # show a progress display


def main(options: Options) -> None:
    """Train, compare, draw."""
    console = Screen(soft_wrap=False)
    started = time.perf_counter()
    per_update = jaxmec.METHODS[TAUGHT.method].config.stride
    sizes: dict[str, dict[str, Any]] = {
        MODEL_FREE.folder: {"seeds": options.seeds, "steps": options.steps},
        TAUGHT.folder: {
            "seeds": options.taught_seeds,
            "steps": options.taught_updates * per_update,
            "eval_every": max(1, options.taught_updates // 10) * per_update,
        },
    }
    trained = {}
    for part in (TAUGHT, MODEL_FREE):
        directory = options.out / part.folder
        # What teaches is trained first, in a directory of its own.
        unfinished = any(parts.has_begun(home) for home in (directory, directory / START))
        console.print(f"{part.label}: {'going on with' if unfinished else 'in'} {directory}")
        try:
            trained[part.label] = jaxmec.train(
                part.method,
                preset=PRESET,
                directory=directory,
                resume=unfinished,
                progress=options.progress,
                name=part.label,
                **part.options,
                **sizes[part.folder],
            )
        except Interrupted as error:  # there is no --resume here: it goes on by itself
            error.args = (
                f"{part.label}: stopped and saved in {directory}; the same again goes on",
            )
            raise
    compared = time.perf_counter()
    optimal = jaxmec.evaluate("optimal", preset=PRESET, episodes=options.episodes)
    reports = [jaxmec.evaluate(result, episodes=options.episodes) for result in trained.values()]
    rules = [jaxmec.evaluate(name, preset=PRESET, episodes=options.episodes) for name in SCHEDULERS]
    comparison = Comparison([optimal, *reports, *rules], optimal)
    console.print(
        comparison.table(
            f"{PRESET}: mean make-span (s), {options.episodes} episodes, the same for all"
        )
    )
    console.print(
        '"optimal" is the published one: the best set for the task at hand with full information.',
        "It is greedy, so a policy can go below it.",
        sep="\n",
        style="dim",
    )
    comparison.save(options.out / "comparison.json", device=str(jax.devices()[0]))

    files = []
    for part in (TAUGHT, MODEL_FREE):
        result = trained[part.label]
        history = result.history
        figure = plots.learning_curves(
            {part.label: plots.Curve(history.env_steps[0], history.evaluation["makespan"])},
            ylabel="mean make-span (s)",
            xlabel="decisions",
            references={r.name: r.mean("makespan") for r in (optimal, *rules[:3])},
        )
        files.append(plots.save(figure, options.out / part.folder / "learning_curve")[0])
    bars = {report.name: report.samples("makespan") for report in comparison.by_metric}
    figure = plots.comparison_bars(
        bars,
        xlabel="mean make-span (s)",
        references={"optimal (greedy)": optimal.mean("makespan")},
        highlight=tuple(trained),
    )
    files.append(plots.save(figure, options.out / "comparison")[0])
    finished = time.perf_counter()
    for part in (TAUGHT, MODEL_FREE):
        directory = options.out / part.folder
        console.print(
            part.label,
            f"  policy      {directory / 'policy'}   (jaxmec.load_policy)",
            f"  checkpoints {directory / 'checkpoints'}",
            f"  metrics     {directory / 'metrics.jsonl'}",
            sep="\n",
        )
    console.print(
        f"comparison  {options.out / 'comparison.json'}",
        f"plots       {', '.join(map(str, files))}",
        f"trained in {compared - started:.0f} s, compared in {finished - compared:.0f} s "
        f"on {jax.devices()[0].device_kind}",
        sep="\n",
    )


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
