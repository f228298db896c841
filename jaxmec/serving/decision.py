"""One decision in event time, and what servers tell (docs/serving.md: "One decision").

Service is first come first served and never preempted, and outages do not depend on what is
decided. So all that will become of a request is known when it is dispatched: there is no queue of
events. A policy sees none of it; it sees what servers told about themselves (:func:`listen`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.serving.availability import Availability, Troubles
from jaxmec.serving.fleet import Fleet
from jaxmec.struct import Leaf, Scalar, is_concrete, pytree, replace

LONG = 1e9  # s: what is later never comes


class Request(NamedTuple):
    """What one station is asked for."""

    arrival: jax.Array  # [] s
    origin: jax.Array  # [] int, the station; station i stands at server i
    size: jax.Array  # [] Mbit, d: the way in
    result: jax.Array  # [] Mbit, e: the way back
    images: jax.Array  # [] int, n
    quality: Scalar = 0.0  # [] in [0, 1], the least that will do
    limit: Scalar = float("inf")  # [] s, τ, from the arrival
    factor: Scalar = 1.0  # [] times an option's quality is this answer's (a share painted, say)


class Fate(NamedTuple):
    """What becomes of one request at one server; known here, and to nobody in the network."""

    at: Scalar  # [] s, when it is at the server
    ready: jax.Array  # [] s, when it is its turn
    cold: jax.Array  # [] s of ``ask`` that bring its variant into memory
    ask: jax.Array  # [] s of service at nominal speed
    lost: jax.Array  # [] bool, the server crashes before it is done
    answered: jax.Array  # [] s, when the answer is back at the station; infinite if lost
    known: jax.Array  # [] s, when the station knows that it is lost; infinite if it is not


@pytree
class Queues:
    """What lies at B servers, what they told, and what S stations know that they sent."""

    free: Leaf  # [B] s, when all that was dispatched is done
    recency: Leaf  # [B, M] int32, the order in which variants were last dispatched; 0 not resident
    holds: Leaf  # [B] int32, a bit for each variant that is resident
    cleared: Leaf  # [B] s: no outage up to here can clear the memory any more
    queued: Leaf  # [B] s at nominal speed: the work at the queue's tail, as if nothing were lost
    link: Leaf  # [S] s, when each station's uplink is free
    dispatched: Leaf  # [] int32, how many have been
    beat: Leaf  # [B] int32, k of the last heartbeat; −1 before the first
    told_at: Leaf  # [B] s, when that was, φ + kH; 0 before the first
    told: Leaf  # [B] s at nominal speed, the backlog that the server told then
    told_holds: Leaf  # [B] int32, a bit for each variant that was resident then
    sent_after: Leaf  # [S, B] int32, after which heartbeat a station last sent to a server
    sent_work: Leaf  # [S, B] s at nominal speed, that it sent since
    sent_holds: Leaf  # [S, B] int32, a bit for each variant of it
    epoch: Leaf  # [] int32, above all of episodes gone by, whose sendings no longer count

    @classmethod
    def empty(cls, fleet: Fleet, stations: int) -> Queues:
        """Nothing dispatched, nothing resident, nothing told.

        Raises:
            ValueError: more stations than servers, at which they stand, or none.
        """
        servers, variants = fleet.num_servers, fleet.num_variants
        if not 1 <= stations <= servers:
            raise ValueError(f"stations must be between 1 and {servers}, got {stations}")
        zero, none = jnp.zeros(servers), jnp.zeros(servers, jnp.int32)
        return cls(
            free=zero,
            recency=jnp.zeros((servers, variants), jnp.int32),
            holds=none,
            cleared=zero,
            queued=zero,
            link=jnp.zeros(stations),
            dispatched=jnp.zeros((), jnp.int32),
            beat=jnp.full(servers, -1, jnp.int32),
            told_at=zero,
            told=zero,
            told_holds=none,
            sent_after=jnp.full((stations, servers), -1, jnp.int32),
            sent_work=jnp.zeros((stations, servers)),
            sent_holds=jnp.zeros((stations, servers), jnp.int32),
            epoch=jnp.zeros((), jnp.int32),
        )

    def anew(self) -> Queues:
        """Empty queues for another episode, in O(B).

        What stations have sent is O(S B); it is left where it lies and no longer counts.
        """
        zero, none = jnp.zeros_like(self.free), jnp.zeros((), jnp.int32)
        return replace(
            self,
            free=zero,
            recency=jnp.zeros_like(self.recency),
            holds=jnp.zeros_like(self.holds),
            cleared=zero,
            queued=zero,
            link=jnp.zeros_like(self.link),
            dispatched=none,
            beat=jnp.full_like(self.beat, -1),
            told_at=zero,
            told=zero,
            told_holds=jnp.zeros_like(self.told_holds),
            epoch=self.epoch + jnp.max(self.beat) + 2,
        )

    @property
    def told_resident(self) -> jax.Array:
        """[B, M] bool, what was resident when a server last told."""
        return _variants(self.told_holds, self.recency.shape[-1])

    def sent_by(self, station: Scalar) -> tuple[jax.Array, jax.Array]:
        """What a station has sent to each server since that last told.

        Returns:
            [B] s at nominal speed; [B, M] bool, of which variants.
        """
        counts = self.sent_after[station] == self.beat + self.epoch
        holds = jnp.where(counts, self.sent_holds[station], 0)
        work = jnp.where(counts, self.sent_work[station], 0)
        return work, _variants(holds, self.recency.shape[-1])


def _variants(holds: jax.Array, count: int) -> jax.Array:
    """[..., M] bool, of bits [...]."""
    return (holds[..., None] >> jnp.arange(count, dtype=jnp.int32)) & 1 > 0


def _bits(variants: jax.Array) -> jax.Array:
    """[...] int32, of variants [..., M] bool."""
    index = jnp.arange(variants.shape[-1], dtype=jnp.int32)
    return jnp.sum(jnp.where(variants, jnp.int32(1) << index, 0), axis=-1, dtype=jnp.int32)


class _Server(NamedTuple):
    """All there is of one server."""

    step_time: jax.Array  # [M] s
    task_time: jax.Array  # [M] s
    load_time: jax.Array  # [M] s
    memory: jax.Array  # [] GB
    rate: jax.Array  # [] Mbit/s
    latency: jax.Array  # [] s
    elastic: jax.Array  # [] bool
    speed: Troubles  # [K] each
    free: jax.Array  # [] s
    recency: jax.Array  # [M] int32
    cleared: jax.Array  # [] s
    queued: jax.Array  # [] s at nominal speed


OF_EVERY = _Server._make(int(name == "speed") for name in _Server._fields)  # axes of servers


def _servers(fleet: Fleet, availability: Availability | Troubles, queues: Queues) -> _Server:
    """Every server, [B] each, along the axes ``OF_EVERY``."""
    return _Server(
        fleet.step_time,
        fleet.task_time,
        fleet.load_time,
        fleet.memory,
        fleet.rate,
        fleet.latency,
        fleet.elastic,
        availability.troubles,
        queues.free,
        queues.recency,
        queues.cleared,
        queues.queued,
    )


def _one(servers: _Server, server: Any) -> _Server:
    """One of them."""
    return _Server._make(
        jax.tree.map(lambda leaf: leaf[:, server], field)
        if isinstance(field, Troubles)
        else field[server]
        for field in servers
    )


class _Part(NamedTuple):
    """Images on their way to one server."""

    at: Scalar  # [] s, when they are there
    back: Scalar  # [] s that the answer takes home
    images: Scalar  # [] int32
    variant: Scalar  # [] int32
    steps: Scalar  # [] int32


def _serve(
    server: _Server, part: _Part, size: jax.Array, detect: jax.Array, order: jax.Array
) -> tuple[Fate, _Server]:
    """One part at one server, the ``order``-th that was dispatched."""
    at, variant = part.at, part.variant
    speed, elastic = server.speed, server.elastic
    chosen = jnp.arange(size.shape[0]) == variant

    def of_variant(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(chosen, values, 0))

    ready = speed.up_from(jnp.where(elastic, at, jnp.maximum(at, server.free)))
    recency = jnp.where(speed.last_outage(ready) > server.cleared, 0, server.recency)
    warm = elastic | (of_variant(recency) > 0)
    cold = jnp.where(warm, 0, of_variant(server.load_time))
    steps = part.images * part.steps
    ask = cold + of_variant(server.task_time) + steps * of_variant(server.step_time)
    begun = speed.work_by(ready)
    done = speed.time_of(begun + ask)
    crash = jnp.where(elastic, jnp.inf, speed.next_outage(ready))
    lost = done > crash
    up_again = speed.up_from(crash)

    after = server._replace(
        free=jnp.where(lost, up_again, done),
        recency=jnp.where(lost, 0, _make_room(recency, size, server.memory, chosen, order)),
        cleared=jnp.maximum(server.cleared, jnp.where(lost, up_again, ready)),
        queued=jnp.maximum(server.queued, begun) + ask,
    )
    fate = Fate(
        at=at,
        ready=ready,
        cold=cold,
        ask=ask,
        lost=lost,
        answered=jnp.where(lost, jnp.inf, done + server.latency + part.back),
        known=jnp.where(lost, crash + detect, jnp.inf),
    )
    return fate, jax.tree.map(lambda new, old: jnp.where(elastic, old, new), after, server)


def _make_room(
    recency: jax.Array, size: jax.Array, memory: jax.Array, chosen: jax.Array, order: jax.Array
) -> jax.Array:
    """[M] int32: what stays when one variant is wanted, the least recently used leaving first.

    A variant stays where it fits together with the one that is wanted and all that were used
    since.
    """
    held = jnp.where(chosen | (recency == 0), 0, size)  # [M] GB
    since = recency[None, :] >= recency[:, None]
    needed = jnp.sum(jnp.where(since, held, 0), axis=1) + jnp.sum(jnp.where(chosen, size, 0))
    return jnp.where(chosen, order, jnp.where(needed <= memory, recency, 0))


def dispatch(
    fleet: Fleet,
    availability: Availability | Troubles,
    queues: Queues,
    request: Request,
    now: Scalar,
    *,
    server: Scalar,
    variant: Scalar,
    steps: Scalar,
) -> tuple[Fate, Queues]:
    """Send a request to one server.

    Args:
        fleet, availability, queues: where, and how things stand.
        request: what is asked.
        now: [] s, its arrival, or when its loss is known; no earlier than at the last dispatch.
        server: [] int, whom it goes to; −1: nobody, and it is never answered.
        variant: [] int, a variant that fits there (``fleet.fits``).
        steps: [] int, z denoising steps an image.

    Returns:
        What becomes of it, and the queues after it.

    Raises:
        ValueError: a server, variant or number of steps that there cannot be, as far as they are
            known now.
    """
    _check_choice(fleet, server, variant, steps)
    one = _one(_servers(fleet, availability, queues), server)
    sent = server >= 0
    remote = sent & (server != request.origin)
    link = queues.link[request.origin]
    at = jnp.where(remote, jnp.maximum(now, link) + request.size / one.rate, now)
    back = jnp.where(remote, request.result / one.rate, 0)
    order = queues.dispatched + 1
    part = _Part(at, back, request.images, variant, steps)
    fate, after = _serve(one, part, fleet.size, fleet.detect, order)
    fate = fate._replace(
        lost=sent & fate.lost,
        cold=jnp.where(sent, fate.cold, 0),
        answered=jnp.where(sent, fate.answered, jnp.inf),
        known=jnp.where(sent, fate.known, jnp.inf),
    )
    # Written there, and not chosen everywhere: each number is then worked out once.
    here = jnp.where(sent, server, fleet.num_servers)  # is dropped, where nobody is asked
    recency = queues.recency.at[here].set(after.recency, mode="drop")
    queues = replace(
        queues,
        free=queues.free.at[here].set(after.free, mode="drop"),
        recency=recency,
        holds=queues.holds.at[here].set(_bits(recency[server] > 0), mode="drop"),
        cleared=queues.cleared.at[here].set(after.cleared, mode="drop"),
        queued=queues.queued.at[here].set(after.queued, mode="drop"),
        link=queues.link.at[request.origin].set(jnp.where(remote, at, link)),
        dispatched=order,
    )
    return fate, _remember(queues, request.origin, server, fate.ask - fate.cold, variant)


def dispatch_parts(
    fleet: Fleet,
    availability: Availability | Troubles,
    queues: Queues,
    request: Request,
    now: Scalar,
    *,
    images: jax.Array,
    variant: Scalar,
    steps: Scalar,
) -> tuple[Fate, Queues]:
    """Split a request over servers: each part is a decision, in the order of the servers.

    Args:
        fleet, availability, queues, request, now: as of :func:`dispatch`.
        images: [B] int, how many each server paints; they sum to ``request.images``.
        variant, steps: [B] int, or one for all.

    Returns:
        The fate of every part [B], and the queues after it. Where a server has no image, its
        part is answered at −∞ and never lost: the answer is the last of all.

    Raises:
        ValueError: another shape than [B]; a variant or steps that there cannot be, if known now.
    """
    num_servers = fleet.num_servers
    if jnp.shape(images) != (num_servers,):
        raise ValueError(f"images must have shape ({num_servers},), got {jnp.shape(images)}")
    _check_choice(fleet, jnp.arange(num_servers), variant, steps, asked=images)
    variant, steps = jnp.broadcast_to(variant, num_servers), jnp.broadcast_to(steps, num_servers)
    asked = images > 0
    remote = asked & (jnp.arange(num_servers) != request.origin)
    share = images / jnp.maximum(request.images, 1).astype(fleet.rate.dtype)
    # A station's uplink sends one part after the other, in the order of the servers.
    sending = jnp.cumsum(jnp.where(remote, share * request.size / fleet.rate, 0))
    link = queues.link[request.origin]
    at = jnp.where(remote, jnp.maximum(now, link) + sending, now)
    back = jnp.where(remote, share * request.result / fleet.rate, 0)
    servers = _servers(fleet, availability, queues)
    order = queues.dispatched + 1
    fate, after = jax.vmap(_serve, in_axes=(OF_EVERY, 0, None, None, None))(
        servers, _Part(at, back, images, variant, steps), fleet.size, fleet.detect, order
    )
    fate = fate._replace(
        lost=fate.lost & asked,
        answered=jnp.where(asked, fate.answered, -jnp.inf),
        known=jnp.where(asked, fate.known, jnp.inf),
    )
    queues = replace(
        queues,
        free=jnp.where(asked, after.free, queues.free),
        recency=jnp.where(asked[:, None], after.recency, queues.recency),
        holds=jnp.where(asked, _bits(after.recency > 0), queues.holds),
        cleared=jnp.where(asked, after.cleared, queues.cleared),
        queued=jnp.where(asked, after.queued, queues.queued),
        link=queues.link.at[request.origin].set(jnp.max(jnp.where(remote, at, link))),
        dispatched=order,
    )
    everywhere = jnp.where(asked, jnp.arange(num_servers), -1)
    return fate, _remember(queues, request.origin, everywhere, fate.ask - fate.cold, variant)


def whole_images(fraction: Scalar, images: Scalar) -> jax.Array:
    """[B] int32: fractions [B] that sum to 1 as numbers of images, by largest remainder.

    The lower of two equal remainders' servers comes first.
    """
    exact = jnp.asarray(fraction) * images
    whole = jnp.floor(exact)
    missing = images - jnp.sum(whole)
    rank = jnp.argsort(jnp.argsort(whole - exact, stable=True), stable=True)
    return (whole + (rank < missing)).astype(jnp.int32)


def _remember(
    queues: Queues, station: Scalar, server: Scalar, work: jax.Array, variant: Scalar
) -> Queues:
    """The queues with what a station knows that it has sent: [...] whom, −1 nobody; how much."""
    after = queues.beat[server] + queues.epoch
    last = queues.sent_after[station, server]
    counts = last == after
    # Written after it is read, so that XLA changes the table where it lies.
    after = jnp.where(counts, last, after)
    work = work + jnp.where(counts, queues.sent_work[station, server], 0)
    holds = jnp.where(counts, queues.sent_holds[station, server], 0) | (jnp.int32(1) << variant)
    holds = jnp.asarray(holds, jnp.int32)
    server = jnp.where(server < 0, queues.beat.shape[0], server)  # is dropped
    return replace(
        queues,
        sent_after=queues.sent_after.at[station, server].set(after, mode="drop"),
        sent_work=queues.sent_work.at[station, server].set(work, mode="drop"),
        sent_holds=queues.sent_holds.at[station, server].set(holds, mode="drop"),
    )


def listen(
    fleet: Fleet, availability: Availability | Troubles, queues: Queues, now: Scalar
) -> Queues:
    """The queues with all heartbeats up to ``now`` [] s heard.

    To be called before each decision, at its time: a server tells of what was dispatched to it
    before. One that is down tells nothing. What it tells is its backlog as if nothing that it
    holds would be lost; the first heartbeat after an outage puts that right.
    """

    speed = hearing(fleet, availability)
    beat = _last_beat(speed, fleet.phase, fleet.heartbeat, now)
    at = fleet.phase + beat * fleet.heartbeat
    queued, told, holds = _tell(fleet, speed, queues, at)
    heard = beat > queues.beat
    return replace(
        queues,
        beat=jnp.where(heard, beat, queues.beat),
        told_at=jnp.where(heard, at, queues.told_at),
        queued=jnp.where(heard, queued, queues.queued),
        told=jnp.where(heard, told, queues.told),
        told_holds=jnp.where(heard, holds, queues.told_holds),
    )


def _tell(
    fleet: Fleet, speed: Troubles, queues: Queues, at: Scalar
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What servers tell at ``at`` [B]: queued, backlog and bits of what is resident [B]."""
    fell = speed.last_outage(at)
    before = jnp.where(queues.beat < 0, -1, queues.told_at)
    queued = jnp.where(fell > before, speed.work_by(queues.free), queues.queued)
    backlog = jnp.maximum(queued - speed.work_by(at), 0)
    holds = jnp.where(fell <= queues.cleared, queues.holds, 0)
    holds = jnp.where(fleet.elastic, 2**fleet.num_variants - 1, holds)
    return queued, jnp.where(fleet.elastic, 0, backlog), holds


def ask_all(
    fleet: Fleet, availability: Availability | Troubles, queues: Queues, now: Scalar
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What every server would tell ``now`` [] s, were it asked and could it answer.

    Returns:
        Backlog [B] s at nominal speed, residency [B, M] bool, and who is up [B] bool.
    """
    speed = availability.troubles
    _, backlog, holds = _tell(fleet, speed, queues, now)
    return backlog, _variants(holds, fleet.num_variants), speed.up_from(now) <= now


def foresee(
    fleet: Fleet,
    availability: Availability | Troubles,
    queues: Queues,
    request: Request,
    now: Scalar,
    *,
    variant: Scalar,
    steps: Scalar,
) -> Fate:
    """What would become of a request [B, O] at each server with each of O options.

    Args:
        variant, steps: [O] int.
    """
    servers = _servers(fleet, availability, queues)
    remote = jnp.arange(fleet.num_servers) != request.origin
    link = jnp.maximum(now, queues.link[request.origin])
    at = jnp.where(remote, link + request.size / fleet.rate, now)
    back = jnp.where(remote, request.result / fleet.rate, 0)

    def one(server: _Server, at: Scalar, back: Scalar, variant: Scalar, steps: Scalar) -> Fate:
        part = _Part(at, back, request.images, variant, steps)
        return _serve(server, part, fleet.size, fleet.detect, queues.dispatched + 1)[0]

    options = jax.vmap(one, in_axes=(None, None, None, 0, 0))
    return jax.vmap(options, in_axes=(OF_EVERY, 0, 0, None, None))(
        servers, at, back, variant, steps
    )


def missed_beats(fleet: Fleet, queues: Queues, now: Scalar) -> jax.Array:
    """[B] int32: the heartbeats that were due by ``now`` [] s since the last that was heard."""
    due = jnp.floor((now - fleet.phase) / fleet.heartbeat).astype(jnp.int32)
    return jnp.maximum(due - queues.beat, 0)


def hearing(fleet: Fleet, availability: Availability | Troubles) -> Troubles:
    """The troubles with the last heartbeat that was heard before each outage.

    An episode that listens often has this worked out once.
    """
    troubles = availability.troubles
    if troubles.beat is not None:
        return troubles
    falls, phase = troubles.falls, fleet.phase
    before = _beat_by(jnp.minimum(falls, LONG), phase, fleet.heartbeat, True)
    # Since the outage before it ended.
    ended = jax.lax.associative_scan(jnp.maximum, jnp.where(jnp.isfinite(falls), troubles.end, 0))
    since = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
    told = jnp.isfinite(falls) & (phase + before * fleet.heartbeat >= since)
    return replace(troubles, beat=jnp.where(told, before, -1))


def _beat_by(until: Scalar, phase: Scalar, heartbeat: Scalar, before: bool = False) -> jax.Array:
    """The largest whole k with φ + kH ≤ until, or < until where ``before``."""
    k = jnp.floor((until - phase) / heartbeat)
    # A quotient is rounded; what counts is where the heartbeats themselves are.
    k = k + (phase + (k + 1) * heartbeat <= until)
    k = k - (phase + k * heartbeat > until)
    return k - (phase + k * heartbeat == until) if before else k


def _last_beat(speed: Troubles, phase: Scalar, heartbeat: Scalar, now: Scalar) -> jax.Array:
    """[B] int32: k of the last heartbeat, at φ + kH, up to ``now`` at which a server was up; or −1.

    It is the last of all, or the last before the outage that this falls into.
    """
    latest = _beat_by(now, phase, heartbeat)
    at = phase + latest * heartbeat
    begun = speed.falls <= at  # [K, B]
    up_again = jnp.max(jnp.where(begun, speed.end, -jnp.inf), axis=0)
    before = jnp.max(jnp.where(begun, speed.beat, -1), axis=0)
    return jnp.where(up_again > at, before, jnp.maximum(latest, -1)).astype(jnp.int32)


def _check_choice(fleet: Fleet, server: Any, variant: Any, steps: Any, asked: Any = True) -> None:
    """Raise ``ValueError`` for a choice that there cannot be, as far as it is known now."""
    if not is_concrete(server, variant, steps, asked, fleet.size, fleet.memory):
        return
    server, variant, steps, asked = np.broadcast_arrays(server, variant, steps, asked)
    for name, values, expected in (
        ("server", server, fleet.num_servers),
        ("variant", variant, fleet.num_variants),
    ):
        least = -1 if name == "server" else 0
        wrong = values[(values < least) | (values >= expected)]
        if wrong.size:
            raise ValueError(f"{name} must be between {least} and {expected - 1}, got {wrong[0]}")
    if np.any(steps < 1):
        raise ValueError(f"steps must be at least 1, got {steps[steps < 1][0]}")
    homeless = (np.asarray(asked) > 0) & (server >= 0) & ~np.asarray(fleet.fits)[server, variant]
    if np.any(homeless):
        raise ValueError(
            f"variant {variant[homeless][0]} must fit server {server[homeless][0]}: it takes "
            f"{float(fleet.size[variant[homeless][0]]):g} GB of "
            f"{float(fleet.memory[server[homeless][0]]):g}"
        )
