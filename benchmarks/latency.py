"""How long one decision takes on one CPU core; see README.md in this directory.

python benchmarks/latency.py

Every form is measured as what it computes, from a row of numbers to the decision, and ONNX also
end to end: from named quantities through `jaxmec.deploy.runtime.Scheduler`, back to back and after
a pause of 5 ms, when its code and data are no longer in the caches.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from jaxmec.agents import DSAC
from jaxmec.core.files import write_whole
from jaxmec.deploy import export, onnx, xla
from jaxmec.deploy.runtime import Queues, Task
from jaxmec.experiment import Policy, Setting
from jaxmec.training.rollout import make_spec

RESULT = Path(__file__).parent / "results" / "latency.json"
PACKAGES = ("jaxmec", "jax", "jaxlib", "onnxruntime", "numpy", "torch")
HIDDEN = (64, 64)
SETTINGS = {
    5: Setting("MultiServerOffloading-v0", "amcoedge", options=(("action", "subset"),)),
    20: Setting("SingleServerOffloading-v0", "lad-ts"),
}
ACTORS = {
    "K = 5": DSAC(hidden=HIDDEN, activation="mish", denoising_steps=5, judged_chains=0),
    "K = 5, 8 chains": DSAC(hidden=HIDDEN, activation="mish", denoising_steps=5, judged_chains=8),
    "one step": DSAC(hidden=HIDDEN, activation="mish", denoising_steps=1, judged_chains=0),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to decide; each call is one decision."""

    servers: int  # B
    actor: str
    form: str
    call: Callable[[], object]
    pause: float = 0.0  # s before each call


def policy_of(servers: int, agent: DSAC) -> Policy:
    """A policy with random parameters: what it decides does not change how long it takes."""
    setting = SETTINGS[servers]
    spec = make_spec(*setting.make())
    return Policy(agent, agent.init(jax.random.key(0), spec), spec, setting, "dsac")


def cases(folder: Path) -> list[Case]:
    """Every form of every actor, from the row to the decision, and the whole from named numbers."""
    made = []
    for servers in SETTINGS:
        queues, task = Queues(backlog=[1.0] * servers), Task(1, size=3.0, work=0.6, result=0.8)
        for name, agent in ACTORS.items():
            policy = policy_of(servers, agent)
            path = folder / f"{servers} {name}"
            export.export(policy, path)
            forms = {
                "JAX": xla.load(path, form="jax"),
                "StableHLO": xla.load(path, form="stablehlo"),
                "ONNX": onnx.load(path),
            }
            for form, scheduler in forms.items():
                row = scheduler.rows(None, (queues,), (task,))
                made.append(Case(servers, name, form, partial(scheduler.rows_to_decisions, row)))
            if name != "K = 5, 8 chains":
                actor = torch_actor(policy.spec.observation_size, policy.spec.num_actions,
                                    agent.denoising_steps)  # fmt: skip
                if actor is not None:
                    made.append(Case(servers, name, "PyTorch D2SAC", actor))
            decide = partial(forms["ONNX"].decide, None, queues, task)
            made.append(Case(servers, name, "ONNX, named quantities", decide))
            made.append(Case(servers, name, "ONNX, after 5 ms", decide, pause=5e-3))
    return made


def torch_actor(observation_size: int, actions: int, steps: int) -> Callable[[], object] | None:
    """A plain D2SAC actor in PyTorch, as published: a loop of K steps, each with its noise.

    None without PyTorch. From a NumPy observation to an action, as the others are.
    """
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Embedding(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

        def forward(self, k: torch.Tensor) -> torch.Tensor:
            half = self.size // 2
            frequency = torch.exp(torch.arange(half) * -(math.log(10_000) / (half - 1)))
            angle = k[:, None] * frequency[None, :]
            return torch.cat((angle.sin(), angle.cos()), dim=-1)

    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(
                Embedding(16), nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16)
            )
            self.body = nn.Sequential(
                nn.Linear(observation_size + actions + 16, HIDDEN[0]), nn.Mish(),
                nn.Linear(HIDDEN[0], HIDDEN[1]), nn.Mish(), nn.Linear(HIDDEN[1], actions),
            )  # fmt: skip

        def forward(self, x: Any, k: Any, state: Any) -> Any:
            return self.body(torch.cat([x, self.time(k), state], dim=1))

    k = np.arange(1, steps + 1)
    alpha = np.exp(-0.1 / steps - 9.9 * (2 * k - 1) / (2 * steps**2))
    bar = np.cumprod(alpha)
    before = np.append(1.0, bar[:-1])
    beta = 1 - alpha
    constants = {
        "root": np.sqrt(1 / bar),
        "share": np.sqrt(1 / bar - 1),
        "of_x0": beta * np.sqrt(before) / (1 - bar),
        "of_x": (1 - before) * np.sqrt(alpha) / (1 - bar),
        "sigma": np.sqrt(beta * (1 - before) / (1 - bar)),
    }
    table = {name: torch.tensor(value, dtype=torch.float32) for name, value in constants.items()}
    network = Noise().eval()
    row = np.random.default_rng(0).random((1, observation_size), np.float32)

    @torch.inference_mode()
    def decide() -> int:
        state = torch.from_numpy(row)
        x = torch.randn(1, actions)
        for i in reversed(range(steps)):
            step = torch.full((1,), i, dtype=torch.long)
            noise = network(x, step, state)
            x0 = table["root"][step] * x - table["share"][step] * noise
            x = table["of_x0"][step] * x0 + table["of_x"][step] * x
            if i:
                x = x + table["sigma"][step] * torch.randn_like(x)
        return int(torch.softmax(x, dim=-1).argmax())

    return decide


def measure(measured: list[Case], calls: int, rounds: int) -> list[np.ndarray]:
    """Seconds of each call of each case; all take turns, so that a busy moment hits all."""
    seconds: list[list[float]] = [[] for _ in measured]
    for case in measured:
        for _ in range(20):
            case.call()
    gc.disable()
    try:
        for _ in range(rounds):
            for case, found in zip(measured, seconds, strict=True):
                call, clock = case.call, time.perf_counter
                call()  # its code and data come back into the caches
                for _ in range(calls if not case.pause else calls // 10):
                    if case.pause:
                        time.sleep(case.pause)
                    start = clock()
                    call()
                    found.append(clock() - start)
            gc.collect()
    finally:
        gc.enable()
    return [np.array(found) for found in seconds]


def quiet(found: np.ndarray, rounds: int) -> float:
    """µs, the lowest median of a round: of the least disturbed on a shared machine."""
    return float(min(np.median(part) for part in np.split(found, rounds)) * 1e6)


def main(calls: int = 200, rounds: int = 10, output: Path | None = RESULT) -> None:
    """Measure one decision at a time on one core, print a table and write it as JSON.

    Args:
        calls: of each case in a row.
        rounds: how often all cases take turns.
        output: the JSON file to write; None writes nothing.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        measured = cases(Path(folder))
        times = measure(measured, calls, rounds)
    rows = []
    for case, found in zip(measured, times, strict=True):
        rows.append(
            {
                "servers": case.servers,
                "actor": case.actor,
                "form": case.form,
                "median_us": float(np.median(found) * 1e6),
                "quiet_us": quiet(found, rounds),
                "p99_us": float(np.percentile(found, 99) * 1e6),
                "lowest_us": float(found.min() * 1e6),
            }
        )
    peers = {(r["servers"], r["actor"]): r["median_us"] for r in rows if "PyTorch" in r["form"]}
    print(
        f"{'B':>3} {'actor':<16}{'form':<24}{'median':>9}{'quiet':>9}{'p99':>9}   PyTorch is   (µs)"
    )
    for row in rows:
        peer = peers.get((row["servers"], row["actor"]))
        ratio = "" if peer is None else f"{peer / row['median_us']:>8.1f} x"
        print(
            f"{row['servers']:>3} {row['actor']:<16}{row['form']:<24}"
            f"{row['median_us']:>9.1f}{row['quiet_us']:>9.1f}{row['p99_us']:>9.1f}   {ratio}"
        )
    if output is not None:
        report = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"system": platform.platform(), "load_average": load},
            "versions": {name: _version(name) for name in PACKAGES},
            "calls": calls * rounds,
            "results": rows,
        }
        write_whole(output, json.dumps(report, indent=2) + "\n")
        print(f"results: {output}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    tyro.cli(main)
