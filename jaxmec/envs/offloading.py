"""Task offloading as gymnax environments: one step is one task's decision.

``SingleServerOffloading`` gives each task to one edge server, ``MultiServerOffloading``
splits it among a set of them. Both play the physics of :mod:`jaxmec.mec` and differ only
in what an action means. A step costs O(B): it draws the next task alone, and starting a
new episode takes no further draw.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces

from jaxmec.mec import checks
from jaxmec.mec.allocation import ALLOCATIONS, water_filling
from jaxmec.mec.network import EdgeNetwork, QueueState, advance_slot
from jaxmec.mec.offload import (
    Outcome,
    apply_split,
    entry_gradient,
    fallback,
    is_origin,
    offload,
    offload_fractions,
    service_time,
    waiting_time,
)
from jaxmec.mec.pricing import expected_flow, outlook, price
from jaxmec.mec.selection import MAX_SUBSET_SERVERS, local_plus_one, one_server, subset, top_k
from jaxmec.mec.workload import Arrival, Cursor, Remaining, Task, TraceWorkload, Workload
from jaxmec.struct import is_concrete, pytree

INFORMATION = ("slot_start", "local", "slot", "full")
FEATURES = ("published", "queues", "times", "expected", "priced")
REWARDS = ("own", "charged")
ALLOCATORS = ("true", "seen", "expected", "priced")  # what whoever splits a task goes by
MAX_PLACES = 2**24  # a place is a whole number that float32 holds exactly
SINGLE_ACTIONS = ("index", "score")
ACTIONS = ("subset", "local_plus_one", "top_k", "mask", "fraction", "score")
LARGEST_SCORE = 1e30  # what an infinite score of one server counts as
MAX_LOG_FACTOR = 5.0  # a score changes a service time by at most e^±5
SPARE = 0.1  # preset's unit of time: how far outside the set an encoded server is left
ENTRY_WIDTH = 0.3  # preset's unit of time: how near the set a server's jump counts in a gradient


@pytree
class ObservationScales:
    """What an observation counts as 1, so that its entries are of order 1."""

    size: Any  # Mbit
    work: Any  # Gcycles
    result: Any  # Mbit
    backlog: Any  # s of queueing, Q/f
    slot: Any  # s of work or transmission within a slot

    def __post_init__(self) -> None:
        for name in ("size", "work", "result", "backlog", "slot"):
            value = checks.real(f"scales.{name}", getattr(self, name), ndim=0, above=0)
            object.__setattr__(self, name, value)


@pytree
class OffloadingParams:
    """Everything about an offloading environment that is a number, to be vmapped over.

    Raises:
        ValueError: a deadline or penalty that is not positive, or tasks that arrive at a
            station which the network does not have.
    """

    network: EdgeNetwork
    workload: Workload
    deadline: Any  # s; a task whose make-span exceeds it has failed, unless a trace has its own
    penalty: Any  # deadlines, the price of a failure in the reward
    scales: ObservationScales

    def __post_init__(self) -> None:
        deadline = checks.real("deadline", self.deadline, ndim=0, above=0, finite=False)
        object.__setattr__(self, "deadline", deadline)
        penalty = checks.real("penalty", self.penalty, ndim=0, at_least=0)
        object.__setattr__(self, "penalty", penalty)
        servers = self.network.num_servers
        if isinstance(self.workload, TraceWorkload):
            if is_concrete(self.workload.origin) and jnp.max(self.workload.origin) >= servers:
                row = int(jnp.argmax(self.workload.origin >= servers))
                raise ValueError(
                    f"workload.origin[{row}] must be below the number of servers, {servers}, "
                    f"got {int(self.workload.origin[row])}"
                )
        elif not getattr(self.workload, "master", False) and self.stations > servers:
            raise ValueError(
                f"workload.stations must be at most the number of servers, {servers}, "
                f"got {self.stations}"
            )

    @property
    def stations(self) -> int:
        """How many places tasks arrive at: B, or 1 where a master node has them all.

        A station that takes all others to do as it does itself counts its own work so many times.
        """
        if isinstance(self.workload, TraceWorkload):
            return 1 if self.workload.master else self.network.num_servers
        return getattr(self.workload, "stations", self.network.num_servers)

    @property
    def max_steps_in_episode(self) -> Any:
        """An upper bound on the decisions of one episode."""
        if isinstance(self.workload, TraceWorkload):
            return self.workload.slot.shape[-1]
        return self.workload.slots * self.stations * self.workload.positions


class Sent(NamedTuple):
    """What each station has sent to each server in the episode so far.

    A row a station; the tasks of a master node count as station 0's.
    """

    tasks: jax.Array  # [B, B] tasks, whole or in part
    work: jax.Array  # [B, B] Gcycles


class OffloadingState(NamedTuple):
    """The state of one environment between two decisions."""

    queues: QueueState
    sent: jax.Array  # [B] Gcycles that this station has sent to each server in this slot
    task: Task  # the one to decide now
    cursor: Cursor
    time: jax.Array  # [] int32, decisions made in this episode
    history: Any = ()  # Sent, where the reward or a feature takes it; else ()


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


@dataclasses.dataclass(frozen=True)
class OffloadingOptions:
    """What a scheduler sees, and what it learns from.

    Args:
        information: one of ``INFORMATION``; see :class:`View`.
        features: what an observation is made of, beside the origin: "published", what the
            published methods saw, the task's size, its work where a task has one server, and the
            backlogs; "queues", all of the task and of the queues that are seen; "times", also the
            waits and service times that follow from them; "expected", also the queues ahead were
            all stations to do as this one has done in its slot; "priced", also the delay that the
            task would cause to later ones at each server, by what this station has sent there in
            the episode (`jaxmec.mec.price`).
        show_place: end an observation with where in the episode the task is, which is a label
            and no quantity: (slot · B + station) · N + position.
        reward: "own", the task's make-span or the price of its failure, negated; or "charged", to
            learn from: the make-span and the delay that the decision will cause to later tasks,
            negated and in the preset's unit of backlog (:meth:`OffloadingEnvironment.charge`).
        neighbours: how many servers a station decides among, m ≤ B: its own and the next m − 1
            by number, after the last of which comes the first. Observations and actions are then
            those of a network of m servers in that order, whatever B is, and the same for all
            stations. None: all, each by its number.

    Raises:
        ValueError: an unknown name, or options that do not go together.
    """

    information: str = "slot_start"  # slot_start, local, slot or full
    features: str = "queues"  # published (the least), queues, times, expected or priced
    show_place: bool = False  # say where in the episode a task is, as lad-ts asks for
    reward: str = "own"  # own, or charged: for the delay caused to later tasks too
    neighbours: int | None = None  # decide among the own server and the next ones, m in all

    def __post_init__(self) -> None:
        _one_of("information", self.information, INFORMATION)
        _one_of("features", self.features, FEATURES)
        _one_of("reward", self.reward, REWARDS)
        if not isinstance(self.show_place, bool):
            raise ValueError(f"show_place must be True or False, got {self.show_place!r}")
        if self.features == "priced" and self.information == "slot_start":
            raise ValueError(
                "features 'priced' take what a station has done itself, which information "
                "'slot_start' does not show; name local, slot or full"
            )
        if self.neighbours is not None and not _is_count(self.neighbours):
            raise ValueError(
                "neighbours must be a whole number from 1 to the number of servers, or None, "
                f"got {self.neighbours!r}"
            )


@dataclasses.dataclass(frozen=True)
class SingleOptions(OffloadingOptions):
    """What a scheduler sees, and how it names a server.

    Args:
        action: one of ``SINGLE_ACTIONS``; see :class:`SingleServerOffloading`.
        information, features, show_place, reward, neighbours: as for
            :class:`OffloadingOptions`, which raises likewise.
    """

    action: str = "index"  # index, or score, as the agent's kind asks

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("action", self.action, SINGLE_ACTIONS)


@dataclasses.dataclass(frozen=True)
class MultiOptions(OffloadingOptions):
    """What a scheduler sees, how it names a set of servers, and who splits a task among them.

    Args:
        action: one of ``ACTIONS``; see :class:`MultiServerOffloading`.
        k: how many servers an action "top_k" names, 1..B.
        allocate: "cwa", "hecwa" or "water_filling": who splits a task among a set.
        allocation_information: the waits by which a task is split: the "true" ones, as
            published; the "seen" ones; the "expected" ones, were all stations to do as this one
            has in its slot; or those and what the task would cause to later ones ("priced", for
            scores and features="priced").
        entry_gradient: weight, in the derivative of a score's make-span, of the jumps where a
            server enters the set (:func:`jaxmec.mec.offload.entry_gradient`); no value changes.
            0: the derivative that holds almost everywhere.
        information, features, show_place, reward, neighbours: as for
            :class:`OffloadingOptions`, which raises likewise.
    """

    action: str = "subset"  # subset, local_plus_one, top_k or score, as the agent's kind asks
    k: int = 3  # servers that an action top_k names
    allocate: str = "cwa"  # cwa, hecwa or water_filling
    allocation_information: str = "true"  # true (as published), seen, expected or priced
    entry_gradient: float = 0.0  # weight of the jumps in a score's gradient

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("action", self.action, ACTIONS)
        _one_of("allocate", self.allocate, ALLOCATIONS)
        _one_of("allocation_information", self.allocation_information, ALLOCATORS)
        if self.allocation_information == "priced" and (self.action, self.features) != (
            "score",
            "priced",
        ):
            raise ValueError(
                "allocation_information 'priced' goes with action='score' and features='priced', "
                f"got action={self.action!r} and features={self.features!r}"
            )
        checks.real("entry_gradient", self.entry_gradient, ndim=0, at_least=0)


def _one_of(field: str, value: Any, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class OffloadingEnvironment(environment.Environment):
    """What both offloading environments share."""

    Options: type[OffloadingOptions] = OffloadingOptions
    metric_names = ("makespan", "delay", "failed")
    splits = False  # whether a task may have several servers

    def __init__(
        self, params: OffloadingParams, options: OffloadingOptions | None = None, **changes: Any
    ) -> None:
        """Args:
            params: the default parameters; their number of servers is the environment's.
            options: an instance of ``Options``; by default its defaults.
            changes: single fields of the options.

        Raises:
            ValueError: information "slot" of slots not laid out, an episode of too many places,
                or neighbours above B or of a master node.
        """
        super().__init__()
        options = self.Options() if options is None else options
        options = dataclasses.replace(options, **changes)
        self._options = options
        self._default_params = params
        self.num_servers = params.network.num_servers
        self.information = options.information
        self.feature_set = options.features
        self.place_is_seen = options.show_place
        self.charges = options.reward == "charged"
        self.keeps_history = self.charges or options.features == "priced"
        self.neighbours = options.neighbours
        self._check(params)

    def _check(self, params: OffloadingParams) -> None:
        """That the options fit the parameters; raises ``ValueError``."""
        workload, neighbours = params.workload, self.neighbours
        laid_out = isinstance(workload, TraceWorkload) or getattr(workload, "laid_out", False)
        if self.information == "slot" and not laid_out:
            raise ValueError(
                "information 'slot' needs a workload whose slots are laid out, a TraceWorkload or "
                f"a preset with laid_out=True, got {type(workload).__name__}"
            )
        if self.place_is_seen and is_concrete(workload.slots):
            places = int(workload.slots) * self.num_servers * workload.positions
            if places > MAX_PLACES:
                raise ValueError(
                    f"show_place counts at most {MAX_PLACES} places of an episode, got {places}"
                )
        if neighbours is not None:
            if neighbours > self.num_servers:
                raise ValueError(
                    f"neighbours must be a whole number from 1 to the number of servers, "
                    f"{self.num_servers}, or None, got {neighbours!r}"
                )
            if getattr(workload, "master", False):
                raise ValueError(
                    f"neighbours must be None where a master node has all tasks, got {neighbours}"
                )

    @property
    def num_choices(self) -> int:
        """How many servers a decision is among: m where there are neighbours, else B."""
        return self.num_servers if self.neighbours is None else self.neighbours

    def _near(self, values: jax.Array, task: Task) -> jax.Array:
        """[m] of values [B], those of the servers that a decision is among."""
        return values if self.neighbours is None else values[self._neighbours_of(task)]

    def _everywhere(self, near: Any, task: Task, elsewhere: Any) -> jax.Array:
        """[B] from values [m] of the servers that a decision is among."""
        near = jnp.asarray(near)
        if self.neighbours is None:
            return near
        nowhere = jnp.full(self.num_servers, elsewhere, near.dtype)
        return nowhere.at[self._neighbours_of(task)].set(near)

    def _neighbours_of(self, task: Task) -> jax.Array:
        """[m] int, a station's own server and the next ones; those of station 0 at a master."""
        first = jnp.maximum(task.origin, 0)
        return (first + jnp.arange(self.num_choices)) % self.num_servers

    @property
    def shares_slot(self) -> bool:
        """Whether what is seen of this slot's work is the station's own alone."""
        return self.information in ("local", "slot")

    @property
    def default_params(self) -> OffloadingParams:  # type: ignore[override]
        """The parameters that the environment was made with."""
        return self._default_params

    # gymnax jits `reset` and `step`; here jit is the caller's, at the top of the program.

    def reset(  # type: ignore[override]
        self, key: jax.Array, params: OffloadingParams | None = None
    ) -> tuple[jax.Array, OffloadingState]:
        """The first observation [observation_size] and state of an episode."""
        params = self.default_params if params is None else params
        arrival = params.workload.first(key)
        dtype = params.network.capacity.dtype
        zeros = jnp.zeros(self.num_servers, dtype)
        state = OffloadingState(
            queues=QueueState(backlog=zeros, inflight=zeros, uplink=zeros),
            sent=zeros,
            task=arrival.task,
            cursor=arrival.cursor,
            time=jnp.zeros((), jnp.int32),
            history=self._no_history(dtype),
        )
        return self.observe_state(state, params), state

    def step(  # type: ignore[override]
        self,
        key: jax.Array,
        state: OffloadingState,
        action: Any,
        params: OffloadingParams | None = None,
    ) -> tuple[jax.Array, OffloadingState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """Decide the current task and go to the next one.

        After the last task of slot T the episode is truncated and the state returned is
        the first of a new episode; ``info["final_observation"]`` is what would have been
        seen had the episode gone on. ``info`` has makespan [] s, delay [] s (the deadline
        where the task failed), failed [] bool, fraction [B], origin [] and slot [].
        """
        params = self.default_params if params is None else params
        outcome, queues = self.place(action, state, params)
        deadline = self._deadline(state, params)
        failed = outcome.makespan > deadline
        delay = jnp.where(failed, deadline, outcome.makespan)
        # An infinite deadline cannot be missed; keep infinity out of the product, whose
        # gradient it would turn into NaN.
        lost = params.penalty * jnp.where(jnp.isfinite(deadline), deadline, 0)
        reward = -jnp.where(failed, lost, outcome.makespan)
        if self.charges:
            caused = self.charge(outcome, queues, state, params)
            reward = -(outcome.makespan + caused) / params.scales.backlog

        arrival = params.workload.next(key, state.cursor)
        going_on = self._arrive(arrival, outcome, queues, state, params)
        truncated = arrival.episode_over
        next_state = going_on._replace(
            queues=going_on.queues.replace(  # type: ignore[attr-defined]
                backlog=jnp.where(truncated, 0, going_on.queues.backlog)
            ),
            time=jnp.where(truncated, 0, going_on.time),
            history=jax.tree.map(lambda sent: jnp.where(truncated, 0, sent), going_on.history),
        )
        info = {
            "makespan": outcome.makespan,
            "delay": delay,
            "failed": failed,
            "fraction": outcome.fraction,
            "origin": jnp.asarray(state.task.origin),
            "slot": state.cursor.slot,
            "final_observation": self.observe_state(going_on, params),
        }
        observation = self.observe_state(next_state, params)
        return observation, next_state, reward, jnp.zeros_like(truncated), truncated, info

    def _deadline(self, state: OffloadingState, params: OffloadingParams) -> Any:
        """[] s, the current task's."""
        own = getattr(params.workload, "deadline", None)
        return params.deadline if own is None else own[state.cursor.last]

    def _arrive(
        self,
        arrival: Arrival,
        outcome: Outcome,
        queues: QueueState,
        state: OffloadingState,
        params: OffloadingParams,
    ) -> OffloadingState:
        """The state at the next task, were the episode to go on."""
        sent = state.sent + outcome.fraction * state.task.work
        return OffloadingState(
            queues=advance_slot(params.network, queues, arrival.slots),
            sent=jnp.where(arrival.new_station, jnp.zeros_like(sent), sent),
            task=arrival.task,
            cursor=arrival.cursor,
            time=state.time + 1,
            history=self._with(state.history, state.task, outcome),
        )

    def charge(
        self,
        outcome: Outcome,
        queues: QueueState,
        state: OffloadingState,
        params: OffloadingParams,
    ) -> jax.Array:
        """[] s, about the delay that a decision will cause to later tasks, all together.

        Σ_i x_i c times the price of server i (:func:`jaxmec.mec.pricing.price`), by what all
        stations have sent there so far. ``queues`` are those after the decision.

        What a task waits for is thus counted twice, in its own delay and in what others are
        charged for; the sum is no delay, but what one decision changes of it is about what
        it changes of everybody's delay, and it is known at once.
        """
        elapsed = state.cursor.slot + self._turn(state.cursor, params)
        sent = Sent(*(jnp.sum(rows, axis=0) for rows in state.history))
        queued = queues.backlog + queues.inflight
        return jnp.sum(
            outcome.fraction * state.task.work * self._price(params, queued, sent, elapsed)
        )

    def outlook(self, state: OffloadingState, params: OffloadingParams) -> jax.Array:
        """[] s, about the delay that what is queued now will cause to tasks yet to come.

        The value of a state where a window of decisions ends (:func:`jaxmec.mec.pricing.outlook`),
        by what all stations have sent to each server so far, which is taken as given: its gradient
        is that of the queues.

        Raises:
            ValueError: an environment that keeps no history of what was sent.
        """
        if not self.keeps_history:
            raise ValueError(
                "the outlook of a state takes what was sent in the episode, which is kept with "
                f"features='priced' or reward='charged', got features={self.feature_set!r}"
            )
        network, workload = params.network, params.workload
        elapsed = state.cursor.slot + self._turn(state.cursor, params)
        sent = Sent(*(jax.lax.stop_gradient(jnp.sum(rows, axis=0)) for rows in state.history))
        tasks, work = expected_flow(network, workload.moments(), *sent, elapsed)
        queued = state.queues.backlog + state.queues.inflight
        return outlook(network, queued, tasks, work, workload.slots - elapsed)

    def _price(
        self, params: OffloadingParams, queued: jax.Array, sent: Sent, elapsed: jax.Array
    ) -> jax.Array:
        """[B] s/Gcycle, by what was sent to each server, [B], in the slots gone by."""
        network, workload = params.network, params.workload
        tasks, work = expected_flow(network, workload.moments(), *sent, elapsed)
        return price(network, queued, tasks, work, workload.slots - elapsed)

    def _no_history(self, dtype: Any) -> Any:
        nothing = jnp.zeros((self.num_servers, self.num_servers), dtype)
        return Sent(nothing, nothing) if self.keeps_history else ()

    def _with(self, history: Any, task: Task, outcome: Outcome) -> Any:
        """The history with one decision more."""
        if not self.keeps_history:
            return ()
        row = jnp.maximum(task.origin, 0)
        return Sent(
            history.tasks.at[row].add(outcome.fraction > 0),
            history.work.at[row].add(outcome.fraction * task.work),
        )

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Carry out an action on the current task."""
        raise NotImplementedError

    def set_action(self, selected: jax.Array) -> jax.Array:
        """The action that names a set of servers [B] bool, in the mode in which actions are sets.

        That is a row's ``set_options`` (:mod:`jaxmec.envs.table`). The empty set is no server.
        """
        raise NotImplementedError

    def view(self, state: OffloadingState, params: OffloadingParams) -> View:
        """What the scheduler sees under the environment's information model."""
        queues, progress, remaining = state.queues, None, None
        nothing = jnp.zeros_like(queues.backlog)
        if self.information == "slot_start":
            queues = QueueState(backlog=queues.backlog, inflight=nothing, uplink=nothing)
        elif self.shares_slot:
            own = is_origin(state.task, self.num_servers)
            queues = QueueState(
                backlog=queues.backlog,
                inflight=state.sent,
                uplink=jnp.where(own, queues.uplink, nothing),
            )
        if self.information != "slot_start":
            positions = params.workload.positions
            progress = state.cursor.position.astype(nothing.dtype) / positions
        if self.information in ("slot", "full"):
            remaining = params.workload.remaining(state.cursor)
        slot = None if self.information == "slot_start" else state.cursor.slot
        return View(state.task, queues, progress, remaining, slot)

    def _turn(self, cursor: Cursor, params: OffloadingParams) -> jax.Array:
        """[] how far the slot is, over all stations, 0 to 1."""
        return (cursor.station + cursor.position / params.workload.positions) / params.stations

    def features(self, state: OffloadingState, params: OffloadingParams) -> dict[str, jax.Array]:
        """The observation by name, each feature [] or [B] and of order 1; [m] of neighbours.

        Times are in the preset's unit of time: queued work counts in seconds of the server
        it waits at.
        """
        view, scales = self.view(state, params), params.scales
        capacity = params.network.capacity
        features: dict[str, Any] = {
            "size": view.task.size / scales.size,
            "work": view.task.work / scales.work,
            "result": view.task.result / scales.result,
            "origin": is_origin(view.task, self.num_servers),
            "backlog": view.queues.backlog / capacity / scales.backlog,
        }
        if self.feature_set == "published":
            seen = ("size", "origin", "backlog") if self.splits else (*features,)
            features = {name: features[name] for name in seen if name != "result"}
        if self.information != "slot_start":
            features["inflight"] = view.queues.inflight / capacity / scales.slot
            uplink = view.queues.uplink / scales.slot
            # A station sees one uplink, its own: one number says it.
            features["uplink"] = uplink if self.information == "full" else jnp.sum(uplink)
            features["progress"] = view.progress
        if view.remaining is not None:
            features["remaining_tasks"] = view.remaining.tasks / params.workload.positions
            total = jnp.sum(capacity) * scales.slot
            features["remaining_work"] = view.remaining.work / total
        if self.feature_set in ("times", "expected", "priced"):
            wait = waiting_time(params.network, view.queues, view.task)
            features["wait"] = wait / scales.slot
            features["serve"] = service_time(params.network, view.task) / scales.slot
            features["compute"] = view.task.work / capacity / scales.slot
        if self.feature_set in ("expected", "priced"):
            alike = self._alike(view.queues, params)
            queued = alike.backlog + alike.inflight
            features["alike"] = queued / capacity / scales.backlog
            if self.feature_set == "priced":
                caused = view.task.work * self._price_seen(state, params, queued)
                features["charge"] = caused / scales.backlog
        if self.place_is_seen:
            cursor = state.cursor
            station = cursor.slot * self.num_servers + cursor.station
            features["place"] = station * params.workload.positions + cursor.position
        if self.neighbours is not None:
            del features["origin"]  # always the first of them
            features = {
                name: self._near(value, view.task) if jnp.shape(value) else value
                for name, value in features.items()
            }
        dtype = jnp.result_type(view.queues.backlog)
        return {name: jnp.asarray(value, dtype) for name, value in features.items()}

    def _alike(self, queues: QueueState, params: OffloadingParams) -> QueueState:
        """Queues that are seen, had all stations done as this one has in its slot."""
        if not self.shares_slot:
            return queues
        return QueueState(queues.backlog, params.stations * queues.inflight, queues.uplink)

    def _price_seen(
        self, state: OffloadingState, params: OffloadingParams, queued: jax.Array
    ) -> jax.Array:
        """[B] s/Gcycle by the station's own history, as if all stations had done as it has."""
        cursor = state.cursor
        row = jnp.maximum(state.task.origin, 0)
        own = Sent(*(params.stations * rows[row] for rows in state.history))
        elapsed = cursor.slot + cursor.position / params.workload.positions
        return self._price(params, queued, own, elapsed)

    def observe_state(self, state: OffloadingState, params: OffloadingParams) -> jax.Array:
        """[observation_size] the features, one after the other."""
        return jnp.concatenate([jnp.ravel(v) for v in self.features(state, params).values()])

    def feature_layout(self, params: OffloadingParams | None = None) -> tuple[tuple[str, int], ...]:
        """The features of an observation in their order, (name, length).

        Length 1 is a number of the task or the station; B, or m of neighbours, is one a server.
        """
        shapes = self._feature_shapes(params)
        return tuple((name, math.prod(shape)) for name, shape in shapes.items())

    def feature_names(self, params: OffloadingParams | None = None) -> tuple[str, ...]:
        """[observation_size] what each entry of an observation is."""
        names: list[str] = []
        for name, shape in self._feature_shapes(params).items():
            names.extend([f"{name}[{i}]" for i in range(shape[0])] if shape else [name])
        return tuple(names)

    def action_names(self) -> tuple[str, ...]:
        """[A] what each action, or each entry of an action that is a vector, is."""
        return tuple(f"server {name}" for name in self._choice_names())

    def _choice_names(self) -> tuple[str, ...]:
        """The servers that a decision is among: by number, or "own", "own+1", ..."""
        if self.neighbours is None:
            return tuple(str(i) for i in range(self.num_choices))
        return tuple(f"own+{i}" if i else "own" for i in range(self.num_choices))

    def _feature_shapes(self, params: OffloadingParams | None) -> dict[str, tuple[int, ...]]:
        params = self.default_params if params is None else params
        shapes: dict[str, tuple[int, ...]] = {}

        def record(key: jax.Array) -> None:
            features = self.features(self.reset(key, params)[1], params)
            shapes.update({name: value.shape for name, value in features.items()})

        jax.eval_shape(record, jax.random.key(0))  # shapes alone: nothing is computed
        return shapes

    def observation_space(self, params: OffloadingParams) -> spaces.Box:
        """Non-negative numbers of order 1; a queue has no upper bound."""
        size = len(self.feature_names(params))
        return spaces.Box(0.0, jnp.finfo(jnp.float32).max, (size,), params.network.capacity.dtype)


class SingleServerOffloading(OffloadingEnvironment):
    """Each task goes to one edge server.

    Action modes:
        index: the server's, 0..B−1. An index outside that range means no server; see
            :func:`jaxmec.mec.offload.fallback`.
        score: [B] real numbers; the server of the largest takes the task. Its derivative is that
            of a task spread by the softmax of the scores, at costs that are those of the server
            taken ("straight through", Bengio et al. 2013), so that a policy can be trained on it
            while every decision stays a whole one.

    With neighbours B is m here, and an index counts from the station's own server.
    """

    Options = SingleOptions
    _options: SingleOptions

    def __init__(
        self, params: OffloadingParams, options: SingleOptions | None = None, **changes: Any
    ) -> None:
        """Args, Raises: as for :class:`OffloadingEnvironment`."""
        super().__init__(params, options, **changes)
        self.action = self._options.action

    @property
    def name(self) -> str:
        """The registered id."""
        return "SingleServerOffloading-v0"

    @property
    def num_actions(self) -> int:
        """B, or m."""
        return self.num_choices

    def action_space(self, params: OffloadingParams | None = None) -> spaces.Space:
        """The servers, or a score for each."""
        if self.action == "score":
            return Scores(self.num_choices)
        return spaces.Discrete(self.num_choices)

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Give the whole task to one server."""
        if self.action == "score":
            return self._place_scores(action, state, params)
        chosen = one_server(action, self.num_choices)
        chosen = self._everywhere(chosen, state.task, False)
        chosen = jnp.where(jnp.any(chosen), chosen, fallback(params.network, state.task))
        fraction = chosen.astype(state.queues.backlog.dtype)
        return apply_split(params.network, state.queues, state.task, fraction, chosen)

    def set_action(self, selected: jax.Array) -> jax.Array:
        """[] int, the first server of the set; −1 for the empty one."""
        return jnp.where(jnp.any(selected), jnp.argmax(selected), -1)

    def _place_scores(
        self, scores: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """The server of the largest score; NaN counts as the least."""
        scores = jnp.nan_to_num(
            jnp.asarray(scores), nan=-LARGEST_SCORE, posinf=LARGEST_SCORE, neginf=-LARGEST_SCORE
        )
        chosen = one_server(jnp.argmax(scores), self.num_choices)
        spread = jax.nn.softmax(scores)
        fraction = chosen + (spread - jax.lax.stop_gradient(spread))  # chosen, and its derivative
        chosen = self._everywhere(chosen, state.task, False)
        fraction = self._everywhere(fraction, state.task, 0)
        outcome, queues = apply_split(params.network, state.queues, state.task, fraction, chosen)
        makespan = jnp.sum(fraction * (outcome.wait + outcome.serve))
        return outcome._replace(makespan=makespan), queues

    def encode(
        self, fraction: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        """[B] scores that stand for the server with the largest fraction; [m] of neighbours."""
        near = self._near(jnp.asarray(fraction), state.task)
        return jnp.where(jnp.arange(self.num_choices) == jnp.argmax(near), 1.0, -1.0)


class BinaryVector(spaces.Box):
    """[B] zeros and ones."""

    def __init__(self, size: int) -> None:
        super().__init__(0, 1, (size,), jnp.int8)

    def sample(self, key: jax.Array) -> jax.Array:
        """Every vector with the same probability."""
        return jax.random.bernoulli(key, shape=self.shape).astype(self.dtype)


class Simplex(spaces.Box):
    """[B] non-negative numbers that sum to 1."""

    def __init__(self, size: int) -> None:
        super().__init__(0.0, 1.0, (size,), jnp.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform on the simplex."""
        return jax.random.dirichlet(key, jnp.ones(self.shape, self.dtype))


class Ranking(spaces.Box):
    """[k] different indices below ``size``, the best first."""

    def __init__(self, k: int, size: int) -> None:
        super().__init__(0, size - 1, (k,), jnp.int32)
        self.size = size

    def sample(self, key: jax.Array) -> jax.Array:
        """Every ranking with the same probability."""
        return jax.random.permutation(key, self.size)[: self.shape[0]].astype(self.dtype)


class Scores(spaces.Box):
    """[2 B] real numbers of order 1, or [B] where a task takes one server."""

    def __init__(self, size: int) -> None:
        limit = float(jnp.finfo(jnp.float32).max)
        super().__init__(-limit, limit, (size,), jnp.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Standard normal: a box without ends has no uniform draw."""
        return jax.random.normal(key, self.shape, self.dtype)


class MultiServerOffloading(OffloadingEnvironment):
    """Each task is split among a set of edge servers.

    Action modes:
        subset: the index of a non-empty subset, see :func:`jaxmec.mec.selection.subset` (B ≤ 10).
        local_plus_one: the index of a server; the set is it and the server where the task
            arrived (at a master node, the fastest). Naming the latter means it alone.
        top_k: [k] indices of different servers.
        mask: [B] bool, the set. An empty one means :func:`jaxmec.mec.offload.fallback`.
        fraction: [B] on the simplex: the scheduler allocates itself.
        score: [2 B] real numbers: for each server an offset to its wait, in the preset's
            unit of time, and then for each a log-factor on its service time (:meth:`decode`).

    With neighbours B is m here, and an index counts from the station's own server.
    """

    Options = MultiOptions
    splits = True
    _options: MultiOptions

    def __init__(
        self, params: OffloadingParams, options: MultiOptions | None = None, **changes: Any
    ) -> None:
        """Args: as for :class:`OffloadingEnvironment`.

        Raises:
            ValueError: also subsets of more than 10 servers, or k above B.
        """
        super().__init__(params, options, **changes)
        options = self._options
        if options.action == "subset" and self.num_choices > MAX_SUBSET_SERVERS:
            raise ValueError(
                f"action 'subset' names 2^B - 1 sets and takes at most {MAX_SUBSET_SERVERS} "
                f"servers, got {self.num_choices}; use neighbours=5, say, or action='score', "
                "'mask' or 'fraction'"
            )
        if options.action == "top_k" and not (
            _is_count(options.k) and options.k <= self.num_choices
        ):
            raise ValueError(
                f"k must be a whole number from 1 to the number of servers, "
                f"{self.num_choices}, got {options.k!r}"
            )
        self.action = options.action
        self.k = options.k
        self.allocate = ALLOCATIONS[options.allocate]
        self.allocation_information = options.allocation_information
        self.entry_gradient = float(options.entry_gradient)

    @property
    def name(self) -> str:
        """The registered id."""
        return "MultiServerOffloading-v0"

    @property
    def num_actions(self) -> int:
        """2^B − 1 subsets, 2 B scores; one number or choice a server in the other modes."""
        if self.action == "subset":
            return 2**self.num_choices - 1
        return 2 * self.num_choices if self.action == "score" else self.num_choices

    def action_space(self, params: OffloadingParams | None = None) -> spaces.Space:
        """What the action mode says."""
        if self.action in ("subset", "local_plus_one"):
            return spaces.Discrete(self.num_actions)
        if self.action == "top_k":
            return Ranking(self.k, self.num_choices)
        kind = {"mask": BinaryVector, "fraction": Simplex, "score": Scores}[self.action]
        return kind(self.num_actions)

    def action_names(self) -> tuple[str, ...]:
        """[A] what each action, or each entry of an action that is a vector, is."""
        choices = self._choice_names()
        if self.action == "subset":
            sets = np.asarray(
                jax.vmap(subset, (0, None))(jnp.arange(self.num_actions), len(choices))
            )
            return tuple(
                "{"
                + ", ".join(name for name, inside in zip(choices, row, strict=True) if inside)
                + "}"
                for row in sets
            )
        if self.action == "local_plus_one":
            return tuple(f"own and {name}" for name in choices)
        if self.action == "score":
            return tuple(f"{part} {name}" for part in ("offset", "factor") for name in choices)
        return super().action_names()

    def decode(
        self, scores: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        """[B] fractions that scores [2 B] = (offset, log-factor) stand for; [2 m] of neighbours.

        Water-filling over all servers, or all neighbours, on wait_i + offset_i · scale and
        serve_i · exp(factor_i), by the waits that whoever allocates sees: set and fractions at
        once. Zeros mean plain water-filling. Differentiable almost everywhere; log-factors
        count within ±5, and NaN as 0.
        """
        return water_filling(*self._scored(scores, state, params), self._scored_servers(state))

    def encode(
        self, fraction: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        """[2 B] scores that :meth:`decode` takes for fractions [B]; [2 m] of neighbours.

        With L the latest wait_i + x_i serve_i of the set, by the waits that whoever allocates
        sees, a participant's offset is L − x_i serve_i − wait_i, so that all finish at L, and
        any other server's max(L − wait_i, 0) and ``SPARE`` more, so that it stays out. The
        log-factors are 0.
        """
        fraction = jnp.asarray(fraction)
        zeros = jnp.zeros(2 * self.num_choices, fraction.dtype)
        wait, serve = self._scored(zeros, state, params)
        inside = fraction > 0
        finish = wait + fraction * serve
        level = jnp.max(jnp.where(inside, finish, 0))
        spare = SPARE * params.scales.slot
        offset = jnp.where(inside, level - finish, jnp.maximum(level - wait, 0) + spare)
        offset = self._near(offset / params.scales.slot, state.task)
        return jnp.concatenate([offset, jnp.zeros_like(offset)])

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Split the task among the servers that the action names."""
        network, queues, task = params.network, state.queues, state.task
        if self.action == "fraction":
            return offload_fractions(network, queues, task, self._everywhere(action, task, 0))
        if self.action == "score":
            return self._place_scores(action, state, params)
        if self.action == "subset":
            selected = subset(action, self.num_choices)
        elif self.action == "local_plus_one":
            selected = local_plus_one(action, self._near(fallback(network, task), task))
        elif self.action == "top_k":
            selected = top_k(action, self.num_choices)
        else:
            selected = jnp.asarray(action).astype(bool)
        selected = self._everywhere(selected, task, False)
        # A set that is empty is replaced where it is traced; a step is always compiled in
        # earnest, so an eager one is given the same meaning.
        selected = jnp.where(jnp.any(selected), selected, fallback(network, task))
        seen = self._allocated_on(state, params)
        return offload(network, queues, task, selected, self.allocate, seen)

    def set_action(self, selected: jax.Array) -> jax.Array:
        """[B] bool, the set."""
        return selected

    def _place_scores(
        self, scores: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Split the task as the scores say; the gradient has the jumps too, where wanted."""
        wait, serve = self._scored(scores, state, params)
        scored = self._scored_servers(state)
        fraction = water_filling(wait, serve, scored)
        outcome, queues = apply_split(
            params.network, state.queues, state.task, fraction, fraction > 0
        )
        if self.entry_gradient == 0:
            return outcome, queues
        fullest = jnp.argmax(fraction)
        level = wait[fullest] + fraction[fullest] * serve[fullest]
        margin = jnp.where(scored, level - wait, -jnp.inf)
        jumps = entry_gradient(outcome, margin, ENTRY_WIDTH * params.scales.slot)
        return outcome._replace(makespan=outcome.makespan + self.entry_gradient * jumps), queues

    def _scored(
        self, scores: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[jax.Array, jax.Array]:
        """[B] s waits and [B] s service times as the scores shift and stretch them."""
        scores = jnp.nan_to_num(jnp.asarray(scores))
        offset, factor = (self._everywhere(s, state.task, 0) for s in jnp.split(scores, 2))
        queues = self._allocated_on(state, params)
        queues = state.queues if queues is None else queues
        wait = waiting_time(params.network, queues, state.task)
        if self.allocation_information == "priced":  # prices are taken as given
            price = self._price_seen(state, params, queues.backlog + queues.inflight)
            wait += jax.lax.stop_gradient(state.task.work * price)
        serve = service_time(params.network, state.task)
        factor = jnp.exp(jnp.clip(factor, -MAX_LOG_FACTOR, MAX_LOG_FACTOR))
        return wait + offset * params.scales.slot, serve * factor

    def _scored_servers(self, state: OffloadingState) -> jax.Array:
        """[B] bool, those that scores are of."""
        return self._everywhere(jnp.ones(self.num_choices, bool), state.task, False)

    def _allocated_on(self, state: OffloadingState, params: OffloadingParams) -> QueueState | None:
        """The queues that whoever allocates believes in; None for the true ones."""
        if self.allocation_information == "true":
            return None
        seen = self.view(state, params).queues
        return seen if self.allocation_information == "seen" else self._alike(seen, params)
