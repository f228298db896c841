"""Lower bounds on the mean make-span of any plan, for windows of any size.

Three of them, each with the reason why no plan can be below it; docs/solvers.md derives
them. They hold for every policy on the same arrivals, whatever it sees.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse

from jaxmec.mec import EdgeNetwork
from jaxmec.solvers.window import HostNetwork, Window, check_problem, pour

MINIMUM_TOLERANCE = 1e-4  # relative; how near to its minimum a convex sum is followed
SAFETY = 1e-6  # relative; taken off the linear program, whose solver works to a tolerance
WHY = {
    "empty system": "a task finishes no earlier than it would had it every queue to itself",
    "pooled": (
        "one server of capacity Σ f without transmission, serving the shortest remaining work "
        "first with preemption, has the least total delay of all that work no faster"
    ),
    "shares": (
        "a task finishes no earlier than the mean of its shares' finishes weighted by the "
        "shares; weighted by work and summed over any set of tasks that is convex in the "
        "shares and free of the order, and sums over nested sets add up to the total delay"
    ),
    "linear relaxation": (
        "the same inequalities as linear cuts, with each task's delay in an empty system: "
        "every plan satisfies all of them"
    ),
}
LINEAR_VARIABLES = 200  # K · B of a slot beyond which the linear relaxation is left out


@dataclasses.dataclass(frozen=True)
class LowerBounds:
    """Bounds on the mean make-span of one window, all valid; ``best`` is the largest."""

    values: dict[str, float]  # s, by the names in WHY

    @property
    def name(self) -> str:
        """Which is the largest."""
        return max(self.values, key=lambda name: self.values[name])

    @property
    def best(self) -> float:
        """s"""
        return self.values[self.name]

    @property
    def why(self) -> str:
        """Why the best one is valid."""
        return WHY[self.name]


class Cut(NamedTuple):
    """Σ_k weight_k D_k − Σ_ki slope_ki x_ki ≥ constant, for every plan."""

    weight: np.ndarray  # [K] Gcycles; 0 outside the set of tasks
    slope: np.ndarray  # [K, B]
    constant: float


def lower_bounds(
    network: EdgeNetwork, window: Window, problem: str = "multi", *, rounds: int = 10
) -> LowerBounds:
    """Bounds on the mean make-span of every plan for a window.

    Args:
        network: B servers.
        window: K tasks; rows that do not count are left out.
        problem: "multi", any set and split; "single", one server a task.
        rounds: of cutting planes for the linear relaxation; 0 leaves it out, and so do
            slots of many tasks.

    Raises:
        ValueError: an unknown problem, or a window without tasks.
    """
    check_problem(problem)
    window = _counting(window)
    values = {
        "empty system": float(np.mean(empty_system(network, window, problem))),
        "pooled": float(np.mean(pooled(network, window))),
    }
    # Where waits are cut off at max_wait, a finish says nothing of what was queued before it.
    if not wait_may_be_capped(network, window):
        sums = share_sums(network, window, problem)
        values["shares"] = sum(total.least()[0] for total in sums) / window.num_tasks
        largest = max(total.rows.size for total in sums) * network.num_servers
        if rounds and largest <= LINEAR_VARIABLES:
            values["linear relaxation"] = relaxation(network, window, problem, rounds)[0]
    return LowerBounds(values)


def _counting(window: Window) -> Window:
    """The window without the rows that do not count."""
    counts = np.asarray(window.counts)
    if not np.any(counts):
        raise ValueError("window must have at least one task, got none")
    keep = np.flatnonzero(counts)
    return Window(
        task=type(window.task)(*(np.asarray(field)[keep] for field in window.task)),
        slots=np.asarray(window.slots)[keep],
        counts=counts[keep],
        backlog=np.asarray(window.backlog),
    )


def empty_system(network: EdgeNetwork, window: Window, problem: str = "multi") -> np.ndarray:
    """[K] s, each task's delay were no other task of the window there.

    Waits only grow with what others add, and a task's best finish grows with its waits.
    """
    check_problem(problem)
    host = HostNetwork(network)
    wait = np.minimum(host.drained(window) / host.capacity, host.max_wait)
    serve = host.serve(window)
    if problem == "single":
        return np.min(wait + serve, axis=1)
    return np.array([pour(w, s)[1] for w, s in zip(wait, serve, strict=True)])


def pooled(network: EdgeNetwork, window: Window) -> np.ndarray:
    """[K] s, delays on one server of capacity Σ f, shortest remaining work first, preemptive.

    A plan works a task's shares off within its make-span, at no more than Σ f in all, since
    each server serves first come first served from the slot's start and transmission only
    adds. Of all such schedules this one has the least sum of delays. Where waits may be cut
    off, delays count up to max_wait only, and each slot stands alone: there shortest first
    minimises any sum of one non-decreasing function of the completions.
    """
    host = HostNetwork(network)
    total = host.capacity.sum()
    work = np.asarray(window.task.work, np.float64)
    slot = np.cumsum(np.asarray(window.slots))
    delay = np.zeros(work.size)
    if wait_may_be_capped(network, window):
        for now in np.unique(slot):
            rows = np.flatnonzero(slot == now)
            rows = rows[np.argsort(work[rows])]
            delay[rows] = np.minimum(np.cumsum(work[rows]) / total, host.max_wait)
        return delay
    release = slot * host.slot_length
    waiting: list[tuple[float, int]] = []
    time, k = 0.0, 0
    while waiting or k < work.size:
        if not waiting:
            time = max(time, release[k])
        while k < work.size and release[k] <= time:
            heapq.heappush(waiting, (work[k], k))
            k += 1
        left, task = heapq.heappop(waiting)
        until = release[k] if k < work.size else np.inf
        if time + left / total <= until:
            time += left / total
            delay[task] = time - release[task]
        else:
            heapq.heappush(waiting, (left - (until - time) * total, task))
            time = until
    return delay


def wait_may_be_capped(network: EdgeNetwork, window: Window) -> bool:
    """Whether some plan, were it to send everything to one server, would meet max_wait."""
    host = HostNetwork(network)
    if not np.isfinite(host.max_wait):
        return False
    work = np.asarray(window.task.work, np.float64)
    slot = np.cumsum(np.asarray(window.slots))
    backlog, now, longest = np.asarray(window.backlog, np.float64), 0, 0.0
    for following in np.unique(slot):
        served = (following - now) * host.slot_length * host.capacity
        backlog, now = np.maximum(backlog - served, 0), following
        backlog = backlog + work[slot == following].sum()
        longest = max(longest, float(np.max(backlog / host.capacity)))
    return longest + np.max(_most_committed(host, window), initial=0) > host.max_wait


def _most_committed(host: HostNetwork, window: Window) -> np.ndarray:
    """[K] s that a task's uplink can be committed in its slot, whatever is decided."""
    slot, origin = np.cumsum(np.asarray(window.slots)), np.asarray(window.task.origin)
    together = (slot[:, None] == slot) & (origin[:, None] == origin)
    return host.contends(window) * (together @ host.sending(window).max(axis=1))


class ShareSum:
    """The convex function behind the cuts, on one slot's tasks.

    For a set A of tasks, with W_ki = c_k x_ki the work that server i gets of task k,

        Σ_A c_k D_k ≥ Σ_A c_k Σ_i x_ki finish_ki ≥ Σ_i (Σ_A W_ki)² / 2f_i + own + queue
                      + Σ_b (t_b/2) ((Σ_{A∩b} R_k)² − Σ_{A∩b} R_k²),

    where own = Σ c_k x_ki² (c_k/2f_i + transmission), with x in place of x² for one server
    a task, queue the wait for the first backlog, R_k the work of task k sent away from its
    station b, and t_b s of uplink a Gcycle at the least.
    """

    def __init__(self, host: HostNetwork, window: Window, problem: str, rows: np.ndarray) -> None:
        self.single = problem == "single"
        self.rows = rows
        self.capacity = host.capacity
        self.work = np.asarray(window.task.work, np.float64)[rows]
        self.origin = np.asarray(window.task.origin)[rows]
        queue = host.drained(window)[rows] / host.capacity
        self.queue = np.minimum(queue, host.max_wait)
        self.serve = host.serve(window)[rows]
        # s a Gcycle: half of the computing, all of the transmission
        self.own = self.serve / self.work[:, None] - 0.5 / host.capacity
        self.remote = host.remote(window)[rows] & host.contends(window)[rows][:, None]
        capped = _most_committed(host, window)[rows] > host.uplink_cap
        sending = np.where(self.remote, host.sending(window)[rows], np.inf).min(axis=1)
        self.uplink = np.where(np.isfinite(sending) & ~capped, sending, 0) / self.work
        if not self.single:
            # Beyond this, −t/2 R² would make the task's own part concave.
            softness = np.sum(self.remote / self.own, axis=1)
            limit = np.divide(2, softness, out=np.full(rows.size, np.inf), where=softness > 0)
            self.uplink = np.minimum(self.uplink, limit)

    def least(self, steps: int = 400) -> tuple[float, np.ndarray]:
        """The least sum of delays that nested sets allow, and the shares that come near it.

        With the tasks by work, c_1 ≤ c_2 ≤ ..., the first m of them weighted by
        1/c_m − 1/c_{m+1} (the last by 1/c_K) add up to Σ D_k. That sum of convex functions is
        followed downhill over the simplices, and its tangent's minimum there, which is
        below it everywhere, is the bound, however far the descent got.

        Returns:
            The bound on Σ D_k over the slot in s, and shares [rows, B].
        """
        order = np.argsort(self.work, kind="stable")
        share = np.tile(self.capacity / self.capacity.sum(), (order.size, 1))
        value, slope = self._nested(order, share)
        best, step = -np.inf, 1.0
        for _ in range(steps):
            best = max(best, float(value - np.sum(slope * share) + slope.min(axis=1).sum()))
            if value - best <= MINIMUM_TOLERANCE * value:
                break
            # Multiplicative steps, in each task's own unit, keep the shares on the simplex.
            tilt = slope - slope.min(axis=1, keepdims=True)
            tried = share * np.exp(-step * tilt / np.max(tilt, initial=1e-300))
            tried = tried / tried.sum(axis=1, keepdims=True)
            value_there, slope_there = self._nested(order, tried)
            if value_there < value:
                share, value, slope, step = tried, value_there, slope_there, step * 1.5
            else:
                step /= 2
        return best * (1 - SAFETY), share

    def _nested(self, order: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        """The weighted sum over nested sets at some shares, and its slope [rows, B]."""
        work, x = self.work[order], share[order]
        nested = 1 / work - np.append(1 / work[1:], 0)  # weight of the first m tasks
        after = 1 / work  # Σ of the weights of the sets that hold a task
        placed = work[:, None] * x
        load = np.cumsum(placed, axis=0)
        value = np.sum(nested @ (load**2 / (2 * self.capacity)))
        by_work = _from_the_end(nested[:, None] * load / self.capacity)  # slope in placed
        value += np.sum(x * self.queue[order])
        by_work = by_work + after[:, None] * self.queue[order]
        own = self.own[order]
        if self.single:
            value += np.sum(placed * own)
            by_work = by_work + own
        else:
            value += np.sum(placed**2 * own * after[:, None])
            by_work = by_work + 2 * placed * own * after[:, None]
        remote = self.remote[order]
        away = np.sum(placed * remote, axis=1)
        for station in np.unique(self.origin):
            at = self.origin[order] == station
            t = np.minimum.accumulate(np.where(at, self.uplink[order], np.inf))
            t = np.where(np.isfinite(t), t, 0) * nested
            sent = np.where(at, away, 0)
            total = np.cumsum(sent)
            linear = work if self.single else sent
            value += np.sum(t / 2 * (total**2 - np.cumsum(linear * sent)))
            later = _from_the_end(t)
            rise = _from_the_end(t * total) - (0.5 if self.single else 1.0) * later * linear
            by_work = by_work + (at * rise)[:, None] * remote
        slope = np.empty_like(share)
        slope[order] = by_work * work[:, None]
        return float(value), slope

    def cut(self, members: np.ndarray, share: np.ndarray, size: int) -> Cut:
        """The tangent at some shares.

        Args:
            members: [k] which of the slot's tasks are in A.
            share: [rows, B] where it touches.
            size: K, of the whole window.
        """
        work = self.work[members][:, None]
        x = share[members]
        placed = work * x  # W
        load = placed.sum(axis=0)
        value = np.sum(load**2 / (2 * self.capacity)) + np.sum(placed * self.queue[members])
        slope = work * (load / self.capacity + self.queue[members])
        own = self.own[members]
        if self.single:
            value += np.sum(work * placed * own)
            slope = slope + work**2 * own
        else:
            value += np.sum(placed**2 * own)
            slope = slope + 2 * work * placed * own
        remote = self.remote[members]
        away = np.sum(placed * remote, axis=1)  # R
        for station in np.unique(self.origin[members]):
            at = self.origin[members] == station
            t = self.uplink[members][at].min()
            if t <= 0:
                continue
            total = away[at].sum()
            if self.single:
                value += t / 2 * (total**2 - np.sum(work[at, 0] * away[at]))
                rise = t / 2 * (2 * total - work[at])
            else:
                value += t / 2 * (total**2 - np.sum(away[at] ** 2))
                rise = t * (total - away[at][:, None])
            slope[at] += work[at] * remote[at] * rise
        weight, whole = np.zeros(size), np.zeros((size, x.shape[1]))
        weight[self.rows[members]] = work[:, 0]
        whole[self.rows[members]] = slope
        return Cut(weight, whole, float(value - np.sum(slope * x)))


def _from_the_end(values: np.ndarray) -> np.ndarray:
    """Sums along the first axis from each entry to the last."""
    return np.cumsum(values[::-1], axis=0)[::-1]


def share_sums(network: EdgeNetwork, window: Window, problem: str) -> list[ShareSum]:
    """One for each slot that has tasks; what earlier slots leave in the queues only adds."""
    host, slot = HostNetwork(network), np.cumsum(np.asarray(window.slots))
    return [ShareSum(host, window, problem, np.flatnonzero(slot == now)) for now in np.unique(slot)]


def relaxation(
    network: EdgeNetwork, window: Window, problem: str = "multi", rounds: int = 10
) -> tuple[float, list[Cut]]:
    """The linear relaxation: make-spans and shares under cuts, added where they are violated.

    Args:
        network: B servers, whose max_wait no plan meets.
        window: K tasks, all counting. Slots stand alone: what earlier ones leave only adds.
        problem: "multi" or "single".
        rounds: at most so many linear programs.

    Returns:
        The bound on the mean make-span in s, and the cuts, each valid for every plan.
    """
    host = HostNetwork(network)
    serve = host.serve(window)
    tasks, servers = serve.shape
    first = np.minimum(host.drained(window) / host.capacity, host.max_wait)
    low = empty_system(network, window, problem)
    groups = share_sums(network, window, problem)
    # Variables: D [K], then x [K, B] row by row. All rows as "≤".
    number = tasks + np.arange(tasks * servers).reshape(tasks, servers)
    task_of = np.repeat(np.arange(tasks), servers)
    whole = scipy.sparse.coo_array(
        (np.ones(number.size), (task_of, number.ravel())), shape=(tasks, tasks + number.size)
    ).tocsr()
    if problem == "single":  # D_k ≥ Σ_i x_ki (first wait + serve)
        rows, count = task_of, tasks
    else:  # D_k ≥ x_ki (first wait + serve) for each i
        rows, count = np.arange(number.size), number.size
    finish = scipy.sparse.coo_array(
        ((first + serve).ravel(), (rows, number.ravel())), shape=(count, whole.shape[1])
    )
    own_row = np.arange(tasks) if problem == "single" else task_of
    minus = scipy.sparse.coo_array(
        (-np.ones(count), (np.arange(count), own_row)), shape=finish.shape
    )
    matrix, right = (finish + minus).tocsr(), np.zeros(count)
    cost = np.r_[np.ones(tasks), np.zeros(number.size)]
    bounds = np.c_[np.r_[low, np.zeros(number.size)], np.full(cost.size, np.inf)]
    # Begin with the nested sets, where the shares of their sum's minimum touch them.
    share = np.zeros((tasks, servers))
    fresh = []
    for group in groups:
        share[group.rows] = group.least()[1]
        order = np.argsort(group.work, kind="stable")
        fresh += [
            group.cut(np.sort(order[:count]), share[group.rows], tasks)
            for count in range(1, order.size + 1)
        ]
    centre = share
    makespan, best = low, float(low.mean())
    cuts: list[Cut] = []
    for done in range(rounds):
        for group in groups if done else ():
            fresh += _violated(group, makespan, (share, centre), tasks)
        # Tangents at the last point alone zigzag; the mean of the points settles them.
        centre = centre + (share - centre) / (done + 2)
        if not fresh:
            break
        cuts, added = cuts + fresh, fresh
        fresh = []
        dense = np.array([np.r_[-cut.weight, cut.slope.ravel()] for cut in added])
        matrix = scipy.sparse.vstack([matrix, scipy.sparse.csr_array(dense)]).tocsr()
        right = np.r_[right, [-cut.constant for cut in added]]
        result = scipy.optimize.linprog(
            cost, A_ub=matrix, b_ub=right, A_eq=whole, b_eq=np.ones(tasks), bounds=bounds,
            method="highs",
        )  # fmt: skip
        if result.status != 0:  # no solution to trust: the bound so far stands
            break
        makespan = result.x[:tasks]
        share = np.maximum(result.x[tasks:].reshape(tasks, servers), 0)
        best = max(best, float(result.fun / tasks))
    return best * (1 - SAFETY), cuts


def _violated(
    group: ShareSum, makespan: np.ndarray, touching: tuple[np.ndarray, ...], size: int
) -> list[Cut]:
    """Up to eight cuts that a point breaks most, on tasks that finish first.

    Args:
        group: the tasks of one slot.
        makespan: [K] s of the point.
        touching: [K, B] shares: the point's own, and others to take tangents at.
        size: K.

    For the pooled inequalities the sets to try are exactly these: all tasks up to some D_k.
    """
    makespan, share = makespan[group.rows], touching[0][group.rows]
    order = np.argsort(makespan, kind="stable")
    # Sets that grow by steps are enough: neighbours say nearly the same.
    sizes = np.unique(np.linspace(1, order.size, min(order.size, 24)).astype(int))
    found = []
    for count in sizes:
        members = np.sort(order[:count])
        for at in touching:
            cut = group.cut(members, at[group.rows], size)
            weight, slope = cut.weight[group.rows], cut.slope[group.rows]
            finished = float(weight @ makespan)
            excess = (cut.constant + float(np.sum(slope * share)) - finished) / finished
            if excess > 1e-5:
                found.append((excess, cut))
    found.sort(key=lambda pair: -pair[0])
    return [cut for _, cut in found[:8]]
