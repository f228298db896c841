"""Offloading a task to a set of edge servers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces as gymnax_spaces
from jax.typing import ArrayLike

from jaxmec.core import checks
from jaxmec.envs import spaces
from jaxmec.envs import state as states
from jaxmec.envs.offloading import OffloadingEnvironment
from jaxmec.envs.state import (
    OffloadingOptions,
    OffloadingParams,
    OffloadingState,
    View,
)
from jaxmec.mec.allocation import ALLOCATIONS, water_filling
from jaxmec.mec.network import QueueState
from jaxmec.mec.offload import (
    Outcome,
    apply_split,
    divide_among,
    entry_gradient,
    fallback,
    normalised,
    service_time,
    waiting_time,
)
from jaxmec.mec.selection import MAX_SUBSET_SERVERS, local_plus_one, subset, top_k
from jaxmec.mec.workload import Task

ACTIONS = ("subset", "local_plus_one", "top_k", "mask", "fraction", "score")
ALLOCATORS = ("true", "seen", "expected", "priced")  # the waits by which a task is split
MAX_LOG_FACTOR = 5.0  # a score changes a service time by at most e^±5
SPARE = 0.1  # preset's unit of time: how far outside the set an encoded server is left
ENTRY_WIDTH = 0.3  # preset's unit of time: how near the set a server's jump counts in a gradient


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

    splits: ClassVar[bool] = True

    action: str = "subset"  # subset, local_plus_one, top_k or score, as the agent's kind asks
    k: int = 3  # servers that an action top_k names
    allocate: str = "cwa"  # cwa, hecwa or water_filling
    allocation_information: str = "true"  # true (as published), seen, expected or priced
    entry_gradient: float = 0.0  # weight of the jumps in a score's gradient

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(
            self,
            action=checks.one_of(ACTIONS),
            allocate=checks.one_of(ALLOCATIONS),
            allocation_information=checks.one_of(ALLOCATORS),
            entry_gradient=checks.number(0),
        )
        if self.action == "top_k":
            checks.fields(self, k=checks.whole(1))
        if self.allocation_information == "priced" and (self.action, self.features) != (
            "score",
            "priced",
        ):
            raise ValueError(
                "allocation_information 'priced' goes with action='score' and features='priced', "
                f"got action={self.action!r} and features={self.features!r}"
            )


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
        if options.action == "top_k":
            few = checks.whole(1, self.num_choices, "the number of servers")
            checks.require("k", options.k, few)
        self.action = options.action
        self.k = options.k
        self.allocate = ALLOCATIONS[options.allocate]
        self._fill = water_filling  # what scores are decoded by; a graph's has no loop
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

    def action_space(self, params: OffloadingParams | None = None) -> gymnax_spaces.Space:
        """What the action mode says."""
        if self.action in ("subset", "local_plus_one"):
            return gymnax_spaces.Discrete(self.num_actions)
        if self.action == "top_k":
            return spaces.Ranking(self.k, self.num_choices)
        kinds = {
            "mask": spaces.BinaryVector,
            "fraction": spaces.Simplex,
            "score": spaces.Scores,
        }
        return kinds[self.action](self.num_actions)

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
        self, scores: ArrayLike, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        """[B] fractions that scores [2 B] = (offset, log-factor) stand for; [2 m] of neighbours.

        Water-filling over all servers, or all neighbours, on wait_i + offset_i · scale and
        serve_i · exp(factor_i), by the waits that whoever allocates sees: set and fractions at
        once. Zeros mean plain water-filling. Differentiable almost everywhere; log-factors
        count within ±5, and NaN as 0.
        """
        view = self.view(state, params)
        return self._filled(scores, view, self.believed(view, state.queues, params), params)

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
        view = self.view(state, params)
        believed = self.believed(view, state.queues, params)
        wait, serve = self._scored(zeros, view, believed, params)
        inside = fraction > 0
        finish = wait + fraction * serve
        level = jnp.max(jnp.where(inside, finish, 0))
        spare = SPARE * params.scales.slot
        offset = jnp.where(inside, level - finish, jnp.maximum(level - wait, 0) + spare)
        offset = states.near(offset / params.scales.slot, state.task, self.neighbours)
        return jnp.concatenate([offset, jnp.zeros_like(offset)])

    def place(
        self, action: ArrayLike, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Split the task among the servers that the action names."""
        view = self.view(state, params)
        believed = self.believed(view, state.queues, params)
        if self.action == "score":
            wait, serve = self._scored(action, view, believed, params)
            return self._place_scored(wait, serve, state, params)
        selected, fraction = self.divide(action, view, believed, params)
        return apply_split(params.network, state.queues, state.task, fraction, selected)

    def _place_scored(
        self, wait: jax.Array, serve: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Split the task as scores say; the gradient has the jumps too, where wanted."""
        among = self._among(state.task)
        fraction = water_filling(wait, serve, among)
        outcome, queues = apply_split(
            params.network, state.queues, state.task, fraction, fraction > 0
        )
        if self.entry_gradient == 0:
            return outcome, queues
        fullest = jnp.argmax(fraction)
        level = wait[fullest] + fraction[fullest] * serve[fullest]
        margin = jnp.where(among, level - wait, -jnp.inf)
        jumps = entry_gradient(outcome, margin, ENTRY_WIDTH * params.scales.slot)
        return outcome._replace(makespan=outcome.makespan + self.entry_gradient * jumps), queues

    def preferred(self, preferences: jax.Array) -> jax.Array:
        """The index of the largest, the k largest, or the scores themselves."""
        if self.action in ("subset", "local_plus_one"):
            return jnp.argmax(preferences, axis=-1)
        if self.action == "top_k":
            return jax.lax.top_k(preferences, self.k)[1]
        if self.action == "score":
            return preferences
        raise ValueError(f"no preferences name an action of the mode {self.action!r}")

    def divide(
        self, action: ArrayLike, view: View, believed: QueueState, params: OffloadingParams
    ) -> tuple[jax.Array, jax.Array]:
        """The set that the action names, and what each of it is given."""
        network, task = params.network, view.task
        if self.action == "fraction":
            fraction = normalised(network, task, self._everywhere(action, task, 0))
            return fraction > 0, fraction
        if self.action == "score":
            fraction = self._filled(action, view, believed, params)
            return fraction > 0, fraction
        selected = self._selected(action, task, params)
        return divide_among(network, believed, task, selected, self.allocate)

    def _selected(self, action: ArrayLike, task: Task, params: OffloadingParams) -> jax.Array:
        """[B] bool, the set that an action names; of an empty one, the fallback."""
        own = fallback(params.network, task)
        if self.action == "subset":
            selected = subset(action, self.num_choices)
        elif self.action == "local_plus_one":
            selected = local_plus_one(action, states.near(own, task, self.neighbours))
        elif self.action == "top_k":
            selected = top_k(action, self.num_choices)
        else:
            selected = jnp.asarray(action).astype(bool)
        selected = self._everywhere(selected, task, False)
        return jnp.where(jnp.any(selected), selected, own)

    def set_action(self, selected: jax.Array) -> jax.Array:
        """[B] bool, the set."""
        return selected

    def believed(self, view: View, queues: QueueState, params: OffloadingParams) -> QueueState:
        """As ``allocation_information`` says: the true ones, those seen, or those expected."""
        if self.allocation_information == "true":
            return queues
        if self.allocation_information == "seen":
            return view.queues
        return states.expected_queues(view, params, self._options)

    def _filled(
        self, scores: ArrayLike, view: View, believed: QueueState, params: OffloadingParams
    ) -> jax.Array:
        """[B] fractions of water-filling on what scores [2 m] make of waits and service times."""
        return self._fill(*self._scored(scores, view, believed, params), self._among(view.task))

    def _scored(
        self, scores: ArrayLike, view: View, believed: QueueState, params: OffloadingParams
    ) -> tuple[jax.Array, jax.Array]:
        """[B] s waits and [B] s service times as the scores shift and stretch them."""
        scores = jnp.nan_to_num(jnp.asarray(scores))
        offset, factor = (self._everywhere(s, view.task, 0) for s in jnp.split(scores, 2))
        wait = waiting_time(params.network, believed, view.task)
        if self.allocation_information == "priced":  # prices are taken as given
            queued = believed.backlog + believed.inflight
            price = states.marginal_delay(view, params, queued)
            wait += jax.lax.stop_gradient(view.task.work * price)
        serve = service_time(params.network, view.task)
        factor = jnp.exp(jnp.clip(factor, -MAX_LOG_FACTOR, MAX_LOG_FACTOR))
        return wait + offset * params.scales.slot, serve * factor

    def _among(self, task: Task) -> jax.Array:
        """[B] bool, the servers that a decision is among."""
        return self._everywhere(jnp.ones(self.num_choices, bool), task, False)
