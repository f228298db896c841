"""What a station knows when it decides, under each information model."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmec.serving.availability import Troubles
from jaxmec.serving.decision import Queues, Request, ask_all, missed_beats
from jaxmec.serving.scenario import ServingParams
from jaxmec.struct import Scalar

INFORMATION = ("stale", "local", "full", "clairvoyant")


class View(NamedTuple):
    """What is seen of one decision.

    Under "stale" what was told and how old it is; under "local" also what the station has sent
    since, and its uplink; under "full" the true queues and residency, and who is up; under
    "clairvoyant" all of that and what is to come, in ``truth``. What is not shown is 0, or True of
    ``up``.
    """

    now: Scalar  # [] s
    request: Request
    attempt: Scalar  # [] int, how often it was lost already
    told: jax.Array  # [B] s at nominal speed, the backlog
    age: jax.Array  # [B] s, how old that is; since the beginning where nothing was told
    missed: jax.Array  # [B] int32, heartbeats that were due since and not heard
    resident: jax.Array  # [B, M] bool, as told
    sent: jax.Array  # [B] s at nominal speed that this station has sent since
    sent_variants: jax.Array  # [B, M] bool
    link: jax.Array  # [] s until the station's uplink is free
    up: jax.Array  # [B] bool
    truth: tuple[Troubles, Queues] | None = None  # only under "clairvoyant"

    @property
    def left(self) -> jax.Array:
        """[] s until the request is late; negative where it is."""
        return self.request.limit - (self.now - self.request.arrival)


def view_of(
    params: ServingParams,
    availability: Troubles,
    queues: Queues,
    request: Request,
    attempt: Scalar,
    now: Scalar,
    information: str,
) -> View:
    """The view of a decision at ``now`` [] s, whose heartbeats were heard (``listen``)."""
    fleet = params.fleet
    sent, variants = queues.sent_by(request.origin)
    view = View(
        now=now,
        request=request,
        attempt=attempt,
        told=queues.told,
        age=now - queues.told_at,
        missed=missed_beats(fleet, queues, now),
        resident=queues.told_resident,
        sent=sent,
        sent_variants=variants,
        link=jnp.maximum(queues.link[request.origin] - now, 0),
        up=jnp.ones(fleet.num_servers, bool),
    )
    if information == "stale":
        return stale(view)
    if information == "local":
        return view
    backlog, resident, up = ask_all(fleet, availability, queues, now)
    nothing = jnp.zeros_like(view.age)
    return view._replace(
        told=backlog,
        age=nothing,
        missed=jnp.zeros_like(view.missed),
        resident=resident,
        sent=nothing,
        sent_variants=jnp.zeros_like(variants),
        up=up,
        truth=(availability, queues) if information == "clairvoyant" else None,
    )


def stale(view: View) -> View:
    """Without what the station itself has sent, and its uplink."""
    return view._replace(
        sent=jnp.zeros_like(view.sent),
        sent_variants=jnp.zeros_like(view.sent_variants),
        link=jnp.zeros_like(view.link),
    )


class Outlook(NamedTuple):
    """What a station expects of a request, [B, O] at each server with each option."""

    start: jax.Array  # [B] s from now until its turn, at nominal speed
    cold: jax.Array  # [B, O] s
    work: jax.Array  # [B, O] s at nominal speed, cold start left out
    finish: jax.Array  # [B, O] s from now until the answer is there


def expect(view: View, params: ServingParams) -> Outlook:
    """By what is seen, as if servers had been up since they told and nobody else had sent.

    What was told has been worked off for as long as it is old; what was sent since comes on top.
    """
    fleet, request = params.fleet, view.request
    remote = jnp.arange(fleet.num_servers) != request.origin
    there = jnp.where(remote, view.link + request.size / fleet.rate, 0)
    backlog = jnp.maximum(view.told - view.age, 0) + view.sent
    start = jnp.where(fleet.elastic, there, jnp.maximum(there, backlog))
    warm = view.resident | view.sent_variants | fleet.elastic[:, None]  # [B, M]
    # Variant by variant: a gather would lie apart from what is worked out around it.
    warm = functools.reduce(
        jnp.logical_or,
        [(params.variant == m) & warm[:, m, None] for m in range(fleet.num_variants)],
    )
    cold = jnp.where(warm, 0, fleet.load_time[:, params.variant])
    steps = (request.images * params.steps).astype(start.dtype)
    work = fleet.task_time[:, params.variant] + steps * fleet.step_time[:, params.variant]
    home = fleet.latency + jnp.where(remote, request.result / fleet.rate, 0)
    return Outlook(start, cold, work, (start + home)[:, None] + cold + work)
