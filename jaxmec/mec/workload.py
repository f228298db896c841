"""Tasks and how they arrive (docs/model.md: "Time, tasks and episodes").

A workload is a stream of tasks in the order in which they are decided: slot by slot,
within a slot station by station, within a station by position. ``first`` and ``next``
draw one task each from two random words and cost the same however many positions a slot
has. After an episode's last task ``next`` goes on with the first task of a new episode,
so that starting over costs no second draw; ``Arrival.episode_over`` tells.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmec.core.checks import fields, require, whole
from jaxmec.mec import checks
from jaxmec.struct import Leaf, is_concrete, pytree, static

MASTER = -1  # the origin of tasks that arrive at a node without a server
MAX_POSITIONS = 2**30  # positions of an episode are counted in int32, with room for a gap


class Task(NamedTuple):
    """One task."""

    origin: Any  # [] int, the station where it arrives; MASTER for a node without a server
    size: Any  # [] Mbit, d
    work: Any  # [] Gcycles, c
    result: Any = 0.0  # [] Mbit, e


class Cursor(NamedTuple):
    """Where in the stream a workload is."""

    slot: jax.Array  # [] int32, 0..T−1
    station: jax.Array  # [] int32, which station's turn it is, 0..stations−1
    position: jax.Array  # [] int32, n: which of the station's positions, 0..N−1
    last: jax.Array  # [] int32: tasks of this station's slot (uniform count), row (trace), what
    # this station's slot is drawn from (laid out), else 0


class Arrival(NamedTuple):
    """The next task, where it stands, and what lies between."""

    task: Task
    cursor: Cursor
    slots: jax.Array  # [] int32, slot ends before this task, were time to go on
    new_station: jax.Array  # [] bool, not the same slot and station as the previous task
    episode_over: jax.Array  # [] bool, this task opens a new episode


class Remaining(NamedTuple):
    """What a station still has to decide in its slot after the current task."""

    tasks: jax.Array  # []
    work: jax.Array  # [] Gcycles


class Moments(NamedTuple):
    """What is known of the tasks of one slot, at all stations together, before they arrive."""

    tasks: jax.Array  # [] expected number
    work: jax.Array  # [] Gcycles, mean work of a task
    squared_work: jax.Array  # [] Gcycles², mean of its square


class Workload(Protocol):
    """What an environment asks of a workload."""

    @property
    def slots(self) -> jax.Array:
        """[] int, T."""
        ...

    @property
    def positions(self) -> int:
        """N, the most tasks that one station can have in a slot."""
        ...

    @property
    def stations(self) -> int | None:
        """How many places tasks arrive at; None: one at each server."""
        ...

    @property
    def master(self) -> bool:
        """Whether all tasks arrive at a node without a server."""
        ...

    @property
    def laid_out(self) -> bool:
        """Whether it is known what a station still has to decide in its slot."""
        ...

    @property
    def deadline(self) -> jax.Array | None:
        """[M] s, each task's own, by the cursor's ``last``; None: as the environment has it."""
        ...

    def first(self, key: jax.Array) -> Arrival:
        """The first task of an episode."""
        ...

    def next(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The task after the one at ``cursor``."""
        ...

    def remaining(self, cursor: Cursor) -> Remaining | None:
        """What the station still has to decide; None where a slot is not laid out."""
        ...

    def moments(self) -> Moments:
        """The statistics of a slot's tasks, which every station may know."""
        ...


def _two_uniforms(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent uniform numbers in (0, 1), of the default float type."""
    bits = jax.random.bits(key, (2,), jnp.uint32) >> 9  # 23 bits and a half: exact in float32
    uniform = (bits.astype(jnp.result_type(float)) + 0.5) * 2.0**-23
    return uniform[0], uniform[1]


@pytree
class TaskSizes:
    """What a task weighs, given its position n.

    d ~ U(size_low, size_high); c = density[n] d + fixed_work[n]; e = result[n]. The
    per-position numbers are drawn once, when the parameters are made, and shared by all
    stations and slots.
    """

    size_low: Leaf  # Mbit
    size_high: Leaf  # Mbit
    density: Leaf  # [N] Gcycles/Mbit, ρ_n; 0 where the work does not depend on the size
    fixed_work: Leaf  # [N] Gcycles, κ_n z_n; 0 where it does
    result: Leaf  # [N] Mbit, e_n

    def __post_init__(self) -> None:
        checks.reals(self, "size_low", "size_high", ndim=0, above=0)
        if is_concrete(self.size_low, self.size_high) and self.size_high < self.size_low:
            raise ValueError(
                f"size_high must be at least size_low, {float(self.size_low):g}, "
                f"got {float(self.size_high):g}"
            )
        checks.reals(self, "density", "fixed_work", "result", ndim=1, at_least=0)
        checks.same_length(density=self.density, fixed_work=self.fixed_work, result=self.result)
        if self.positions == 0:
            raise ValueError("density must have at least one position, got none")
        if is_concrete(self.density, self.fixed_work):
            idle = np.flatnonzero(np.asarray(self.density) + np.asarray(self.fixed_work) <= 0)
            if idle.size:
                raise ValueError(
                    f"density and fixed_work at position {idle[0]} must give a task some work, "
                    "got 0 for both"
                )

    @property
    def positions(self) -> int:
        """N."""
        return self.density.shape[-1]

    def moments(self, expected: jax.Array) -> Moments:
        """The moments of a slot in which so many tasks [N] are expected at each position.

        With c = ρ d + κ and d uniform on (l, h): E c = ρ (l + h)/2 + κ and
        E c² = ρ² (h − l)²/12 + (E c)².
        """
        tasks = jnp.sum(expected)
        mean = self.density * (self.size_low + self.size_high) / 2 + self.fixed_work
        square = self.density**2 * (self.size_high - self.size_low) ** 2 / 12 + mean**2
        weight = expected / tasks
        return Moments(tasks, jnp.sum(weight * mean), jnp.sum(weight * square))

    def task(self, origin: jax.Array, position: jax.Array, uniform: jax.Array) -> Task:
        """The task at a position whose size is the given quantile of its distribution."""
        size = self.size_low + (self.size_high - self.size_low) * uniform
        work = self.density[position] * size + self.fixed_work[position]
        return Task(origin, size, work, self.result[position])


def _grid(workload: BernoulliWorkload | UniformCountWorkload) -> jax.Array:
    """[] int32, T, where stations, slots and positions are what can be counted."""
    fields(workload, stations=whole(1))
    slots, stations, positions = workload.slots, workload.stations, workload.positions
    if is_concrete(slots):
        require("slots", slots, whole(1))
        if int(slots) * stations * positions >= MAX_POSITIONS:
            raise ValueError(
                f"slots x stations x positions must be below {MAX_POSITIONS}, "
                f"got {int(slots)} x {stations} x {positions}"
            )
    return jnp.asarray(slots, jnp.int32)


def _origin(station: jax.Array, master: bool) -> jax.Array:
    return jnp.full_like(station, MASTER) if master else station


@pytree
class BernoulliWorkload:
    """With probability p a task arrives at each of N positions of each station and slot.

    The gap to the next arrived position is geometric and has no memory, so one number
    drawn places the next task, across stations, slots and the episode's end; an episode
    without any task has no decision and is passed over.

    With ``laid_out`` a station's slot is drawn at once and not task by task, from one number that
    the cursor keeps. The distribution is the same and the draws are others. It costs O(N) a step,
    and is what information "slot" asks for: what the station still has to decide is known.
    """

    probability: Leaf  # [] p, in (0, 1]
    sizes: TaskSizes
    slots: Leaf  # [] int, T
    stations: int = static()
    master: bool = static(default=False)
    laid_out: bool = static(default=False)

    def __post_init__(self) -> None:
        value = checks.real("probability", self.probability, ndim=0, at_least=0, at_most=1)
        if is_concrete(value) and value == 0:
            raise ValueError("probability must be above 0, got 0: no task would ever arrive")
        object.__setattr__(self, "probability", value)
        object.__setattr__(self, "slots", _grid(self))

    @property
    def deadline(self) -> None:
        """As the environment has it."""
        return None

    @property
    def positions(self) -> int:
        """N."""
        return self.sizes.positions

    def first(self, key: jax.Array) -> Arrival:
        """The first task of an episode."""
        zero = jnp.zeros((), jnp.int32)
        if self.laid_out:
            arrival = self._next_station(key, Cursor(zero, zero - 1, zero, zero))
        else:
            arrival = self.next(key, Cursor(zero, zero, zero - 1, zero))
        no = jnp.zeros((), bool)
        return arrival._replace(slots=arrival.cursor.slot, new_station=~no, episode_over=no)

    def next(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The task after the one at ``cursor``."""
        if self.laid_out:
            return self._next_laid_out(key, cursor)
        arrive, size = _two_uniforms(key)
        # P(gap > g) = (1 − p)^g. The quotient is ±0 where p = 1, and bounded for tiny p.
        gap = jnp.floor(jnp.log(arrive) / jnp.log1p(-self.probability))
        gap = jnp.minimum(jnp.abs(gap), MAX_POSITIONS).astype(jnp.int32)
        row = self.stations * self.positions  # positions of one slot
        before = cursor.station * self.positions + cursor.position
        ahead = before + 1 + gap  # from the start of the cursor's slot
        to_end = (self.slots - cursor.slot) * row
        over = ahead >= to_end
        # What lies beyond the end is again geometric: the place in the new episode.
        place = jnp.where(over, (ahead - to_end) % (self.slots * row), ahead)
        rows = place // row
        within = place - rows * row
        station = within // self.positions
        position = within - station * self.positions
        slot = jnp.where(over, rows, cursor.slot + rows)
        slots = jnp.where(over, self.slots - cursor.slot + rows, rows)
        task = self.sizes.task(_origin(station, self.master), position, size)
        return Arrival(
            task,
            Cursor(slot, station, position, cursor.last),
            slots,
            (slots > 0) | (station != cursor.station),
            over,
        )

    def _next_laid_out(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The station's next task, or the first of the next station that has one."""
        tasks, sizes = self._layout(cursor.last)
        later = tasks & (jnp.arange(self.positions) > cursor.position)
        same = jnp.any(later)
        position = jnp.argmax(later).astype(jnp.int32)
        origin = _origin(cursor.station, self.master)
        no, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        here = Arrival(
            self.sizes.task(origin, position, sizes[position]),
            cursor._replace(position=position),
            zero,
            no,
            no,
        )
        there = self._next_station(key, cursor)
        return jax.tree.map(lambda a, b: jnp.where(same, a, b), here, there)

    def _next_station(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The first task after the cursor's station and slot.

        A station has none with probability (1 − p)^N, so the gap to one that has is geometric.
        """
        bits = jax.random.bits(key, (2,), jnp.uint32)
        arrive = ((bits[0] >> 9).astype(jnp.result_type(float)) + 0.5) * 2.0**-23
        empty = self.positions * jnp.log1p(-self.probability)  # log (1 − p)^N, −∞ where p = 1
        gap = jnp.minimum(jnp.abs(jnp.floor(jnp.log(arrive) / empty)), MAX_POSITIONS)
        ahead = cursor.station + 1 + gap.astype(jnp.int32)  # from the start of the cursor's slot
        to_end = (self.slots - cursor.slot) * self.stations
        over = ahead >= to_end
        place = jnp.where(over, (ahead - to_end) % (self.slots * self.stations), ahead)
        rows = place // self.stations
        station = place - rows * self.stations
        last = (bits[1] >> 1).astype(jnp.int32)
        tasks, sizes = self._layout(last)
        position = jnp.argmax(tasks).astype(jnp.int32)
        return Arrival(
            self.sizes.task(_origin(station, self.master), position, sizes[position]),
            Cursor(jnp.where(over, rows, cursor.slot + rows), station, position, last),
            jnp.where(over, self.slots - cursor.slot + rows, rows),
            jnp.ones((), bool),
            over,
        )

    def _layout(self, last: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[N] bool where a station's slot has a task, at least one, and [N] quantiles of sizes.

        Given that there is one, the first is at g with probability p (1 − p)^g / (1 − (1 − p)^N),
        and those after it are as ever.
        """
        bits = jax.random.bits(jax.random.key(last), (2, self.positions), jnp.uint32) >> 9
        arrive, sizes = (bits.astype(jnp.result_type(float)) + 0.5) * 2.0**-23
        log = jnp.log1p(-self.probability)
        some = -jnp.expm1(self.positions * log)  # 1 − (1 − p)^N
        first = jnp.floor(jnp.log1p(-arrive[0] * some) / log)
        first = jnp.minimum(jnp.abs(first), self.positions - 1)
        number = jnp.arange(self.positions)
        later = jnp.roll(arrive, -1) < self.probability  # arrive[0] has placed the first
        return (number == first) | ((number > first) & later), sizes

    def remaining(self, cursor: Cursor) -> Remaining | None:
        """What follows in the cursor's station and slot; None where it is drawn task by task."""
        if not self.laid_out:
            return None
        tasks, sizes = self._layout(cursor.last)
        number = jnp.arange(self.positions)
        later = tasks & (number > cursor.position)
        work = self.sizes.task(number, number, sizes).work
        dtype = work.dtype
        return Remaining(jnp.sum(later).astype(dtype), jnp.sum(jnp.where(later, work, 0)))

    def moments(self) -> Moments:
        """p tasks at each position of each station."""
        each = self.probability * self.stations
        return self.sizes.moments(each * jnp.ones_like(self.sizes.density))


@pytree
class UniformCountWorkload:
    """In each slot a count drawn uniformly from 1..N of tasks arrives at each station."""

    sizes: TaskSizes
    slots: Leaf  # [] int, T
    stations: int = static()
    master: bool = static(default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", _grid(self))

    @property
    def laid_out(self) -> bool:
        """Tasks are drawn one by one."""
        return False

    @property
    def deadline(self) -> None:
        """As the environment has it."""
        return None

    @property
    def positions(self) -> int:
        """N."""
        return self.sizes.positions

    def first(self, key: jax.Array) -> Arrival:
        """The first task of an episode."""
        zero = jnp.zeros((), jnp.int32)
        before = Cursor(zero - 1, zero + self.stations - 1, zero, zero + 1)
        no = jnp.zeros((), bool)
        return self.next(key, before)._replace(slots=zero, episode_over=no)

    def next(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The task after the one at ``cursor``."""
        arrive, size = _two_uniforms(key)
        count = 1 + jnp.floor(arrive * self.positions).astype(jnp.int32)
        count = jnp.minimum(count, self.positions)
        same = cursor.position + 1 < cursor.last
        last_station = cursor.station + 1 == self.stations
        new_slot = ~same & last_station
        slots = new_slot.astype(jnp.int32)
        over = cursor.slot + slots >= self.slots
        station = jnp.where(same, cursor.station, jnp.where(last_station, 0, cursor.station + 1))
        position = jnp.where(same, cursor.position + 1, 0)
        task = self.sizes.task(_origin(station, self.master), position, size)
        return Arrival(
            task,
            Cursor(
                jnp.where(over, 0, cursor.slot + slots),
                station,
                position,
                jnp.where(same, cursor.last, count),
            ),
            slots,
            ~same,
            over,
        )

    def remaining(self, cursor: Cursor) -> None:
        """Not known: the tasks are drawn one by one."""
        return

    def moments(self) -> Moments:
        """Position n of a station has a task with probability (N − n)/N."""
        filled = jnp.arange(self.positions, 0, -1) / self.positions
        return self.sizes.moments(self.stations * filled.astype(self.sizes.density.dtype))


@pytree
class TraceWorkload:
    """A recorded list of M tasks, the same in every episode; made by :func:`trace_workload`."""

    slot: jax.Array  # [M] int32, never decreasing
    origin: jax.Array  # [M] int32, never decreasing within a slot
    size: jax.Array  # [M] Mbit
    work: jax.Array  # [M] Gcycles
    result: jax.Array  # [M] Mbit
    position: jax.Array  # [M] int32, the how-manieth task of its station in its slot
    tasks_after: jax.Array  # [M] tasks of the same station and slot that follow
    work_after: jax.Array  # [M] Gcycles, their work
    slots: Leaf  # [] int, T
    positions: int = static()
    master: bool = static(default=False)  # all tasks arrive at a node without a server
    deadline: Any = None  # [M] s, each task's own; None: as the environment has it

    @property
    def stations(self) -> int | None:
        """1 for a master node, else one at each server."""
        return 1 if self.master else None

    @property
    def laid_out(self) -> bool:
        """All that comes is known."""
        return True

    def _at(self, row: jax.Array) -> tuple[Task, Cursor]:
        origin = self.origin[row]
        task = Task(origin, self.size[row], self.work[row], self.result[row])
        station = jnp.zeros_like(origin) if self.master else origin
        return task, Cursor(self.slot[row], station, self.position[row], row)

    def first(self, key: jax.Array) -> Arrival:
        """The first task of the trace; ``key`` is not used."""
        del key
        task, cursor = self._at(jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return Arrival(task, cursor, cursor.slot, ~no, no)

    def next(self, key: jax.Array, cursor: Cursor) -> Arrival:
        """The task after the one at ``cursor``; ``key`` is not used."""
        del key
        over = cursor.last + 1 >= self.slot.shape[-1]
        task, new = self._at(jnp.where(over, 0, cursor.last + 1))
        slots = jnp.where(over, self.slots, 0) + new.slot - cursor.slot
        return Arrival(task, new, slots, (slots > 0) | (new.station != cursor.station), over)

    def remaining(self, cursor: Cursor) -> Remaining:
        """The tasks of the cursor's station and slot that follow, and their work."""
        return Remaining(self.tasks_after[cursor.last], self.work_after[cursor.last])

    def moments(self) -> Moments:
        """The means over the trace."""
        tasks = self.slot.shape[-1] / self.slots
        return Moments(tasks, jnp.mean(self.work), jnp.mean(self.work**2))


def trace_workload(
    slot: ArrayLike,
    origin: ArrayLike,
    size: ArrayLike,
    work: ArrayLike,
    result: ArrayLike | None = None,
    slots: int | None = None,
    deadline: ArrayLike | None = None,
) -> TraceWorkload:
    """A workload from a flat list of M tasks, sorted by slot and, within it, by origin.

    Args:
        slot: [M] int, from 0.
        origin: [M] int, the station where each task arrives; −1 in all rows for a master node.
        size: [M] Mbit, positive.
        work: [M] Gcycles, positive.
        result: [M] Mbit, not negative; 0 by default.
        slots: T; one more than the last task's slot by default.
        deadline: [M] s, each task's own, positive; by default that of the environment.

    Raises:
        ValueError: no task, shapes that disagree, a NaN, a size or work that is not positive, rows
            out of order, or tasks of a master node and of stations; names field and row.
    """
    size = checks.real("size", np.asarray(size), ndim=1, above=0)
    work = checks.real("work", np.asarray(work), ndim=1, above=0)
    result = np.zeros(size.shape) if result is None else np.asarray(result)
    result = checks.real("result", result, ndim=1, at_least=0)
    slot_numbers = _integers("slot", slot, at_least=0)
    origins = _integers("origin", origin, at_least=MASTER)
    checks.same_length(size=size, slot=slot_numbers, origin=origins, work=work, result=result)
    if deadline is not None:
        deadline = checks.real("deadline", np.asarray(deadline), ndim=1, above=0, finite=False)
        checks.same_length(size=size, deadline=deadline)
    if slot_numbers.size == 0:
        raise ValueError("slot must name at least one task, got an empty trace")
    _check_order(slot_numbers, origins)
    length = int(slot_numbers[-1]) + 1
    slots = length if slots is None else slots
    if slots < length:
        raise ValueError(f"slots must be at least {length}, the trace's last slot + 1, got {slots}")
    position, tasks_after, work_after = _within_station(slot_numbers, origins, work)
    dtype = jnp.result_type(size)
    return TraceWorkload(
        slot=jnp.asarray(slot_numbers, jnp.int32),
        origin=jnp.asarray(origins, jnp.int32),
        size=size,
        work=work,
        result=result,
        position=jnp.asarray(position, jnp.int32),
        tasks_after=jnp.asarray(tasks_after, dtype),
        work_after=jnp.asarray(work_after, dtype),
        slots=jnp.asarray(slots, jnp.int32),
        positions=int(np.max(position)) + 1,
        master=bool(origins[0] == MASTER),
        deadline=deadline,
    )


def _within_station(
    slot: np.ndarray, origin: np.ndarray, work: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[M] each: a task's position among its station's of the slot, how many follow, their work."""
    new_group = np.r_[True, (np.diff(slot) != 0) | (np.diff(origin) != 0)]
    start = np.flatnonzero(new_group)
    group = np.cumsum(new_group) - 1
    end = np.r_[start[1:], slot.size]
    row = np.arange(slot.size)
    total = np.concatenate([[0.0], np.cumsum(np.asarray(work, np.float64))])
    return row - start[group], end[group] - row - 1, total[end[group]] - total[row + 1]


def _check_order(slot: np.ndarray, origin: np.ndarray) -> None:
    """That rows are in the order of decisions, and all of stations or all of a master node."""
    order = np.lexsort((origin, slot))
    if np.any(order != np.arange(order.size)):
        wrong = int(np.argmax(order != np.arange(order.size)))
        raise ValueError(
            "the trace must be sorted by slot and, within a slot, by origin; "
            f"row {wrong} (slot {slot[wrong]}, origin {origin[wrong]}) is out of order"
        )
    of_master = origin == MASTER
    if np.any(of_master != of_master[0]):
        wrong = int(np.argmax(of_master != of_master[0]))
        raise ValueError(
            f"origin must be {MASTER}, a master node, in all rows or in none, got {origin[0]} in "
            f"row 0 and {origin[wrong]} in row {wrong}"
        )


def _integers(name: str, value: Any, at_least: int) -> np.ndarray:
    """``value`` as a vector of integers, or a ``ValueError`` naming the row that is none."""
    checks.real(name, value, ndim=1)
    numbers = np.asarray(value, np.float64)  # not the float32 of the check: it holds 2^53
    wrong = np.flatnonzero((numbers != np.floor(numbers)) | (numbers < at_least))
    if wrong.size:
        raise ValueError(
            f"{name}[{wrong[0]}] must be an integer of at least {at_least}, "
            f"got {numbers[wrong[0]]:g}"
        )
    return numbers.astype(np.int64)
