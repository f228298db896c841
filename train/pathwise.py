"""Learning through the simulator: below the published "Optimal" with what a station knows.

Trains S seeds, plays test episodes that no training, validation or tuning has seen, and
writes every seed's mean make-span over that of "Optimal" (greedy, with full information) on
the same arrivals, with the mean and its 95 % interval, as JSON.
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

import jaxmec
from jaxmec.cli import guarded
from jaxmec.core import files
from jaxmec.core.statistics import t_interval
from jaxmec.envs import find_environment
from jaxmec.methods import find_method

TEST_SEED = 1  # of the episodes reported; development looked at others


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, where, and where the result goes."""

    method: str = "ddrl-amsa-taught"  # or any other that learns through the simulator
    preset: str | None = None  # which published setting; by default the method's
    information: str = "local"  # local, slot (whose slots are laid out) or full
    allocation: str | None = None  # allocation_information; the method's if None
    entry_gradient: float | None = None  # weight of the jumps; the method's if None
    probability: float | None = None  # of a task at each position; the preset's if None
    network: str | None = None  # flat, or servers: one shared over them; the method's if None
    denoising_steps: int | None = None  # K; 0 is a plain network; the method's if None
    start: str | None = None  # a method whose policy it begins with; the method's own if None
    neighbours: int | None = None  # decide among the own server and the next ones, m in all
    seeds: int = 10  # 0 .. seeds - 1
    steps: int | None = None  # decisions to train on, a seed; the method's if None
    trials: int | None = None  # starts of which the best goes on; the method's if None
    window: int | None = None  # decisions in a window; the method's if None
    counted_slots: int | None = None  # slots of a window that count; the method's if None
    num_envs: int | None = None  # windows in an update; the method's if None
    episodes: int = 20  # test episodes
    together: int = 1  # seeds trained side by side; memory grows with them
    out: Path = Path("docs/results/pathwise.json")  # an entry is added to what is there
    name: str = ""  # of the entry; made from the options by default


def main(options: Options) -> None:
    """Train, test, write."""
    setting: dict[str, Any] = {}
    if options.probability is not None:
        setting["probability"] = options.probability
    if options.information == "slot":
        setting["laid_out"] = True
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("steps", "trials", "window", "counted_slots", "num_envs")
        if getattr(options, name) is not None
    }
    row = find_method(options.method)
    told = {
        "allocation_information": options.allocation,
        "entry_gradient": options.entry_gradient,
        "network": options.network,
        "denoising_steps": options.denoising_steps,
        "start": options.start,
    }
    changes |= {name: value for name, value in told.items() if value is not None}
    preset = row.preset if options.preset is None else options.preset
    single = find_environment(row.env).problem == "single"
    given: dict[str, Any] = {} if single else {"allocation_information": "true"}
    optimal = jaxmec.evaluate(
        "opt-ts" if single else "water-filling",
        env=row.env,
        preset=preset,
        information="full",
        **given,
        episodes=options.episodes,
        seed=TEST_SEED,
        **setting,
    )
    ratios: list[float] = []
    seconds: list[float] = []
    for first in range(0, options.seeds, options.together):
        began = time.perf_counter()
        result = jaxmec.train(
            options.method,
            preset=preset,
            seeds=range(first, min(first + options.together, options.seeds)),
            information=options.information,
            neighbours=options.neighbours,
            progress=False,
            **setting,
            **changes,
        )
        seconds.append((time.perf_counter() - began) / len(result.seeds))
        report = jaxmec.evaluate(result, episodes=options.episodes, seed=TEST_SEED)
        makespans = report.values["makespan"].mean(axis=1)  # [S] s
        ratios += (makespans / optimal.mean("makespan")).tolist()
        print(f"seeds {result.seeds}: {ratios[-len(result.seeds) :]}, {seconds[-1]:.0f} s a seed")
    low, high = t_interval(np.asarray(ratios))
    entry = {
        "ratio_to_optimal": float(np.mean(ratios)),
        "interval_95": [low, high],
        "seeds": [round(ratio, 5) for ratio in ratios],
        "optimal_makespan_s": optimal.mean("makespan"),
        "training_seconds_a_seed": round(float(np.mean(seconds)), 1),
        "episodes": options.episodes,
        "options": {
            k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "name")
        },
        "device": str(jax.devices()[0].device_kind),
    }
    marks = {
        "": options.allocation,
        "p": options.probability,
        "K": options.denoising_steps,
        "jumps": options.entry_gradient,
        "network-": options.network,
        "from-": options.start,
    }
    marked = [f"{mark}{value}" for mark, value in marks.items() if value is not None]
    name = options.name or "-".join([options.method, str(preset), options.information, *marked])
    print(f"{name}: {entry['ratio_to_optimal']:.4f} [{low:.4f}, {high:.4f}] of Optimal")
    entries = json.loads(options.out.read_text()) if options.out.exists() else {}
    entries[name] = entry
    files.write_whole(options.out, json.dumps(entries, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
