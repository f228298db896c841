"""The published environments as a plain NumPy loop: what ours are compared with.

Written from docs/model.md the way such code is commonly written: one task after the other,
arrays over the servers, the tasks of an episode drawn beforehand. CWA solves the published
linear system. The tests hold it to the same numbers as the package's own reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmec.envs.presets import Preset

Policy = Callable[[np.ndarray, int], Any]  # (observation, origin) -> action


def subset_of(action: int, servers: int) -> np.ndarray:
    """[n] the servers of the non-empty subset numbered 0..2^B − 2."""
    return np.flatnonzero((action + 1) >> np.arange(servers) & 1)


def cwa(wait: np.ndarray, serve: np.ndarray) -> np.ndarray:
    """[n] the fractions with which all finish together; none is negative."""
    n = len(wait)
    if n == 1:
        return np.ones(1)
    matrix = np.zeros((n, n))
    matrix[:-1, 0] = serve[0]
    matrix[np.arange(n - 1), np.arange(1, n)] = -serve[1:]
    matrix[-1] = 1.0
    fraction = np.maximum(np.linalg.solve(matrix, np.append(wait[1:] - wait[0], 1.0)), 0.0)
    return fraction / fraction.sum()


class Loop:
    """One environment with the constants of a preset.

    Args:
        preset: the setting; tasks do not arrive at a master node.
        seed: of what the preset draws once, and of the tasks.
    """

    def __init__(self, preset: Preset, seed: int = 0) -> None:
        self.preset = preset
        self.multi = preset.problem == "multi"
        self.capacity = np.array(preset.capacity, float)
        self.rate = np.array(preset.rate, float)
        self.servers = len(self.capacity)
        sizes = preset.params(seed).workload.sizes
        self.density, self.fixed = np.asarray(sizes.density), np.asarray(sizes.fixed_work)
        self.result = np.asarray(sizes.result)
        self.rng = np.random.default_rng(seed)
        tied = {"deadline": preset.deadline, "slot_length": preset.slot_length}
        self.max_wait = float(tied.get(preset.max_wait, preset.max_wait))  # type: ignore[arg-type]
        self.cap = float(tied.get(preset.uplink_cap, preset.uplink_cap))  # type: ignore[arg-type]
        lost = preset.penalty * preset.deadline
        self.lost = lost if np.isfinite(lost) else 0.0

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """[T, B, N] the sizes (Mbit) of an episode's tasks, and which of them arrive."""
        preset = self.preset
        shape = (preset.slots, self.servers, preset.positions)
        size = self.rng.uniform(*preset.size, shape)
        if preset.arrivals == "bernoulli":
            return size, self.rng.random(shape) < preset.probability
        counts = self.rng.integers(1, preset.positions, shape[:2], endpoint=True)
        return size, np.arange(preset.positions) < counts[..., None]

    def episode(
        self,
        policy: Policy,
        tasks: tuple[np.ndarray, np.ndarray] | None = None,
        after: Callable[..., None] | None = None,
        end_of_slot: Callable[[], None] | None = None,
    ) -> list[float]:
        """Play one episode; the make-span of every decision.

        Args:
            policy: from an observation [.] and the task's station to an action.
            tasks: as :meth:`draw` gives them; drawn where not given.
            after: is told (origin, observation, action, reward, next observation) of each
                decision, once the station's next task is known.
            end_of_slot: is called after each slot.
        """
        size, arrives = self.draw() if tasks is None else tasks
        backlog = np.zeros(self.servers)
        makespans: list[float] = []
        for slot in range(len(size)):
            inflight = np.zeros(self.servers)
            for origin in range(self.servers):
                uplink = 0.0
                remote = np.arange(self.servers) != origin
                last: Any = None
                for n in np.flatnonzero(arrives[slot, origin]):
                    d = size[slot, origin, n]
                    work = self.density[n] * d + self.fixed[n]
                    observation = self.observe(d, work, backlog)
                    if last is not None and after is not None:
                        after(origin, *last, observation)
                    action = policy(observation, origin)
                    wait = (backlog + inflight) / self.capacity
                    if self.preset.uplink_contention:
                        wait = wait + remote * uplink
                    wait = np.minimum(wait, self.max_wait)
                    serve = (
                        remote * d / self.rate + work / self.capacity + self.result[n] / self.rate
                    )
                    if self.multi:
                        chosen = subset_of(action, self.servers)
                        fraction = cwa(wait[chosen], serve[chosen])
                        makespan = float(np.max(wait[chosen] + fraction * serve[chosen]))
                        inflight[chosen] += fraction * work
                        uplink += float(np.sum((fraction * d / self.rate[chosen])[remote[chosen]]))
                        if len(chosen) > 1:
                            uplink = min(uplink, self.cap)
                    else:
                        makespan = float(wait[action] + serve[action])
                        inflight[action] += work
                        uplink += d / self.rate[action] if remote[action] else 0.0
                    failed = makespan > self.preset.deadline
                    makespans.append(makespan)
                    last = (observation, action, -self.lost if failed else -makespan)
                if last is not None and after is not None:
                    after(origin, *last, self.observe(d, work, backlog))
            capacity = self.capacity * self.preset.slot_length
            backlog = np.maximum(backlog + inflight - capacity, 0.0)
            if end_of_slot is not None:
                end_of_slot()
        return makespans

    def observe(self, size: float, work: float, backlog: np.ndarray) -> np.ndarray:
        """[.] float32: the size, the work where a task has one server, and the backlogs."""
        head = [size] if self.multi else [size, work]
        return np.concatenate([head, backlog]).astype(np.float32)
