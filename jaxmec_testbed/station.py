"""A station: takes clients' requests, and has them painted by the nodes that a policy chooses.

It polls heartbeats, decides by what it was told and what it has sent since, notices losses and
decides anew. Whatever becomes of a request is said by name: nothing is dropped in silence.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmec_testbed import wire
from jaxmec_testbed.policy import Policy, Seen

MISSES = 2  # polls in a row without an answer, by which a node that was silent is given up
GRACE = 0.1  # s that a heartbeat may be on its way
PATIENCE = 4.0  # times the limit, after which nobody waits any more


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a client asks of a station."""

    id: str
    image: str  # PNG in base64
    mask: str
    images: int
    quality: float  # in [0, 1], the least that will do
    limit: float  # s
    number: int = 0  # of the request, for policies that draw
    size: float = 0.0  # Mbit, the way in; 0: what it takes
    result: float = 0.0  # Mbit, the way back, as far as is expected
    seed: int = 0


@dataclasses.dataclass
class Outcome:
    """What became of a request; times in s from the clock's start."""

    id: str
    station: int
    arrival: float
    status: str = "open"  # answered, refused, lost, unreachable or invalid
    server: int = -1  # the last that it was sent to
    option: int = -1
    attempts: int = 0  # decisions
    sent: float = 0.0  # s, of the last decision
    begun: float = float("inf")  # s, when its answer began
    answered: float = float("inf")  # s
    quality: float = 0.0
    told: dict[str, Any] = dataclasses.field(default_factory=dict)  # by the node: queue, cold, ...
    decisions: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)
    images: list[str] = dataclasses.field(default_factory=list)

    @property
    def delay(self) -> float:
        """s from its arrival to its answer."""
        return self.answered - self.arrival


class Watch:
    """Heartbeats of all nodes, polled when they are due, for the stations of one process."""

    def __init__(self, policy: Policy, peers: list[wire.Peer], clock: Callable[[], float]) -> None:
        """Args:
        policy: knows the fleet: when each node tells about itself.
        peers: the nodes, in the fleet's order.
        clock: s from the start.
        """
        servers, variants = len(peers), len(policy.variants)
        self.policy, self.peers, self.clock = policy, peers, clock
        self.told = np.zeros(servers)
        self.told_at = np.zeros(servers)
        self.beat = np.full(servers, -1)
        self.resident = np.zeros((servers, variants), bool)
        self.boot = [""] * servers
        self.states: list[dict[str, Any]] = [{} for _ in peers]
        self.there = [asyncio.Event() for _ in peers]
        self.gone = [asyncio.Event() for _ in peers]
        self.cut = [False] * servers  # the way to it, by a fault
        self.heard: list[Callable[[int], None]] = []

    async def run(self) -> None:
        """Poll for ever."""
        await asyncio.gather(*(self._poll(server) for server in range(len(self.peers))))

    async def _poll(self, server: int) -> None:
        heartbeat, phase = self.policy.heartbeat, float(self.policy.phase[server])
        misses = 0
        k = max(int(np.ceil((self.clock() - phase) / heartbeat)), 0)
        while True:
            await asyncio.sleep(max(phase + k * heartbeat - self.clock(), 0))
            try:
                if self.cut[server]:
                    raise wire.Lost("the way is cut")
                state = await self.peers[server].ask(
                    "GET", "/v1/state", timeout=min(0.8 * heartbeat, 2.0)
                )
                self._hear(server, k, state)
                misses = 0
            except (wire.Lost, KeyError, TypeError, ValueError):
                misses += 1
                if misses >= MISSES:
                    self.leave(server)
            k = max(k + 1, int(np.ceil((self.clock() - phase) / heartbeat)))

    def _hear(self, server: int, k: int, state: dict[str, Any]) -> None:
        resident = set(state["resident"])
        if self.boot[server] not in ("", state["boot"]):
            self.leave(server)  # it is another process now
        self.boot[server] = state["boot"]
        self.told[server] = float(state["backlog"])
        self.told_at[server], self.beat[server] = self.clock(), k
        self.resident[server] = [name in resident for name in self.policy.variants]
        self.states[server] = state
        for hear in self.heard:
            hear(server)
        self.gone[server].clear()
        self.there[server].set()

    def leave(self, server: int) -> None:
        """A node is not there: whoever waits for an answer that it began is told."""
        self.gone[server].set()
        self.there[server].clear()


class Station:
    """One station, which stands at the node of its number."""

    def __init__(self, index: int, watch: Watch) -> None:
        self.index, self.watch, self.policy, self.clock = index, watch, watch.policy, watch.clock
        servers = len(watch.peers)
        self._sent = np.zeros(servers)
        self._variants = np.zeros((servers, len(self.policy.variants)), bool)
        self._link_free = 0.0
        self.open: dict[str, Outcome] = {}
        self.done: list[Outcome] = []
        watch.heard.append(self._forget)

    def _forget(self, server: int) -> None:
        """A heartbeat counts what was sent before it."""
        self._sent[server] = 0
        self._variants[server] = False

    def seen(self, asked: Asked, arrival: float, attempt: int, now: float) -> Seen:
        """What it knows as it decides."""
        watch = self.watch
        due = np.floor((now - GRACE - self.policy.phase) / self.policy.heartbeat)
        return Seen(
            now=now,
            arrival=arrival,
            origin=self.index,
            size=asked.size,
            result=asked.result,
            images=asked.images,
            quality=asked.quality,
            limit=asked.limit,
            attempt=attempt,
            number=asked.number,
            told=watch.told,
            told_at=watch.told_at,
            missed=np.maximum(due - watch.beat, 0),
            resident=watch.resident,
            sent=self._sent,
            sent_variants=self._variants,
            link=max(self._link_free - now, 0.0),
        )

    async def serve(self, asked: Asked, arrival: float | None = None) -> Outcome:
        """Have a request painted.

        Args:
            asked: the request.
            arrival: s, when it came; now by default.
        """
        outcome = Outcome(asked.id, self.index, self.clock() if arrival is None else arrival)
        self.open[asked.id] = outcome
        if not asked.size:
            body = len(asked.image) + len(asked.mask) + 200
            asked = dataclasses.replace(asked, size=8 * body / wire.MBIT)
        try:
            async with asyncio.timeout(PATIENCE * asked.limit):
                await self._attempts(asked, outcome)
        except TimeoutError:
            outcome.status = "unreachable"
        finally:
            del self.open[asked.id]
            self.done.append(outcome)
            del self.done[:-1000]
        return outcome

    async def _attempts(self, asked: Asked, outcome: Outcome) -> None:
        for attempt in range(self.policy.attempts):
            now = self.clock() if attempt else max(outcome.arrival, self.clock())
            seen = self.seen(asked, outcome.arrival, attempt, now)
            server, option = self.policy.choose(seen)
            outcome.server, outcome.option, outcome.sent = server, option, now
            outcome.attempts = attempt + 1
            outcome.decisions.append((now, server, option))
            if server < 0:
                outcome.status = "refused"
                return
            variant = self.policy.variant[option]
            self._sent[server] += self.policy.work(server, option, asked.images)
            self._variants[server, variant] = True
            try:
                answer = await self._painted(asked, outcome, server, option)
            except wire.Lost:
                await asyncio.sleep(self.policy.detect)
                continue
            if "images" in answer:
                outcome.answered, outcome.status = self.clock(), "answered"
                outcome.quality = float(self.policy.quality[option])
                outcome.images = answer.pop("images")
                outcome.told = answer
                return
            if answer.get("status", 500) not in (500, 503):
                outcome.status = "invalid"
                outcome.told = answer
                return
        outcome.status = "lost"

    async def _painted(
        self, asked: Asked, outcome: Outcome, server: int, option: int
    ) -> dict[str, Any]:
        """The answer of one node.

        Raises:
            wire.Lost: what it had begun is lost.
        """
        policy, peer = self.policy, self.watch.peers[server]
        remote, link = server != self.index, None
        if remote:  # the uplink sends one thing at a time
            rate = float(policy.rate[server])
            start = max(self.clock(), self._link_free)
            self._link_free = start + asked.size / rate
            await asyncio.sleep(max(start - self.clock(), 0))
            link = wire.Link(rate, self.clock)
        run = {
            "id": f"{asked.id}.{outcome.attempts}",
            "image": asked.image,
            "mask": asked.mask,
            "images": asked.images,
            "seed": asked.seed,
            "variant": policy.variants[policy.variant[option]],
            "steps": int(policy.steps[option]),
        }
        body = wire.body_of(run, int(asked.size * wire.MBIT / 8))
        again = False  # what waited there may have survived
        while True:
            try:
                if self.watch.cut[server]:
                    raise wire.Lost("the way is cut")
                method, path = ("GET", f"/v1/runs/{run['id']}") if again else ("POST", "/v1/run")
                exchange = peer.exchange(
                    method, path, b"" if again else body, None if again else link, self.index
                )
                async with exchange as answer:
                    if answer.status == 404 and again:
                        again = False
                        continue
                    outcome.begun = self.clock()
                    return await self._content(answer, server)
            except wire.Lost as lost:
                if lost.begun:
                    raise
            # It waits there, or never came there: that node's return is waited for.
            self.watch.leave(server)
            await self.watch.there[server].wait()
            again = True

    async def _content(self, answer: wire.Answer, server: int) -> dict[str, Any]:
        """The content of an answer that has begun, unless its node is given up."""
        gone = asyncio.ensure_future(self.watch.gone[server].wait())
        content = asyncio.ensure_future(answer.content())
        try:
            await asyncio.wait({gone, content}, return_when=asyncio.FIRST_COMPLETED)
            if not content.done():
                raise wire.Lost("its node is silent", begun=True)
            return {"status": answer.status, **content.result()}
        finally:
            gone.cancel()
            content.cancel()


def clock_from(start: float) -> Callable[[], float]:
    """s since a moment of the monotonic clock."""
    return lambda: time.monotonic() - start
