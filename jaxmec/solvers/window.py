"""What a solver is given: a run of tasks, all known, in the order in which they are decided.

A plan for them is a table of fractions. :func:`play` says what a plan costs in double
precision on the host; it is how solvers check what they return.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxmec.mec import EdgeNetwork, Task, TraceWorkload
from jaxmec.mec.allocation import Array
from jaxmec.struct import Leaf, pytree

PROBLEMS = ("multi", "single")


@pytree
class Window:
    """K tasks in the order of their decisions, and what was queued before the first.

    The order is part of the problem: a task waits for those decided before it in its slot,
    first come first served, and a solver chooses sets and fractions, not the order.
    Rows beyond the last task, which make windows of one shape, have ``counts`` False.
    """

    task: Task  # [K] each field
    slots: Leaf  # [K] int32, slot ends between the task before and this one; the first: 0
    counts: Leaf  # [K] bool, False for a row that only fills up
    backlog: Leaf  # [B] Gcycles queued when the window's first slot begins

    @property
    def num_tasks(self) -> int:
        """Tasks that count (not under vmap)."""
        return int(np.sum(np.asarray(self.counts)))

    def padded(self, rows: int) -> Window:
        """The same window with rows that do not count, up to so many.

        Raises:
            ValueError: fewer rows than the window has.
        """
        missing = rows - np.shape(self.slots)[0]
        if missing < 0:
            raise ValueError(f"rows must be at least {rows - missing}, got {rows}")

        def grow(value: ArrayLike, fill: float) -> np.ndarray:
            value = np.asarray(value)
            return np.concatenate([value, np.full(missing, fill, value.dtype)])

        return Window(
            # A harmless task, so that a row that does not count gives no NaN either.
            task=Task(
                *(grow(field, fill) for field, fill in zip(self.task, (0, 1, 1, 0), strict=True))
            ),
            slots=grow(self.slots, 0),
            counts=grow(self.counts, False),
            backlog=np.asarray(self.backlog),
        )


def window_of(
    trace: TraceWorkload, first: int = 0, last: int | None = None, backlog: ArrayLike | None = None
) -> Window:
    """The tasks of a trace whose slot is at least ``first`` and below ``last``.

    Args:
        trace: M recorded tasks.
        first, last: slots; ``last`` None means to the end.
        backlog: [B] Gcycles queued when slot ``first`` begins. Required, since a trace does
            not say how many servers there are: zeros for an empty network.

    Raises:
        ValueError: no backlog.
    """
    if backlog is None:
        raise ValueError("backlog must be [B] Gcycles, zeros for an empty network, got None")
    slot = np.asarray(trace.slot)
    rows = np.flatnonzero((slot >= first) & ((slot < last) if last is not None else True))
    backlog = np.asarray(backlog, np.float64)
    # A window whose first task comes slots after its beginning waits with that task.
    ends = np.diff(slot[rows], prepend=first) if rows.size else np.zeros(0)
    return Window(
        task=Task(
            origin=np.asarray(trace.origin)[rows].astype(np.int32),
            size=np.asarray(trace.size, np.float64)[rows],
            work=np.asarray(trace.work, np.float64)[rows],
            result=np.asarray(trace.result, np.float64)[rows],
        ),
        slots=ends.astype(np.int32),
        counts=np.ones(rows.size, bool),
        backlog=backlog,
    )


class HostNetwork:
    """The network's numbers in double precision, and what one task takes at each server."""

    def __init__(self, network: EdgeNetwork) -> None:
        self.capacity = np.asarray(network.capacity, np.float64)  # [B] Gcycles/s
        self.rate = np.asarray(network.rate, np.float64)  # [B] Mbit/s
        self.slot_length = float(network.slot_length)  # s
        self.uplink_cap = float(network.uplink_cap)  # s
        self.max_wait = float(network.max_wait)  # s
        self.contention = network.uplink_contention
        self.num_servers = self.capacity.size

    def remote(self, window: Window) -> np.ndarray:
        """[K, B] bool: servers that a task must be transmitted to."""
        origin = np.asarray(window.task.origin)
        return np.arange(self.num_servers)[None, :] != origin[:, None]

    def sending(self, window: Window) -> np.ndarray:
        """[K, B] s on the uplink, were the whole task sent there; 0 at the task's own server."""
        size = np.asarray(window.task.size, np.float64)
        return self.remote(window) * size[:, None] / self.rate

    def serve(self, window: Window) -> np.ndarray:
        """[K, B] s: remote_i d/r_i + c/f_i + e/r_i."""
        work = np.asarray(window.task.work, np.float64)
        result = np.asarray(window.task.result, np.float64)
        return self.sending(window) + work[:, None] / self.capacity + result[:, None] / self.rate

    def contends(self, window: Window) -> np.ndarray:
        """[K] bool: tasks that wait for their station's uplink; a master node has none."""
        return (np.asarray(window.task.origin) >= 0) & self.contention

    def drained(self, window: Window) -> np.ndarray:
        """[K, B] Gcycles of the window's first backlog that are left in each task's slot."""
        ends = np.cumsum(np.asarray(window.slots))
        served = ends[:, None] * self.slot_length * self.capacity
        return np.maximum(np.asarray(window.backlog, np.float64) - served, 0)


class HostQueues:
    """The queues of one network in double precision, moved on by one decision at a time."""

    def __init__(self, network: EdgeNetwork, window: Window) -> None:
        self.host = HostNetwork(network)
        self._serve = self.host.serve(window)  # [K, B] s
        self._sending = self.host.sending(window)  # [K, B] s
        self._remote = self.host.remote(window)  # [K, B] bool
        self._contends = self.host.contends(window)  # [K] bool
        self._origin = np.asarray(window.task.origin)  # [K]
        self._work = np.asarray(window.task.work, np.float64)  # [K] Gcycles
        self._slots = np.asarray(window.slots)  # [K]
        self.backlog = np.asarray(window.backlog, np.float64).copy()  # [B] Gcycles
        self.inflight = np.zeros(self.host.num_servers)  # [B] Gcycles
        self.uplink = np.zeros(self.host.num_servers)  # [B] s

    def arrive(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """End the slots before a task; returns what it meets: wait and serve, both [B] s."""
        if self._slots[task] > 0:
            self.advance(self._slots[task])
        wait = (self.backlog + self.inflight) / self.host.capacity
        if self._contends[task]:
            wait = wait + self._remote[task] * self.uplink[self._origin[task]]
        return np.minimum(wait, self.host.max_wait), self._serve[task]

    def place(self, task: int, fraction: np.ndarray, selected: np.ndarray) -> None:
        """Add what a task's split [B] leaves behind."""
        self.inflight = self.inflight + fraction * self._work[task]
        if self._contends[task]:
            committed = self.uplink[self._origin[task]] + fraction @ self._sending[task]
            if selected.sum() > 1:
                committed = min(committed, self.host.uplink_cap)
            self.uplink[self._origin[task]] = committed

    def advance(self, slots: int = 1) -> None:
        """The end of so many slots."""
        served = slots * self.host.slot_length * self.host.capacity
        self.backlog = np.maximum(self.backlog + self.inflight - served, 0)
        self.inflight, self.uplink = np.zeros_like(self.inflight), np.zeros_like(self.uplink)


def play(
    network: EdgeNetwork, window: Window, fraction: Array, selected: Array | None = None
) -> np.ndarray:
    """What a plan comes to, by the model's equations, one task after the other.

    Args:
        network: the servers and links.
        window: K tasks.
        fraction: [K, B] of each task, non-negative, each row summing to 1.
        selected: [K, B] bool, the servers whose finish counts; by default those with a
            positive fraction.

    Returns:
        [K] s, the make-span of each task in float64; NaN in rows that do not count.

    Raises:
        ValueError: fractions of another shape, or a row that is no split of its task.
    """
    queues = HostQueues(network, window)
    fraction = np.asarray(fraction, np.float64)
    counts = np.asarray(window.counts)
    if fraction.shape != (counts.size, queues.host.num_servers):
        raise ValueError(
            f"fraction must have shape {(counts.size, queues.host.num_servers)}, "
            f"got {fraction.shape}"
        )
    wrong = counts & ((np.abs(fraction.sum(axis=1) - 1) > 1e-5) | np.any(fraction < 0, axis=1))
    if np.any(wrong):
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"fraction[{row}] must be a split summing to 1, got {fraction[row]}")
    # Single precision sums to 1 within rounding: without this a plan would keep the difference.
    fraction = fraction / np.where(counts, fraction.sum(axis=1), 1)[:, None]
    selected = fraction > 0 if selected is None else np.asarray(selected, bool)
    makespan = np.full(counts.size, np.nan)
    for k in np.flatnonzero(counts).tolist():
        wait, serve = queues.arrive(k)
        makespan[k] = np.max((wait + fraction[k] * serve)[selected[k]])
        queues.place(k, fraction[k], selected[k])
    return makespan


def greedy(network: EdgeNetwork, window: Window, problem: str = "multi") -> np.ndarray:
    """[K, B] the plan that finishes each task first, after those decided before it.

    The published "Optimal" and Opt-TS: the best server, or water-filling over all of them.
    """
    check_problem(problem)
    queues = HostQueues(network, window)
    fraction = np.zeros((np.size(window.slots), queues.host.num_servers))
    for k in np.flatnonzero(np.asarray(window.counts)).tolist():
        wait, serve = queues.arrive(k)
        if problem == "single":
            fraction[k, np.argmin(wait + serve)] = 1
        else:
            fraction[k] = pour(wait, serve)[0]
        queues.place(k, fraction[k], fraction[k] > 0)
    return fraction


def pour(wait: np.ndarray, serve: np.ndarray) -> tuple[np.ndarray, float]:
    """Water-filling over all servers in double precision.

    Args:
        wait, serve: [B] s.

    Returns:
        [B] fractions, and the level L, which solves Σ (L − wait_i)⁺ / serve_i = 1.
    """
    order = np.argsort(wait)
    speed = 1 / serve[order]
    level = (1 + np.cumsum(wait[order] * speed)) / np.cumsum(speed)
    # The m least-waiting servers take part where their level does not reach the next wait.
    following = np.append(wait[order][1:], np.inf)
    height = level[np.argmax(level <= following)]
    share = np.maximum(height - wait, 0) / serve
    return share / share.sum(), float(height)


def check_problem(problem: str) -> None:
    """Raise ``ValueError`` unless it is one of ``PROBLEMS``."""
    if problem not in PROBLEMS:
        raise ValueError(f"problem must be one of {', '.join(PROBLEMS)}, got {problem!r}")


def stack(windows: list[Window]) -> Window:
    """Windows [K_e] as one [E, K] of the longest's length, for vmap.

    Raises:
        ValueError: no windows.
    """
    if not windows:
        raise ValueError("windows must have at least one window, got none")
    rows = max(1, *(np.shape(window.slots)[0] for window in windows))
    padded = [window.padded(rows) for window in windows]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
