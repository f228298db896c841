"""End-to-end training: decisions a second, wall clock to a target, compile time, memory.

python benchmarks/training.py --size small
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from measuring import RESULTS, begin, begun, chunks, ratio, turns, uncached, write
from numpy_loop import Loop

import jaxmec
from jaxmec.core import compilation
from jaxmec.envs.presets import PRESETS
from jaxmec.methods import find_method
from jaxmec.training import TrainConfig

RESULT = RESULTS / "training.json"


@dataclasses.dataclass(frozen=True)
class Target:
    """A training whose wall clock is taken until an evaluation reaches a target."""

    name: str
    method: str
    metric: str
    least: float | None  # at least so much; None: at most 1.05 x Optimal
    options: tuple[tuple[str, Any], ...]


CARTPOLE = (("steps", 100_000),)
# Several evaluation episodes, since the target is held against the mean of one evaluation.
AMCOEDGE = (("steps", 1_200_000), ("eval_every", 60_000), ("eval_episodes", 8))
TARGETS = (
    Target("CartPole to 475, dqn", "dqn", "return", 475.0, CARTPOLE),
    Target("CartPole to 475, sac", "sac", "return", 475.0, CARTPOLE),
    Target("CartPole to 475, dsac", "dsac", "return", 475.0, CARTPOLE),
    Target("amcoedge to Optimal x 1.05, ddrl-amsa-pathwise", "ddrl-amsa-pathwise", "makespan",
           None, AMCOEDGE),
)  # fmt: skip
TINY = (
    Target(
        "CartPole to 1, dqn", "dqn", "return", 1.0,
        (("steps", 300), ("num_envs", 4), ("prefill", 100), ("batch_size", 16),
         ("updates_per_step", 1), ("buffer_size", 256), ("eval_every", 100),
         ("eval_episodes", 1)),
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    preset: tuple[tuple[str, Any], ...]  # what is changed of `lad-ts`
    places: int  # of the latent, slots x stations x positions
    decisions: int  # of ours in a repetition
    peer_slots: int  # of the PyTorch loop in a repetition
    repetitions: int
    targets: tuple[Target, ...]


SIZES = {
    "tiny": Size((("slots", 2), ("positions", 4)), 2 * 20 * 4, 500, 1, 1, TINY),
    "small": Size((), 59 * 20 * 50, 50_000, 2, 3, TARGETS),
    "full": Size((), 59 * 20 * 50, 200_000, 5, 5, TARGETS),
}


def lad_ts(size: Size) -> tuple[Callable[[], Any], int, dict[str, Any]]:
    """`lad-ts` as published (20 learners, batch 64 each, one update of each in 500 decisions):
    a call that trains so many decisions, their number, and what compiling it took."""
    settings = find_method("lad-ts").settings(published=True)
    agent: Any = settings.agent()
    agent = dataclasses.replace(agent, inner=dataclasses.replace(agent.inner, places=size.places))
    config = dataclasses.replace(settings.config, eval_every=size.decisions)  # type: ignore[type-var]
    assert isinstance(config, TrainConfig)
    env, params = jaxmec.make(
        "SingleServerOffloading-v0", preset="lad-ts", **dict(settings.options), **dict(size.preset)
    )
    state = begun(agent, env, params, config)
    program = jax.jit(
        lambda state: config.chunk(agent, env, params, state),
        donate_argnums=0,
        compiler_options=compilation.options(),
    )
    start = time.perf_counter()
    traced = program.lower(state)
    lowered = time.perf_counter()
    with uncached():
        compiled = traced.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    about = {
        "seconds_to_trace": lowered - start,
        "seconds_to_compile": done - lowered,
        "bytes_of_state": getattr(memory, "argument_size_in_bytes", None),
        "bytes_beside_it": getattr(memory, "temp_size_in_bytes", None),
    }
    return chunks(compiled, state), config.chunk_steps, about


def torch_loop(size: Size) -> tuple[Callable[[], Any], list[int]]:
    """The same training in PyTorch: one task is decided at a time, each station has a D2SAC of
    its own and makes one update each slot. The list gets the decisions of each call."""
    import torch
    from torch_d2sac import D2SAC

    torch.manual_seed(0)
    preset = dataclasses.replace(
        PRESETS["lad-ts"], **(dict(size.preset) | {"slots": size.peer_slots})
    )
    tasks = Loop(preset)
    features = 2 + tasks.servers
    learners = [
        D2SAC(features, tasks.servers, (20, 20), 5, "relu", discount=0.95)
        for _ in range(tasks.servers)
    ]
    replays: list[list[Any]] = [[] for _ in learners]
    counts: list[int] = []
    rng = np.random.default_rng(0)

    def after(
        origin: int, observation: Any, action: int, reward: float, next_observation: Any
    ) -> None:
        replays[origin].append((observation, action, reward, next_observation))
        del replays[origin][:-1000]

    def learn() -> None:
        for learner, replay in zip(learners, replays, strict=True):
            if len(replay) < 64:
                continue
            rows = [replay[i] for i in rng.integers(len(replay), size=64)]
            observation, action, reward, following = zip(*rows, strict=True)
            learner.update(
                torch.from_numpy(np.stack(observation)),
                torch.tensor(action),
                torch.tensor(reward, dtype=torch.float32),
                torch.from_numpy(np.stack(following)),
                torch.zeros(64, dtype=torch.bool),
            )

    for origin, replay in enumerate(replays):  # so that every slot has its updates
        row = (np.zeros(features, np.float32), origin, 0.0, np.zeros(features, np.float32))
        replay += [row] * 64

    def call() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # products this small only wait for a second one
        found = tasks.episode(
            lambda observation, origin: learners[origin].act(observation),
            after=after,
            end_of_slot=learn,
        )
        torch.set_num_threads(threads)
        counts.append(len(found))

    return call, counts


def rates(size: Size) -> list[dict[str, Any]]:
    """Decisions a second of training `lad-ts` at the published ratio, ours beside PyTorch's."""
    ours, decisions, about = lad_ts(size)
    calls, counts = [ours], []
    try:
        call, counts = torch_loop(size)
        calls.append(call)
    except ImportError:
        print("PyTorch is not installed (the extra peers): nothing to compare with")
    taken = turns(calls, size.repetitions)
    mine = [s / decisions for s in taken[0]]
    rows = [{"case": "training lad-ts: jaxmec", "seconds_a_decision": mine, **about}]
    if len(calls) > 1:
        theirs = [s / n for s, n in zip(taken[1], counts[1:], strict=True)]
        rows[0]["ratio"] = ratio(theirs, mine)
        rows.insert(
            0,
            {"case": "training lad-ts: PyTorch, one task at a time", "seconds_a_decision": theirs},
        )
    for row in rows:
        row["per_second"] = 1 / statistics.median(row["seconds_a_decision"])
        beside = f"{row['ratio']:>8.1f} x PyTorch" if "ratio" in row else ""
        print(f"{row['case']:<50}{row['per_second']:>14,.0f} decisions/s{beside}", flush=True)
    print(
        f"  traced in {about['seconds_to_trace']:.1f} s, compiled in "
        f"{about['seconds_to_compile']:.1f} s without a cache; state "
        f"{_mib(about['bytes_of_state'])}, beside it {_mib(about['bytes_beside_it'])}"
    )
    return rows


def reach(target: Target) -> dict[str, Any]:
    """Wall clock of one seed's training until an evaluation first reaches the target.

    It has everything that a user waits for: tracing, compiling (or reading from the persistent
    cache), training, the evaluations and the checkpoints.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        jaxmec.train(target.method, directory=Path(folder) / "run", progress=False,
                     **dict(target.options))  # fmt: skip
        whole = time.perf_counter() - start
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    bound = target.least
    if bound is None:
        bound = 1.05 * jaxmec.evaluate("optimal").mean("makespan")
    row = first_reached(points, target.metric, bound, at_most=target.least is None)
    row |= {"case": target.name, "target": bound, "seconds_of_training": whole}
    row["seconds_to_first_point"] = points[0]["seconds"]
    if row["seconds"] is None:
        print(f"{target.name:<50} not reached in {points[-1]['env_steps']} steps, {whole:.1f} s")
    else:
        print(
            f"{target.name:<50}{row['seconds']:>8.1f} s, {row['env_steps']} steps "
            f"(first point after {row['seconds_to_first_point']:.1f} s)",
            flush=True,
        )
    return row


def first_reached(
    points: list[dict[str, Any]], metric: str, bound: float, at_most: bool
) -> dict[str, Any]:
    """Seconds and steps at the first point of a metrics file that reaches the bound, or None."""
    for point in points:
        value = point["evaluation"][metric][0]
        if value is not None and (value <= bound if at_most else value >= bound):
            return {
                "seconds": point["seconds"],
                "env_steps": point["env_steps"],
                "value": value,
            }
    return {"seconds": None, "env_steps": None, "value": None}


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.1f} MiB"


def main(
    size: Literal["tiny", "small", "full"] = "small",
    only: Literal["all", "rates", "targets"] = "all",
    output: Path | None = RESULT,
) -> dict[str, Any]:
    """Measure training, print it and keep every repetition.

    Args:
        size: how much to measure: seconds, some five minutes, or more.
        only: decisions a second, or wall clock to the targets, or both.
        output: the JSON file to write; None writes nothing.
    """
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    report["persistent_cache"] = bool(jax.config.jax_compilation_cache_dir)
    report["rates"] = rates(chosen) if only != "targets" else []
    report["targets"] = [reach(target) for target in chosen.targets] if only != "rates" else []
    report["peak_memory_bytes"] = peak_memory()
    print(f"peak memory of this process: {_mib(report['peak_memory_bytes'])}")
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
