"""Exact optima, the planner and the bounds on `amcoedge` tasks; see docs/solvers.md.

python benchmarks/solvers.py
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import jaxmec
from jaxmec import solvers
from jaxmec.core.files import write_whole
from jaxmec.mec import EdgeNetwork, Task

RESULT = Path(__file__).parent / "results" / "solvers.json"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    exact: tuple[tuple[int, int], ...]  # (B, tasks)
    instances: int  # of each
    slots: int  # of the preset, planned side by side
    planner: solvers.PlannerConfig
    time_limit: float = 300.0  # s by the clock, which a busy machine stretches


SIZES = {
    "tiny": Size(
        exact=((2, 3),), instances=1, slots=1,
        planner=solvers.PlannerConfig(restarts=1, rounds=1, sweeps=1, gradient_steps=0),
    ),
    "small": Size(
        exact=((3, 8), (5, 6)), instances=10, slots=20, planner=solvers.PlannerConfig()
    ),
}  # fmt: skip


def small_window(network: EdgeNetwork, sizes: Any, tasks: int, seed: int) -> solvers.Window:
    """So many tasks of the preset at uniformly random stations, in the order of decision."""
    rng = np.random.default_rng(seed)
    return window(
        network.num_servers, sizes, np.sort(rng.integers(0, network.num_servers, tasks)), rng
    )


def slot_window(network: EdgeNetwork, sizes: Any, probability: float, seed: int) -> solvers.Window:
    """One slot of the preset."""
    rng = np.random.default_rng(seed)
    station, position = np.nonzero(rng.random((network.num_servers, sizes.positions)) < probability)
    return window(network.num_servers, sizes, station, rng, position)


def window(
    servers: int, sizes: Any, station: Any, rng: Any, position: Any = None
) -> solvers.Window:
    """Tasks with sizes drawn as in the preset; their densities by position."""
    count = station.size
    position = rng.integers(0, sizes.positions, count) if position is None else position
    size = rng.uniform(float(sizes.size_low), float(sizes.size_high), count)
    work = np.asarray(sizes.density, float)[position] * size
    return solvers.Window(
        task=Task(station.astype(np.int32), size, work, np.zeros(count)),
        slots=np.zeros(count, np.int32),
        counts=np.ones(count, bool),
        backlog=np.zeros(servers),
    )


def planned(network: EdgeNetwork, windows: list[solvers.Window], config: Any) -> Any:
    """The plans of all windows in one compiled call, and (compiling, running) in seconds."""

    def one(window: solvers.Window, key: jax.Array) -> solvers.Planned:
        return solvers.plan(network, window, key, "multi", config)

    batch, keys = solvers.stack(windows), jax.random.split(jax.random.key(0), len(windows))
    start = time.perf_counter()
    run = jax.jit(jax.vmap(one)).lower(batch, keys).compile()
    compiled = time.perf_counter()
    found = jax.block_until_ready(run(batch, keys))
    return found, (compiled - start, time.perf_counter() - compiled)


def exact_rows(network: EdgeNetwork, sizes: Any, size: Size) -> list[dict[str, Any]]:
    """Optimum, planner and bound of small windows; the smaller networks have the last servers."""
    rows = []
    for servers, tasks in size.exact:
        part = EdgeNetwork(capacity=network.capacity[-servers:], rate=network.rate[-servers:])
        windows = [small_window(part, sizes, tasks, seed) for seed in range(size.instances)]
        found, _ = planned(part, windows, size.planner)
        for number, one in enumerate(windows):
            greedy = solvers.play(part, one, solvers.greedy(part, one)).mean()
            busy = time.process_time()
            solution = solvers.solve_exact(
                part, one, time_limit=size.time_limit, incumbent=np.asarray(found.fraction[number])
            )
            busy = time.process_time() - busy
            rows.append(
                {
                    "servers": servers,
                    "tasks": tasks,
                    "status": solution.status,
                    "gap": solution.gap,
                    "seconds": solution.seconds,
                    "processor seconds": busy,
                    "exact": solution.makespan,
                    "planner": float(found.mean[number]),
                    "greedy": float(greedy),
                    "bounds": solvers.lower_bounds(part, one).values,
                }
            )
            print(
                f"B {servers}, {tasks} tasks: {solution.status} in {solution.seconds:.1f} s, "
                f"{busy:.1f} s of one core; over "
                f"the optimum: planner {over(rows[-1], 'planner'):+.2f} %, greedy "
                f"{over(rows[-1], 'greedy'):+.2f} %, bound "
                f"{100 * (max(rows[-1]['bounds'].values()) / solution.makespan - 1):+.1f} %",
                flush=True,
            )
    return rows


def over(row: dict[str, Any], name: str) -> float:
    """% above the exact optimum."""
    return 100 * (row[name] / row["exact"] - 1)


def slot_rows(network: EdgeNetwork, params: Any, size: Size) -> dict[str, Any]:
    """The planner and the bounds on whole slots, against "Optimal"."""
    windows = [
        slot_window(network, params.workload.sizes, float(params.workload.probability), 100 + seed)
        for seed in range(size.slots)
    ]
    found, (compiling, running) = planned(network, windows, size.planner)
    greedy = np.array(
        [solvers.play(network, one, solvers.greedy(network, one)).mean() for one in windows]
    )
    plans = np.asarray(found.mean)
    start = time.perf_counter()
    bounds = [solvers.lower_bounds(network, one) for one in windows]
    bounding = (time.perf_counter() - start) / size.slots
    best = np.array([bound.best for bound in bounds])
    history = np.mean(np.asarray(found.history) / greedy[:, None], axis=0)
    print(
        f"{size.slots} slots of {np.mean([one.num_tasks for one in windows]):.0f} tasks: plan / "
        f"Optimal {np.mean(plans / greedy):.4f} ({np.min(plans / greedy):.4f} to "
        f"{np.max(plans / greedy):.4f}), {running / size.slots:.2f} s a slot, {compiling:.0f} s to "
        f"compile\nby round: {' '.join(f'{value:.4f}' for value in history)}\n"
        f"bound / plan {np.mean(best / plans):.3f}; bound / Optimal {np.mean(best / greedy):.3f}; "
        f"{bounding:.2f} s a slot"
    )
    for name in bounds[0].values:
        mean = np.mean([bound.values[name] for bound in bounds] / greedy)
        print(f"  {name} / Optimal {mean:.3f}")
    return {
        "greedy": greedy.tolist(),
        "plan": plans.tolist(),
        "bounds": [bound.values for bound in bounds],
        "history": np.asarray(found.history).tolist(),
        "seconds": {"compile": compiling, "all slots": running, "bounds, a slot": bounding},
    }


def main(size: Literal["tiny", "small"] = "small", output: Path = RESULT) -> None:
    """Measure, print, and keep every instance."""
    _, params = jaxmec.make("MultiServerOffloading-v0", preset="amcoedge")
    network, chosen = params.network, SIZES[size]
    document = {
        "planner": dataclasses.asdict(chosen.planner),
        "slots": slot_rows(network, params, chosen),
        "exact": exact_rows(network, params.workload.sizes, chosen),
    }
    write_whole(output, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
