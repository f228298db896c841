"""Task offloading as gymnax environments: one step is one task's decision.

``SingleServerOffloading`` gives each task to one edge server, ``MultiServerOffloading``
splits it among a set of them. Both play the physics of :mod:`jaxmec.mec` and differ only
in what an action means. A step costs O(B): it draws the next task alone, and starting a
new episode takes no further draw.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

from jaxmec.mec import checks
from jaxmec.mec.allocation import ALLOCATIONS
from jaxmec.mec.network import EdgeNetwork, QueueState, advance_slot
from jaxmec.mec.offload import (
    Outcome,
    apply_split,
    fallback,
    is_origin,
    offload,
    offload_fractions,
)
from jaxmec.mec.workload import Arrival, Cursor, Remaining, Task, TraceWorkload, Workload
from jaxmec.selection import MAX_SUBSET_SERVERS, one_server, subset
from jaxmec.struct import is_concrete, pytree

INFORMATION = ("slot_start", "local", "slot", "full")


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
    deadline: Any  # s; a task whose make-span exceeds it has failed
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
        elif not getattr(self.workload, "master", False):
            stations = getattr(self.workload, "stations", servers)
            if stations > servers:
                raise ValueError(
                    f"workload.stations must be at most the number of servers, {servers}, "
                    f"got {stations}"
                )

    @property
    def max_steps_in_episode(self) -> Any:
        """An upper bound on the decisions of one episode."""
        if isinstance(self.workload, TraceWorkload):
            return self.workload.slot.shape[-1]
        return self.workload.slots * self.workload.stations * self.workload.positions  # type: ignore[attr-defined]


class OffloadingState(NamedTuple):
    """The state of one environment between two decisions."""

    queues: QueueState
    sent: jax.Array  # [B] Gcycles that this station has sent to each server in this slot
    task: Task  # the one to decide now
    cursor: Cursor
    time: jax.Array  # [] int32, decisions made in this episode


class View(NamedTuple):
    """What the scheduler sees of a state under its information model.

    Everything that is not seen is zero or None here, so that an observation, an allocation
    on seen waits and a scheduler that are built from a view cannot know more.
    """

    task: Task
    queues: QueueState  # what is seen of them
    progress: jax.Array | None  # [] n/N, how far the station is through its slot
    remaining: Remaining | None  # what the station still has to decide in its slot


class OffloadingEnvironment(environment.Environment):
    """What both offloading environments share."""

    metric_names = ("makespan", "delay", "failed")

    def __init__(self, params: OffloadingParams, information: str = "slot_start") -> None:
        """Args:
            params: the default parameters; their number of servers is the environment's.
            information: one of ``INFORMATION``; see :class:`View`.

        Raises:
            ValueError: an unknown information model, or "slot" without a trace.
        """
        super().__init__()
        if information not in INFORMATION:
            raise ValueError(
                f"information must be one of {', '.join(INFORMATION)}, got {information!r}"
            )
        if information == "slot" and not isinstance(params.workload, TraceWorkload):
            raise ValueError(
                "information 'slot' needs a workload whose slots are laid out, a TraceWorkload, "
                f"got {type(params.workload).__name__}"
            )
        self.information = information
        self._default_params = params
        self.num_servers = params.network.num_servers

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
        failed = outcome.makespan > params.deadline
        delay = jnp.where(failed, params.deadline, outcome.makespan)
        # An infinite deadline cannot be missed; keep infinity out of the product, whose
        # gradient it would turn into NaN.
        lost = params.penalty * jnp.where(jnp.isfinite(params.deadline), params.deadline, 0)
        reward = -jnp.where(failed, lost, outcome.makespan)

        arrival = params.workload.next(key, state.cursor)
        going_on = self._arrive(arrival, outcome, queues, state, params)
        truncated = arrival.episode_over
        next_state = going_on._replace(
            queues=going_on.queues.replace(  # type: ignore[attr-defined]
                backlog=jnp.where(truncated, 0, going_on.queues.backlog)
            ),
            time=jnp.where(truncated, 0, going_on.time),
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
        )

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Carry out an action on the current task."""
        raise NotImplementedError

    def view(self, state: OffloadingState, params: OffloadingParams) -> View:
        """What the scheduler sees under the environment's information model."""
        queues, progress, remaining = state.queues, None, None
        nothing = jnp.zeros_like(queues.backlog)
        if self.information == "slot_start":
            queues = QueueState(backlog=queues.backlog, inflight=nothing, uplink=nothing)
        elif self.information in ("local", "slot"):
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
        return View(state.task, queues, progress, remaining)

    def features(self, state: OffloadingState, params: OffloadingParams) -> dict[str, jax.Array]:
        """The observation by name, each feature [] or [B] and of order 1.

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
        dtype = jnp.result_type(view.queues.backlog)
        return {name: jnp.asarray(value, dtype) for name, value in features.items()}

    def observe_state(self, state: OffloadingState, params: OffloadingParams) -> jax.Array:
        """[observation_size] the features, one after the other."""
        return jnp.concatenate([jnp.ravel(v) for v in self.features(state, params).values()])

    def feature_names(self, params: OffloadingParams | None = None) -> tuple[str, ...]:
        """[observation_size] what each entry of an observation is."""
        params = self.default_params if params is None else params
        names: list[str] = []

        def record(key: jax.Array) -> None:
            for name, value in self.features(self.reset(key, params)[1], params).items():
                names.extend([f"{name}[{i}]" for i in range(value.size)] if value.ndim else [name])

        jax.eval_shape(record, jax.random.key(0))  # shapes alone: nothing is computed
        return tuple(names)

    def observation_space(self, params: OffloadingParams) -> spaces.Box:
        """Non-negative numbers of order 1; a queue has no upper bound."""
        size = len(self.feature_names(params))
        return spaces.Box(0.0, jnp.finfo(jnp.float32).max, (size,), params.network.capacity.dtype)


class SingleServerOffloading(OffloadingEnvironment):
    """Each task goes to one edge server. The action is its index, 0..B−1.

    An index outside that range means no server; see :func:`jaxmec.mec.offload.fallback`.
    """

    @property
    def name(self) -> str:
        """The registered id."""
        return "SingleServerOffloading-v0"

    @property
    def num_actions(self) -> int:
        """B."""
        return self.num_servers

    def action_space(self, params: OffloadingParams | None = None) -> spaces.Discrete:
        """The servers."""
        return spaces.Discrete(self.num_servers)

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Give the whole task to one server."""
        chosen = one_server(action, self.num_servers)
        chosen = jnp.where(jnp.any(chosen), chosen, fallback(params.network, state.task))
        fraction = chosen.astype(state.queues.backlog.dtype)
        return apply_split(params.network, state.queues, state.task, fraction, chosen)


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


class MultiServerOffloading(OffloadingEnvironment):
    """Each task is split among a set of edge servers.

    Action modes:
        subset: the index of a non-empty subset, see :func:`jaxmec.selection.subset` (B ≤ 10).
        mask: [B] bool, the set. An empty one means :func:`jaxmec.mec.offload.fallback`.
        fraction: [B] on the simplex: the scheduler allocates itself.
    """

    def __init__(
        self,
        params: OffloadingParams,
        information: str = "slot_start",
        action: str = "subset",
        allocate: str = "cwa",
        allocation_information: str = "true",
    ) -> None:
        """Args:
            params, information: as for :class:`OffloadingEnvironment`.
            action: "subset", "mask" or "fraction".
            allocate: "cwa", "hecwa" or "water_filling": who splits a task in the first two.
            allocation_information: "true" waits, as published, or the "seen" ones.

        Raises:
            ValueError: an unknown name, or subsets of more than 10 servers.
        """
        super().__init__(params, information)
        choices = {
            "action": (action, ("subset", "mask", "fraction")),
            "allocate": (allocate, tuple(ALLOCATIONS)),
            "allocation_information": (allocation_information, ("true", "seen")),
        }
        for field, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")
        if action == "subset" and self.num_servers > MAX_SUBSET_SERVERS:
            raise ValueError(
                f"action 'subset' names 2^B - 1 sets and takes at most {MAX_SUBSET_SERVERS} "
                f"servers, got {self.num_servers}; use action='mask' or 'fraction'"
            )
        self.action = action
        self.allocate = ALLOCATIONS[allocate]
        self.allocation_information = allocation_information

    @property
    def name(self) -> str:
        """The registered id."""
        return "MultiServerOffloading-v0"

    @property
    def num_actions(self) -> int:
        """2^B − 1 subsets; the other action modes are vectors of B entries."""
        return 2**self.num_servers - 1 if self.action == "subset" else self.num_servers

    def action_space(self, params: OffloadingParams | None = None) -> spaces.Space:
        """The subsets, the masks or the simplex, by action mode."""
        if self.action == "subset":
            return spaces.Discrete(self.num_actions)
        return (
            BinaryVector(self.num_servers) if self.action == "mask" else Simplex(self.num_servers)
        )

    def place(
        self, action: Any, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Split the task among the servers that the action names."""
        network, queues, task = params.network, state.queues, state.task
        if self.action == "fraction":
            return offload_fractions(network, queues, task, jnp.asarray(action))
        seen = self.view(state, params).queues if self.allocation_information == "seen" else None
        if self.action == "subset":
            selected = subset(action, self.num_servers)
        else:
            selected = jnp.asarray(action).astype(bool)
        # A set that is empty is replaced where it is traced; a step is always compiled in
        # earnest, so an eager one is given the same meaning.
        selected = jnp.where(jnp.any(selected), selected, fallback(network, task))
        return offload(network, queues, task, selected, self.allocate, seen)
