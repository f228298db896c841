"""What training costs against the number of seeds side by side, and of devices; see README.md.

python benchmarks/scaling.py --size small
"""

from __future__ import annotations

import dataclasses
import functools
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
from measuring import RESULTS, begin, chunks, ratio, turns, write

import jaxmec
from jaxmec.core import compilation
from jaxmec.training import TrainConfig, TrainState
from jaxmec.training import devices as on_devices

RESULT = RESULTS / "scaling.json"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    config: TrainConfig  # `eval_every` steps are a repetition
    seeds: tuple[int, ...]
    devices: tuple[int, ...]  # those that there are
    repetitions: int


SMALL = TrainConfig(
    num_envs=16, prefill=1_000, buffer_size=20_000, batch_size=128, updates_per_step=4,
    eval_every=3_200,
)  # fmt: skip
SIZES = {
    "tiny": Size(
        TrainConfig(
            num_envs=4, prefill=16, buffer_size=64, batch_size=8, updates_per_step=1, eval_every=16
        ),
        (1, 2), (1,), 1,
    ),
    "small": Size(SMALL, (1, 2, 5, 10), (1, 2, 4, 8), 5),
    "full": Size(
        dataclasses.replace(SMALL, eval_every=16_000), (1, 2, 5, 10, 20, 50, 100), (1, 2, 4, 8), 9
    ),
}  # fmt: skip


def training(config: TrainConfig, seeds: int, devices: int) -> Callable[[], Any]:
    """A call that trains DSAC on CartPole for ``eval_every`` steps of every seed."""
    env, params = jaxmec.make("CartPole-v1")
    agent = jaxmec.DSAC()
    placement = on_devices.place(devices, seeds, config)
    state_places = placement.of_state(TrainState)
    first = placement.compile(
        lambda params, key: config.prepare(
            agent, env, params, config.init(agent, env, params, key)
        ),
        state_places,
    )
    chunk = placement.compile(
        lambda params, state: config.chunk(agent, env, params, state),
        (state_places, placement.everywhere()),
        donate=1,
        options=compilation.options(),
    )
    params = placement.shared(params)
    state = first(params, placement.put(jax.random.split(jax.random.key(0), seeds)))
    return chunks(functools.partial(chunk, params), state)


def against_seeds(size: Size) -> list[dict[str, Any]]:
    """A row for each number of seeds side by side."""
    taken = turns([training(size.config, seeds, 1) for seeds in size.seeds], size.repetitions)
    rows = [
        {"seeds": seeds, "seconds": seconds, "cost": ratio(seconds, taken[0])}
        for seeds, seconds in zip(size.seeds, taken, strict=True)
    ]
    return [shown("seeds", row) for row in rows]


def against_devices(name: str) -> list[dict[str, Any]]:
    """A row for each number of devices, for as many seeds as there are devices at most.

    Of a CPU each number is a process of its own: into how many parts it is split, XLA asks once,
    and a program slows down where there are more parts than it uses.
    """
    size, rows = SIZES[name], []
    for devices in size.devices:
        if jax.default_backend() == "cpu":
            answer = subprocess.run(
                [sys.executable, __file__, "--size", name, "--devices", str(devices)],
                env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
                text=True, check=True, stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            seconds = json.loads(answer)
        elif devices <= jax.device_count():
            seconds = with_devices(size, devices)
        else:
            break
        row = {"devices": devices, "seconds": seconds}
        first = rows[0]["seconds"] if rows else seconds
        rows.append(row | {"cost": statistics.median(seconds) / statistics.median(first)})
        shown("devices", rows[-1])
    return rows


def with_devices(size: Size, devices: int) -> list[float]:
    """Seconds of each repetition."""
    return turns([training(size.config, max(size.devices), devices)], size.repetitions)[0]


def shown(what: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, printed."""
    seconds = statistics.median(row["seconds"])
    print(f"{what} {row[what]:>4}: {seconds:>8.3f} s, {row['cost']:.2f} x", flush=True)
    return row


def main(
    size: Literal["tiny", "small", "full"] = "small",
    output: Path | None = RESULT,
    devices: int | None = None,
) -> dict[str, Any]:
    """Measure training, print it and keep every repetition.

    Args:
        size: how much to measure: seconds, some minutes, or more.
        output: the JSON file to write; None writes nothing.
        devices: print only the seconds with so many devices, as JSON.
    """
    chosen = SIZES[size]
    if devices is not None:
        seconds = with_devices(chosen, devices)
        print(json.dumps(seconds))
        return {"seconds": seconds}
    report = begin(size, dataclasses.asdict(chosen))
    report["seeds"] = against_seeds(chosen)
    report["devices"] = against_devices(size)
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
