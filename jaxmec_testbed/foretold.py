"""What the simulator foretells of the testbed: the same requests, faults and rule."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxmec.serving.decision import Fate, Queues, Request, dispatch, hearing, listen
from jaxmec.serving.laws import given
from jaxmec.serving.scenario import ServingParams
from jaxmec.serving.view import view_of
from jaxmec_testbed.faults import Fault
from jaxmec_testbed.policy import Policy, key_of


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request as it arrives; units as of :class:`jaxmec.serving.Request`."""

    number: int
    time: float
    origin: int
    size: float
    result: float
    images: int
    quality: float
    limit: float


@dataclasses.dataclass
class Foretold:
    """What becomes of a request in the simulator; times in s from the start."""

    status: str = "open"  # answered, refused or lost
    server: int = -1
    option: int = -1
    attempts: int = 0
    answered: float = float("inf")
    quality: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # s, of the last attempt


def arrivals(params: ServingParams, seed: int) -> list[Arrival]:
    """The requests of an episode of ``GenerativeServing-v0`` whose key is the seed's."""
    _, key_law, key_requests = jax.random.split(jax.random.key(seed), 3)
    law, time = params.arrivals.begin(key_law), 0.0
    following = jax.jit(params.arrivals.next)
    found: list[Arrival] = []
    while True:
        key = jax.random.fold_in(key_requests, len(found))
        request, law = following(key, time, law)
        time = float(request.arrival)
        if time > float(params.horizon):
            return found
        found.append(
            Arrival(
                number=len(found),
                time=time,
                origin=int(request.origin),
                size=float(request.size),
                result=float(request.result),
                images=int(request.images),
                quality=float(request.quality),
                limit=float(request.limit),
            )
        )


class Simulator:
    """One policy on one fleet, with the faults of a run as outages and slowed phases."""

    def __init__(self, policy: Policy, faults: Sequence[Fault] = ()) -> None:
        self._policy, params = policy, policy.params
        troubles = [fault.trouble for fault in faults]
        availability = given(params.fleet.num_servers, troubles)
        self._troubles = hearing(params.fleet, availability)
        self._next = jax.jit(self._decided)

    def play(
        self, requests: Sequence[Arrival], decisions: dict[int, list[tuple[int, int]]] | None = None
    ) -> list[Foretold]:
        """What becomes of each request.

        Args:
            requests: in order.
            decisions: server and option of each attempt, by number, instead of the policy's.
        """
        policy, found = self._policy, [Foretold() for _ in requests]
        params = policy.params
        queues = Queues.empty(params.fleet, params.num_stations)
        memory = policy.rule.init_memory(params)
        # Of two at the same time a loss comes first.
        events = [(one.time, 1, one.number, 0) for one in requests]
        heapq.heapify(events)
        while events:
            now, _, number, attempt = heapq.heappop(events)
            made = (decisions or {}).get(number, [])
            choice = made[attempt] if attempt < len(made) else (-2, 0)
            fate, server, option, queues, memory = self._next(
                queues, memory, requests[number], attempt, np.float32(now), choice
            )
            told = found[number]
            told.server, told.option, told.attempts = int(server), int(option), attempt + 1
            if told.server < 0:
                told.status = "refused"
            elif not bool(fate.lost):
                told.status, told.answered = "answered", float(fate.answered)
                told.quality = float(policy.quality[told.option])
                told.parts = _parts(fate, now)
            elif attempt + 1 < policy.attempts:
                heapq.heappush(events, (float(fate.known), 0, number, attempt + 1))
            else:
                told.status = "lost"
        return found

    def _decided(
        self, queues: Queues, memory: Any, arrival: Any, attempt: Any, now: Any, choice: Any
    ) -> Any:
        policy, params = self._policy, self._policy.params
        fleet = params.fleet
        request = Request(
            arrival=arrival.time,
            origin=arrival.origin,
            size=arrival.size,
            result=arrival.result,
            images=arrival.images,
            quality=arrival.quality,
            limit=arrival.limit,
        )
        queues = listen(fleet, self._troubles, queues, now)
        view = view_of(
            params, self._troubles, queues, request, attempt, now, policy.rule.information
        )
        key = key_of(policy.seed, arrival.number, attempt)
        (server, option), memory = policy.rule.decide(params, view, memory, key)
        server = jax.numpy.where(choice[0] > -2, choice[0], server)
        option = jax.numpy.where(choice[0] > -2, choice[1], option)
        fate, queues = dispatch(
            *(fleet, self._troubles, queues, request, now),
            server=server,
            variant=params.variant[option],
            steps=params.steps[option],
        )
        return fate, server, option, queues, memory


jax.tree_util.register_dataclass(
    Arrival, data_fields=[field.name for field in dataclasses.fields(Arrival)], meta_fields=[]
)


def _parts(fate: Fate, now: float) -> dict[str, float]:
    """The delay of an answer from its decision on, in its parts."""
    at, ready, ask = float(fate.at), float(fate.ready), float(fate.ask)
    done = ready + ask
    return {
        "way in": at - now,
        "queue": ready - at,
        "service": ask,
        "way back": float(fate.answered) - done,
    }
