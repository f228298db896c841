"""What an offloading environment is made of: parameters, options, its state, and a view of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.core import checks
from jaxmec.mec.checks import reals
from jaxmec.mec.network import EdgeNetwork, QueueState
from jaxmec.mec.offload import is_origin
from jaxmec.mec.pricing import expected_flow, price
from jaxmec.mec.workload import Cursor, Remaining, Task, TraceWorkload, Workload
from jaxmec.struct import Leaf, is_concrete, pytree

INFORMATION = ("slot_start", "local", "slot", "full")
FEATURE_SETS = ("raw", "published", "queues", "times", "expected", "priced")
REWARDS = ("own", "charged")


@pytree
class ObservationScales:
    """What an observation counts as 1, so that its entries are of order 1."""

    size: Leaf  # Mbit
    work: Leaf  # Gcycles
    result: Leaf  # Mbit
    backlog: Leaf  # s of queueing, Q/f
    slot: Leaf  # s of work or transmission within a slot

    def __post_init__(self) -> None:
        units = ("size", "work", "result", "backlog", "slot")
        reals(self, *units, part_of="scales.", ndim=0, above=0)


@pytree
class OffloadingParams:
    """Everything about an offloading environment that is a number, to be vmapped over.

    Raises:
        ValueError: a deadline or penalty that is not positive, or tasks that arrive at a
            station which the network does not have.
    """

    network: EdgeNetwork
    workload: Workload
    deadline: Leaf  # s; a task whose make-span exceeds it has failed, unless a trace has its own
    penalty: Leaf  # deadlines, the price of a failure in the reward
    scales: ObservationScales

    def __post_init__(self) -> None:
        reals(self, "deadline", ndim=0, above=0, finite=False)
        reals(self, "penalty", ndim=0, at_least=0)
        servers = self.network.num_servers
        if isinstance(self.workload, TraceWorkload):
            if is_concrete(self.workload.origin) and jnp.max(self.workload.origin) >= servers:
                row = int(jnp.argmax(self.workload.origin >= servers))
                raise ValueError(
                    f"workload.origin[{row}] must be below the number of servers, {servers}, "
                    f"got {int(self.workload.origin[row])}"
                )
        elif not self.workload.master and self.stations > servers:
            raise ValueError(
                f"workload.stations must be at most the number of servers, {servers}, "
                f"got {self.stations}"
            )

    @property
    def stations(self) -> int:
        """How many places tasks arrive at: B, or 1 where a master node has them all.

        A station that takes all others to do as it does itself counts its own work so many times.
        """
        return self.workload.stations or self.network.num_servers

    @property
    def max_steps_in_episode(self) -> jax.Array | int:
        """An upper bound on the decisions of one episode."""
        if isinstance(self.workload, TraceWorkload):
            return self.workload.slot.shape[-1]
        return self.workload.slots * self.stations * self.workload.positions


@dataclasses.dataclass(frozen=True)
class OffloadingOptions:
    """What a scheduler sees, and what it learns from.

    Args:
        information: one of ``INFORMATION``; see :class:`View`.
        features: what an observation is made of, beside the origin: "raw", what the published
            methods saw, the task's size, its work where a task has one server, and the backlogs,
            in Mbit and Gcycles as their programs feed them; "published", the same scaled to
            order 1; "queues", all of the task and of the queues that are seen; "times", also the
            waits and service times that follow from them; "expected", also the queues ahead were
            all stations to do as this one has done in its slot; "priced", also the delay that the
            task would cause to later ones at each server, by what this station has sent there in
            the episode (`jaxmec.mec.price`).
        show_place: end an observation with where in the episode the task is, which is a label
            and no quantity: (slot · B + station) · N + position.
        reward: "own", the task's make-span or the price of its failure, negated; or "charged", to
            learn from: the make-span and the delay that the decision will cause to later tasks,
            negated and in the preset's unit of backlog (`OffloadingEnvironment.charge`).
        neighbours: how many servers a station decides among, m ≤ B: its own and the next m − 1
            by number, after the last of which comes the first. Observations and actions are then
            those of a network of m servers in that order, whatever B is, and the same for all
            stations. None: all, each by its number.

    Raises:
        ValueError: an unknown name, or options that do not go together.
    """

    splits: ClassVar[bool] = False  # whether a task may have several servers

    information: str = "slot_start"  # slot_start, local, slot or full
    features: str = "queues"  # raw or published (the least), queues, times, expected or priced
    show_place: bool = False  # say where in the episode a task is, as lad-ts asks for
    reward: str = "own"  # own, or charged: for the delay caused to later tasks too
    neighbours: int | None = None  # decide among the own server and the next ones, m in all

    def __post_init__(self) -> None:
        checks.fields(
            self,
            information=checks.one_of(INFORMATION),
            features=checks.one_of(FEATURE_SETS),
            reward=checks.one_of(REWARDS),
            show_place=checks.flag,
            neighbours=checks.either(checks.whole(1), None),
        )
        if self.features == "priced" and self.information == "slot_start":
            raise ValueError(
                "features 'priced' take what a station has done itself, which information "
                "'slot_start' does not show; name local, slot or full"
            )

    @property
    def shares_slot(self) -> bool:
        """Whether what is seen of this slot's work is the station's own alone."""
        return self.information in ("local", "slot")

    @property
    def keeps_history(self) -> bool:
        """Whether the state remembers what was sent in the episode."""
        return self.reward == "charged" or self.features == "priced"


class Sent(NamedTuple):
    """What has been sent to each server in the episode so far.

    A row a station, [B, B], or one station's, [B]. The tasks of a master node count as station 0's.
    """

    tasks: jax.Array  # tasks, whole or in part
    work: jax.Array  # Gcycles


class OffloadingState(NamedTuple):
    """The state of one environment between two decisions."""

    queues: QueueState
    sent: jax.Array  # [B] Gcycles that this station has sent to each server in this slot
    task: Task  # the one to decide now
    cursor: Cursor
    time: jax.Array  # [] int32, decisions made in this episode
    history: Sent | tuple[()] = ()  # where the reward or a feature takes it


class View(NamedTuple):
    """What the scheduler sees of a state under its information model.

    Everything that is not seen is zero or None here, so that an observation, an allocation
    on seen waits and a scheduler that are built from a view cannot know more.
    """

    task: Task
    queues: QueueState  # what is seen of them
    progress: jax.Array | None  # [] n/N, how far the station is through its slot
    remaining: Remaining | None  # what the station still has to decide in its slot
    slot: jax.Array | None = None  # [] int32, which slot of the episode it is
    sent: Sent | None = None  # [B] each, what the station has sent in the episode, where it is kept
    place: jax.Array | None = None  # [] int32, where in the episode the task is, where it is shown


def view_of(state: OffloadingState, params: OffloadingParams, options: OffloadingOptions) -> View:
    """What the scheduler sees of a state under the information model of the options."""
    queues, cursor = state.queues, state.cursor
    nothing = jnp.zeros_like(queues.backlog)
    place = None
    if options.show_place:
        station = cursor.slot * params.network.num_servers + cursor.station
        place = station * params.workload.positions + cursor.position
    if options.information == "slot_start":
        queues = QueueState(backlog=queues.backlog, inflight=nothing, uplink=nothing)
        return View(state.task, queues, None, None, None, None, place)
    if options.shares_slot:
        own = is_origin(state.task, params.network.num_servers)
        queues = QueueState(
            backlog=queues.backlog,
            inflight=state.sent,
            uplink=jnp.where(own, queues.uplink, nothing),
        )
    progress = cursor.position.astype(nothing.dtype) / params.workload.positions
    remaining = None
    if options.information in ("slot", "full"):
        remaining = params.workload.remaining(cursor)
    sent = None
    if isinstance(state.history, Sent):
        row = jnp.maximum(state.task.origin, 0)
        sent = Sent(*(rows[row] for rows in state.history))
    return View(state.task, queues, progress, remaining, cursor.slot, sent, place)


def expected_queues(view: View, params: OffloadingParams, options: OffloadingOptions) -> QueueState:
    """The queues that are seen, had all stations done as this one has in its slot."""
    queues = view.queues
    if not options.shares_slot:
        return queues
    return QueueState(queues.backlog, params.stations * queues.inflight, queues.uplink)


def marginal_delay(view: View, params: OffloadingParams, queued: jax.Array) -> jax.Array:
    """[B] s/Gcycle, the delay of later tasks that more work at each server causes.

    By what this station has sent in the episode, as if all stations had done as it has
    (:func:`jaxmec.mec.pricing.price`).

    Args:
        view: of a state that keeps a history, at least with information "local".
        queued: [B] Gcycles expected at each server now.
    """
    assert view.sent is not None and view.slot is not None and view.progress is not None
    sent = Sent(*(params.stations * row for row in view.sent))
    return price_by(sent, params, queued, view.slot + view.progress)


def price_by(
    sent: Sent, params: OffloadingParams, queued: jax.Array, elapsed: jax.Array
) -> jax.Array:
    """[B] s/Gcycle, by what was sent to each server, [B], in the slots gone by."""
    network, workload = params.network, params.workload
    tasks, work = expected_flow(network, workload.moments(), *sent, elapsed)
    return price(network, queued, tasks, work, workload.slots - elapsed)


def neighbours_of(task: Task, number: int, num_servers: int) -> jax.Array:
    """[m] int, a station's own server and the next ones; those of station 0 at a master."""
    first = jnp.maximum(task.origin, 0)
    return (first + jnp.arange(number)) % num_servers


def near(values: jax.Array, task: Task, neighbours: int | None) -> jax.Array:
    """[m] of values [B], those of the servers that a decision is among."""
    if neighbours is None:
        return values
    return values[neighbours_of(task, neighbours, values.shape[0])]
