"""The named quantities of one decision, their units and bounds, and the row that they make.

A station names what it knows (:class:`Network`, :class:`Queues`, :class:`Task`); the exported
graph takes one row of numbers a task. Which quantities the row has, in which order, is in a
bundle's manifest as :class:`Column`; a :class:`Packer` checks what is told and puts it there.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

Array = np.ndarray
Numbers = TypeVar("Numbers")

MASTER = -1  # the origin of a task that arrives at a node without a server
LARGEST = 1e12  # a quantity above this is taken for a mistake; keeps all arithmetic finite
SMALLEST = 1e-6  # likewise a capacity or rate below this
LEAST_WORK = 1e-9  # Gcycles, one cycle: a task has some work

ONE_SERVER, SUBSET, LOCAL_PLUS_ONE, TOP_K, SCORE = ACTION_MODES = (
    "one_server",
    "subset",
    "local_plus_one",
    "top_k",
    "score",
)


class Quantity(NamedTuple):
    """One of the quantities that a decision is made from."""

    unit: str
    about: str
    each_server: bool = False  # a number for each server, or one

    def length(self, servers: int) -> int:
        """How many numbers it is."""
        return servers if self.each_server else 1


NETWORK: dict[str, Quantity] = {
    "capacity": Quantity("Gcycles/s", "of each server", True),
    "rate": Quantity("Mbit/s", "toward each server", True),
    "max_wait": Quantity("s", "the longest that a queue counts"),
    "slot_length": Quantity("s", "length of a slot"),
}
TASK: dict[str, Quantity] = {
    "origin": Quantity("1", "station where the task arrived; -1: a master node"),
    "size": Quantity("Mbit", "size of the task's input"),
    "work": Quantity("Gcycles", "work of the task"),
    "result": Quantity("Mbit", "size of the task's result"),
}
QUEUES: dict[str, Quantity] = {
    "backlog": Quantity("Gcycles", "queued at each server when the slot began", True),
    "believed": Quantity("Gcycles", "`inflight` where it is told, else `sent`, else 0", True),
    "inflight": Quantity("Gcycles", "added to each server by all stations in this slot", True),
    "sent": Quantity("Gcycles", "added to each server by this station in this slot", True),
    "uplink": Quantity("s", "time for which the station's uplink, or each one, is committed"),
    "progress": Quantity("1", "how far the station is through its slot"),
    "remaining_tasks": Quantity("tasks", "that the station has still to decide in its slot"),
    "remaining_work": Quantity("Gcycles", "their work"),
    "place": Quantity("1", "where in the episode: (slot * B + station) * N + position"),
    "slot": Quantity("slots", "of the episode gone by"),
    "sent_tasks": Quantity("tasks", "sent to each server by this station in the episode", True),
    "sent_work": Quantity("Gcycles", "sent to each server by this station in the episode", True),
}
TABLE = {**NETWORK, **TASK, **QUEUES}  # in the order of a row


class Column(NamedTuple):
    """A quantity's place in the row: after that of the column before it."""

    name: str  # in TABLE
    length: int
    optional: bool = False  # 0 where it is not told


def split(columns: Sequence[Column], row: Numbers, at: Callable[..., Any]) -> dict[str, Numbers]:
    """The parts of a row by name; ``at`` is `numpy.split` or JAX's."""
    ends = list(itertools.accumulate(column.length for column in columns))
    parts = at(row, ends[:-1])
    return {column.name: part for column, part in zip(columns, parts, strict=True)}


@dataclasses.dataclass(frozen=True)
class Network:
    """The servers and links; a `jaxmec.mec.EdgeNetwork` may stand in for it.

    What is None is as in the bundle.
    """

    capacity: Any  # [B] Gcycles/s
    rate: Any  # [B] Mbit/s
    uplink_contention: Any = None  # bool, whether a station's tasks wait for its uplink
    max_wait: Any = None  # s, the longest that a queue counts
    slot_length: Any = None  # s; only a charge depends on it

    def __post_init__(self) -> None:
        for name in ("capacity", "rate"):
            value = np.asarray(getattr(self, name), np.float64)
            fits = (value >= SMALLEST) & (value <= LARGEST)
            if value.ndim != 1 or not value.size or not np.all(fits):
                raise ValueError(
                    f"network.{name} must be numbers from {SMALLEST:g} to {LARGEST:g}, one a "
                    f"server, got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, value)
        if self.capacity.shape != self.rate.shape:
            raise ValueError(
                f"network.rate must have the length of network.capacity, {len(self.capacity)}, "
                f"got {len(self.rate)}"
            )
        if not isinstance(self.uplink_contention, bool | None):
            raise ValueError(
                "network.uplink_contention must be True, False or None, "
                f"got {self.uplink_contention!r}"
            )
        if self.max_wait is not None and not self.max_wait >= 0:
            raise ValueError(f"network.max_wait must be at least 0, got {self.max_wait!r}")
        if self.slot_length is not None and not SMALLEST <= self.slot_length <= LARGEST:
            raise ValueError(
                f"network.slot_length must be from {SMALLEST:g} to {LARGEST:g} s, "
                f"got {self.slot_length!r}"
            )


@dataclasses.dataclass(frozen=True)
class Queues:
    """What the station knows of the queues; leave out what it does not know.

    What a policy needs follows from what it was trained to see (``Scheduler.needs``). Whoever
    allocates believes in ``inflight`` and ``uplink`` where they are given, else in ``sent``,
    unless the policy was trained to allocate on what it sees alone.
    """

    backlog: Any  # [B] Gcycles queued when the slot began
    inflight: Any = None  # [B] Gcycles that all stations have added in this slot
    sent: Any = None  # [B] Gcycles that this station has added in this slot
    uplink: Any = None  # s for which this station's uplink is committed, or [B], every station's
    progress: Any = None  # how far the station is through its slot, 0..1
    remaining_tasks: Any = None  # tasks that it has still to decide in the slot
    remaining_work: Any = None  # Gcycles, their work
    place: Any = None  # where in the episode the task is, (slot · B + station) · N + position
    # Since the episode began: a stretch of as many slots as the manifest says, after which a
    # station counts from 0 again.
    slot: Any = None  # slots gone by
    sent_tasks: Any = None  # [B] tasks that this station has sent there, whole or in part
    sent_work: Any = None  # [B] Gcycles, their work, as far as it was sent there


FIELDS = tuple(field.name for field in dataclasses.fields(Queues))
INFLIGHT, SENT, UPLINK = (FIELDS.index(name) for name in ("inflight", "sent", "uplink"))
# What follows from the fields stands behind them.
BELIEVED, OWN_UPLINK, EVERY_UPLINK = range(len(FIELDS), len(FIELDS) + 3)
_told = operator.attrgetter(*FIELDS)


@dataclasses.dataclass(frozen=True)
class Task:
    """The task to place."""

    origin: int  # the station where it arrived, 0..B−1; −1 for a master node without a server
    size: float  # Mbit, of its input
    work: float  # Gcycles, at least 1e-9, a cycle
    result: float = 0.0  # Mbit, of its result


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a task goes."""

    servers: tuple[int, ...]  # the set, ascending
    fractions: Array  # [B] of the task given to each server, summing to 1
    makespan: float  # s, when the last of them finishes, by the queues that were given
    by: str  # "policy", or the rule that stood in for it


class Packer:
    """From named quantities to rows, checked.

    All numbers of a task are gathered into one list, whose bounds are checked at once; only
    where something is wrong with it does anybody look for what.
    """

    def __init__(self, columns: Sequence[Column], servers: int, masters: bool) -> None:
        """Args:
        columns: of a row, in the order of ``TABLE``.
        servers: B.
        masters: whether a task may arrive at a node without a server.
        """
        self.servers, self._least_origin = servers, MASTER if masters else 0
        self._width = sum(column.length for column in columns)
        where = split(columns, np.arange(self._width), np.split)
        self._uplink = where.get("uplink", np.arange(0))  # its columns
        self._network = tuple(column.name for column in columns if column.name in NETWORK)
        of_queues = [column for column in columns if column.name in QUEUES]
        # Fields of Queues without which there is no decision.
        self.needs = frozenset(column.name for column in of_queues if not column.optional)
        # Where each column's value is among what is told, and whether it is a list.
        self._plan = tuple(self._source(column) for column in of_queues)
        self._every_uplink = (EVERY_UPLINK, True) in self._plan
        self._nothing = [0.0] * servers

    @staticmethod
    def _source(column: Column) -> tuple[int, bool]:
        each = QUEUES[column.name].each_server or column.length > 1
        if column.name == "believed":
            return BELIEVED, each
        if column.name == "uplink":
            return (EVERY_UPLINK if each else OWN_UPLINK), each
        return FIELDS.index(column.name), each

    def network_row(self, network: Network) -> Array:
        """[...] float32, the columns of a network."""
        numbers = [np.atleast_1d(getattr(network, name)) for name in self._network]
        return np.concatenate(numbers).astype(np.float32)

    def rows(
        self,
        network_row: Array,
        uplink_contention: bool,
        queues: Sequence[Queues],
        tasks: Sequence[Task],
    ) -> Array:
        """[n, W] float32 of n tasks.

        Args:
            network_row: of :meth:`network_row`.
            uplink_contention: whether a station's tasks wait for its uplink; else none is told.
            queues, tasks: as many.

        Raises:
            ValueError: as :meth:`check` does.
        """
        try:
            told = [
                self._row(_told(entry), task) for entry, task in zip(queues, tasks, strict=True)
            ]
            rows = np.empty((len(told), self._width), np.float32)
            width = len(network_row)
            rows[:, :width] = network_row
            rows[:, width:] = told
        except (TypeError, ValueError, AttributeError, OverflowError):
            self.check(queues, tasks)
            raise ValueError("queues and tasks must be numbers, or lists of them") from None
        if not uplink_contention:
            rows[:, self._uplink] = 0
        return rows

    def _row(self, told: Sequence[Any], task: Task) -> list[Any]:
        """The numbers behind the network's; some error where one is not as it should be."""
        origin, believed, uplink = task.origin, told[INFLIGHT], told[UPLINK]
        every_uplink = uplink
        if not self._is_station(origin):
            raise ValueError
        if believed is None:
            believed = self._nothing if told[SENT] is None else told[SENT]
        if uplink is None and "uplink" not in self.needs:
            uplink, every_uplink = 0.0, self._nothing
        elif type(uplink) is not float:
            uplink = self._own(uplink, origin)
        row = [task.size, task.work, task.result]
        told = (*told, believed, uplink, every_uplink)
        for place, each in self._plan:
            value = told[place]
            if not each:
                row.append(value)
                continue
            if isinstance(value, np.ndarray):
                value = value.tolist()
            if len(value) != self.servers:
                raise ValueError
            row += value
        total = sum(row)  # a NaN makes it one, and what is no number an error
        if not (total == total and min(row) >= 0 and max(row) <= LARGEST):
            raise ValueError
        if task.work < LEAST_WORK:
            raise ValueError
        return [origin, *row]

    def _own(self, uplink: Any, origin: int) -> float:
        """s for which the uplink of one station is committed; a master node has none."""
        if np.ndim(uplink) == 0:
            return float(uplink)
        if len(uplink) != self.servers:
            raise ValueError
        return float(uplink[origin]) if origin >= 0 else 0.0

    def _is_station(self, origin: Any) -> bool:
        whole = isinstance(origin, int | np.integer) and not isinstance(origin, bool)
        return whole and self._least_origin <= origin < self.servers

    def check(self, queues: Sequence[Queues], tasks: Sequence[Task]) -> None:
        """Look at everything that is told.

        Raises:
            ValueError: a quantity that is missing, negative, not finite, or of another length;
                the message names it, its value and what was expected.
        """
        for i, task in enumerate(tasks):
            if not self._is_station(task.origin):
                master = ", or -1 for a master node" if self._least_origin == MASTER else ""
                raise ValueError(
                    f"tasks[{i}].origin must be a station, 0 to {self.servers - 1}{master}, "
                    f"got {task.origin!r}"
                )
            for name in ("size", "work", "result"):
                least = LEAST_WORK if name == "work" else 0.0
                _check_number(f"tasks[{i}].{name}", getattr(task, name), least)
        for i, entry in enumerate(queues):
            for name, value in zip(FIELDS, _told(entry), strict=True):
                self._check_quantity(f"queues[{i}].{name}", name, value)

    def _check_quantity(self, label: str, name: str, value: Any) -> None:
        if value is None:
            if name in self.needs:
                raise ValueError(
                    f"{label} is missing, and the policy was trained to see "
                    f"{', '.join(sorted(self.needs))}"
                )
        elif name == "uplink" and self._every_uplink:
            _check_vector(f"{label} (every station's)", value, self.servers)
        elif QUEUES[name].each_server or (name == "uplink" and np.ndim(value)):
            _check_vector(label, value, self.servers)
        else:
            _check_number(label, value)


def _check_number(label: str, value: Any, least: float = 0.0) -> None:
    try:
        number = float(value)
        good = least <= number <= LARGEST
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{label} must be a number from {least:g} to {LARGEST:g}, got {value!r}")


def _check_vector(label: str, value: Any, servers: int) -> None:
    try:
        row = np.asarray(value, np.float64)
        good = row.shape == (servers,) and row.min() >= 0 and row.max() <= LARGEST
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{label} must be {servers} numbers from 0 to {LARGEST:g}, got {value!r}")
