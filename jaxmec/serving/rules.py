"""Rules that decide where requests are served, each a function and a row (docs/serving.md).

A rule sees a :class:`jaxmec.serving.view.View` made under its information model and nothing else.
It names a server and one of the options; server −1 refuses the request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from jaxmec.core import checks
from jaxmec.core.naming import look_up
from jaxmec.core.types import Memory
from jaxmec.serving.decision import foresee
from jaxmec.serving.scenario import ServingParams
from jaxmec.serving.view import INFORMATION, Outlook, View, expect

Choice = tuple[jax.Array, jax.Array]  # [] int server, [] int option
Decide = Callable[[ServingParams, View, Memory, jax.Array], tuple[Choice, Memory]]
SUSPECT = 30.0  # s that a server which is silent, or seen to be down, is expected to take longer
NEVER = 1e9  # s


def _no_memory(params: ServingParams) -> tuple[()]:
    del params
    return ()


@dataclasses.dataclass(frozen=True)
class ServingRule:
    """A rule, and what it may know.

    ``decide(params, view, memory, key)`` returns the server and the option, and the memory for the
    next decision of the same episode.
    """

    name: str
    about: str  # one line
    information: str  # the least information model that it needs
    decide: Decide
    init_memory: Callable[[ServingParams], Memory] = _no_memory

    def __post_init__(self) -> None:
        checks.fields(self, information=checks.one_of(INFORMATION))

    def allowed_information(self, requested: str | None) -> str:
        """The information model to run under: ``requested``, or the rule's own.

        Raises:
            ValueError: an unknown model, or one that shows less than the rule needs.
        """
        if requested is None:
            return self.information
        checks.require("information", requested, checks.one_of(INFORMATION))
        if INFORMATION.index(requested) < INFORMATION.index(self.information):
            raise ValueError(
                f"rule {self.name!r} needs information {self.information!r}, got {requested!r}"
            )
        return requested


# What rules are made of


def good_enough(params: ServingParams, view: View) -> jax.Array:
    """[B, O] bool: what can be had and is good enough; what can be had at all, if nothing is."""
    request = view.request
    good = params.allowed & (params.quality * request.factor >= request.quality)
    return jnp.where(jnp.any(good), good, params.allowed)


def silent(view: View) -> jax.Array:
    """[B] bool: a server that missed a heartbeat, or is seen to be down."""
    return (view.missed > 0) | ~view.up


def _expected(params: ServingParams, view: View) -> Outlook:
    """What to expect, of servers that are silent too."""
    outlook = expect(view, params)
    late = jnp.where(silent(view) & ~params.fleet.elastic, SUSPECT, 0)
    return outlook._replace(finish=outlook.finish + late[:, None])


def _least(values: jax.Array, among: jax.Array) -> Choice:
    """The server and option of the least value [B, O] among those that may be."""
    index = jnp.argmin(jnp.where(among, values, jnp.inf))
    return jnp.divmod(index, values.shape[1])


def _cheapest(params: ServingParams, view: View, server: jax.Array) -> Choice:
    """A server, and the option there that is good enough and works least."""
    work = jnp.where(good_enough(params, view), expect(view, params).work, jnp.inf)[server]
    work = jnp.where(params.allowed[server], jnp.minimum(work, NEVER), jnp.inf)
    return server, jnp.argmin(work)


def _devices(params: ServingParams, view: View) -> jax.Array:
    """[B] bool: servers with a good enough option, the cloud left out where there are others."""
    able = jnp.any(good_enough(params, view), axis=1)
    own = able & ~params.fleet.elastic
    return jnp.where(jnp.any(own), own, able)


def _triage(params: ServingParams, view: View, choice: Choice, finish: jax.Array) -> Choice:
    """The choice if it is in time; else the cloud, or nobody where there is none."""
    fleet, (server, option) = params.fleet, choice
    at_cloud = params.allowed & fleet.elastic[:, None]
    cloud = _least(-jnp.broadcast_to(params.quality, at_cloud.shape), at_cloud)
    late = finish[server, option] > view.left
    away = jnp.where(jnp.any(at_cloud), cloud[0], -1)
    return jnp.where(late, away, server), jnp.where(late, cloud[1], option)


# The rules


def _random(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    server = jax.random.categorical(key, jnp.where(_devices(params, view), 0.0, -jnp.inf))
    return _cheapest(params, view, server), memory


def _turns(params: ServingParams) -> jax.Array:
    """[S] the next server of each station, all starting apart."""
    return jnp.arange(params.num_stations, dtype=jnp.int32)


def _round_robin(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    """The next one that is able, from where the station's turn is."""
    servers, station = params.fleet.num_servers, view.request.origin
    ahead = jnp.mod(jnp.arange(servers) - memory[station], servers)
    server = jnp.argmin(jnp.where(_devices(params, view), ahead, servers)).astype(jnp.int32)
    return _cheapest(params, view, server), memory.at[station].set((server + 1) % servers)


def _power_of_two(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    """The one that told the smaller backlog, of two different ones drawn alike."""
    devices = _devices(params, view)
    weight = jnp.where(devices, jax.random.gumbel(key, devices.shape), -jnp.inf)
    _, drawn = jax.lax.top_k(weight, min(2, weight.size))
    told = jnp.where(devices[drawn], view.told[drawn], jnp.inf)
    return _cheapest(params, view, drawn[jnp.argmin(told)]), memory


def _least_told(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    tie = jax.random.uniform(key, view.told.shape)
    told = jnp.where(_devices(params, view), view.told, jnp.inf)
    server = jnp.argmin(jnp.where(told <= jnp.min(told), tie, jnp.inf))
    return _cheapest(params, view, server), memory


def _shortest(cold: bool, triage: bool) -> Decide:
    """The soonest that is good enough, with or without regard to cold starts."""

    def decide(
        params: ServingParams, view: View, memory: Memory, key: jax.Array
    ) -> tuple[Choice, Memory]:
        outlook = _expected(params, view)
        finish = outlook.finish - (0 if cold else outlook.cold)
        choice = _least(finish, good_enough(params, view))
        return (_triage(params, view, choice, finish) if triage else choice), memory

    return decide


def _best_in_time(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    """The best quality that is in time, and of those the soonest; else as with triage."""
    finish = _expected(params, view).finish
    in_time = good_enough(params, view) & (finish <= view.left)
    best = jnp.max(jnp.where(in_time, params.quality, -1))
    choice = _least(finish, in_time & (params.quality == best))
    late = _triage(params, view, _least(finish, good_enough(params, view)), finish)
    found = jnp.any(in_time)
    server, option = (jnp.where(found, a, b) for a, b in zip(choice, late, strict=True))
    return (server, option), memory


def _affinity(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    """The soonest of those that hold the model, else the soonest; with triage."""
    outlook, good = _expected(params, view), good_enough(params, view)
    warm = good & (outlook.cold == 0) & ~params.fleet.elastic[:, None]
    among = jnp.where(jnp.any(warm), warm, good)
    choice = _least(outlook.finish, among)
    return _triage(params, view, choice, outlook.finish), memory


def fixed_price(price: float) -> Decide:
    """The best of quality in time, less the delay's price, less a price on a server's seconds."""

    def decide(
        params: ServingParams, view: View, memory: Memory, key: jax.Array
    ) -> tuple[Choice, Memory]:
        outlook = _expected(params, view)
        value = _utility(params, view, outlook.finish, (outlook.finish <= view.left) * 1.0)
        asked = jnp.where(params.fleet.elastic[:, None], 0, outlook.cold + outlook.work)
        return _least(price * asked - value, good_enough(params, view)), memory

    return decide


def _utility(params: ServingParams, view: View, finish: jax.Array, hope: jax.Array) -> jax.Array:
    """[B, O] the reward to expect of a finish in so many s that is served with ``hope``."""
    request = view.request
    late = (view.now - request.arrival + finish) / request.limit
    quality = jnp.clip(params.quality * request.factor, 0, 1)
    return hope * (quality + params.failure_cost) - params.impatience * jnp.clip(late, 0, 2)


NUMBERS: dict[str, tuple[float, float]] = {  # of the tuned rule: where it begins, and how wide
    "price": (-3.0, 1.0),  # logarithm, of a second of a server
    "cold_price": (1.0, 0.7),  # times it, of a second of a cold start
    "margin": (0.1, 0.3),  # of the time left that is kept
    "softness": (-2.0, 1.0),  # logarithm, of the time left over which hope falls
    "silence": (20.0, 15.0),  # s that a silent server is expected to take longer
    "others": (0.1, 0.2),  # s of work that others send a server in a s since it told
    "excess": (0.5, 0.5),  # what quality beyond the least counts
    "crowd": (0.0, 1.0),  # how the price rises with the backlog that servers have on average, 10 s
}


def index_worth(numbers: ArrayLike, params: ServingParams, view: View) -> jax.Array:
    """[B, O] hope · quality − delay's price − price on a server's seconds.

    Args:
        numbers: [8] as in ``NUMBERS``; they may be traced, to be tuned.
        params, view: what is decided, and what is seen of it.
    """
    price, cold_price, margin, softness, silence, others, excess, crowd = (
        jnp.asarray(numbers)[k] for k in range(len(NUMBERS))
    )
    fleet, request = params.fleet, view.request
    sent = view._replace(sent=view.sent + jnp.maximum(others, 0) * view.age)
    outlook = expect(sent, params)
    hidden = jnp.where(silent(view) & ~fleet.elastic, jnp.maximum(silence, 0), 0)
    finish = outlook.finish + hidden[:, None]
    left = jnp.maximum(view.left, 1e-3)
    # A cloud's answer is as late as it says; a server's is not.
    doubt = jnp.where(fleet.elastic[:, None], 1e-3, jnp.exp(softness)) * left
    kept = jnp.where(fleet.elastic[:, None], 0, margin) * left
    hope = jax.nn.sigmoid((view.left - finish - kept) / doubt)
    quality = jnp.clip(params.quality * request.factor, 0, 1)
    served = request.quality + excess * (quality - request.quality)
    worth = hope * (served + params.failure_cost)
    late = (view.now - request.arrival + finish) / request.limit
    worth = worth - params.impatience * jnp.clip(late, 0, 2)
    devices = ~fleet.elastic
    busy = jnp.sum(jnp.where(devices, outlook.start, 0)) / jnp.maximum(jnp.sum(devices), 1)
    each = jnp.exp(price) * jnp.exp(crowd * jnp.minimum(busy / 10, 3))
    asked = outlook.work + jnp.maximum(cold_price, 0) * outlook.cold
    return worth - jnp.where(fleet.elastic[:, None], 0, each * asked)


def index_rule(numbers: ArrayLike) -> Decide:
    """The best by :func:`index_worth` of what is good enough."""

    def decide(
        params: ServingParams, view: View, memory: Memory, key: jax.Array
    ) -> tuple[Choice, Memory]:
        worth = index_worth(numbers, params, view)
        return _least(-worth, good_enough(params, view)), memory

    return decide


def tuned(numbers: ArrayLike, name: str = "tuned") -> ServingRule:
    """The index rule with numbers of one's own, as ``jaxmec.experiment.tune_rule`` finds them."""
    about = "the best of hope, delay and a price on a server's seconds, by numbers found"
    return ServingRule(name, about, "local", index_rule(numbers))


def _clairvoyant(
    params: ServingParams, view: View, memory: Memory, key: jax.Array
) -> tuple[Choice, Memory]:
    """The soonest true answer, with triage."""
    assert view.truth is not None  # the information model shows it
    fate = foresee(
        *(params.fleet, *view.truth, view.request, view.now),
        variant=params.variant,
        steps=params.steps,
    )
    finish = jnp.minimum(fate.answered - view.now, NEVER)
    choice = _least(finish, good_enough(params, view))
    return _triage(params, view, choice, finish), memory


TUNED = (-2.9342, -0.1119, -0.3559, -2.5869, 23.6683, 0.2518, 1.0075, 0.8137)  # see docs/serving.md

RULES = {
    rule.name: rule
    for rule in (
        ServingRule("random", "any server, the least work that will do", "stale", _random),
        ServingRule(
            "round-robin", "the servers in turn, each station in its own", "stale", _round_robin,
            init_memory=_turns,
        ),
        ServingRule(
            "power-of-two", "of two servers drawn the one that told less", "stale", _power_of_two
        ),
        ServingRule("least-told", "the server that told the least backlog", "stale", _least_told),
        ServingRule(
            "shortest", "the soonest expected answer that is good enough", "local",
            _shortest(cold=True, triage=False),
        ),
        ServingRule(
            "shortest-warm", "the same, cold starts left out of account", "local",
            _shortest(cold=False, triage=False),
        ),
        ServingRule(
            "triage", "the soonest; what would be late goes to the cloud or is refused", "local",
            _shortest(cold=True, triage=True),
        ),
        ServingRule(
            "triage-warm", "the same, cold starts left out of account", "local",
            _shortest(cold=False, triage=True),
        ),
        ServingRule(
            "fixed-price", "the best utility, less 0.05 a second of a server", "local",
            fixed_price(0.05),
        ),
        ServingRule(
            "best-in-time", "the best quality that is in time", "local", _best_in_time
        ),
        ServingRule("affinity", "the soonest of those that hold the model", "local", _affinity),
        tuned(TUNED),
        ServingRule(
            "triage-full", "triage that knows the queues and who is up", "full",
            _shortest(cold=True, triage=True),
        ),
        ServingRule(
            "fixed-price-full", "the fixed price, likewise", "full", fixed_price(0.05)
        ),
        ServingRule(
            "triage-clairvoyant", "triage that knows the outages to come", "clairvoyant",
            _clairvoyant,
        ),
    )
}  # fmt: skip


def find_rule(name: str) -> ServingRule:
    """The rule of that name, or a ``ValueError`` that suggests the nearest one."""
    return look_up("rule", name, RULES)
