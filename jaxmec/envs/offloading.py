"""Task offloading as a gymnax environment: one step is one task's decision.

:class:`jaxmec.envs.SingleServerOffloading` gives each task to one edge server,
:class:`jaxmec.envs.MultiServerOffloading` splits it among a set of them. Both play the physics of
:mod:`jaxmec.mec` and differ only in what an action means. A step costs O(B): it draws the next
task alone, and starting a new episode takes no further draw.

Seeing and deciding are pure functions of a view: :meth:`OffloadingEnvironment.observe`,
:meth:`~OffloadingEnvironment.preferred` and :meth:`~OffloadingEnvironment.divide` know neither
keys nor the state, and are what a policy is exported with.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces
from jax.typing import ArrayLike, DTypeLike

from jaxmec.core import checks
from jaxmec.core.types import Info
from jaxmec.envs import observation
from jaxmec.envs import state as states
from jaxmec.envs.state import (
    INFORMATION,
    ObservationScales,
    OffloadingOptions,
    OffloadingParams,
    OffloadingState,
    Sent,
    View,
)
from jaxmec.mec.network import QueueState, advance_slot
from jaxmec.mec.offload import Outcome, apply_split
from jaxmec.mec.pricing import expected_flow, outlook
from jaxmec.mec.selection import one_server
from jaxmec.mec.workload import Arrival, Cursor, Task
from jaxmec.struct import is_concrete, replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PLACES = 2**24  # a place is a whole number that float32 holds exactly


class OffloadingEnvironment(environment.Environment):
    """What both offloading environments share."""

    Options: type[OffloadingOptions] = OffloadingOptions
    metric_names = ("makespan", "delay", "failed")

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
        self.keeps_history = options.keeps_history
        self.neighbours = options.neighbours
        self._check(params)

    def _check(self, params: OffloadingParams) -> None:
        """That the options fit the parameters; raises ``ValueError``."""
        workload = params.workload
        if self.information == "slot" and not workload.laid_out:
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
        if self.neighbours is None:
            return
        few = checks.whole(1, self.num_servers, "the number of servers")
        checks.require("neighbours", self.neighbours, checks.either(few, None))
        if workload.master:
            raise ValueError(
                f"neighbours must be None where a master node has all tasks, got {self.neighbours}"
            )

    @property
    def num_choices(self) -> int:
        """How many servers a decision is among: m where there are neighbours, else B."""
        return self.num_servers if self.neighbours is None else self.neighbours

    @property
    def options(self) -> OffloadingOptions:
        """What was chosen, an instance of ``Options``."""
        return self._options

    @property
    def splits(self) -> bool:
        """Whether a task may have several servers."""
        return self.Options.splits

    def _everywhere(self, near: ArrayLike, task: Task, elsewhere: ArrayLike) -> jax.Array:
        """[B] from values [m] of the servers that a decision is among."""
        near = jnp.asarray(near)
        if self.neighbours is None:
            return near
        nowhere = jnp.full(self.num_servers, elsewhere, near.dtype)
        among = states.neighbours_of(task, self.neighbours, self.num_servers)
        return nowhere.at[among].set(near)

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
        action: ArrayLike,
        params: OffloadingParams | None = None,
    ) -> tuple[jax.Array, OffloadingState, jax.Array, jax.Array, jax.Array, Info]:
        """Decide the current task and go to the next one.

        After the last task of slot T the episode is truncated and the state returned is
        the first of a new episode; ``info["final_observation"]`` is what would have been
        seen had the episode gone on. ``info`` has makespan [] s, delay [] s (the deadline
        where the task failed), failed [] bool, fraction [B], origin [] and slot [].
        """
        params = self.default_params if params is None else params
        return self._go_on(key, state, params, *self.place(action, state, params))

    def fair_step(
        self, key: jax.Array, state: OffloadingState, params: OffloadingParams | None = None
    ) -> tuple[jax.Array, OffloadingState, jax.Array, jax.Array, jax.Array, Info]:
        """:meth:`step` with one server for the task, drawn by capacity.

        All queues, in seconds, then grow alike, whatever the load. Training lets environments
        begin at different points of an episode by such play
        (:func:`jaxmec.training.rollout.stagger`).
        """
        params = self.default_params if params is None else params
        key_server, key = jax.random.split(key)
        server = jax.random.categorical(key_server, jnp.log(params.network.capacity))
        chosen = one_server(server, self.num_servers)
        fraction = chosen.astype(state.queues.backlog.dtype)
        placed = apply_split(params.network, state.queues, state.task, fraction, chosen)
        return self._go_on(key, state, params, *placed)

    def tasks_of_a_slot(self, params: OffloadingParams) -> jax.Array:
        """[] on average, over all stations."""
        return params.workload.moments().tasks

    def expected_steps(self, params: OffloadingParams) -> jax.Array:
        """[] decisions of an episode, on average."""
        return params.workload.moments().tasks * params.workload.slots

    def _go_on(
        self,
        key: jax.Array,
        state: OffloadingState,
        params: OffloadingParams,
        outcome: Outcome,
        queues: QueueState,
    ) -> tuple[jax.Array, OffloadingState, jax.Array, jax.Array, jax.Array, Info]:
        """What :meth:`step` returns, of a decision's outcome and the queues after it."""
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
            queues=replace(
                going_on.queues, backlog=jnp.where(truncated, 0, going_on.queues.backlog)
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

    def _deadline(self, state: OffloadingState, params: OffloadingParams) -> jax.Array:
        """[] s, the current task's."""
        own = params.workload.deadline
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
        price = states.price_by(sent, params, queued, elapsed)
        return jnp.sum(outcome.fraction * state.task.work * price)

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

    def _no_history(self, dtype: DTypeLike) -> Any:
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
        self, action: ArrayLike, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Carry out an action on the current task."""
        raise NotImplementedError

    def set_action(self, selected: jax.Array) -> jax.Array:
        """The action that names a set of servers [B] bool, in the mode in which actions are sets.

        That is a row's ``set_options`` (:mod:`jaxmec.envs.table`). The empty set is no server.
        """
        raise NotImplementedError

    def preferred(self, preferences: jax.Array) -> jax.Array:
        """The action that preferences [A] are for: the largest, or themselves where actions are
        scores. A pure function on one example; it is what is exported.

        Raises:
            ValueError: an action mode that has no preferences.
        """
        raise NotImplementedError

    def divide(
        self, action: ArrayLike, view: View, believed: QueueState, params: OffloadingParams
    ) -> tuple[jax.Array, jax.Array]:
        """The servers [B] bool that take part, and the fractions [B] of the task that each gets.

        A pure function of its arguments, on one example; it is what is exported. The make-span
        follows by :func:`jaxmec.mec.offload.apply_split`.

        Args:
            action: in the environment's action mode.
            view: of the state decided in.
            believed: the queues by which a task is split (:meth:`believed`).
            params: the network, and the scales of scores.
        """
        raise NotImplementedError

    def believed(self, view: View, queues: QueueState, params: OffloadingParams) -> QueueState:
        """The queues by which a task is split, of those seen and the true ones.

        A pure function of its arguments, on one example; it is what is exported.
        """
        del view, params
        return queues

    def observe(self, view: View, params: OffloadingParams) -> jax.Array:
        """[observation_size] of a view; a pure function on one example, and what is exported."""
        return observation.observe(view, params, self._options)

    def view(self, state: OffloadingState, params: OffloadingParams) -> View:
        """What the scheduler sees under the environment's information model."""
        return states.view_of(state, params, self._options)

    def _turn(self, cursor: Cursor, params: OffloadingParams) -> jax.Array:
        """[] how far the slot is, over all stations, 0 to 1."""
        return (cursor.station + cursor.position / params.workload.positions) / params.stations

    def features(self, state: OffloadingState, params: OffloadingParams) -> dict[str, jax.Array]:
        """The observation by name, each feature [] or [B] and of order 1; [m] of neighbours.

        Times are in the preset's unit of time: queued work counts in seconds of the server
        it waits at.
        """
        return observation.features(self.view(state, params), params, self._options)

    def observe_state(self, state: OffloadingState, params: OffloadingParams) -> jax.Array:
        """[observation_size] the features, one after the other."""
        return self.observe(self.view(state, params), params)

    def feature_layout(self, params: OffloadingParams | None = None) -> tuple[tuple[str, int], ...]:
        """The features of an observation in their order, (name, length).

        Length 1 is a number of the task or the station; B, or m of neighbours, is one a server.
        """
        return observation.layout(self._options, params or self._default_params)

    def feature_names(self, params: OffloadingParams | None = None) -> tuple[str, ...]:
        """[observation_size] what each entry of an observation is."""
        return observation.entry_names(self._options, params or self._default_params)

    def action_names(self) -> tuple[str, ...]:
        """[A] what each action, or each entry of an action that is a vector, is."""
        return tuple(f"server {name}" for name in self._choice_names())

    def _choice_names(self) -> tuple[str, ...]:
        """The servers that a decision is among: by number, or "own", "own+1", ..."""
        if self.neighbours is None:
            return tuple(str(i) for i in range(self.num_choices))
        return tuple(f"own+{i}" if i else "own" for i in range(self.num_choices))

    def draw(self, axes: Axes, state: OffloadingState, params: OffloadingParams) -> None:
        """Every server's queue, into the axes of a figure."""
        capacity = np.asarray(params.network.capacity)
        backlog, inflight = state.queues.backlog / capacity, state.queues.inflight / capacity
        servers = np.arange(len(capacity))
        axes.bar(servers, backlog, color="#0072B2", label="queued when the slot began")
        axes.bar(servers, inflight, bottom=backlog, color="#E69F00", label="sent in this slot")
        axes.set(xlabel="server", ylabel="queue [s of its work]", xticks=servers)
        # The scale stays, so that pictures in a row can be compared, until a queue is longer.
        axes.set_ylim(0, max(float(params.scales.backlog), 1.1 * float((backlog + inflight).max())))
        axes.set_title(f"slot {int(state.cursor.slot)}, a task at station {int(state.task.origin)}")
        axes.legend(loc="upper right", frameon=False)

    def observation_space(self, params: OffloadingParams) -> spaces.Box:
        """Non-negative numbers of order 1; a queue has no upper bound."""
        size = len(self.feature_names(params))
        return spaces.Box(0.0, jnp.finfo(jnp.float32).max, (size,), params.network.capacity.dtype)


_MOVED = {
    "Scores": "spaces",
    "Ranking": "spaces",
    "SingleServerOffloading": "single",
    "MultiServerOffloading": "multi",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"jaxmec.envs.{_MOVED[name]}"
    warnings.warn(
        f"{__name__}.{name} is {home}.{name} now; the old name goes with the next version",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(home), name)


__all__ = [
    "INFORMATION",
    "ObservationScales",
    "OffloadingEnvironment",
    "OffloadingParams",
    "OffloadingState",
    "View",
]
