"""How many environment steps a second one process makes; see README.md in this directory.

python benchmarks/env_steps.py --size small
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnax
import jax
import jax.numpy as jnp
import tyro
from gymnax.experimental import RolloutWrapper
from measuring import RESULTS, begin, write

import jaxmec
from jaxmec.core import compilation
from jaxmec.training import memory

RESULT = RESULTS / "env_steps.json"

Run = Callable[[Any, jax.Array], Any]  # (carry, key) -> carry


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_envs: tuple[int, ...]  # each of them is tried; the best is reported
    transitions: int  # of one repetition, over all environments, and at most 100,000 of each
    repetitions: int


SIZES = {
    "tiny": Size(num_envs=(4,), transitions=32, repetitions=2),
    "small": Size(num_envs=(1024, 4096), transitions=500_000, repetitions=5),
    "full": Size(
        num_envs=(1, 8, 64, 256, 1024, 4096, 16384, 65536), transitions=2_000_000, repetitions=7
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One environment under one driver."""

    name: str
    env: Any
    params: Any
    reference: str | None = None  # the case that it is compared with
    rollout_wrapper: bool = False  # driven by gymnax's own RolloutWrapper


def cases() -> list[Case]:
    """What is measured: the peer first, ours after it."""

    def offloading(name: str, env_id: str, preset: str, positions: int, **reference: Any) -> Case:
        return Case(name, *jaxmec.make(env_id, preset=preset, positions=positions), **reference)

    multi, single = "MultiServerOffloading-v0", "SingleServerOffloading-v0"
    peer, ours = gymnax.make("CartPole-v1"), jaxmec.make("CartPole-v1")
    return [
        Case("CartPole, gymnax", *peer),
        Case("CartPole, jaxmec", *ours, reference="CartPole, gymnax"),
        Case("CartPole, gymnax, RolloutWrapper", *peer, rollout_wrapper=True),
        Case(
            "CartPole, jaxmec, RolloutWrapper",
            *ours,
            reference="CartPole, gymnax, RolloutWrapper",
            rollout_wrapper=True,
        ),
        offloading("multi-server, amcoedge, N=50", multi, "amcoedge", 50),
        offloading(
            *("multi-server, amcoedge, N=5000", multi, "amcoedge", 5000),
            reference="multi-server, amcoedge, N=50",
        ),
        offloading("single-server, lad-ts, N=50", single, "lad-ts", 50),
        offloading(
            *("single-server, lad-ts, N=5000", single, "lad-ts", 5000),
            reference="single-server, lad-ts, N=50",
        ),
    ]


def scanned(case: Case, num_envs: int, steps: int) -> tuple[Run, Any]:
    """A scan over vectorised steps with random actions: the compiled run, and its carry.

    The carry is (environment states, checksum, episodes ended). The checksum depends on
    everything that a learner would read, so that the compiler cannot leave any of it out.
    """
    env, params = case.env, case.params
    num_actions = env.num_actions

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        states, checksum, episodes = carry
        key_act, key_env = jax.random.split(key)
        uniform = jax.random.uniform(key_act, (num_envs,))
        actions = jnp.minimum((uniform * num_actions).astype(jnp.int32), num_actions - 1)
        observations, states, rewards, terminated, truncated, info = jax.vmap(
            env.step, in_axes=(0, 0, 0, None)
        )(jax.random.split(key_env, num_envs), states, actions, params)
        seen = jnp.sum(observations, -1) + jnp.sum(info["final_observation"], -1) + rewards
        done = terminated | truncated
        return (states, checksum + seen, episodes + done), None

    def run(carry: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, carry, jax.random.split(key, steps))[0]

    keys = jax.random.split(jax.random.key(0), num_envs)
    _, states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    carry = (states, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))
    return jax.jit(run, donate_argnums=0, compiler_options=compilation.options()), carry


def wrapped(case: Case, num_envs: int, steps: int) -> tuple[Run, Any]:
    """gymnax's RolloutWrapper with random actions, which returns whole trajectories."""
    wrapper = RolloutWrapper(env=case.env, env_params=case.params, num_env_steps=steps)

    def run(carry: Any, key: jax.Array) -> Any:
        del carry
        observation, _, reward, _, done, _ = wrapper.batch_rollout(
            jax.random.split(key, num_envs), None
        )
        return observation, reward, jnp.sum(done)

    return run, None


def measure(measured: list[Case], num_envs: int, size: Size) -> list[dict[str, Any]]:
    """Time all cases at one number of environments, their repetitions interleaved."""
    steps = min(max(1, size.transitions // num_envs), 100_000)
    runs = []
    for case in measured:
        run, carry = (wrapped if case.rollout_wrapper else scanned)(case, num_envs, steps)
        carry = jax.block_until_ready(run(carry, jax.random.key(1)))  # compiles
        runs.append((case, run, carry, []))
    for repetition in range(size.repetitions):
        key = jax.random.key(2 + repetition)
        for i, (case, run, carry, seconds) in enumerate(runs):
            start = time.perf_counter()
            carry = jax.block_until_ready(run(carry, key))
            seconds.append(time.perf_counter() - start)
            runs[i] = (case, run, carry, seconds)
    results = []
    for case, _, (_, checksum, episodes), seconds in runs:
        if not bool(jnp.all(jnp.isfinite(checksum))):
            raise FloatingPointError(f"{case.name} produced numbers that are not finite")
        results.append(
            {
                "case": case.name,
                "num_envs": num_envs,
                "steps": steps,
                "seconds": seconds,
                "steps_per_second": num_envs * steps / statistics.median(seconds),
                "episodes": int(jnp.sum(episodes)),
                "bytes_a_step": bytes_a_step(case),
            }
        )
    return results


def bytes_a_step(case: Case) -> int:
    """Bytes that a step must move where states are in memory: the state, read and written.

    Divided by the bytes a second that a device moves, it is the least that a step can take.
    """
    key = jax.random.key(0)
    _, state = jax.eval_shape(case.env.reset, key, case.params)
    return 2 * memory.size(state)


def summarise(measured: list[Case], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each case at its best number of environments, and its ratio to its reference."""
    best = {
        case.name: max(
            (r for r in results if r["case"] == case.name), key=lambda r: r["steps_per_second"]
        )
        for case in measured
    }
    rows = []
    for case in measured:
        row = best[case.name]
        rates = [row["num_envs"] * row["steps"] / seconds for seconds in row["seconds"]]
        ratio = None
        if case.reference is not None:
            ratio = row["steps_per_second"] / best[case.reference]["steps_per_second"]
        rows.append(
            {
                "case": case.name,
                "num_envs": row["num_envs"],
                "steps_per_second": row["steps_per_second"],
                "lowest": min(rates),
                "highest": max(rates),
                "reference": case.reference,
                "ratio": ratio,
                "bytes_a_step": row["bytes_a_step"],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The summary as text, in million steps a second."""
    lines = [
        f"{'case':<34}{'envs':>7}{'median':>10}{'range':>18}{'B/step':>8}   "
        "ratio    (million steps/s)"
    ]
    for row in rows:
        median, low, high = (row[k] / 1e6 for k in ("steps_per_second", "lowest", "highest"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} x {row['reference']}"
        spread = f"{low:.2f} to {high:.2f}"
        cells = f"{row['case']:<34}{row['num_envs']:>7}{median:>10.2f}{spread:>18}"
        lines.append(f"{cells}{row['bytes_a_step']:>8}   {ratio}")
    return "\n".join(lines)


def main(
    size: Literal["tiny", "small", "full"] = "small", output: Path | None = RESULT
) -> dict[str, Any]:
    """Measure environment steps a second, print a table and write every repetition as JSON.

    Args:
        size: how much to measure: seconds, about a minute, or some ten minutes.
        output: the JSON file to write; None writes nothing.
    """
    report = begin(size, dataclasses.asdict(SIZES[size]))
    measured = cases()
    results = []
    for num_envs in SIZES[size].num_envs:
        print(f"{num_envs} environments ...", flush=True)
        results += measure(measured, num_envs, SIZES[size])
    rows = summarise(measured, results)
    print(table(rows))
    report |= {"summary": rows, "results": results}
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
