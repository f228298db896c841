"""Seconds of one decision against the number of servers, and the exponent; see README.md.

python benchmarks/allocation.py --size small
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxmec.core.files import write_whole
from jaxmec.mec import cwa, hecwa, water_filling

RESULT = Path(__file__).parent / "results" / "allocation.json"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    servers: tuple[int, ...]  # B
    entries: int  # of one call: decisions x servers
    repetitions: int
    enumerated: tuple[int, ...]  # B for the enumeration of all sets


SIZES = {
    "tiny": Size(servers=(4, 8), entries=64, repetitions=2, enumerated=(2, 3)),
    "small": Size(
        servers=(32, 64, 128, 256, 512, 1024, 2048), entries=2**18, repetitions=7,
        enumerated=(2, 4, 6, 8, 10),
    ),
}  # fmt: skip


def greedy_server(wait: jax.Array, serve: jax.Array, selected: jax.Array) -> jax.Array:
    """[B] the whole task to the server that finishes it first."""
    finish = jnp.where(selected, wait + serve, jnp.inf)
    return (jnp.arange(wait.shape[0]) == jnp.argmin(finish)).astype(wait.dtype)


def enumeration(wait: jax.Array, serve: jax.Array, selected: jax.Array) -> jax.Array:
    """[B] the published "Optimal": CWA on each of the 2^B − 1 sets, the best of them."""
    del selected
    index = jnp.arange(1, 2 ** wait.shape[0])
    sets = (index[:, None] >> jnp.arange(wait.shape[0])) & 1 == 1

    def finish(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        fraction = cwa(wait, serve, chosen)
        return jnp.max(jnp.where(chosen, wait + fraction * serve, -jnp.inf)), fraction

    makespan, fraction = jax.vmap(finish)(sets)
    return fraction[jnp.argmin(makespan)]


RULES: dict[str, Callable[..., Any]] = {
    "water-filling": water_filling,
    "CWA": cwa,
    "HECWA": hecwa,
    "greedy, one server": greedy_server,
    "greedy, all sets": enumeration,
}


def seconds(rule: Callable[..., Any], servers: int, size: Size) -> list[float]:
    """Seconds of one decision, one figure a repetition; the first call, which compiles, is not
    among them."""
    batch = max(1, size.entries // servers)
    if rule is enumeration:
        batch = max(1, batch // 2**servers)
    wait_key, serve_key = jax.random.split(jax.random.key(servers))
    wait = jax.random.uniform(wait_key, (batch, servers))
    serve = jax.random.uniform(serve_key, (batch, servers), minval=0.5, maxval=2.0)
    selected = jnp.ones((batch, servers), bool)
    run = jax.jit(jax.vmap(rule))
    run(wait, serve, selected).block_until_ready()
    taken = []
    for _ in range(size.repetitions):
        start = time.perf_counter()
        run(wait, serve, selected).block_until_ready()
        taken.append((time.perf_counter() - start) / batch)
    return taken


def exponent(servers: list[int], times: list[float]) -> float:
    """The p of time ≈ a B^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(servers), np.log(times), 1)[0])


def main(size: Literal["tiny", "small"] = "small", output: Path = RESULT) -> None:
    """Measure, print a table, and keep every repetition."""
    chosen, rows = SIZES[size], []
    print(f"{'rule':<20} {'exponent':>9}  microseconds a decision, by number of servers")
    for name, rule in RULES.items():
        servers = list(chosen.enumerated if rule is enumeration else chosen.servers)
        times = [seconds(rule, number, chosen) for number in servers]
        medians = [statistics.median(taken) for taken in times]
        row = {"rule": name, "servers": servers, "seconds": times}
        listed = "  ".join(
            f"{number}: {1e6 * median:.3g}" for number, median in zip(servers, medians, strict=True)
        )
        if rule is enumeration:
            base = 2 ** np.polyfit(servers, np.log2(medians), 1)[0]
            row["base"], power = float(base), f"{base:.2f}^B"
        else:
            row["exponent"] = exponent(servers, medians)
            power = f"B^{row['exponent']:.2f}"
        rows.append(row)
        print(f"{name:<20} {power:>9}  {listed}")
    document = {"jax": jax.__version__, "device": str(jax.devices()[0]), "rows": rows}
    write_whole(output, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
