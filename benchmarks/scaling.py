"""What training costs against the number of seeds side by side, and of devices; see README.md.

python benchmarks/scaling.py --size small
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from measuring import RESULTS, begin, turns, write

import jaxmec
from jaxmec import compilation
from jaxmec.training import devices as on_devices
from jaxmec.training import loop

RESULT = RESULTS / "scaling.json"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    config: loop.TrainConfig  # `eval_every` steps are a repetition
    seeds: tuple[int, ...]
    devices: tuple[int, ...]  # those that there are
    repetitions: int


SMALL = loop.TrainConfig(
    num_envs=16, prefill=1_000, buffer_size=20_000, batch_size=128, updates_per_step=4,
    eval_every=1_600,
)  # fmt: skip
SIZES = {
    "tiny": Size(
        loop.TrainConfig(
            num_envs=4, prefill=16, buffer_size=64, batch_size=8, updates_per_step=1, eval_every=16
        ),
        (1, 2), (1,), 1,
    ),
    "small": Size(SMALL, (1, 2, 5, 10, 20), (1, 2, 4, 8), 5),
    "full": Size(
        dataclasses.replace(SMALL, eval_every=16_000), (1, 2, 5, 10, 20, 50, 100), (1, 2, 4, 8), 9
    ),
}  # fmt: skip


def training(config: loop.TrainConfig, seeds: int, devices: int) -> Callable[[], Any]:
    """A call that trains DSAC on CartPole for ``eval_every`` steps of every seed."""
    env, params = jaxmec.make("CartPole-v1")
    agent = jaxmec.DSAC()
    placement = on_devices.place(devices, seeds, config)
    state_places = placement.of_state(loop.TrainState)
    begun = placement.compile(
        lambda params, key: loop.prefill(
            agent, env, params, config, loop.init(agent, env, params, config, key)
        ),
        state_places,
    )
    chunk = placement.compile(
        lambda params, state: loop.train_chunk(agent, env, params, config, state),
        (state_places, placement.everywhere()),
        donate=1,
        options=compilation.options(),
    )
    params = placement.shared(params)
    state = [begun(params, placement.put(jax.random.split(jax.random.key(0), seeds)))]

    def call() -> None:
        state[0], metrics = jax.block_until_ready(chunk(params, state[0]))
        if loop.failures(metrics):
            raise FloatingPointError(f"not finite: {', '.join(loop.failures(metrics))}")

    return call


def against(
    what: str, size: Size, numbers: tuple[int, ...], seeds: int = 0
) -> list[dict[str, Any]]:
    """A row for each number of seeds, or of devices with so many seeds in all."""
    calls = [training(size.config, *((n, 1) if what == "seeds" else (seeds, n))) for n in numbers]
    taken = turns(calls, size.repetitions)
    first = statistics.median(taken[0])
    rows = []
    for number, seconds in zip(numbers, taken, strict=True):
        cost = statistics.median(seconds) / first
        rows.append({what: number, "seconds": seconds, "cost": cost})
        print(f"{what} {number:>4}: {statistics.median(seconds):>8.3f} s, {cost:.2f} x", flush=True)
    return rows


def with_devices(size: str) -> list[dict[str, Any]]:
    """Rows against the number of devices, as a process of its own prints them: how many parts
    a CPU is, XLA asks once."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    answer = subprocess.run(
        [sys.executable, __file__, "--size", size, "--only", "devices", "--output", "None",
         "--split"],
        env=os.environ | {"XLA_FLAGS": flags}, text=True, check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    *printed, rows = answer.splitlines()
    print("\n".join(printed), flush=True)
    return json.loads(rows)


def main(
    size: Literal["tiny", "small", "full"] = "small",
    only: Literal["all", "seeds", "devices"] = "all",
    output: Path | None = RESULT,
    split: bool = False,
) -> dict[str, Any]:
    """Measure training, print it and keep every repetition.

    Args:
        size: how much to measure: seconds, some minutes, or more.
        only: against the number of seeds, of devices, or both.
        output: the JSON file to write; None writes nothing.
        split: a CPU is split into devices already; the last line printed is the rows.
    """
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    report["seeds"] = against("seeds", chosen, chosen.seeds) if only != "devices" else []
    report["devices"] = []
    if only != "seeds" and jax.default_backend() == "cpu" and not split:
        report["devices"] = with_devices(size)
    elif only != "seeds":
        there = tuple(n for n in chosen.devices if n <= jax.device_count())
        report["devices"] = against("devices", chosen, there, seeds=max(chosen.devices))
        if split:
            print(json.dumps(report["devices"]))
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
