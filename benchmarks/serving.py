"""Decisions of serving a second, against the number of servers, and beside a plain Python loop.

python benchmarks/serving.py
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measuring import RESULTS, begin, write

import jaxmec
from jaxmec.core import compilation
from jaxmec.envs.serving import GenerativeServing
from jaxmec.serving import Alternating, Fleet, Mix, Poisson, Requests, ServingParams

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the loop that the tests compare with
import serving_oracle

RESULT = RESULTS / "serving.json"
SIZES = {  # environments, steps of a repetition, repetitions, servers tried
    "tiny": (16, 4, 2, (2, 4)),
    "full": (4096, 100, 7, (8, 32, 128, 512, 1024)),
}


def fleet_of(servers: int) -> ServingParams:
    """So many unequal servers with outages, each with a station, at load 0.7."""
    rng = np.random.default_rng(servers)
    step = rng.choice([0.049, 0.072, 0.18, 0.23, 0.55], servers)
    fleet = Fleet(
        step_time=step[:, None] * [0.9, 1.0, 3.4],
        task_time=np.full((servers, 3), 0.15),
        load_time=rng.uniform(0.7, 1.3, servers)[:, None] * [3.0, 8.0, 20.0],
        size=[2.5, 4.0, 8.0],
        memory=rng.choice([8.0, 16.0, 24.0], servers),
        rate=rng.uniform(100, 500, servers),
        latency=np.zeros(servers),
        elastic=np.zeros(servers, bool),
        heartbeat=2.0,
        phase=rng.uniform(0, 2, servers),
    )
    mix = Mix(
        share=[0.3, 0.5, 0.2],
        quality=[0.4, 0.7, 0.9],
        limit=[5.0, 15.0, 40.0],
        images=[1, 2, 4, 8],
        images_share=[58, 8, 19, 15],
        size=[0.3, 6.3],
        result=[0.7, 0.7],
        origin_share=np.ones(servers),
    )
    rate = 0.7 * np.sum(1 / (20 * step + 0.15)) / 2.6
    return ServingParams(
        fleet=fleet,
        outages=Alternating(180.0, 1.0, 20.0, 0.8),
        arrivals=Requests(Poisson(rate), mix),
        variant=[0, 0, 1, 1, 1, 2, 2],
        steps=[1, 4, 10, 20, 30, 20, 30],
        quality=[0.45, 0.60, 0.72, 0.84, 0.88, 0.95, 1.0],
    )


def decisions(params: ServingParams, num_envs: int, steps: int, repetitions: int) -> dict[str, Any]:
    """Seconds of each repetition, with uniformly random actions, starts apart from one another."""
    env = GenerativeServing(params)
    reset = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))
    observation, state = reset(jax.random.split(jax.random.key(0), num_envs), params)

    def run(carry: Any, key: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> Any:
            state, _, total = carry
            key_act, key_env = jax.random.split(key)
            action = jax.random.bits(key_act, (num_envs,)) % env.num_actions
            keys = jax.random.split(key_env, num_envs)
            observation, state, reward, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
                keys, state, action.astype(jnp.int32), params
            )
            return (state, observation, total + reward), None

        return jax.lax.scan(body, carry, jax.random.split(key, steps))[0]

    carry = (state, observation, jnp.zeros(num_envs))
    options = compilation.options()  # as jaxmec's own programs are compiled
    jitted = jax.jit(run, donate_argnums=0, compiler_options=options)
    compiled = jitted.lower(carry, jax.random.key(1)).compile()
    wall, cpu = [], []
    for number in range(repetitions + 1):
        start, used = time.perf_counter(), time.process_time()
        carry = jax.block_until_ready(compiled(carry, jax.random.key(number)))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    made = num_envs * steps
    return {
        "num_envs": num_envs,
        "wall_seconds": wall[1:],
        "cpu_seconds": cpu[1:],
        "per_second": made / statistics.median(wall[1:]),
        "best_per_second": made / min(wall[1:]),
        "cpu_nanoseconds": 1e9 * statistics.median(cpu[1:]) / made,
    }


def first_step(params: ServingParams) -> float:
    """Seconds until one environment's step is compiled."""
    env = GenerativeServing(params)
    key = jax.random.key(0)
    _, state = env.reset(key, params)
    start = time.perf_counter()
    jax.jit(env.step).lower(key, state, 0, params).compile()
    return time.perf_counter() - start


def plain_loop(params: ServingParams, requests: int) -> float:
    """Decisions a second of the tests' loop in plain Python, in the same kind of world."""
    fleet = params.fleet
    rng = np.random.default_rng(0)
    speeds = params.outages.draw(jax.random.key(0), fleet.elastic)
    columns = "step_time task_time load_time memory rate latency elastic phase".split()
    table = {name: np.asarray(getattr(fleet, name)).tolist() for name in columns}
    pieces = np.stack([speeds.breaks, speeds.speed], axis=-1).tolist()
    servers = [
        serving_oracle.Server(
            **{name: column[i] for name, column in table.items()},
            pieces=[tuple(piece) for piece in pieces[i] if piece[0] < np.inf],
        )
        for i in range(fleet.num_servers)
    ]
    world = serving_oracle.World(
        servers, np.asarray(fleet.size).tolist(), float(fleet.heartbeat), float(fleet.detect),
        [0.0] * params.num_stations,
    )  # fmt: skip
    gaps = rng.exponential(1 / float(params.arrivals.times.rate), requests)
    rows = [
        {"arrival": float(now), "origin": int(rng.integers(params.num_stations)), "size": 3.0,
         "result": 0.7, "images": 2, "quality": 0.4, "limit": 15.0, "factor": 1.0}
        for now in np.cumsum(gaps)
    ]  # fmt: skip
    options = list(
        zip(*(np.asarray(x).tolist() for x in (params.variant, params.steps, params.quality)),
            strict=True)
    )  # fmt: skip
    choices = np.flatnonzero(np.asarray(params.allowed).ravel())

    def decide(number: int, row: Any, images: int) -> Any:
        server, option = divmod(int(rng.choice(choices)), len(options))
        return {server: images}, option

    start = time.perf_counter()
    made = serving_oracle.episode(world, rows, options, decide, 3, 0.2)
    return len(made) / (time.perf_counter() - start)


def main(size: Literal["tiny", "full"] = "full", out: Path = RESULT) -> dict[str, Any]:
    """Measure, print and write down."""
    num_envs, steps, repetitions, servers = SIZES[size]
    report = begin(size, {"num_envs": num_envs, "steps": steps, "repetitions": repetitions})
    _, params = jaxmec.make("GenerativeServing-v0", preset="genai-5", cloud=False)
    report["first_step_seconds"] = first_step(params)
    report["genai_5"] = decisions(params, num_envs, steps, repetitions)
    report["plain_loop_per_second"] = plain_loop(params, 20 if size == "tiny" else 500)
    report["ratio"] = report["genai_5"]["per_second"] / report["plain_loop_per_second"]
    report["servers"] = [
        {"servers": count, **decisions(fleet_of(count), 16, max(2, steps // 4), 3)}
        for count in servers
    ]
    rows = report["servers"][-3:]
    report["exponent"] = float(
        np.polyfit(
            np.log([row["servers"] for row in rows]),
            np.log([row["cpu_nanoseconds"] for row in rows]),
            1,
        )[0]
    )
    genai = report["genai_5"]
    print(
        f"decisions at B = 5 with outages: {genai['per_second'] / 1e6:.2f} M/s, "
        f"{genai['cpu_nanoseconds']:.0f} ns of a core; {report['ratio']:.0f} x a plain loop"
    )
    for row in report["servers"]:
        print(f"B = {row['servers']:5d}: {row['cpu_nanoseconds'] / 1e3:8.1f} us of a core")
    print(f"exponent {report['exponent']:.2f}; first step {report['first_step_seconds']:.1f} s")
    write(report, out)
    return report


if __name__ == "__main__":
    tyro.cli(main)
