"""Serving generative models in event time as a gymnax environment (docs/serving.md).

One step is one decision: where the current request is served, as which variant of the model, with
how many denoising steps. The next decision is the earlier of the next arrival and the earliest
known loss. What becomes of a request is worked out when it is dispatched
(:mod:`jaxmec.serving.decision`), and no view shows it.

Requests and outages depend on the episode's key alone, whatever is decided. A step costs O(B).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment
from gymnax.environments import spaces as gymnax_spaces
from jax.typing import DTypeLike

from jaxmec.agents.base import MASK
from jaxmec.core import checks
from jaxmec.core.types import Info, Memory
from jaxmec.envs import spaces
from jaxmec.envs.rarely import rarely
from jaxmec.envs.spaces import LARGEST_SCORE
from jaxmec.serving import draws
from jaxmec.serving.availability import Troubles
from jaxmec.serving.decision import (
    Fate,
    Queues,
    Request,
    ask_all,
    dispatch,
    dispatch_parts,
    hearing,
    listen,
    whole_images,
)
from jaxmec.serving.rules import TUNED, good_enough, index_worth
from jaxmec.serving.scenario import ServingParams
from jaxmec.serving.view import INFORMATION, Outlook, View, expect, view_of
from jaxmec.struct import Scalar, replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACTIONS = ("option", "shares")
FEATURE_SETS = ("told", "expected", "options")
LATE = 2.0  # times the limit, what a delay counts as at most in the reward
TABLES = ("sent_after", "sent_work", "sent_holds")  # O(S B) of the queues


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """What is decided and seen.

    Args:
        action: "option", one index over servers and their options; or "shares", scores by which
            the images of a request are split. See :class:`GenerativeServing`.
        information: one of ``INFORMATION``; see :class:`jaxmec.serving.View`.
        features: "told", what is known of the request and the servers; "expected", also what
            follows from it: what each option asks for, and how much of the time left it takes; or
            "options", all of that and more, one number an action of each, for networks that are
            shared over the actions. Goes with action "option".
        refuse: with action "option", one more action that refuses the request, which has failed
            then.
        waiting: how many lost requests can wait to be decided anew; one more has failed. By
            default the number of servers, and at least 8.

    Raises:
        ValueError: an unknown name, or options that do not go together.
    """

    action: str = "option"
    information: str = "local"
    features: str = "expected"
    refuse: bool = False
    waiting: int | None = None

    def __post_init__(self) -> None:
        checks.fields(
            self,
            action=checks.one_of(ACTIONS),
            information=checks.one_of(INFORMATION),
            features=checks.one_of(FEATURE_SETS),
            refuse=checks.flag,
            waiting=checks.optional(checks.whole(1)),
        )
        if self.refuse and self.action != "option":
            raise ValueError(f"refuse goes with action 'option', got action={self.action!r}")
        if self.features == "options" and self.action != "option":
            raise ValueError(
                f"features 'options' goes with action 'option', got action={self.action!r}"
            )


class Lost(NamedTuple):
    """Requests whose loss is or will be known, and which are then decided anew."""

    known: jax.Array  # [R] s; infinite: a free place
    entry: jax.Array  # [R, 10] numbers of each, as `_pack` lays them side by side: one row is one
    # access, and most decisions lose nothing


def _pack(request: Request, attempt: Scalar, whole: Scalar) -> jax.Array:
    """[..., 10]: a request [...], how often it was lost, and of what it is a part."""
    numbers = (*request, attempt, whole)
    shape, dtype = jnp.shape(request.images), jnp.result_type(request.size)
    return jnp.stack(
        [jnp.broadcast_to(jnp.asarray(number, dtype), shape) for number in numbers], axis=-1
    )


def _unpack(entry: jax.Array) -> tuple[Request, jax.Array, jax.Array]:
    """The request, the attempt and the whole of an entry [10]; whole numbers below 2²⁴."""
    *request, attempt, whole = (entry[..., k] for k in range(entry.shape[-1]))
    dtype, count = entry.dtype, jnp.int32
    return _numbers(Request(*request), dtype), attempt.astype(count), whole.astype(count)


class Wholes(NamedTuple):
    """Requests that were split and of which parts are open. Places of those in ``Lost``."""

    open: jax.Array  # [R] int32, parts not answered yet
    answered: jax.Array  # [R] s, the latest answer of the others; infinite if one has failed
    quality: jax.Array  # [R] the least of theirs


class ServingState(NamedTuple):
    """Where an episode stands when a decision is due."""

    queues: Queues  # with all heartbeats up to now
    availability: Troubles  # of the whole episode
    now: jax.Array  # [] s
    request: Request  # to be decided
    attempt: jax.Array  # [] int32, how often it was lost
    whole: jax.Array  # [] int32, what it is a part of; −1: of nothing else
    upcoming: Request  # the next to arrive
    law: Memory  # what the law of arrivals remembers
    number: jax.Array  # [] int32, requests drawn, ``upcoming`` included
    key: jax.Array  # of the episode's requests
    lost: Lost
    wholes: Wholes
    time: jax.Array  # [] int32, decisions made


class Placed(NamedTuple):
    """What a decision did: P parts, 1 where a request has one server, else B."""

    fate: Fate  # [P]
    images: jax.Array  # [P] int32
    quality: jax.Array  # [] of the option
    cloud: jax.Array  # [] the share of the images at elastic servers
    queues: Queues


class Settled(NamedTuple):
    """What a decision leaves."""

    resolved: jax.Array  # [] bool: no part of the request is open
    delay: jax.Array  # [] s since its arrival, where it is; infinite where it has failed
    quality: jax.Array  # [] the least of its parts
    lost: Lost
    wholes: Wholes


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of an observation: non-negative and of order 1."""

    name: str
    about: str
    value: Callable[[View, Outlook, ServingParams], Scalar]
    axes: str = ""  # of what it is one number: B servers, M variants, O options
    sets: tuple[str, ...] = FEATURE_SETS  # which of them it is in


TIME, SIZE, IMAGES = 10.0, 10.0, 8.0  # s, Mbit and images that count as 1
DRAWN = 20.0  # s of backlog that a picture shows at least, so that pictures can be compared
MANY = 10.0  # the most that a feature of times without a bound can be

FEATURES: tuple[Feature, ...] = (
    Feature("size", "10 Mbit on the way in", lambda v, o, p: v.request.size / SIZE),
    Feature("images", "8 images", lambda v, o, p: v.request.images / IMAGES),
    Feature("quality", "the least quality that will do", lambda v, o, p: v.request.quality),
    Feature("factor", "what an option's quality counts", lambda v, o, p: v.request.factor),
    Feature("limit", "10 s of the time limit", lambda v, o, p: v.request.limit / TIME),
    Feature("left", "the share of it that is left", lambda v, o, p: v.left / v.request.limit),
    Feature("attempt", "how often it was lost, of 3", lambda v, o, p: v.attempt / 3),
    Feature("uplink", "10 s until the station's uplink is free", lambda v, o, p: v.link / TIME),
    Feature(
        "origin",
        "1 for the server at the request's station",
        lambda v, o, p: jnp.arange(p.fleet.num_servers) == v.request.origin,
        "B",
    ),
    Feature("told", "10 s of backlog told", lambda v, o, p: v.told / TIME, "B"),
    Feature("age", "10 s since", lambda v, o, p: v.age / TIME, "B"),
    Feature("missed", "heartbeats missed since", lambda v, o, p: v.missed, "B"),
    Feature("sent", "10 s of own sendings since", lambda v, o, p: v.sent / TIME, "B"),
    Feature("up", "1 for a server that is up, as far as is seen", lambda v, o, p: v.up, "B"),
    Feature("resident", "1 for a variant resident", lambda v, o, p: v.resident, "BM"),
    Feature("asked", "1 for one asked for since", lambda v, o, p: v.sent_variants, "BM"),
    Feature(
        "ask",
        "10 s of work, cold start included",
        lambda v, o, p: (o.cold + o.work) / TIME,
        "BO",
        FEATURE_SETS[1:],
    ),
    Feature(
        "finish",
        "the expected delay from now, of the time left",
        lambda v, o, p: o.finish / jnp.maximum(v.left, v.request.limit / MANY),
        "BO",
        FEATURE_SETS[1:],
    ),
    Feature(
        "offered",
        "the quality that the request would get",
        lambda v, o, p: p.quality * v.request.factor,
        "O",
        FEATURE_SETS[2:],
    ),
    Feature(
        "good",
        "1 for what is good enough",
        lambda v, o, p: p.quality * v.request.factor >= v.request.quality,
        "O",
        FEATURE_SETS[2:],
    ),
    Feature("cold", "10 s of a cold start", lambda v, o, p: o.cold / TIME, "BO", FEATURE_SETS[2:]),
    Feature("elastic", "1 for a cloud", lambda v, o, p: p.fleet.elastic, "B", FEATURE_SETS[2:]),
    Feature(
        "worth",
        "what the tuned rule would pay for it and 4, halved; 2 less for what is not good enough",
        lambda v, o, p: (4 + index_worth(TUNED, p, v) - 2 * ~good_enough(p, v)) / 2,
        "BO",
        FEATURE_SETS[2:],
    ),
)


class GenerativeServing(environment.Environment):
    """Requests for pictures go to servers that are unequal, fail, and tell about themselves late.

    Action modes:
        option: an index, server · O + option, of one server and one of its O options (variant and
            steps). One that the server cannot offer (:meth:`action_mask`) counts as the first that
            can be had anywhere. With ``refuse`` index B · O refuses.
        shares: [B + O] real scores. The option of the largest score is taken; the images are split
            over the servers that offer it in the shares of the softmax of their scores, whole
            images by largest remainder. Each part is a decision, in the order of the servers.

    The reward is the quality of a request that is served (answered in time, good enough), less
    impatience · min(delay / limit, 2), less failure_cost where it is not served, given once all
    that will become of the request is decided.
    """

    Options = ServingOptions
    metric_names = (
        *("requests", "served", "quality", "answered", "delay", "lost", "retried"),
        *("cold_starts", "cloud"),
    )
    distributed = ("delay", "answered")  # of which evaluation gives quantiles: of what, and when

    def __init__(
        self, params: ServingParams, options: ServingOptions | None = None, **changes: Any
    ) -> None:
        """Args:
        params: the default parameters; their numbers of servers, options and stations are the
            environment's.
        options: an instance of ``Options``; by default its defaults.
        changes: single fields of the options.
        """
        super().__init__()
        self._options = dataclasses.replace(options or ServingOptions(), **changes)
        self._default_params = params
        self.num_servers, self.num_options = params.fleet.num_servers, params.num_options
        self.information, self.action = self._options.information, self._options.action
        self.splits = self.action == "shares"
        self.places = self._options.waiting or max(8, self.num_servers)  # R

    @property
    def name(self) -> str:
        """The registered id."""
        return "GenerativeServing-v0"

    @property
    def options(self) -> ServingOptions:
        """What was chosen."""
        return self._options

    @property
    def default_params(self) -> ServingParams:  # type: ignore[override]
        """The parameters that the environment was made with."""
        return self._default_params

    @property
    def num_actions(self) -> int:
        """B O and perhaps one to refuse, or B + O."""
        if self.splits:
            return self.num_servers + self.num_options
        return self.num_servers * self.num_options + self._options.refuse

    def action_space(self, params: ServingParams | None = None) -> gymnax_spaces.Space:
        """An index, or scores."""
        if self.splits:
            return spaces.Scores(self.num_actions)
        return gymnax_spaces.Discrete(self.num_actions)

    def action_mask(self, params: ServingParams | None = None) -> jax.Array:
        """[A] bool: the actions that there are. All scores are."""
        params = self.default_params if params is None else params
        if self.splits:
            return jnp.ones(self.num_actions, bool)
        refusal = jnp.ones(int(self._options.refuse), bool)
        return jnp.concatenate([params.allowed.ravel(), refusal])

    def action_names(self) -> tuple[str, ...]:
        """[A] what each action, or each entry of an action that is a vector, is."""
        servers = [f"server {i}" for i in range(self.num_servers)]
        chosen = [f"option {k}" for k in range(self.num_options)]
        if self.splits:
            return (*servers, *chosen)
        named = [f"{server}, {option}" for server in servers for option in chosen]
        return (*named, *["refuse"][: self._options.refuse])

    # gymnax jits `reset` and `step`; here jit is the caller's, at the top of the program.

    def reset(  # type: ignore[override]
        self, key: jax.Array, params: ServingParams | None = None
    ) -> tuple[jax.Array, ServingState]:
        """The first observation [observation_size] and state of an episode."""
        params = self.default_params if params is None else params
        queues = Queues.empty(params.fleet, params.num_stations)
        state = self._begin(key, params, queues)
        return self.observe_state(state, params), state

    def _begin(self, key: jax.Array, params: ServingParams, queues: Queues) -> ServingState:
        """The first state of an episode: its outages, its first two requests, what was heard."""
        key_outages, key_law, key_requests = jax.random.split(key, 3)
        fleet, dtype = params.fleet, params.fleet.step_time.dtype
        start, law = jnp.zeros((), dtype), params.arrivals.begin(key_law)
        request, law = params.arrivals.next(draws.fold_in(key_requests, 0), start, law)
        upcoming, law = params.arrivals.next(draws.fold_in(key_requests, 1), request.arrival, law)
        request, upcoming = _numbers(request, dtype), _numbers(upcoming, dtype)
        troubles = hearing(fleet, params.outages.draw(key_outages, fleet.elastic))
        zero = jnp.zeros((), jnp.int32)
        return ServingState(
            queues=listen(fleet, troubles, queues, request.arrival),
            availability=troubles,
            now=request.arrival,
            request=request,
            attempt=zero,
            whole=zero - 1,
            upcoming=upcoming,
            law=law,
            number=zero + 2,
            key=key_requests,
            lost=self._nothing_lost(dtype),
            wholes=self._nothing_whole(dtype),
            time=zero,
        )

    def _begin_where(
        self, over: jax.Array, key: jax.Array, state: ServingState, params: ServingParams
    ) -> ServingState:
        """The first state of a new episode where the last one is over.

        What stations have sent, and what was lost, lies where it lies and no longer counts.
        """

        def begin(key: jax.Array, params: ServingParams, queues: Queues) -> ServingState:
            return _without_tables(self._begin(key, params, queues.anew()))

        old = _without_tables(state)
        begun = rarely(begin, over, old, key, params, old.queues)
        tables = {name: getattr(state.queues, name) for name in TABLES}
        return begun._replace(
            queues=replace(begun.queues, **tables),
            lost=begun.lost._replace(entry=state.lost.entry),
        )

    def _nothing_lost(self, dtype: DTypeLike) -> Lost:
        entry = jnp.zeros((self.places, len(Request._fields) + 2), dtype)
        return Lost(jnp.full(self.places, jnp.inf, dtype), entry)

    def _nothing_whole(self, dtype: DTypeLike) -> Wholes:
        zero = jnp.zeros(self.places, dtype)
        return Wholes(jnp.zeros(self.places, jnp.int32), zero, zero)

    def step(  # type: ignore[override]
        self,
        key: jax.Array,
        state: ServingState,
        action: jax.Array,
        params: ServingParams | None = None,
    ) -> tuple[jax.Array, ServingState, jax.Array, jax.Array, jax.Array, Info]:
        """Decide the current request and go to the next decision.

        After the last request and all that were lost the episode is truncated and the state
        returned is the first of a new one; ``info["final_observation"]`` is what would have been
        seen had more requests come. ``key`` is only for the new episode. ``info`` has the entries
        of ``metric_names``, each [], of what this decision settled, and action_mask [A] bool.
        """
        params = self.default_params if params is None else params
        going_on, reward, over, info = self.decide(action, state, params)
        next_state = self._begin_where(over, key, going_on, params)
        info["final_observation"] = self.observe_state(going_on, params)
        info["action_mask"] = self.action_mask(params)
        observation = self.observe_state(next_state, params)
        return observation, next_state, reward, jnp.zeros_like(over), over, info

    def decide(
        self, action: Any, state: ServingState, params: ServingParams
    ) -> tuple[ServingState, jax.Array, jax.Array, Info]:
        """A step without what is seen, and without a new episode after the last decision of one.

        Returns:
            The state at the next decision, the reward [], whether the episode is over [] bool,
            and the entries of ``metric_names``.
        """
        placed = self.place(action, state, params)
        settled = self._settle(placed, state, params)
        info = _figures(placed, settled, state)
        late = jnp.minimum(settled.delay / state.request.limit, LATE)
        cost = params.impatience * late + params.failure_cost * (1 - info["served"])
        reward = info["quality"] - jnp.where(settled.resolved, cost, 0)
        going_on, over = self._advance(placed.queues, settled, state, params)
        return going_on, reward, over, info

    def place(self, action: jax.Array, state: ServingState, params: ServingParams) -> Placed:
        """Send the current request where an action says."""
        queues, fleet, now = state.queues, params.fleet, state.now
        if self.splits:
            images, option = self.divide(action, state.request, params)
            fate, queues = dispatch_parts(
                *(fleet, state.availability, queues, state.request, now),
                images=images,
                variant=params.variant[option],
                steps=params.steps[option],
            )
            cloud = jnp.sum(jnp.where(fleet.elastic, images, 0)) / state.request.images
        else:
            server, option = self.choice(action, params)
            fate, queues = dispatch(
                *(fleet, state.availability, queues, state.request, now),
                server=server,
                variant=params.variant[option],
                steps=params.steps[option],
            )
            fate = jax.tree.map(lambda leaf: leaf[None], fate)
            images = state.request.images[None]
            cloud = fleet.elastic[server] & (server >= 0)
        return Placed(fate, images, params.quality[option], cloud, queues)

    def choice(self, action: jax.Array, params: ServingParams) -> tuple[jax.Array, jax.Array]:
        """[] int the server, −1 where the request is refused, and [] int the option of an index."""
        mask = self.action_mask(params)
        index = jnp.clip(jnp.asarray(action), 0, self.num_actions - 1)
        index = jnp.where(mask[index], index, jnp.argmax(mask))
        refused = index >= self.num_servers * self.num_options
        server, option = jnp.divmod(index, self.num_options)
        return jnp.where(refused, -1, server), option

    def action_of(self, server: jax.Array, option: jax.Array) -> jax.Array:
        """[] int, the index of a server, −1 to refuse, and an option.

        Where nobody can be refused, that is the last server's last option.
        """
        index = server * self.num_options + option
        return jnp.where(server < 0, self.num_actions - 1, index)

    def divide(
        self, scores: jax.Array, request: Request, params: ServingParams
    ) -> tuple[jax.Array, jax.Array]:
        """[B] int32 images of a request for each server, and [] int the option, of scores."""
        scores = jnp.nan_to_num(
            jnp.asarray(scores, params.fleet.rate.dtype),
            nan=-LARGEST_SCORE,
            posinf=LARGEST_SCORE,
            neginf=-LARGEST_SCORE,
        )
        option = jnp.argmax(scores[self.num_servers :])
        offers = params.allowed[:, option]
        fraction = jax.nn.softmax(scores[: self.num_servers], where=offers)
        return whole_images(fraction, request.images), option

    def _settle(self, placed: Placed, state: ServingState, params: ServingParams) -> Settled:
        """What a decision leaves: what is answered, what has failed and what waits to be sent anew.

        A part that is lost waits until that is known, with the images that it has.
        """
        fate, parts = placed.fate, placed.images.shape[0]
        free = jnp.isinf(state.lost.known)
        again = fate.lost & (state.attempt + 1 < params.attempts)
        nth = jnp.cumsum(again) if parts > 1 else again.astype(jnp.int32)  # [P]
        again = again & (nth <= jnp.sum(free))
        waits = jnp.sum(again, dtype=jnp.int32)
        failed = jnp.any(fate.lost & ~again)
        answered = jnp.max(jnp.where(fate.lost, -jnp.inf, fate.answered))
        answered = jnp.where(failed, jnp.inf, answered)
        quality, wholes, whole = placed.quality, state.wholes, state.whole
        resolved = waits == 0
        if self.splits:
            known = whole >= 0
            answered = jnp.where(known, jnp.maximum(answered, wholes.answered[whole]), answered)
            quality = jnp.where(known, jnp.minimum(quality, wholes.quality[whole]), quality)
            still = jnp.where(known, wholes.open[whole] - 1, 0) + waits
            whole = jnp.where(known, whole, jnp.argmin(wholes.open).astype(jnp.int32))
            resolved = still == 0
            row = Wholes(still, answered, quality)
            mine = jnp.where(known | (waits > 0), whole, self.places)  # none, where none is open
            wholes = jax.tree.map(
                lambda leaf, value: leaf.at[mine].set(value, mode="drop"), wholes, row
            )
        # The k-th loss goes to the k-th free place.
        if parts == 1:
            place = jnp.min(jnp.where(free, jnp.arange(self.places), self.places), keepdims=True)
        else:
            (places,) = jnp.nonzero(free, size=parts, fill_value=self.places)
            place = places[jnp.maximum(nth - 1, 0)]
        place = jnp.where(again, place, self.places)  # nowhere, where there is no loss
        share = placed.images / state.request.images
        request = state.request._replace(
            size=state.request.size * share,
            result=state.request.result * share,
            images=placed.images,
        )
        lost = Lost(
            state.lost.known.at[place].set(fate.known, mode="drop"),
            state.lost.entry.at[place].set(_pack(request, state.attempt + 1, whole), mode="drop"),
        )
        delay = answered - state.request.arrival
        return Settled(resolved, delay, quality, lost, wholes)

    def _advance(
        self, queues: Queues, settled: Settled, state: ServingState, params: ServingParams
    ) -> tuple[ServingState, jax.Array]:
        """The state at the next decision, had the episode gone on; [] bool, whether it is over."""
        lost, upcoming = settled.lost, state.upcoming
        first = jnp.argmin(lost.known)
        known = lost.known[first]
        comes = (upcoming.arrival <= params.horizon) & (state.number <= params.max_requests)
        again = jnp.isfinite(known) & ((known <= upcoming.arrival) | ~comes)
        over = ~again & ~comes
        now = jnp.where(again, known, upcoming.arrival)
        now = jnp.where(jnp.isfinite(now), now, state.now)  # nobody comes any more
        arrived = upcoming._replace(arrival=jnp.minimum(upcoming.arrival, now))
        request, attempt, whole = _unpack(lost.entry[first])
        request = jax.tree.map(lambda one, other: jnp.where(again, one, other), request, arrived)
        following, law = params.arrivals.next(
            draws.fold_in(state.key, state.number), upcoming.arrival, state.law
        )
        following = _numbers(following, queues.free.dtype)
        following, law = jax.tree.map(
            lambda old, new: jnp.where(again, old, new), (upcoming, state.law), (following, law)
        )
        going_on = ServingState(
            queues=listen(params.fleet, state.availability, queues, now),
            availability=state.availability,
            now=now,
            request=request,
            attempt=jnp.where(again, attempt, 0),
            whole=jnp.where(again, whole, -1),
            upcoming=following,
            law=law,
            number=state.number + ~again,
            key=state.key,
            lost=lost._replace(
                known=jnp.where(again & (jnp.arange(self.places) == first), jnp.inf, lost.known)
            ),
            wholes=settled.wholes,
            time=state.time + 1,
        )
        return going_on, over

    def view(self, state: ServingState, params: ServingParams) -> View:
        """What the station sees under the environment's information model."""
        return view_of(
            *(params, state.availability, state.queues, state.request, state.attempt),
            *(state.now, self.information),
        )

    @property
    def _features(self) -> tuple[Feature, ...]:
        return tuple(feature for feature in FEATURES if self._options.features in feature.sets)

    def features(self, state: ServingState, params: ServingParams) -> dict[str, jax.Array]:
        """The observation by name, each feature with its axes."""
        return self._seen(self.view(state, params), params)

    def _seen(self, view: View, params: ServingParams) -> dict[str, jax.Array]:
        outlook, dtype = expect(view, params), params.fleet.step_time.dtype
        seen = {}
        for feature in self._features:
            value = jnp.asarray(feature.value(view, outlook, params), dtype)
            seen[feature.name] = self._laid_out(jnp.clip(value, 0, MANY), feature.axes, params)
        if self._options.features == "options":
            seen[MASK] = self.action_mask(params).astype(dtype)
        return seen

    def _laid_out(self, value: jax.Array, axes: str, params: ServingParams) -> jax.Array:
        """A feature with its axes; under "options" [A], 0 of refusing, where it has any."""
        if self._options.features != "options" or not axes:
            return value
        if axes == "BM":
            value = value[:, params.variant]
        elif axes == "B":
            value = value[:, None]
        of_each = jnp.broadcast_to(value, (self.num_servers, self.num_options)).ravel()
        return jnp.pad(of_each, (0, int(self._options.refuse)))

    def observe(self, view: View, params: ServingParams) -> jax.Array:
        """[observation_size] of a view; a pure function on one example."""
        return jnp.concatenate([jnp.ravel(value) for value in self._seen(view, params).values()])

    def observe_state(self, state: ServingState, params: ServingParams) -> jax.Array:
        """[observation_size] the features, one after the other."""
        return self.observe(self.view(state, params), params)

    def feature_layout(self, params: ServingParams | None = None) -> tuple[tuple[str, int], ...]:
        """The features of an observation in their order, (name, length)."""
        return tuple((name, math.prod(shape)) for name, shape in self._shapes(params))

    def feature_names(self, params: ServingParams | None = None) -> tuple[str, ...]:
        """[observation_size] what each entry of an observation is."""
        return tuple(
            name + (f"[{', '.join(map(str, index))}]" if index else "")
            for name, shape in self._shapes(params)
            for index in np.ndindex(*shape)
        )

    def _shapes(self, params: ServingParams | None) -> list[tuple[str, tuple[int, ...]]]:
        """The features in their order, each with its shape."""
        if self._options.features == "options":
            each = (self.num_actions,)
            return [*((f.name, each if f.axes else ()) for f in self._features), (MASK, each)]
        params = self.default_params if params is None else params
        sizes = {"B": self.num_servers, "M": params.fleet.num_variants, "O": self.num_options}
        return [(f.name, tuple(sizes[axis] for axis in f.axes)) for f in self._features]

    def draw(self, axes: Axes, state: ServingState, params: ServingParams) -> None:
        """Every server's backlog, as told and true, into the axes of a figure."""
        fleet, servers = params.fleet, np.arange(self.num_servers)
        true, _, up = ask_all(fleet, state.availability, state.queues, state.now)
        axes.bar(servers - 0.2, state.queues.told, 0.4, color="#0072B2", label="told")
        axes.bar(servers + 0.2, true, 0.4, color="#E69F00", label="true")
        names = ["cloud" if elastic else str(i) for i, elastic in enumerate(fleet.elastic)]
        names = [name if there else f"{name} (down)" for name, there in zip(names, up, strict=True)]
        axes.set(xlabel="server", ylabel="backlog [s]", xticks=servers, xticklabels=names)
        axes.set_ylim(
            0, max(DRAWN, 1.1 * float(np.max(true)), 1.1 * float(state.queues.told.max()))
        )
        axes.set_title(
            f"{float(state.now):.1f} s, a request at station {int(state.request.origin)}"
        )
        axes.legend(loc="upper right", frameon=False)

    def observation_space(self, params: ServingParams) -> gymnax_spaces.Box:
        """Numbers from 0 to ``MANY``, of order 1."""
        size = sum(length for _, length in self.feature_layout(params))
        return gymnax_spaces.Box(0.0, MANY, (size,), params.fleet.step_time.dtype)

    def summary(self, totals: dict[str, jax.Array], length: jax.Array) -> dict[str, jax.Array]:
        """An episode's figures from the sums of ``metric_names`` over its decisions.

        served, lost (never answered), retried (dispatches beyond the first), cold_starts and
        cloud are a request; quality is of the served, delay of the answered.
        """
        del length
        requests = totals["requests"]
        figures = {
            name: totals[name] / requests
            for name in ("served", "lost", "retried", "cold_starts", "cloud")
        }
        figures["quality"] = totals["quality"] / jnp.maximum(totals["served"], 1)
        figures["delay"] = totals["delay"] / jnp.maximum(totals["answered"], 1)
        return figures


def _without_tables(state: ServingState) -> ServingState:
    """The state without what is large and can stay from one episode to the next."""
    lost: Any = state.lost
    return state._replace(
        queues=replace(state.queues, **dict.fromkeys(TABLES)), lost=lost._replace(entry=None)
    )


def _numbers(request: Request, dtype: DTypeLike) -> Request:
    """A request whose entries are arrays of one kind each, whatever a law returned."""
    whole = ("origin", "images")
    return Request(
        **{
            name: jnp.asarray(value, jnp.int32 if name in whole else dtype)
            for name, value in request._asdict().items()
        }
    )


def _figures(placed: Placed, settled: Settled, state: ServingState) -> dict[str, jax.Array]:
    """What a decision adds to the sums of an episode, by the names in ``metric_names``."""
    request, dtype = state.request, settled.delay.dtype
    answered = settled.resolved & jnp.isfinite(settled.delay)
    quality = jnp.clip(settled.quality * request.factor, 0, 1)
    served = answered & (settled.delay <= request.limit) & (quality >= request.quality)
    figures = {
        "requests": settled.resolved,
        "served": served,
        "quality": jnp.where(served, quality, 0),
        "answered": answered,
        "delay": jnp.where(answered, settled.delay, 0),
        "lost": settled.resolved & ~answered,
        "retried": state.attempt > 0,
        "cold_starts": jnp.sum((placed.fate.cold > 0) & (placed.images > 0)),
        "cloud": placed.cloud,
    }
    return {name: jnp.asarray(value, dtype) for name, value in figures.items()}
