"""The offline optimum of a small window, with proof, as a mixed-integer linear program.

docs/solvers.md has the formulation with each term. HiGHS solves it through SciPy, to a
stated gap; whatever was not proved is said in the solution's ``status`` and ``gap``.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from jaxmec.core import checks
from jaxmec.mec import EdgeNetwork
from jaxmec.solvers.bounds import Cut, empty_system, relaxation, wait_may_be_capped
from jaxmec.solvers.window import HostNetwork, Window, check_problem, greedy, play

NEGLIGIBLE = 1e-7  # a fraction this small is the solver's rounding: it would add a whole wait
LOOSELY = 1e-5  # of a mean make-span: ten times what HiGHS tolerates, so no rounding decides
TIGHTENED = 2  # rounds of narrowing the constants before the search
# What SciPy's codes of `milp` mean here.
STATUS = {0: "optimal", 1: "time limit", 2: "infeasible", 3: "unbounded", 4: "numerical trouble"}


@dataclasses.dataclass(frozen=True)
class ExactSolution:
    """What the program came to; make-spans are means over the window's tasks."""

    status: str  # one of the values of STATUS; only "optimal" is a proof
    makespan: float  # s, of the plan, played again by the model
    lower_bound: float  # s, proved by the solver: no plan is better
    fraction: np.ndarray  # [K, B] the best plan known, the incumbent where none better was found
    selected: np.ndarray  # [K, B] bool
    seconds: float  # building and solving
    nodes: int  # of the search tree

    @property
    def proved(self) -> bool:
        """Whether the plan is optimal, to the gap that was asked for."""
        return self.status == "optimal"

    @property
    def gap(self) -> float:
        """(makespan − lower_bound) / makespan."""
        return max(0.0, 1 - self.lower_bound / self.makespan)


class _Program:
    """Variables by name, with their bounds, and rows Σ a_v v ≥ b, gathered as triplets."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []
        self.binary: list[bool] = []
        self._rows: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.at_least: list[float] = []  # b of each row

    def variables(
        self, *shape: int, high: Any = np.inf, low: Any = 0.0, binary: bool = False
    ) -> Any:
        """New variables; returns their numbers as an array of that shape."""
        start, count = len(self.low), int(np.prod(shape))
        self.low += np.broadcast_to(low, shape).ravel().tolist()
        self.high += np.broadcast_to(high, shape).ravel().tolist()
        self.binary += [binary] * count
        return np.arange(start, start + count).reshape(shape)

    def row(self, terms: Iterable[tuple[int, float]], at_least: float) -> None:
        """Σ value · variable ≥ at_least; a variable named twice counts twice."""
        number = len(self.at_least)
        for variable, value in terms:
            if value != 0:
                self._rows[0].append(number)
                self._rows[1].append(int(variable))
                self._rows[2].append(float(value))
        self.at_least.append(at_least)

    def constraints(self) -> scipy.optimize.LinearConstraint:
        """All rows."""
        row, column, value = self._rows
        shape = (len(self.at_least), len(self.low))
        matrix = scipy.sparse.coo_array((value, (row, column)), shape=shape).tocsr()
        return scipy.optimize.LinearConstraint(matrix, lb=self.at_least)


def solve_exact(
    network: EdgeNetwork,
    window: Window,
    problem: str = "multi",
    *,
    time_limit: float = 60.0,
    gap: float = 1e-6,
    incumbent: np.ndarray | None = None,
) -> ExactSolution:
    """The plan of the smallest mean make-span, and the proof of it.

    Every set and every split is allowed ("multi"), or every server ("single"); deadlines
    do not enter. The incumbent's value is a cut and tightens every big-M; SciPy takes no
    warm start.

    Args:
        network: the servers and links.
        window: K tasks, all of them counting; about ten at most where B is 3 to 5.
        problem: "multi" or "single".
        time_limit: s for the solver.
        gap: relative, at which a plan counts as proved.
        incumbent: [K, B] fractions of the best plan known; by default the greedy one.

    Raises:
        ValueError: an unknown problem, an empty window or one with rows that do not count,
            an incumbent that is no plan, or a limit that is not positive.
    """
    check_problem(problem)
    _check_counts(window)
    for name, value in (("time_limit", time_limit), ("gap", gap)):
        checks.require(name, value, checks.number(above=0, finite=False))
    start = time.perf_counter()
    plan = greedy(network, window, problem) if incumbent is None else np.asarray(incumbent, float)
    if problem == "single" and not np.all((plan == 0) | (plan == 1)):
        raise ValueError("incumbent must name one server a task, got a task that is split")
    known = play(network, window, plan)
    plan = plan / plan.sum(axis=1, keepdims=True)  # as `play` reads it
    program = _Formulation(network, window, problem, float(known.sum()))
    result = program.solve(time_limit, gap)
    status = STATUS.get(result.status, f"status {result.status}")
    bound = getattr(result, "mip_dual_bound", None)
    # Every task alone in an empty network: what holds whatever the solver says.
    trivial = program.shortest.mean()
    lower_bound = trivial if bound is None else max(trivial, bound * program.unit / known.size)
    selected, makespan = plan > 0, float(known.mean())
    if result.x is not None:
        found, taking_part = program.plan(result.x)
        value = float(play(network, window, found, taking_part).mean())
        if value <= makespan:
            plan, selected, makespan = found, taking_part, value
    return ExactSolution(
        status=status,
        makespan=makespan,
        lower_bound=min(float(lower_bound), makespan),
        fraction=plan,
        selected=selected,
        seconds=time.perf_counter() - start,
        nodes=int(getattr(result, "mip_node_count", None) or 0),
    )


def _check_counts(window: Window) -> None:
    if window.num_tasks == 0 or window.num_tasks != np.size(window.counts):
        raise ValueError(
            f"window must have tasks, all of which count, got {window.num_tasks} counting "
            f"of {np.size(window.counts)}"
        )


class _Formulation:
    """The program of docs/solvers.md. Times in it are in units of the incumbent's mean."""

    def __init__(
        self, network: EdgeNetwork, window: Window, problem: str, known_total: float
    ) -> None:
        self.problem = problem
        self.network = network
        self.host = HostNetwork(network)
        self.window = window
        self.unit = known_total / window.num_tasks  # s
        self.total = window.num_tasks  # the incumbent's Σ D_k, in units
        self.shortest = empty_system(network, window, problem)  # [K] s
        self.cuts = []
        if not wait_may_be_capped(network, window):
            self.cuts = relaxation(network, window, problem)[1]
        self._limits()
        for _ in range(TIGHTENED):
            self._build(self.cuts)
            self._tighten()
        self._build([])

    def _limits(self) -> None:
        """Constants in units of time, and what the incumbent says no better plan exceeds."""
        host, window, unit = self.host, self.window, self.unit
        self.shape = tasks, _ = (window.num_tasks, host.num_servers)
        self.serve = host.serve(window) / unit  # [K, B]
        self.compute = np.asarray(window.task.work, float)[:, None] / host.capacity / unit
        self.sending = host.sending(window) / unit  # [K, B]
        self.contends = host.contends(window)  # [K] bool
        self.remote = host.remote(window) & self.contends[:, None]  # waits for an uplink
        self.first_wait = host.drained(window) / host.capacity / unit  # [K, B] of the backlog
        self.slot = np.cumsum(np.asarray(window.slots))  # [K]
        self.max_wait, self.cap = host.max_wait / unit, host.uplink_cap / unit
        self.slot_time = host.slot_length / unit
        origin = np.asarray(window.task.origin)
        same_slot = self.slot[:, None] == self.slot
        earlier = np.tri(tasks, k=-1, dtype=bool)
        self.before = same_slot & earlier  # [K, K] j is decided before k in its slot
        self.ahead = self.before & (origin[:, None] == origin)  # and shares its uplink
        # A plan better than the incumbent leaves task k no more than this.
        low = self.shortest / unit
        self.low = low
        self.high = np.maximum(self.total - (low.sum() - low), low) + self.total * LOOSELY  # [K]
        # so a server can be given no more of it than it finishes by then.
        self.most = np.minimum(1, self.high[:, None] / self.serve)  # [K, B]
        self.longest_wait = self._longest_waits()  # [K, B]

    def _longest_waits(self) -> np.ndarray:
        """[K, B] an upper bound of each wait, uncapped, in any plan worth having."""
        queue = self.first_wait + 0.0
        for slot in np.unique(self.slot):
            for earlier in np.unique(self.slot[self.slot < slot]):
                rows = self.slot == earlier
                queue[self.slot == slot] += (self.most * self.compute)[rows].sum(axis=0)
        self.longest_backlog = queue.copy()
        queue = queue + self.before @ (self.most * self.compute)
        uplink = np.sum(self.ahead * np.max(self.most * self.sending, axis=1), axis=1)
        uplinks = self.remote * uplink[:, None]
        if np.all(queue + uplinks <= self.max_wait):
            # What lies on a server before k is what the last that added to it waited for.
            latest = np.array([self.high[:k].max(initial=0) for k in range(self.shape[0])])
            limit = np.maximum(self.first_wait, latest[:, None])
            queue = np.where(self.slot[:, None] == self.slot[0], np.minimum(queue, limit), queue)
        return queue + uplinks

    def _tighten(self) -> None:
        """Narrow what no better plan exceeds, each limit by two linear programs.

        Among plans no worse than the incumbent, and without integrality: how large D_k and
        the wait of task k at server i can be, and whether y_ki can be 0, and 1.
        """
        tasks, servers = self.shape
        constraints = self.program.constraints()
        low, high = np.array(self.program.low), np.array(self.program.high)

        def largest(terms: Iterable[tuple[int, float]]) -> float:
            cost = np.zeros(low.size)
            for variable, value in terms:
                cost[variable] -= value
            result = scipy.optimize.milp(
                cost, bounds=scipy.optimize.Bounds(low, high), constraints=constraints
            )
            # Loosened by more than the solver's tolerance; without a solution, nothing is known.
            return -result.fun + LOOSELY if result.status == 0 else np.inf

        for k in range(tasks):
            self.high[k] = min(self.high[k], largest([(self.makespan[k], 1.0)]))
            self.low[k] = max(self.low[k], -largest([(self.makespan[k], -1.0)]))
            for i in range(servers):
                ahead = [
                    (self.share[j, i], self.compute[j, i]) for j in np.flatnonzero(self.before[k])
                ]
                if self.remote[k, i]:
                    ahead += [
                        (self.share[j, h], self.sending[j, h])
                        for j in np.flatnonzero(self.ahead[k])
                        for h in range(servers)
                    ]
                if ahead:
                    wait = self.longest_backlog[k, i] + largest(ahead)
                    self.longest_wait[k, i] = min(self.longest_wait[k, i], wait)
        self.high = np.maximum(self.high, self.low)
        self.most = np.minimum(self.most, self.high[:, None] / self.serve)

    def _build(self, cuts: list[Cut]) -> None:
        tasks, servers = self.shape
        program = self.program = _Program()
        self.makespan = program.variables(tasks, low=self.low, high=self.high)
        if self.problem == "single":  # a whole task or nothing: one variable for both
            whole = self.most >= 1 - 1e-9
            self.chosen = self.share = program.variables(tasks, servers, high=whole, binary=True)
        else:
            self.share = program.variables(tasks, servers, high=self.most)
            self.chosen = program.variables(tasks, servers, high=1, binary=True)
        self.uplink = program.variables(tasks)  # committed before the task at its station
        self._splits()
        self._uplinks()
        self._backlogs()
        self._makespans()
        self._symmetry()
        self._cuts(cuts)
        # No worse than the incumbent; loosely, so that no rounding cuts off what equals it.
        program.row([(d, -1.0) for d in self.makespan], -self.total * (1 + LOOSELY))

    def _splits(self) -> None:
        for k in range(self.shape[0]):
            # Σ_i x_ki = 1, as two inequalities.
            self.program.row([(x, 1.0) for x in self.share[k]], 1.0)
            self.program.row([(x, -1.0) for x in self.share[k]], -1.0)
            if self.problem == "multi":
                for i in range(self.shape[1]):
                    # x_ki ≤ y_ki
                    self.program.row(
                        [(self.chosen[k, i], self.most[k, i]), (self.share[k, i], -1.0)], 0.0
                    )

    def _uplinks(self) -> None:
        """u before task k ≥ u before the one ahead of it + what that one sends, capped."""
        self.capped_sending: dict[int, int] = {}
        for k in np.flatnonzero(self.contends):
            ahead = np.flatnonzero(self.ahead[k])
            if ahead.size == 0:
                continue
            j = ahead[-1]
            sent = [(self.share[j, i], -self.sending[j, i]) for i in range(self.shape[1])]
            largest = float(np.sum(self.sending[self.ahead[k]].max(axis=1)))
            if largest <= self.cap:
                self.program.row([(self.uplink[k], 1.0), (self.uplink[j], -1.0), *sent], 0.0)
                continue
            # min(u + sent, cap), the cap only where more than one server takes part.
            capped = int(self.program.variables(1, high=1, binary=True)[0])
            self.capped_sending[j] = capped
            self.program.row(
                [(self.uplink[k], 1.0), (self.uplink[j], -1.0), *sent, (capped, largest)], 0.0
            )
            self.program.row([(self.uplink[k], 1.0), (capped, -self.cap)], 0.0)
            several = [(y, 1.0) for y in self.chosen[j]]
            self.program.row([*several, (capped, -1.0)], 1.0)

    def _backlogs(self) -> None:
        """Q in a later slot ≥ Q + q − f Δ of the slot before, in time at the server."""
        self.backlog: dict[int, Any] = {}  # slot -> [B] variables; the first slot has none
        slots = np.unique(self.slot)
        for before, slot in itertools.pairwise(slots):
            row = np.flatnonzero(self.slot == slot)[0]
            self.backlog[slot] = self.program.variables(
                self.shape[1], low=self.first_wait[row] * (before == slots[0])
            )
            served = (slot - before) * self.slot_time
            rows = np.flatnonzero(self.slot == before)
            for i in range(self.shape[1]):
                added = [(self.share[j, i], -self.compute[j, i]) for j in rows]
                terms = [(self.backlog[slot][i], 1.0), *added]
                constant = 0.0
                if before in self.backlog:
                    terms.append((self.backlog[before][i], -1.0))
                else:
                    constant = self.first_wait[rows[0], i]
                self.program.row(terms, constant - served)

    def _makespans(self) -> None:
        """D_k ≥ wait_ki + x_ki serve_ki where y_ki = 1, and what holds in any case."""
        for k in range(self.shape[0]):
            for i in range(self.shape[1]):
                share = (self.share[k, i], -self.serve[k, i])
                finish = [(self.makespan[k], 1.0), share]
                if self.problem == "single":
                    finish = [(self.makespan[k], 1.0)]
                wait, constant = self._wait(k, i)
                # Without y, D_k is at least its shortest, and the wait at most its longest.
                longest = self.longest_wait[k, i]
                slack = self._slack(longest, k, i)
                start = constant + (self.serve[k, i] if self.problem == "single" else 0.0)
                terms = [*finish, *wait, (self.chosen[k, i], -slack)]
                if longest <= self.max_wait:
                    self.program.row(terms, start - slack)
                else:
                    # min(wait, max_wait): one of the two must hold.
                    capped = int(self.program.variables(1, high=1, binary=True)[0])
                    self.program.row([*terms, (capped, longest)], start - slack)
                    limit = self._slack(self.max_wait, k, i)
                    own = self.serve[k, i] if self.problem == "single" else 0.0
                    self.program.row(
                        [
                            *finish,
                            (self.chosen[k, i], -limit),
                            (capped, -self.max_wait),
                        ],
                        own - limit,
                    )
                first = min(self.first_wait[k, i], self.max_wait)
                if self.problem == "multi":
                    # In any case D_k ≥ first wait · y + x serve: what is left of the relaxation.
                    self.program.row([*finish, (self.chosen[k, i], -first)], 0.0)
            if self.problem == "single":
                first = np.minimum(self.first_wait[k], self.max_wait) + self.serve[k]
                shortest = [(y, -value) for y, value in zip(self.chosen[k], first, strict=True)]
                self.program.row([(self.makespan[k], 1.0), *shortest], 0.0)

    def _slack(self, longest: float, task: int, server: int) -> float:
        """The big-M: how far a wait can exceed D_k at a server that is not chosen."""
        own = self.serve[task, server] if self.problem == "single" else 0.0
        return max(longest + own - self.low[task], 0.0)

    def _wait(self, task: int, server: int) -> tuple[list[tuple[int, float]], float]:
        """−wait_ki as terms, and its constant: queue ahead in the slot, backlog, uplink."""
        terms = [
            (self.share[j, server], -self.compute[j, server])
            for j in np.flatnonzero(self.before[task])
        ]
        if self.remote[task, server]:
            terms.append((self.uplink[task], -1.0))
        slot = self.slot[task]
        if slot in self.backlog:
            terms.append((self.backlog[slot][server], -1.0))
            return terms, 0.0
        return terms, self.first_wait[task, server]

    def _symmetry(self) -> None:
        """Of servers that are alike in everything, the earlier gets at least as much work."""
        host, window = self.host, self.window
        backlog, origin = np.asarray(window.backlog), np.asarray(window.task.origin)
        work = np.asarray(window.task.work, float) / np.sum(window.task.work)
        last: dict[tuple[float, ...], int] = {}
        for i in range(self.shape[1]):
            if i in origin:
                continue
            kind = (host.capacity[i], host.rate[i], float(backlog[i]))
            if kind in last:
                more, less = self.share[:, last[kind]], self.share[:, i]
                terms = [*zip(more, work, strict=True), *zip(less, -work, strict=True)]
                self.program.row(terms, 0.0)
            last[kind] = i

    def _cuts(self, cuts: list[Cut]) -> None:
        """What every plan satisfies by :mod:`jaxmec.solvers.bounds`: big-M alone says little."""
        for cut in cuts:
            scale = np.sum(cut.weight) * self.unit
            makespans = zip(self.makespan, cut.weight / np.sum(cut.weight), strict=True)
            shares = zip(self.share.ravel(), -cut.slope.ravel() / scale, strict=True)
            # Loosened by more than the solver's tolerance, so that no rounding cuts a plan off.
            self.program.row([*makespans, *shares], cut.constant / scale - 1e-7)

    def solve(self, time_limit: float, gap: float) -> Any:
        """Minimise Σ D_k."""
        cost = np.zeros(len(self.program.low))
        cost[self.makespan] = 1
        for presolve in (True, False):
            result = scipy.optimize.milp(
                cost,
                integrality=np.array(self.program.binary, int),
                bounds=scipy.optimize.Bounds(self.program.low, self.program.high),
                constraints=self.program.constraints(),
                options={
                    "time_limit": time_limit,
                    "mip_rel_gap": gap,
                    "presolve": presolve,
                    "disp": False,
                },
            )
            # Presolve may stumble where the limits leave little more than one point.
            if STATUS.get(result.status) in ("optimal", "time limit"):
                break
        return result

    def plan(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[K, B] fractions, and the servers that take part, without the solver's rounding."""
        share = solution[self.share]
        share = np.where((share > NEGLIGIBLE) & (solution[self.chosen] > 0.5), share, 0)
        fraction = share / share.sum(axis=1, keepdims=True)
        selected = fraction > 0
        for task, capped in self.capped_sending.items():
            if solution[capped] > 0.5:  # takes part with next to nothing, to be a split
                selected[task] = solution[self.chosen[task]] > 0.5
        return fraction, selected
