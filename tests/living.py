"""Nodes that listen, in the event loop of a test."""

import asyncio
import contextlib
import socket

import numpy as np

from jaxmec.deploy.server import make_server
from jaxmec_testbed import wire
from jaxmec_testbed.node import Device, Node
from jaxmec_testbed.painter import TinyPainter

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (8, 8, 3), np.uint8)
MASK = np.zeros((8, 8), bool)
MASK[2:6, 2:7] = True

DEVICE = Device(
    name="small",
    variants=("XS", "S", "M", "L"),
    step_time=(0.005, 0.01, 0.02, 0.04),
    task_time=(0.01, 0.01, 0.01, 0.01),
    load_time=(0.01, 0.02, 0.05, 0.1),
    size=(0.5, 1.0, 2.0, 9.0),
    memory=3.0,
    rate=100.0,
)


def node(device=DEVICE, index=0, **changes):
    return Node(device, index, TinyPainter(), **changes)


@contextlib.asynccontextmanager
async def listening(service):
    """The address at which an application listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = make_server(service)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def wanted(name="a", **changes):
    run = {
        "id": name,
        "image": wire.to_png(IMAGE),
        "mask": wire.to_png(MASK),
        "images": 2,
        "variant": "S",
        "steps": 3,
        "seed": 4,
    }
    return {**run, **changes}


async def post(url, document, path="/v1/run", token=None, origin=0):
    body = document if isinstance(document, bytes) else wire.body_of(document)
    peer = wire.Peer(url, token)
    async with peer.exchange("POST", path, body, origin=origin) as answer:
        return answer.status, await answer.content()
