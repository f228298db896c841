"""The system model once more, in plain float64 NumPy with loops: what the tests compare to.

Written from the model's equations and from nothing else, so it shares no line and no trick
with the package: the level of CWA comes from the linear system, water-filling from
a scan over the number of servers that take part, an episode from a flat list.
Slow on purpose, and readable before anything else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

INF = float("inf")
MASTER = -1  # the origin of a task that arrives at a node hosting no server


@dataclass
class Network:
    """The constants of one network and the switches of its setting."""

    capacity: Sequence[float]  # [B] Gcycles/s
    rate: Sequence[float]  # [B] Mbit/s
    slot_length: float = 1.0  # s
    uplink_contention: bool = True
    uplink_cap: float = INF  # s, applied where more than one server is selected
    max_wait: float = INF  # s
    deadline: float = INF  # s
    penalty: float = 1.0  # deadlines a failure costs


@dataclass
class Queues:
    """What is queued; `copy` before changing it."""

    backlog: np.ndarray  # [B] Gcycles, at the slot's start
    inflight: np.ndarray  # [B] Gcycles, added in this slot
    uplink: np.ndarray  # [B] s, committed in this slot

    @staticmethod
    def empty(servers: int) -> Queues:
        return Queues(np.zeros(servers), np.zeros(servers), np.zeros(servers))

    def copy(self) -> Queues:
        return Queues(self.backlog.copy(), self.inflight.copy(), self.uplink.copy())


@dataclass
class Task:
    origin: int
    size: float  # Mbit
    work: float  # Gcycles
    result: float = 0.0  # Mbit


@dataclass
class Outcome:
    wait: np.ndarray  # [B] s
    serve: np.ndarray  # [B] s
    fraction: np.ndarray  # [B]
    makespan: float  # s
    delay: float  # s, the deadline where failed
    failed: bool
    reward: float


@dataclass
class Record:
    """One decision of an episode."""

    slot: int
    task: Task
    outcome: Outcome
    before: Queues  # the true queues the decision met
    sent: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [B] Gcycles, by its BS
    # [B] tasks and [B] Gcycles that its BS has sent to each server since the episode began
    history: tuple[np.ndarray, np.ndarray] = (np.zeros(0), np.zeros(0))


# --- Allocation rules --------------------------------------------------------------------


def cwa(wait, serve, selected):
    """All selected finish together: solve the linear system, drop negatives, renormalise.

    Unknowns x_i (i in S) and L: x_i serve_i − L = −wait_i for each i, and Σ x_i = 1.
    """
    chosen = [i for i in range(len(wait)) if selected[i]]
    size = len(chosen)
    matrix = np.zeros((size + 1, size + 1))
    right = np.zeros(size + 1)
    for row, i in enumerate(chosen):
        # Divided by serve_i, so that the rows are of one order of magnitude.
        matrix[row, row] = 1.0
        matrix[row, size] = -1.0 / serve[i]
        right[row] = -wait[i] / serve[i]
        matrix[size, row] = 1.0
    right[size] = 1.0
    solution = np.linalg.solve(matrix, right)
    fraction = np.zeros(len(wait))
    for row, i in enumerate(chosen):
        fraction[i] = max(solution[row], 0.0)
    return fraction / fraction.sum()


def hecwa(wait, serve, selected):
    """x_i ∝ Π_{j∈S, j≠i} serve_j, in logarithms, since the product overflows."""
    chosen = [i for i in range(len(wait)) if selected[i]]
    logs = np.array([sum(np.log(serve[j]) for j in chosen if j != i) for i in chosen])
    weight = np.exp(logs - logs.max())
    fraction = np.zeros(len(wait))
    for i, w in zip(chosen, weight / weight.sum(), strict=True):
        fraction[i] = w
    return fraction


def water_filling(wait, serve, selected):
    """Try "the m least-waiting servers take part" for m = 1, 2, ... and keep what is consistent.

    With m servers the level is (1 + Σ wait/serve) / Σ 1/serve. It is consistent where all m
    waits are below it and the next one is not.
    """
    chosen = sorted((i for i in range(len(wait)) if selected[i]), key=lambda i: wait[i])
    level = INF
    for m in range(1, len(chosen) + 1):
        part = chosen[:m]
        level = (1.0 + sum(wait[i] / serve[i] for i in part)) / sum(1.0 / serve[i] for i in part)
        if m == len(chosen) or wait[chosen[m]] >= level:
            break
    fraction = np.zeros(len(wait))
    for i in chosen:
        fraction[i] = max(level - wait[i], 0.0) / serve[i]
    return fraction / fraction.sum()


RULES: dict[str, Callable] = {"cwa": cwa, "hecwa": hecwa, "water_filling": water_filling}


def participants(rule: str, selected, fraction) -> list[int]:
    """All of S, idle ones included, but for water-filling only those that are given work."""
    return [
        i
        for i in range(len(fraction))
        if selected[i] and (rule != "water_filling" or fraction[i] > 0)
    ]


def makespan_of(rule: str, wait, serve, selected, fraction) -> float:
    """When the last of the participants finishes."""
    return max(wait[i] + fraction[i] * serve[i] for i in participants(rule, selected, fraction))


def best_subset(wait, serve) -> float:
    """The smallest CWA make-span over all non-empty subsets: the published "Optimal"."""
    best = INF
    for selected in itertools.product([False, True], repeat=len(wait)):
        if any(selected):
            fraction = cwa(wait, serve, selected)
            best = min(best, makespan_of("cwa", wait, serve, selected, fraction))
    return best


# --- One decision and the slot's end -----------------------------------------------------


def waits(network: Network, queues: Queues, task: Task) -> np.ndarray:
    out = np.zeros(len(network.capacity))
    for i in range(len(out)):
        wait = (queues.backlog[i] + queues.inflight[i]) / network.capacity[i]
        # A master node has no uplink of a BS, so nothing contends for it.
        if network.uplink_contention and task.origin != MASTER and i != task.origin:
            wait += queues.uplink[task.origin]
        out[i] = min(wait, network.max_wait)
    return out


def serves(network: Network, task: Task) -> np.ndarray:
    out = np.zeros(len(network.capacity))
    for i in range(len(out)):
        transmission = task.size / network.rate[i] if i != task.origin else 0.0
        out[i] = transmission + task.work / network.capacity[i] + task.result / network.rate[i]
    return out


def offload(
    network: Network,
    queues: Queues,
    task: Task,
    selected,
    rule: str = "cwa",
    seen: Queues | None = None,
    fraction=None,
) -> tuple[Outcome, Queues]:
    """One decision. `seen` is what the rule believes of the queues; None, the truth.

    `fraction`, where given, is used as it is, and those with a positive share take part.
    """
    wait = waits(network, queues, task)
    serve = serves(network, task)
    if fraction is not None:
        fraction = np.asarray(fraction, float)
        rule, selected = "given", fraction > 0
        makespan = makespan_of(rule, wait, serve, selected, fraction)
    else:
        believed = wait if seen is None else waits(network, seen, task)
        fraction = RULES[rule](believed, serve, selected)
        makespan = makespan_of(rule, wait, serve, selected, fraction)
    failed = makespan > network.deadline
    outcome = Outcome(
        wait=wait,
        serve=serve,
        fraction=fraction,
        makespan=makespan,
        delay=network.deadline if failed else makespan,
        failed=failed,
        reward=-network.penalty * network.deadline if failed else -makespan,
    )
    after = queues.copy()
    sending = 0.0
    for i in range(len(wait)):
        after.inflight[i] += fraction[i] * task.work
        if i != task.origin:
            sending += fraction[i] * task.size / network.rate[i]
    if network.uplink_contention and task.origin != MASTER:
        after.uplink[task.origin] += sending
        if len(participants(rule, selected, fraction)) > 1:
            after.uplink[task.origin] = min(after.uplink[task.origin], network.uplink_cap)
    return outcome, after


def advance_slot(network: Network, queues: Queues) -> Queues:
    after = Queues.empty(len(network.capacity))
    for i in range(len(network.capacity)):
        left = queues.backlog[i] + queues.inflight[i] - network.capacity[i] * network.slot_length
        after.backlog[i] = max(left, 0.0)
    return after


# --- What the scheduler sees -------------------------------------------------------------


def view(information: str, queues: Queues, origin: int, sent: np.ndarray) -> Queues:
    """The queues as a station that knows `information` believes them.

    `sent` [B] Gcycles is the work that this station has sent to each server in this slot.
    """
    if information == "full":
        return queues.copy()
    seen = Queues.empty(len(queues.backlog))
    seen.backlog[:] = queues.backlog
    if information in ("local", "slot"):
        seen.inflight[:] = sent
        if origin != MASTER:
            seen.uplink[origin] = queues.uplink[origin]
    return seen


def alike(queues: Queues, sent: np.ndarray, stations: int) -> np.ndarray:
    """[B] Gcycles at each server, had all stations sent in this slot what this one has.

    `stations` is how many places tasks arrive at: a master node is one.
    """
    return np.array([queues.backlog[i] + stations * sent[i] for i in range(len(sent))])


def prices(
    network: Network,
    queued: np.ndarray,
    history: tuple[np.ndarray, np.ndarray],
    *,
    stations: int,
    tasks: float,
    work: float,
    elapsed: float,
    slots: int,
) -> np.ndarray:
    """[B] s/Gcycle: n_i min(Q_i / (f_i Δ − w_i), slots left) / f_i.

    n_i and w_i are the tasks and the work that come to server i in a slot, had all stations done
    in the episode as this one has: the mean over the slots gone by and one more, in which a
    slot's expected tasks, of so much work each, are spread by capacity.
    """
    out = np.zeros(len(queued))
    for i, f in enumerate(network.capacity):
        share = tasks * f / sum(network.capacity)
        n = (stations * history[0][i] + share) / (elapsed + 1)
        w = (stations * history[1][i] + share * work) / (elapsed + 1)
        spare = max(f * network.slot_length - w, 1e-3 * f)
        out[i] = n * min(queued[i] / spare, max(slots - elapsed, 0)) / f
    return out


# --- An episode --------------------------------------------------------------------------


def play(
    network: Network,
    slots: Sequence[int],
    tasks: Sequence[Task],
    actions: Sequence,
    *,
    rule: str = "cwa",
    allocation_information: str = "true",
    information: str = "slot_start",
    fractions: bool = False,
) -> list[Record]:
    """Decide the tasks of a flat list one after the other; `actions[m]` is a [B] mask or,
    with `fractions`, the shares themselves. Queues start empty, in slot 0."""
    servers = len(network.capacity)
    queues = Queues.empty(servers)
    sent = {origin: np.zeros(servers) for origin in range(-1, servers)}
    history = {origin: (np.zeros(servers), np.zeros(servers)) for origin in sent}
    now = 0
    records = []
    for slot, task, action in zip(slots, tasks, actions, strict=True):
        while now < slot:
            queues = advance_slot(network, queues)
            sent = {origin: np.zeros(servers) for origin in range(-1, servers)}
            now += 1
        before, own = queues.copy(), sent[task.origin].copy()
        if fractions:
            outcome, queues = offload(network, queues, task, None, fraction=action)
        else:
            seen = None
            if allocation_information == "seen":
                seen = view(information, queues, task.origin, own)
            outcome, queues = offload(network, queues, task, action, rule, seen)
        sent[task.origin] = own + outcome.fraction * task.work
        tasks_sent, work_sent = history[task.origin]
        records.append(Record(now, task, outcome, before, own, (tasks_sent, work_sent)))
        history[task.origin] = (
            tasks_sent + (outcome.fraction > 0),
            work_sent + outcome.fraction * task.work,
        )
    return records
