"""Nodes as processes of this machine, and the faults that are done to them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from jaxmec_testbed import wire
from jaxmec_testbed.faults import Fault
from jaxmec_testbed.node import Device

START = 60.0  # s in which a node has to start
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Nodes:
    """The nodes of a run; none but these is ever signalled."""

    def __init__(self, devices: list[Device], folder: Path, painter: str, pace: str) -> None:
        """Args:
        devices: what they stand for.
        folder: for their spools and logs.
        painter: a name of :data:`jaxmec_testbed.command.PAINTERS`.
        pace: "pace" or "real".
        """
        self._folder, self._painter, self._pace = folder, painter, pace
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * len(devices)
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = _free_ports(len(devices))
        self.peers = [wire.Peer(f"http://127.0.0.1:{port}") for port in self._ports]
        for index, device in enumerate(devices):
            file = folder / f"device-{index}.json"
            file.write_text(json.dumps(dataclasses.asdict(device)))

    async def start(self) -> None:
        """Start all, with nothing in their queues, and wait until they are there."""
        for index in range(len(self.peers)):
            for file in (self._folder / f"spool-{index}").glob("*.json"):
                file.unlink()
        await asyncio.gather(*(self._start(index) for index in range(len(self.peers))))

    async def _start(self, index: int, not_before: float = 0.0) -> None:
        """Start one, which is there from a moment of the monotonic clock on.

        Raises:
            RuntimeError: it did not start; the message says where its log is.
        """
        words = [
            *(sys.executable, "-m", "jaxmec_testbed", "node", "--index", str(index)),
            *("--device", str(self._folder / f"device-{index}.json")),
            *("--port", str(self._ports[index]), "--painter", self._painter),
            *("--pace", self._pace, "--spool", str(self._folder / f"spool-{index}")),
            *("--faults", "--not-before", str(not_before)),
        ]
        begun, log = time.monotonic(), self._folder / f"node-{index}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        self._processes[index] = process
        while time.monotonic() < max(begun, not_before) + START and process.poll() is None:
            with contextlib.suppress(wire.Lost):
                await self.peers[index].ask("GET", "/healthz", timeout=2.0)
                return
            await asyncio.sleep(0.05)
        if self._processes[index] is process:
            raise RuntimeError(f"node {index} did not start; {log} says why")

    async def fault(self, fault: Fault, begin: float, cut: list[bool]) -> None:
        """Do a fault of a run that began at ``begin``, s of the monotonic clock."""
        await _until(begin + fault.at)
        end, server = begin + fault.at + fault.seconds, fault.server
        process = self._processes[server]
        if fault.kind == "cut":
            cut[server] = True
            await _until(end)
            cut[server] = False
            return
        if process is None:
            return
        if fault.kind == "slow":
            await self._speed(server, fault.speed)
            await _until(end)
            await self._speed(server, 1.0)
        elif fault.kind == "stop":
            process.send_signal(signal.SIGSTOP)
            await _until(end)
            process.send_signal(signal.SIGCONT)
        else:
            process.kill()
            await asyncio.to_thread(process.wait)
            await self._start(server, end)

    async def _speed(self, server: int, speed: float) -> None:
        with contextlib.suppress(wire.Lost):
            await self.peers[server].ask("POST", "/v1/speed", wire.body_of({"speed": speed}))

    async def stop(self) -> None:
        """End all, the quiet way first."""
        processes = [process for process in self._processes if process is not None]
        self._processes = [None] * len(self.peers)
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in processes:
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)


async def _until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
