"""Learned policies for serving beside the tuned rule, in the same episodes; see docs/serving.md.

python benchmarks/serving_learning.py --methods serving-sac --seeds 3

Every training is a cell in a file of its own under ``--out``; what is there is not done again. The
table is made of all of them. No training, nor the tuning of the rule, sees the episodes judged.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from measuring import RESULTS, begin
from serving_rules import FIGURES, SETTINGS

import jaxmec
from jaxmec.core.files import write_whole
from jaxmec.core.statistics import bootstrap_interval
from jaxmec.experiment.tuning import tune_rule

ENV = "GenerativeServing-v0"
RESULT = RESULTS / "serving_learning"
# A request that is not served costs as much as the best picture is worth: what is compared is how
# many are served, at what quality. The rule's numbers are found for that, and for the reward alone.
COST = 1.0
TUNED = {"tuned": COST, "tuned for the reward": 0.0}
SIZES = {  # episodes judged; share of a training; candidates, rounds and episodes of the tuned rule
    "tiny": (2, 0.005, (8, 1, 2)),
    "full": (1024, 1.0, (64, 12, 64)),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train, judge, and print the table."""

    methods: tuple[str, ...] = ("serving-sac", "serving-dsac", "serving-dqn", "serving-es")
    seeds: int = 3  # training seeds of each, one after the other
    preset: str = "genai-5"
    settings: tuple[str, ...] = tuple(SETTINGS)  # names in SETTINGS
    size: Literal["tiny", "full"] = "full"
    out: Path = RESULT


def figures(report: Any) -> dict[str, float]:
    return {name: report.mean(name) for name in FIGURES}


def learned(method: str, seed: int, where: dict[str, Any], options: Options) -> dict[str, Any]:
    """One training and how it is judged, both ways."""
    episodes, share, _ = SIZES[options.size]
    recipe = jaxmec.recipe(method, **where, failure_cost=COST)
    started = time.perf_counter(), time.process_time()
    result = jaxmec.train(recipe.scaled(share), seeds=[seed], progress=False)
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    ways = {"greedy": False, "sampled": True}
    judged = {
        way: figures(jaxmec.evaluate(result, episodes=episodes, sampled=sampled))
        for way, sampled in ways.items()
    }
    return {"seconds": seconds[0], "processor_seconds": seconds[1], "steps": recipe.config.steps,
            **judged}  # fmt: skip


def ruled(where: dict[str, Any], cost: float, options: Options) -> dict[str, Any]:
    """The rule whose numbers are found for the setting, in the same episodes."""
    episodes, _, (candidates, rounds, played) = SIZES[options.size]
    _, params = jaxmec.make(ENV, **where, failure_cost=cost)
    found = tune_rule(params, candidates=candidates, rounds=rounds, episodes=played)
    report = jaxmec.evaluate(found.rule, env=ENV, episodes=episodes, **where)
    return {"numbers": found.numbers, "greedy": figures(report)}


def main(options: Options) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The cells by setting and method."""
    table: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for setting in options.settings:
        where = {"preset": options.preset, **SETTINGS[setting]}
        rows = table.setdefault(setting, {})
        for method in (*TUNED, *options.methods):
            for seed in range(1 if method in TUNED else options.seeds):
                name = f"{options.preset}-{where['load']}-{where['heartbeat']:g}-{method}-{seed}"
                file = options.out / f"{name.replace(' ', '-')}.json"
                if not file.exists():
                    cell = begin(options.size, {"setting": where, "method": method, "seed": seed})
                    if method in TUNED:
                        cell |= ruled(where, TUNED[method], options)
                    else:
                        cell |= learned(method, seed, where, options)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(file, json.dumps(cell, indent=1) + "\n")
                rows.setdefault(method, []).append(json.loads(file.read_text()))
        show(setting, rows)
    return table


def show(setting: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Violations against the tuned rule's, and every figure, means over the training seeds."""
    tuned = 1 - rows["tuned"][0]["greedy"]["served"]
    print(f"\n| {setting} | judged | seeds | violations, % | x the tuned rule's | "
          + " | ".join(FIGURES) + " |")  # fmt: skip
    print("| --- | --- |" + " ---: |" * (len(FIGURES) + 3))
    for method, cells in rows.items():
        for way in ("greedy", "sampled"):
            if way not in cells[0]:
                continue
            late = np.array([1 - cell[way]["served"] for cell in cells])
            ratio = f"{late.mean() / tuned:.2f}"
            if len(late) > 1:
                low, high = bootstrap_interval(late / tuned)
                ratio += f" [{low:.2f}, {high:.2f}]"
            means = [np.mean([cell[way][name] for cell in cells]) for name in FIGURES]
            cells_ = [f"{m:.4f}" if m < 1.5 else f"{m:.1f}" for m in means]
            print(f"| {method} | {way} | {len(late)} | {100 * late.mean():.2f} | {ratio} | "
                  + " | ".join(cells_) + " |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
