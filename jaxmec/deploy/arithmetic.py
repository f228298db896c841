"""The physics of one decision in NumPy: what `jaxmec.mec` computes, for boxes without JAX.

The same equations under the same names (docs/model.md: "One decision", "Allocation rules"), in
float64, for n decisions at once: [n, B], and [n, 1] where a number belongs to the task or its
station. ``local`` and ``remote`` are 0 or 1. A decision alone is n = 1: with so few numbers the
calls are what costs, so reductions go by the shortest way.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
LEAST_SPARE = 1e-3  # of a server's capacity: a queue that hardly shrinks lasts to the end
_sum, _max = np.add.reduce, np.maximum.reduce


def waiting_time(
    capacity: Array,
    queued: Array,
    uplink: Array,
    remote: Array,
    uplink_contention: bool,
    max_wait: float,
) -> Array:
    """[n, B] s before each server could start on the task: its queue, and the way there.

    Args:
        capacity: [B] Gcycles/s.
        queued: [n, B] Gcycles, Q + q.
        uplink: [n, 1] s for which the uplink of the task's station is committed, u_b.
        remote: [n, B] 0 for the server that stands where the task arrived, else 1.
        uplink_contention: whether the tasks of one station wait for one another.
        max_wait: s.
    """
    wait = queued / capacity
    if uplink_contention:
        wait = wait + remote * uplink
    return np.minimum(wait, max_wait)


def service_time(
    capacity: Array, rate: Array, size: Array, work: Array, result: Array, remote: Array
) -> Array:
    """[n, B] s for the whole task at each server: serve_i = remote_i d/r_i + c/f_i + e/r_i.

    ``size`` and ``result`` [n, 1] are in Mbit, ``work`` [n, 1] in Gcycles, ``rate`` [B] in
    Mbit/s, ``capacity`` [B] in Gcycles/s.
    """
    return (remote * size + result) / rate + work / capacity


def expected_flow(
    capacity: Array, expected: float, mean_work: float, tasks: Array, work: Array, slots: Array
) -> tuple[Array, Array]:
    """[n, B] tasks and [n, B] Gcycles a slot that come to each server, by what has come so far.

    Args:
        capacity: [B] Gcycles/s.
        expected: tasks of a slot, at all stations together.
        mean_work: Gcycles of a task.
        tasks, work: [n, B] tasks and Gcycles that came to each server.
        slots: [n, 1] in so many slots, may be 0.
    """
    spread = expected * capacity / _sum(capacity)
    return (tasks + spread) / (slots + 1), (work + spread * mean_work) / (slots + 1)


def price(
    capacity: Array, per_slot: Array, queued: Array, tasks: Array, work: Array, slots_left: Array
) -> Array:
    """[n, B] s/Gcycle, the delay of all later tasks that a Gcycle more at each server causes.

    Args:
        capacity: [B] Gcycles/s.
        per_slot: [B] Gcycles, capacity times the length of a slot.
        queued: [n, B] Gcycles at each server.
        tasks, work: [n, B] tasks and Gcycles expected to come to each server in a slot.
        slots_left: [n, 1] slots to the episode's end.
    """
    drained = queued / np.maximum(per_slot - work, LEAST_SPARE * capacity)
    return tasks * np.minimum(drained, np.maximum(slots_left, 0)) / capacity


def cwa(wait: Array, serve: Array, selected: Array) -> Array:
    """[n, B] fractions at which all selected servers finish together, negative ones cut."""
    return _shares(wait, selected / serve)


def hecwa(wait: Array, serve: Array, selected: Array) -> Array:
    """[n, B] fractions proportional to 1/serve_i on the set; ignores the waits."""
    del wait
    return _normalised(selected / serve)


def water_filling(wait: Array, serve: Array, selected: Array) -> Array:
    """[n, B] fractions that minimise max_i (wait_i + x_i serve_i) over the set."""
    if not selected.all():
        # Servers outside the set must not set the level: they wait as long as the last in it.
        last = _max(np.where(selected, wait, -np.inf), axis=1, keepdims=True)
        wait = np.where(selected, wait, last)
    speed = selected / serve
    # A server gets work iff filling all others up to its wait takes less than the task.
    steps = np.maximum(wait[:, :, None] - wait[:, None, :], 0)
    poured = _sum(steps * speed[:, None, :], axis=2)
    return _shares(wait, (poured < 1) * speed)


ALLOCATIONS = {"cwa": cwa, "hecwa": hecwa, "water_filling": water_filling}


def _normalised(weight: Array) -> Array:
    total = _sum(weight, axis=1, keepdims=True)
    return weight / (total + (total == 0))


def _shares(wait: Array, speed: Array) -> Array:
    """L = (1 + Σ wait_j/serve_j) / Σ 1/serve_j and x_i = max(L − wait_i, 0)/serve_i, rescaled.

    Counted from the wait of the fastest server, whose share suffers most from rounding.
    """
    wait = wait - wait[np.arange(len(wait)), speed.argmax(axis=1)][:, None]
    total = _sum(speed, axis=1, keepdims=True)
    level = (1 + _sum(wait * speed, axis=1, keepdims=True)) / (total + (total == 0))
    return _normalised(np.maximum(level - wait, 0) * speed)


def subset_table(num_servers: int) -> Array:
    """[2^B − 1, B] bool: the servers of each subset; server i is in it iff bit i of index + 1."""
    numbers = np.arange(1, 2**num_servers)[:, None]
    return (numbers >> np.arange(num_servers)) & 1 == 1
