"""Gradient updates a second of each agent, and of a PyTorch D2SAC beside ours; see README.md.

python benchmarks/updates.py --size small
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measuring import RESULTS, begin, ratio, turns, write

from jaxmec.agents import DQN, DSAC, SAC, Spec, Transition
from jaxmec.core import compilation

RESULT = RESULTS / "updates.json"
FEATURES, ACTIONS = 42, 20  # what an observation of `lad-ts` has, and its servers


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    batches: tuple[int, ...]
    hidden: tuple[int, ...]  # width of each of the two hidden layers
    steps: tuple[int, ...]  # K
    repetitions: int
    seconds: float  # of one repetition, about
    compared: tuple[tuple[str, int, int], ...]  # activation, batch, hidden: beside PyTorch


COMPARED = (("tanh", 512, 256), ("mish", 512, 256), ("relu", 512, 256),
            ("tanh", 64, 20), ("mish", 64, 20), ("relu", 64, 20))  # fmt: skip
SIZES = {
    "tiny": Size((8,), (8,), (2,), 2, 0.0, (("mish", 8, 8),)),
    "small": Size((64, 512), (20, 256), (5,), 5, 0.3, COMPARED),
    "full": Size((64, 256, 512, 4096), (20, 128, 256), (1, 5, 10), 5, 0.3, COMPARED),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One agent at one size."""

    name: str
    agent: Any
    batch: int


def agents(size: Size) -> Iterator[Case]:
    """All agents at all sizes."""
    for batch, hidden in itertools.product(size.batches, size.hidden):
        widths = {"hidden": (hidden, hidden), "activation": "relu"}
        about = f"batch {batch}, hidden {hidden}"
        yield Case(f"DQN, {about}", DQN(**widths), batch)
        yield Case(f"SAC, {about}", SAC(**widths), batch)
        for steps in size.steps:
            agent = DSAC(**widths, denoising_steps=steps)
            yield Case(f"DSAC, {about}, K = {steps}", agent, batch)


def minibatch(batch: int, seed: int = 0) -> Transition:
    """A minibatch of the shape of `lad-ts`, of random numbers."""
    rng = np.random.default_rng(seed)
    return Transition(
        observation=rng.random((batch, FEATURES), np.float32),
        action=rng.integers(0, ACTIONS, batch, np.int32),
        reward=-rng.random(batch, np.float32),
        next_observation=rng.random((batch, FEATURES), np.float32),
        terminated=rng.random(batch) < 0.1,
    )


def in_a_scan(agent: Any, batch: int, updates: int) -> Callable[[], Any]:
    """So many updates in one program, as training makes them; the learner is donated."""
    data = jax.device_put(minibatch(batch))

    def run(learner: Any, data: Transition, key: jax.Array) -> Any:
        def update(learner: Any, key: jax.Array) -> tuple[Any, None]:
            return agent.update(learner, data, key)[0], None

        return jax.lax.scan(update, learner, jax.random.split(key, updates))[0]

    program = jax.jit(run, donate_argnums=0, compiler_options=compilation.options())
    # One buffer cannot be donated twice, and targets start as the critics themselves.
    first = jax.tree.map(jnp.array, agent.init(jax.random.key(0), Spec(FEATURES, ACTIONS)))
    learner = [first]

    def call() -> None:
        learner[0] = jax.block_until_ready(program(learner[0], data, jax.random.key(1)))

    return call


def one_by_one(agent: Any, batch: int, updates: int) -> Callable[[], Any]:
    """The same updates, each a call from Python."""
    data = jax.device_put(minibatch(batch))
    program = jax.jit(lambda learner, data, key: agent.update(learner, data, key)[0],
                      donate_argnums=0, compiler_options=compilation.options())  # fmt: skip
    first = jax.tree.map(jnp.array, agent.init(jax.random.key(0), Spec(FEATURES, ACTIONS)))
    learner = [first]
    keys = list(jax.random.split(jax.random.key(1), updates))

    def call() -> None:
        for key in keys:
            learner[0] = program(learner[0], data, key)
        jax.block_until_ready(learner[0])

    return call


def peer(batch: int, hidden: int, activation: str, updates: int, fused: bool) -> Callable[[], Any]:
    """The updates of the plain PyTorch D2SAC."""
    import torch
    from torch_d2sac import D2SAC

    torch.manual_seed(0)
    learner = D2SAC(FEATURES, ACTIONS, (hidden, hidden), 5, activation, fused=fused)
    data = minibatch(batch)
    inputs = [torch.from_numpy(value) for value in data[:5]]
    inputs[1] = inputs[1].long()

    def call() -> None:
        for _ in range(updates):
            learner.update(*inputs)

    return call


def how_many(make: Callable[[int], Callable[[], Any]], seconds: float) -> int:
    """Updates that take about so long."""
    taken = statistics.median(turns([make(3)], 3)[0]) / 3
    return max(2, round(seconds / taken))


def row(name: str, updates: int, seconds: list[float], **about: Any) -> dict[str, Any]:
    """One line of the table."""
    rate = updates / statistics.median(seconds)
    return {"case": name, **about, "updates": updates, "seconds": seconds, "per_second": rate}


def compare(size: Size, one_core: bool = False) -> list[dict[str, Any]]:
    """Ours and PyTorch's D2SAC side by side, by processor time on one core; [] without PyTorch."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed (the extra peers): nothing to compare with")
        return []
    clock = None
    if one_core:
        torch.set_num_threads(1)
        clock = time.process_time
    threads = torch.get_num_threads()
    rows = []
    for activation, batch, hidden in size.compared:
        agent = DSAC.published(hidden=(hidden, hidden), activation=activation, denoising_steps=5)

        def slow(updates: int) -> Callable[[], Any]:
            return peer(batch, hidden, activation, updates, fused=False)  # noqa: B023

        updates = how_many(slow, size.seconds)
        calls = [
            slow(updates),
            peer(batch, hidden, activation, updates, fused=True),
            one_by_one(agent, batch, updates),
            in_a_scan(agent, batch, updates),
        ]
        seconds = turns(calls, size.repetitions, clock)
        about = f"D2SAC, {activation}, batch {batch}, hidden {hidden}"
        names = ("PyTorch", "PyTorch, fused Adam", "jaxmec, call by call", "jaxmec")
        for name, taken in zip(names, seconds, strict=True):
            rows.append(
                row(
                    f"{about}: {name}", updates, taken, threads=threads,
                    ratio=ratio(seconds[0], taken), ratio_to_fused=ratio(seconds[1], taken),
                )
            )  # fmt: skip
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    beside = ""
    if "ratio" in row:
        beside = f"{row['ratio']:>7.2f} x PyTorch, {row['ratio_to_fused']:.2f} x with fused Adam"
    return f"{row['case']:<60}{row['per_second']:>10.1f} updates/s{beside}"


def main(
    size: Literal["tiny", "small", "full"] = "small",
    only: Literal["all", "agents", "compared"] = "all",
    one_core: bool = False,
    output: Path | None = RESULT,
) -> dict[str, Any]:
    """Measure updates a second, print them and keep every repetition.

    Args:
        size: how much to measure: seconds, some ten minutes, or an hour.
        only: ours alone, or the comparison with PyTorch, or both.
        one_core: PyTorch on one thread and processor time in the comparison, which other work
            hardly changes; to be started on one core, by ``taskset -c 0``.
        output: the JSON file to write; None writes nothing.

    Raises:
        ValueError: ``one_core`` on several.
    """
    if one_core and len(os.sched_getaffinity(0)) > 1:
        raise ValueError("one_core is to be started on one core: taskset -c 0 python ...")
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    rows = []
    for case in agents(chosen) if only != "compared" else ():

        def make(updates: int, case: Case = case) -> Callable[[], Any]:
            return in_a_scan(case.agent, case.batch, updates)

        updates = how_many(make, chosen.seconds)
        rows.append(row(case.name, updates, turns([make(updates)], chosen.repetitions)[0]))
        print(line(rows[-1]), flush=True)
    report["results"] = rows
    report["compared"] = compare(chosen, one_core) if only != "agents" else []
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
