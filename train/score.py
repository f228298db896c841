"""The choice of a set by scores, from 5 to 64 servers at the same load: `python train/score.py`.

Trains `ddrl-amsa-score` on `amcoedge` and on the same load with more servers, every seed to
its end, and plays the same episodes with every seed's policy, with the schedulers that do not
learn, each at its best information model up to the policy's, and with the oracle. Writes one
JSON file; what it holds already is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

import jaxmec
from jaxmec.cli import guarded
from jaxmec.core import files
from jaxmec.schedulers import SCHEDULERS

REFERENCE = "water-filling-full"  # the published Optimal, for any number of servers
# On larger networks an episode has fewer slots, each of as many more tasks: every queue is
# empty when a slot begins, so slots are alike.
SLOTS = {5: 60, 20: 10, 64: 4}
# A value costs O(B), so minibatches shrink; a slot has 15 B tasks, and the buffer should hold
# more than one of each environment, since all begin together.
SIZES: dict[int, dict[str, Any]] = {
    5: {"steps": 300_000},
    20: {"steps": 200_000, "batch_size": 128, "prefill": 20_000, "buffer_size": 80_000},
    64: {
        "steps": 160_000,
        "num_envs": 32,
        "batch_size": 48,
        "updates_per_step": 2,
        "prefill": 32_000,
        "buffer_size": 64_000,
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the score agent and compare it."""

    out: Path = Path("docs/results/score.json")  # where the numbers go
    servers: tuple[Literal[5, 20, 64], ...] = (5, 20, 64)  # B
    seeds: int = 2  # training seeds
    scale: float = 1.0  # of the decisions trained on
    episodes: int = 20  # episodes to compare on, the same for all
    eval_seed: int = 1  # of those episodes; no training uses them
    without: tuple[str, ...] = ()  # schedulers to leave out


def main(options: Options) -> None:
    """Train, compare, write."""
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for servers in options.servers:
        entry = results.setdefault(str(servers), {"makespan": {}, "seeds": {}})
        preset, slots, sizes = f"amcoedge-{servers}", SLOTS[servers], SIZES[servers]
        on: dict[str, Any] = {
            "preset": preset,
            "slots": slots,
            "episodes": options.episodes,
            "seed": options.eval_seed,
        }
        for name, scheduler in SCHEDULERS.items():
            known = name in entry["makespan"] or name in options.without
            if known or (scheduler.oracle and name != REFERENCE):
                continue
            least = scheduler.information
            models = [least] if least in ("local", "full") else [least, "local"]
            reports = [jaxmec.evaluate(name, information=model, **on) for model in models]
            entry["makespan"][name] = min(report.mean("makespan") for report in reports)
            _write(options.out, results)
            print(f"B = {servers:3d}  {name:<26} {entry['makespan'][name]:.4f} s")
        for seed in range(options.seeds):
            if str(seed) in entry["seeds"]:
                continue
            started = time.perf_counter()
            result = jaxmec.train(
                "ddrl-amsa-score",
                preset=preset,
                seeds=[seed],
                slots=slots,
                **(sizes | {"steps": int(sizes["steps"] * options.scale)}),
                progress=False,
            )
            trained = time.perf_counter() - started
            report = jaxmec.evaluate(result, episodes=options.episodes, seed=options.eval_seed)
            ratio = report.mean("makespan") / entry["makespan"][REFERENCE]
            entry["seeds"][str(seed)] = {
                "makespan": report.mean("makespan"),
                "failed": report.mean("failed"),
                "ratio": ratio,
                "curve": [float(x) for x in result.history.evaluation["makespan"][0]],
                "config": dataclasses.asdict(result.config),
                "train_seconds": round(trained),
                "device": jax.devices()[0].device_kind,
            }
            _write(options.out, results)
            print(f"B = {servers:3d}  seed {seed}: {ratio:.4f} x Optimal, {trained:.0f} s")


def _write(path: Path, results: dict[str, object]) -> None:
    files.write_whole(path, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
