"""Random small windows, as the package's objects and as the oracle's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import oracle

from jaxmec.mec import EdgeNetwork, Task
from jaxmec.solvers import Window

INF = float("inf")


class Instance(NamedTuple):
    network: EdgeNetwork
    window: Window
    oracle_network: oracle.Network
    slots: list[int]  # [K] the slot of each task
    tasks: list[oracle.Task]  # [K]

    def mean(self, plans, **options) -> float:
        """s, by the oracle, of masks (with a rule) or, with fractions=True, of fractions."""
        records = oracle.play(self.oracle_network, self.slots, self.tasks, plans, **options)
        return float(np.mean([record.outcome.makespan for record in records]))


def random_instance(
    seed: int,
    tasks: int,
    servers: int,
    *,
    slots: int = 1,
    contention: bool = True,
    uplink_cap: float = INF,
    max_wait: float = INF,
    master: bool = False,
    result: bool = False,
) -> Instance:
    """Works and transmissions of one order, so that every term of the model matters."""
    rng = np.random.default_rng(seed)
    capacity = rng.uniform(1, 5, servers).astype(np.float32).astype(float)
    rate = rng.uniform(2, 8, servers).astype(np.float32).astype(float)
    slot = np.sort(rng.integers(0, slots, tasks)) if slots > 1 else np.zeros(tasks, int)
    origin = rng.integers(0, servers, tasks)
    origin = np.full(tasks, oracle.MASTER) if master else origin
    origin = origin[np.lexsort((origin, slot))]
    size, work = rng.uniform(0.2, 2, tasks), rng.uniform(0.3, 3, tasks)
    back = rng.uniform(0.1, 1, tasks) if result else np.zeros(tasks)
    network = EdgeNetwork(
        capacity=capacity,
        rate=rate,
        slot_length=0.5,
        uplink_contention=contention,
        uplink_cap=uplink_cap,
        max_wait=max_wait,
    )
    return Instance(
        network=network,
        window=Window(
            task=Task(origin.astype(np.int32), size, work, back),
            slots=np.diff(slot, prepend=0).astype(np.int32),
            counts=np.ones(tasks, bool),
            backlog=np.zeros(servers),
        ),
        # The package keeps these in float32.
        oracle_network=oracle.Network(
            capacity=capacity,
            rate=rate,
            slot_length=0.5,
            uplink_contention=contention,
            uplink_cap=float(np.float32(uplink_cap)),
            max_wait=float(np.float32(max_wait)),
        ),
        slots=slot.tolist(),
        tasks=[
            oracle.Task(int(b), float(d), float(c), float(e))
            for b, d, c, e in zip(origin, size, work, back, strict=True)
        ],
    )


# Settings in which different terms of the model bind.
SETTINGS = {
    "plain": {},
    "three slots, overloaded": {"slots": 3},
    "no contention, results": {"contention": False, "result": True},
    "master node": {"master": True},
    "capped uplink": {"uplink_cap": 0.15},
    "capped wait, two slots": {"max_wait": 0.4, "slots": 2},
}
