"""What benchmarks share: trainings, taking turns, the machine, versions, the file of results."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxmec.core.files import write_whole
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.trainer import failures

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jaxmec", "jax", "jaxlib", "gymnax", "numpy", "torch")


def turns(
    calls: Sequence[Callable[[], Any]], repetitions: int, clock: Callable[[], float] | None = None
) -> list[list[float]]:
    """Seconds of each call, one figure a repetition.

    All take turns within a repetition, so that a busy moment hits all of them. Each is called
    once before, unmeasured: it compiles, and fills the caches. A call must have finished its
    work when it returns.
    """
    clock = time.perf_counter if clock is None else clock
    for call in calls:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, taken in zip(calls, seconds, strict=True):
            start = clock()
            call()
            taken.append(clock() - start)
    return seconds


def begun(agent: Any, env: Any, params: Any, config: TrainConfig) -> Any:
    """The state of a training whose replay buffer is filled, to be donated to its first chunk."""
    state = jax.jit(
        lambda key: config.prepare(agent, env, params, config.init(agent, env, params, key))
    )(jax.random.key(0))
    # One buffer cannot be donated twice, and targets share theirs with the critics.
    return jax.tree.map(jnp.array, state)


def chunks(program: Callable[[Any], Any], state: Any) -> Callable[[], None]:
    """A call that trains the next chunk, of a program that is donated the state.

    It raises ``FloatingPointError`` where training diverges.
    """

    def call() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(program(state))
        if failed := failures(metrics):
            raise FloatingPointError(f"not finite: {', '.join(failed)}")

    return call


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compile in earnest, whatever persistent cache there is."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it has looked at the setting once and for all
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """How many times faster: the median of the ratios within repetitions, which share a load."""
    return float(np.median(np.asarray(slower) / np.asarray(faster)))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of seconds ≈ a · size^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was already: a load near 0 is a quiet machine."""
    device = jax.devices()[0]
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "device": f"{device.platform}: {device.device_kind}",
        "system": platform.platform(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def versions() -> dict[str, str]:
    """Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def begin(size: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """The head of a file of results; to be taken before anything is measured."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "size": {"name": size, **sizes},
        "machine": machine(),
        "versions": versions(),
    }


def write(report: dict[str, Any], output: Path | None) -> None:
    """Keep a report as JSON; None keeps nothing."""
    if output is None:
        return
    write_whole(output, json.dumps(report, indent=1) + "\n")
    print(f"every repetition: {output}")
