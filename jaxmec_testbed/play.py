"""A run of the testbed: the requests of an episode, open loop, on real nodes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Sequence

from jaxmec_testbed import robots, wire
from jaxmec_testbed.faults import Fault
from jaxmec_testbed.foretold import Arrival
from jaxmec_testbed.policy import Policy
from jaxmec_testbed.processes import Nodes
from jaxmec_testbed.station import Asked, Outcome, Station, Watch, clock_from

LEAD = 1.0  # s before the start, for what is to be ready then


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image and what of it is missing, as they travel."""

    image: str
    mask: str


def pictures(count: int) -> list[Picture]:
    """Robots that no network was trained on, with something missing."""
    return [
        Picture(wire.to_png(image), wire.to_png(mask))
        for image, mask in itertools.islice(zip(*robots.examples(), strict=True), count)
    ]


@contextlib.asynccontextmanager
async def stations(
    policy: Policy, peers: list[wire.Peer], start: float
) -> AsyncIterator[list[Station]]:
    """All stations of a fleet in this process, with the heartbeats polled."""
    watch = Watch(policy, peers, clock_from(start))
    polling = asyncio.create_task(watch.run())
    try:
        yield [Station(index, watch) for index in range(policy.params.num_stations)]
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling


async def play(
    served: list[Station],
    requests: Sequence[Arrival],
    shown: Sequence[Picture],
    start: float,
    nodes: Nodes | None = None,
    faults: Sequence[Fault] = (),
) -> list[Outcome]:
    """Have the requests served, each at its time whatever became of those before.

    Args:
        served: the stations, by number.
        requests: in order of time.
        shown: the pictures, in turn.
        start: s of the monotonic clock at which the episode begins.
        nodes: the processes that faults are done to.
        faults: of nodes.

    Returns:
        What became of each request, in order.
    """

    async def one(arrival: Arrival) -> Outcome:
        picture = shown[arrival.number % len(shown)]
        await asyncio.sleep(max(start + arrival.time - time.monotonic(), 0))
        asked = Asked(
            id=f"r{arrival.number}",
            image=picture.image,
            mask=picture.mask,
            images=arrival.images,
            quality=arrival.quality,
            limit=arrival.limit,
            number=arrival.number,
            size=arrival.size,
            result=arrival.result,
            seed=arrival.number,
        )
        return await served[arrival.origin].serve(asked, arrival.time)

    cut = served[0].watch.cut
    troubles = [asyncio.create_task(nodes.fault(fault, start, cut)) for fault in faults if nodes]
    try:
        outcomes = await asyncio.gather(*(one(arrival) for arrival in requests))
        await asyncio.gather(*troubles)
    finally:
        for task in troubles:
            task.cancel()
    return outcomes


async def measured(
    policy: Policy,
    nodes: Nodes,
    requests: Sequence[Arrival],
    shown: Sequence[Picture],
    faults: Sequence[Fault] = (),
) -> list[Outcome]:
    """One run with fresh nodes of this machine."""
    policy.warm_up()
    await nodes.start()
    try:
        start = time.monotonic() + LEAD
        async with stations(policy, nodes.peers, start) as served:
            return await play(served, requests, shown, start, nodes, faults)
    finally:
        await nodes.stop()
