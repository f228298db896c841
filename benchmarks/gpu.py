"""All that is asked of one accelerator, in one command; see README.md.

python benchmarks/gpu.py                       # under nine minutes on one H200-class card
python benchmarks/gpu.py --only steps updates  # a part of it
python benchmarks/gpu.py --size tiny           # a minute of a CPU: that it runs

Every part is measured from a cold start: what is compiled is compiled in earnest, and wall clocks
count it. A part that fails says so in its row, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from env_steps import Case, bytes_a_step, scanned
from figures import loglog
from measuring import RESULTS, begin, exponent, ratio, turns, uncached, write
from scaling import training
from updates import in_a_scan

import jaxmec
from jaxmec.agents import DQN, DSAC, SAC
from jaxmec.envs.presets import find_preset, scaled
from jaxmec.plots import save
from jaxmec.training.off_policy import TrainConfig

RESULT = RESULTS / "gpu.json"
FIGURE = Path(__file__).parents[1] / "docs" / "benchmarks" / "gpu"
SOLVED = 475.0  # Gymnasium's threshold for CartPole-v1
BELOW_OPTIMAL = 0.95


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_envs: tuple[int, ...]  # environments side by side
    transitions: int  # of one repetition, at most 2,000 of each environment
    batches: tuple[int, ...]
    servers: tuple[int, ...]
    seeds: int
    repetitions: int
    updates: int  # in one call
    share: float  # of the trainings' own steps
    scaling: TrainConfig


TRAINING = TrainConfig(
    num_envs=4_096, prefill=65_536, buffer_size=1_000_000, batch_size=1_024, updates_per_step=1,
    eval_every=204_800,
)  # fmt: skip
SIZES = {
    "tiny": Size(
        num_envs=(4,), transitions=32, batches=(8,), servers=(5, 6), seeds=2, repetitions=1,
        updates=2, share=0.01,
        scaling=TrainConfig(
            num_envs=4, prefill=16, buffer_size=64, batch_size=8, updates_per_step=1, eval_every=16
        ),
    ),
    "full": Size(
        num_envs=tuple(2**n for n in range(10, 21, 2)), transitions=100_000_000,
        batches=(256, 4_096, 65_536), servers=(5, 16, 64, 256, 1_024), seeds=10, repetitions=3,
        updates=50, share=1.0, scaling=TRAINING,
    ),
}  # fmt: skip

Row = dict[str, Any]


# The device itself


def card() -> dict[str, Any]:
    """The card and its driver, as its own tool has it; {} without one."""
    if shutil.which("nvidia-smi") is None:
        return {}
    fields = ("name", "driver_version", "memory.total", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = answer.splitlines()
    return dict(zip(fields, lines[0].split(", "), strict=False)) if lines else {}


def bandwidth(repetitions: int) -> float:
    """Bytes a second that a copy moves, read and written, of arrays that no cache holds."""
    count = 2**26 if jax.default_backend() != "cpu" else 2**22
    add = jax.jit(lambda x: x + 1)
    x = jnp.zeros(count, jnp.float32)
    seconds = turns([lambda: jax.block_until_ready(add(x))], max(3, repetitions))[0]
    return 2 * x.nbytes / min(seconds)


def operations(repetitions: int) -> float:
    """Float32 operations a second, multiplications and additions, of vector units."""
    count, times = (2**22, 512) if jax.default_backend() != "cpu" else (2**14, 512)

    def chain(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times // 16, lambda _, x: _sixteen(x), x)

    run, x = jax.jit(chain), jnp.ones(count, jnp.float32)
    seconds = turns([lambda: jax.block_until_ready(run(x))], max(3, repetitions))[0]
    return 2 * times * count / min(seconds)


def _sixteen(x: jax.Array) -> jax.Array:
    for _ in range(16):
        x = x * 0.999 + 0.001
    return x


# Environment steps


def environments() -> list[Case]:
    """Ours, and gymnax's CartPole under the same driver."""
    cases = [
        Case("CartPole, gymnax", *gymnax.make("CartPole-v1")),
        Case("CartPole, jaxmec", *jaxmec.make("CartPole-v1")),
        Case("multi-server, amcoedge", *jaxmec.make("MultiServerOffloading-v0")),
        Case("single-server, lad-ts", *jaxmec.make("SingleServerOffloading-v0")),
    ]
    if "GenerativeServing-v0" in jaxmec.ENVIRONMENTS:
        cases.append(Case("serving", *jaxmec.make("GenerativeServing-v0")))
    return cases


def rate(case: Case, num_envs: int, size: Size) -> Row:
    """Steps a second of one environment at one number of copies, and what it costs at least."""
    steps = min(max(1, size.transitions // num_envs), 2_000)
    run, first = scanned(case, num_envs, steps)
    program: Any = run  # which is jitted, its carry donated
    began = time.perf_counter()
    with uncached():
        compiled = program.lower(first, jax.random.key(1)).compile()
    compiling = time.perf_counter() - began
    carry = [first]

    def call() -> None:
        carry[0] = jax.block_until_ready(compiled(carry[0], jax.random.key(1)))

    seconds = turns([call], size.repetitions)[0]
    if not bool(jnp.all(jnp.isfinite(carry[0][1]))):
        raise FloatingPointError(f"{case.name} produced numbers that are not finite")
    costs = compiled.cost_analysis() or {}
    return {
        "case": case.name, "num_envs": num_envs, "steps": steps, "seconds": seconds,
        "per_second": num_envs * steps / statistics.median(seconds),
        "bytes": bytes_a_step(case), "seconds_to_compile": compiling,
        # XLA counts the body of a loop once.
        "operations": costs.get("flops", float("nan")) / num_envs,
    }  # fmt: skip


def of_steps(size: Size) -> list[Row]:
    """Steps a second against the number of environments, beside the floors."""
    moved, done = bandwidth(size.repetitions), operations(size.repetitions)
    rows: list[Row] = [
        {"case": "the device", "bytes_per_second": moved, "operations_per_second": done}
    ]
    for case in environments():
        for num_envs in size.num_envs:
            row = rate(case, num_envs, size)
            least = max(row["bytes"] / moved, row["operations"] / done)
            row["times_the_floor"] = 1 / (row["per_second"] * least)
            rows.append(row)
    return rows


def of_servers(size: Size) -> list[Row]:
    """Decisions a second against the number of servers, at the same load."""
    rows, num_envs = [], min(size.num_envs[-1], 2**14)
    base = find_preset("amcoedge")
    for count in size.servers:
        preset = scaled(base, count)
        made = jaxmec.make(
            "MultiServerOffloading-v0", capacity=preset.capacity, rate=preset.rate, action="score"
        ) if count > 8 else jaxmec.make(
            "MultiServerOffloading-v0", capacity=preset.capacity, rate=preset.rate
        )  # fmt: skip
        rows.append(rate(Case(f"B = {count}", *made), num_envs, size) | {"servers": count})
    times = [1 / row["per_second"] for row in rows]
    rows.append({"case": "exponent", "exponent": exponent(size.servers, times)})
    return rows


# Updates


def of_updates(size: Size) -> list[Row]:
    """Updates a second of each agent at each batch, in float32 and with products in bfloat16."""
    rows = []
    agents = {"DQN": DQN(), "SAC": SAC(), "DSAC": DSAC()}
    for name, agent in agents.items():
        for batch in size.batches:
            whole = in_a_scan(agent, batch, size.updates)
            seconds = turns([whole], size.repetitions)[0]
            row = {
                "case": f"{name}, batch {batch}", "seconds": seconds,
                "per_second": size.updates / statistics.median(seconds),
            }  # fmt: skip
            try:
                with jax.default_matmul_precision("BF16_BF16_F32"):
                    half = in_a_scan(agent, batch, size.updates)
                    row["seconds_bfloat16"] = turns([half], size.repetitions)[0]
            except Exception as error:  # not every device has such products
                row["bfloat16"] = f"not here: {type(error).__name__}"
            else:
                row["bfloat16_gain"] = ratio(seconds, row["seconds_bfloat16"])
            rows.append(row)
    return rows


def of_seeds(size: Size) -> list[Row]:
    """What many seeds side by side cost beside one."""
    calls = [training(size.scaling, seeds, 1) for seeds in (1, size.seeds)]
    one, many = turns(calls, size.repetitions)
    return [{
        "case": f"DSAC on CartPole, {size.seeds} seeds beside one", "seconds": many,
        "seconds_of_one": one, "cost": ratio(many, one),
    }]  # fmt: skip


# Whole trainings, from the call on: tracing, compiling and evaluating included


@contextlib.contextmanager
def trained(name: str, size: Size, scale: str = "cpu") -> Iterator[tuple[Any, np.ndarray]]:
    """A result and the [P] seconds of its points, all seeds side by side."""
    recipe = jaxmec.recipe(name, scale=scale).scaled(size.share)
    with tempfile.TemporaryDirectory() as folder, uncached():
        began = time.perf_counter()
        result = jaxmec.train(
            recipe, seeds=size.seeds, directory=Path(folder) / "run", progress=False
        )
        whole = time.perf_counter() - began
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = np.array([json.loads(line)["seconds"] for line in lines])
        # The file's clock starts when the programs are built; the rest was before.
        yield result, seconds + max(0.0, whole - seconds[-1])


def reached(result: Any, seconds: np.ndarray, good: Callable[[Any], np.ndarray]) -> Row:
    """When the last of all seeds had been as good as asked."""
    every = np.logical_or.accumulate(good(result), axis=1).all(axis=0)  # [P]
    return {
        "seconds_to_all": float(seconds[int(np.argmax(every))]) if every.any() else None,
        "whole_seconds": float(seconds[-1]),
        "points": len(seconds),
    }


def of_cartpole(size: Size) -> list[Row]:
    """Each agent with thousands of environments, until every seed has been at 475."""
    rows = []
    for name in ("dsac", "sac", "dqn"):
        with trained(name, size, "gpu") as (result, seconds):
            rows.append({"case": f"{name}, scale gpu, {size.seeds} seeds to {SOLVED:g}"} | reached(
                result, seconds, lambda r: np.asarray(r.history.evaluation["return"]) >= SOLVED
            ))  # fmt: skip
    return rows


def of_figure(size: Size) -> list[Row]:
    """The abstract's figure: three agents, 100,000 steps each."""
    rows = []
    for name in ("dsac", "sac", "dqn"):
        with trained(name, size) as (result, seconds):
            returns = np.asarray(result.history.evaluation["return"])
            rows.append(
                {
                    "case": f"{name}, 100,000 steps, {size.seeds} seeds",
                    "whole_seconds": float(seconds[-1]),
                    "last_return": float(returns[:, -1].mean()),
                    "mean_return": float(returns.mean()),
                }
            )
    rows.append(
        {"case": "the three agents", "whole_seconds": sum(r["whole_seconds"] for r in rows)}
    )
    return rows


def of_offloading(size: Size) -> list[Row]:
    """DDRL-AMSA, taught, to 0.95 x Optimal; and DDRL-ATS, its decisions a second."""
    optimal = jaxmec.evaluate("optimal", episodes=20 if size.share == 1 else 1).mean("makespan")
    rows: list[Row] = []
    name = "ddrl-amsa-taught"
    with trained(name, size) as (result, seconds):
        rows.append({"case": f"{name}, {size.seeds} seeds to {BELOW_OPTIMAL} x Optimal"} | reached(
            result, seconds,
            lambda r: np.asarray(r.history.evaluation["makespan"]) <= BELOW_OPTIMAL * optimal,
        ))  # fmt: skip
    name = "ddrl-ats"
    with trained(name, size) as (result, seconds):
        steps = np.asarray(result.history.env_steps)[0]
        decisions = (steps[-1] - steps[0]) * size.seeds
        rows.append(
            {
                "case": f"{name}, {size.seeds} seeds",
                "whole_seconds": float(seconds[-1]),
                "per_second": float(decisions / max(1e-9, seconds[-1] - seconds[0])),
            }
        )
    return rows


# What must hold whatever the speed

ANSWERS = """
import json, sys, numpy as np, jax, jaxmec
policy = jaxmec.load_policy(sys.argv[1])
size = policy.spec.observation_size
seen = np.random.default_rng(0).random((64, size), np.float32)
print(json.dumps([jax.default_backend(), np.asarray(policy(seen)).tolist()]))
"""


def of_checks(size: Size) -> list[Row]:
    """What the device saved opens on a CPU; ``deterministic`` gives the same bits twice."""
    config = size.scaling if size.share == 1 else SIZES["tiny"].scaling
    short = dataclasses.replace(config, steps=config.prefill_steps + 2 * config.chunk_steps)
    train = functools.partial(jaxmec.train, DSAC(), config=short, seeds=2, progress=False)
    first, second = (train(deterministic=True) for _ in range(2))
    leaves = [jax.tree.leaves(jax.device_get(r.state.learner)) for r in (first, second)]
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*leaves, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = first.save(Path(folder) / "policy")
        answer = subprocess.run(
            [sys.executable, "-c", ANSWERS, str(path)], text=True, capture_output=True, check=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        ).stdout  # fmt: skip
        backend, elsewhere = json.loads(answer.splitlines()[-1])
        policy = jaxmec.load_policy(path)
        seen = np.random.default_rng(0).random((64, policy.spec.observation_size), np.float32)
        agree = float(np.mean(np.asarray(policy(seen)) == np.asarray(elsewhere)))
    return [
        {"case": "deterministic: the same bits twice", "holds": same},
        {"case": f"saved on {jax.default_backend()}, opened on {backend}", "same_actions": agree},
    ]


PARTS: dict[str, Callable[[Size], list[Row]]] = {
    "steps": of_steps,
    "servers": of_servers,
    "updates": of_updates,
    "seeds": of_seeds,
    "cartpole": of_cartpole,
    "figure": of_figure,
    "offloading": of_offloading,
    "checks": of_checks,
}
Part = Literal["steps", "servers", "updates", "seeds", "cartpole", "figure", "offloading", "checks"]
SHOWN = {
    "bytes_per_second": "{:.3g} B/s", "operations_per_second": "{:.3g} operations/s",
    "per_second": "{:.4g} /s", "times_the_floor": "{:.1f} x the floor",
    "bfloat16_gain": "bfloat16 {:.2f} x", "cost": "{:.2f} x",
    "exponent": "B^{:.2f}", "seconds_to_all": "{:.1f} s to all seeds",
    "whole_seconds": "{:.1f} s in all", "last_return": "last return {:.1f}",
    "holds": "{}", "same_actions": "{:.0%} of the actions", "failed": "failed: {}",
}  # fmt: skip


def line(row: Row) -> str:
    """A row as text."""
    name = row["case"] + (f", {row['num_envs']:,}" if "num_envs" in row else "")
    told = [form.format(row[key]) for key, form in SHOWN.items() if row.get(key) is not None]
    return f"{name:<56}{'   '.join(told) or 'not reached'}"


def draw(report: dict[str, Any]) -> Any:
    """Steps a second against the number of environments; None where not measured."""
    rows = [row for row in report["parts"].get("steps", []) if "num_envs" in row]
    lines = [
        (name, *zip(*[(r["num_envs"], r["per_second"]) for r in rows if r["case"] == name],
                    strict=True))
        for name in dict.fromkeys(row["case"] for row in rows)
    ]  # fmt: skip
    drawn = [(name, list(x), list(y)) for name, x, y in lines]
    return loglog(drawn, "environments side by side", "steps a second") if drawn else None


def main(
    size: Literal["tiny", "full"] = "full",
    only: tuple[Part, ...] = (),
    output: Path | None = RESULT,
    figure: Path | None = FIGURE,
) -> dict[str, Any]:
    """Measure, print a table, write JSON and a figure.

    Args:
        size: "full" for a card, "tiny" to see that it runs.
        only: the parts to measure; all of them if none is named. What the file has of other
            parts, measured on the same device, is kept.
        output: the JSON file to write; None writes nothing.
        figure: the figure, without its ending; None draws none.
    """
    report = begin(size, dataclasses.asdict(SIZES[size])) | {"card": card(), "parts": {}}
    if only and output is not None and output.exists():
        before = json.loads(output.read_text(encoding="utf-8"))
        alike = all(before[k] == report[k] for k in ("card", "versions")) and (
            before["machine"]["device"] == report["machine"]["device"]
        )
        report["parts"] = before["parts"] if alike else {}
    for name in only or PARTS:
        began = time.perf_counter()
        try:
            rows = PARTS[name](SIZES[size])
        except Exception as error:
            traceback.print_exc()
            rows = [{"case": name, "failed": f"{type(error).__name__}: {error}"}]
        report["parts"][name] = rows
        print(f"{name} ({time.perf_counter() - began:.0f} s, {report['machine']['device']})")
        for row in rows:
            print(f"  {line(row)}", flush=True)
        write(report, output)  # part by part, so that a stop loses one
    if figure is not None and (drawn := draw(report)) is not None:
        save(drawn, figure, formats=("svg",))
    return report


if __name__ == "__main__":
    tyro.cli(main)
