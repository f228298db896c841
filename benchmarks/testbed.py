"""The prototype beside the simulator: without faults, and with a node killed now and then.

    python benchmarks/testbed.py --to results/testbed

Three seeds without faults and one with kills, of five rules each: about 25 minutes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro

from jaxmec.cli.errors import guarded
from jaxmec.core import files
from jaxmec_testbed.command import POLICIES, RunCommand, measure


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    policies: tuple[str, ...] = POLICIES
    seeds: int = 3  # runs without faults
    load: float = 0.6
    horizon: float = 60.0  # s of a run
    kill_every: float = 15.0  # s, of the run with kills
    painter: str = "tiny"  # or onnx
    to: Path = Path("results/testbed")


def main(benchmark: Benchmark) -> None:
    """Run all, and write their figures together."""
    common = RunCommand(
        policies=benchmark.policies,
        load=benchmark.load,
        horizon=benchmark.horizon,
        painter=benchmark.painter,
    )
    runs = {
        f"seed-{seed}": dataclasses.replace(common, seed=seed) for seed in range(benchmark.seeds)
    }
    runs["kills"] = dataclasses.replace(common, kill_every=benchmark.kill_every)
    figures = {
        name: measure(dataclasses.replace(command, to=benchmark.to / name))
        for name, command in runs.items()
    }
    files.write_whole(benchmark.to / "all.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Benchmark)), "benchmarks/testbed.py"))
