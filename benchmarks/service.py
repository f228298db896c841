"""The decision service under load, over time, and under attack; see README.md in this directory.

python benchmarks/service.py                              # requests a second, about half a minute
python benchmarks/service.py --what soak --seconds 600    # ten minutes, memory watched
python benchmarks/service.py --what fuzz --count 100000   # malformed and hostile requests

Everything goes over the loopback to a server that this script starts, and is bounded in count
and time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from jaxmec.core.files import write_whole

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
ONE = {"task": {"origin": 1, "size": 3.0, "work": 0.6},
       "queues": {"backlog": [0.0, 1.0, 2.0, 3.0, 4.0]}}  # fmt: skip
LOADS = (1, 16, 64)  # connections


class Server:
    """`jaxmec serve` as a process of its own."""

    def __init__(self, bundle: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jaxmec", "serve", str(bundle), "--port", "0", *flags],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.port = 0
        for line in self.process.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                self.port = event["port"]
                break
        self.lines = 0  # of the log
        self.failures: list[str] = []  # lines of the log that speak of one
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines += 1
            if '"level": "error"' in line or "Traceback" in line:
                self.failures.append(line[:2_000])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> float:
        """MB resident; NaN where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return float("nan")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


@contextlib.contextmanager
def serving(bundle: Path | None, *flags: str) -> Iterator[tuple[Server, Path]]:
    """A server of a bundle's copy, or of a bundle made here, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "bundle"
        if bundle is None:
            make_bundle(place, seed=0)
        else:
            shutil.copytree(bundle, place)
        server = Server(place, *flags)
        try:
            yield server, place
        finally:
            server.stop()


def make_bundle(path: Path, seed: int) -> None:
    """A diffusion policy over subsets of 5 servers, with random parameters."""
    import jax

    from jaxmec.agents import DSAC
    from jaxmec.deploy import export
    from jaxmec.experiment import Policy, Setting
    from jaxmec.training.rollout import make_spec

    agent = DSAC(hidden=(64, 64), denoising_steps=5, judged_chains=0)
    setting = Setting("MultiServerOffloading-v0", "amcoedge")
    spec = make_spec(*setting.make())
    export.export(
        Policy(agent, agent.init(jax.random.key(seed), spec), spec, setting, "dsac"), path
    )


# HTTP by hand: what a client library costs would be measured with the server.


def post(body: bytes, path: str = "/v1/decide", method: str = "POST", head: str = "") -> bytes:
    """A request as bytes."""
    lines = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return lines.encode("latin-1", "replace") + head.encode("latin-1", "replace") + b"\r\n" + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one response; (0, b"") where the other side closed."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = await reader.readline()
        if not line:
            return 0, b""
        head += line
    status = int(head.split(b" ", 2)[1])
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, await reader.readexactly(length)


# Load.


async def load(
    port: int, connections: int, seconds: float, most: int = 1_000_000
) -> dict[str, Any]:
    """Requests of one task, one after the other on each of some connections."""
    request = post(json.dumps(ONE).encode())
    taken: list[float] = []
    statuses: collections.Counter[int] = collections.Counter()
    until = time.perf_counter() + seconds

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() < until and len(taken) < most:
                start = time.perf_counter()
                writer.write(request)
                status, _ = await asyncio.wait_for(answer(reader), 10)
                taken.append(time.perf_counter() - start)
                statuses[status] += 1
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            statuses[-1] += 1  # a request without an answer: the result has failed
        finally:
            writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    elapsed = time.perf_counter() - start
    return {
        "connections": connections,
        "requests": len(taken),
        "requests_per_second": len(taken) / elapsed,
        "p50_ms": float(np.percentile(taken or [np.nan], 50) * 1e3),
        "p99_ms": float(np.percentile(taken or [np.nan], 99) * 1e3),
        "statuses": {str(status): count for status, count in statuses.items()},
    }


def measure_load(bundle: Path | None, seconds: float) -> dict[str, Any]:
    """Requests a second, p50 and p99 at 1, 16 and 64 connections."""
    rows = []
    with serving(bundle) as (server, _):
        asyncio.run(load(server.port, 4, min(seconds, 1.0)))  # warm
        for connections in LOADS:
            rows.append(asyncio.run(load(server.port, connections, seconds)))
            row = rows[-1]
            print(
                f"{connections:>3} connections: {row['requests_per_second']:>7.0f} requests/s, "
                f"p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, {row['statuses']}"
            )
        failures = server.failures
    bad = any(set(row["statuses"]) != {"200"} for row in rows) or bool(failures)
    return {"failed": bad, "results": rows}


# Soak.


def soak(bundle: Path | None, seconds: float, connections: int = 8) -> dict[str, Any]:
    """Load for a long time, a reload every so often; the memory must not grow."""
    samples: list[tuple[float, float]] = []
    totals = collections.Counter[str]()
    with serving(bundle) as (server, place), tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "bundle"
        shutil.copytree(place, other)
        start = time.monotonic()
        part = min(30.0, seconds / 6)
        while time.monotonic() - start < seconds:
            row = asyncio.run(load(server.port, connections, part))
            totals.update(row["statuses"])
            samples.append((time.monotonic() - start, server.memory()))
            print(f"{samples[-1][0]:>6.0f} s: {samples[-1][1]:.1f} MB, {sum(totals.values())} "
                  f"requests, p99 {row['p99_ms']:.2f} ms", flush=True)  # fmt: skip
            # The same content under a new name: a reload like any other.
            shutil.copytree(place, place.parent / "next")
            os.rename(place, place.parent / f"old{len(samples)}")
            os.rename(place.parent / "next", place)
        alive, failures = server.alive, server.failures
    times, memory = np.array(samples).T
    # Against the second sample: what is loaded at first is loaded by then.
    growth = float(memory[-1] - memory[min(1, len(memory) - 1)])
    late = times >= times[-1] / 3
    slope = float(np.polyfit(times[late], memory[late], 1)[0] * 3600) if late.sum() > 2 else 0.0
    print(f"memory grew by {growth:.1f} MB; {slope:.1f} MB an hour over the last two thirds")
    failed = not alive or set(totals) != {"200"} or growth > 10 or bool(failures)
    return {
        "failed": failed,
        "seconds": float(times[-1]),
        "requests": int(sum(totals.values())),
        "statuses": dict(totals),
        "reloads": len(samples),
        "growth_mb": growth,
        "slope_mb_per_hour": slope,
        "memory_mb": [[round(t, 1), round(m, 2)] for t, m in samples],
    }


# Fuzz.

HOSTILE: tuple[Any, ...] = (
    None, True, False, "", "0", "NaN", "\x00", "💥" * 50, "A" * 5_000, [], {}, [[]], [None], -1, 0,
    1e-320, -0.0, 1e300, -1e300, 1e13, 10**400, -(10**400), 2**63, 2**64, 0.1 + 0.2, [0] * 5,
    [1e300] * 5, ["0"] * 5, [0] * 5_000, {"$ref": "#"}, {"__proto__": {}}, {"__class__": "os"},
)  # fmt: skip
WORDS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"0x10",
    b"01",
    b"1.",
    b".5",
    b"+1",
)


def example(schema: dict[str, Any], document: dict[str, Any], rng: random.Random) -> Any:
    """A random value that fits a JSON schema, or nearly."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return example(document["components"]["schemas"][name], document, rng)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return example(rng.choice(schema[several]), document, rng)
    kind = schema.get("type")
    if kind == "object":
        required = schema.get("required", [])
        return {
            name: example(inner, document, rng)
            for name, inner in schema.get("properties", {}).items()
            if name in required or rng.random() < 0.5
        }
    if kind == "array":
        return [example(schema["items"], document, rng) for _ in range(rng.choice((5, 5, 5, 1, 9)))]
    if kind == "integer":
        return rng.randint(schema.get("minimum", -1), min(schema.get("exclusiveMaximum", 6), 6))
    if kind == "number":
        most = min(schema.get("maximum", 10.0), rng.choice((1.0, 10.0, 1e6, 1e12)))
        return max(rng.random() * most, schema.get("minimum", 0.0), 1e-9)
    return None if kind == "null" else rng.random() < 0.5


def mutated(value: Any, rng: random.Random) -> Any:
    """The value with something in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        changed = dict(value)
        chance = rng.random()
        if chance < 0.1:
            del changed[name]
        elif chance < 0.2:
            changed[rng.choice(("extra", "", "batch", "task", "\ud800"))] = rng.choice(HOSTILE)
        else:
            changed[name] = mutated(value[name], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(value[place], rng), *value[place + 1 :]]
    return rng.choice(HOSTILE)


def hostile_request(document: dict[str, Any], rng: random.Random) -> bytes:
    """One request, sound or not."""
    schema = document["paths"]["/v1/decide"]["post"]["requestBody"]["content"]["application/json"]
    value = example(schema["schema"], document, rng)
    chance = rng.random()
    if chance < 0.1:
        return post(json.dumps(value).encode())
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = mutated(value, rng)
    body = json.dumps(value).encode()
    if chance < 0.5:
        return post(body)
    if chance < 0.6:  # numbers that JSON does not have
        return post(
            body.replace(b"0.", rng.choice(WORDS) + b",", 1).replace(b" 1", rng.choice(WORDS))
        )
    if chance < 0.7:  # bytes
        changed = bytearray(body)
        for _ in range(rng.randint(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return post(bytes(changed))
    if chance < 0.75:  # depth
        depth = rng.choice((10, 1_000, 100_000))
        return post(rng.choice((b"[" * depth, b'{"a":' * depth, b'{"batch":' * depth)))
    if chance < 0.78:  # too much, and too little
        return post(b" " * rng.choice((1_048_576, 1_048_577, 1_500_000)) + body)
    if chance < 0.82:
        return post(body[: rng.randrange(len(body) + 1)])
    if chance < 0.87:  # headers
        head = rng.choice((
            "content-type: text/plain\r\n", "content-type: application/xml\r\n", "a: b\r\n" * 500,
            "authorization: Bearer \xff\r\n", f"x: {'y' * 40_000}\r\n", "transfer-encoding: x\r\n",
            "content-encoding: gzip\r\n", "expect: 100-continue\r\n", "connection: upgrade\r\n",
            "content-length: 3\r\n", "transfer-encoding: chunked\r\n", "x\x00y: z\r\n", ": \r\n",
        ))  # fmt: skip
        return post(body, head=head)
    if chance < 0.93:  # paths and methods
        path = rng.choice((
            "/", "/v1", "/v1/decide/", "/../..", "/%00", "/v1/decide?x=" + "y" * 3_000, "*", "",
            "http://localhost/healthz", "/healthz", "/metrics", "/openapi.json", "/\xff", "//",
        ))  # fmt: skip
        method = rng.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X", ""))
        return post(b"" if method == "HEAD" else body, path, method)
    if chance < 0.96:  # no HTTP at all
        return bytes(rng.randrange(256) for _ in range(rng.randint(1, 300))) + b"\r\n\r\n"
    batch = [ONE] * rng.choice((0, 1, 100, 1024, 1025, 5_000))
    return post(json.dumps({"batch": batch}).encode())


async def slow_client(port: int, rng: random.Random, until: float) -> int:
    """Connections that send a byte at a time, or nothing; returns how many were made."""
    made = 0
    while time.monotonic() < until:
        text = post(json.dumps(ONE).encode())
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            made += 1
            try:
                for place in range(rng.choice((0, 5, 40, len(text)))):
                    writer.write(text[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(0.02)
                await asyncio.wait_for(reader.read(1_000), 3)
            except (OSError, TimeoutError):
                pass
            finally:
                writer.close()
        await asyncio.sleep(0.05)
    return made


async def attack(
    port: int, count: int, seed: int, connections: int, seconds: float
) -> tuple[collections.Counter[int], list[str], int]:
    """Statuses, what must not have been in an answer, and connections of slow clients."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"", "/openapi.json", "GET"))
    document = json.loads((await answer(reader))[1])
    writer.close()
    statuses: collections.Counter[int] = collections.Counter()
    leaks: list[str] = []
    sent = 0
    until = time.monotonic() + seconds

    async def work(rng: random.Random) -> None:
        nonlocal sent
        connection: Any = None
        while sent < count and time.monotonic() < until:
            sent += 1
            request = hostile_request(document, rng)
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = connection
                writer.write(request)
                status, body = await asyncio.wait_for(answer(reader), 1.0)
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                status, body = -1, b""  # it was no request that an answer could be given to
            statuses[status] += 1
            if b"Traceback" in body or b'File "' in body:
                leaks.append(repr(request[:300]))
            if status not in (200, 404, 405, 415, 422) and connection is not None:
                connection[1].close()  # what is left of it may not be where a request begins
                connection = None
        if connection is not None:
            connection[1].close()

    slow = [
        asyncio.create_task(slow_client(port, random.Random(seed + 100 + i), until))
        for i in range(4)
    ]
    await asyncio.gather(*(work(random.Random(seed + i)) for i in range(connections)))
    for task in slow:
        task.cancel()
    results = await asyncio.gather(*slow, return_exceptions=True)
    return statuses, leaks, sum(made for made in results if isinstance(made, int))


def fuzz(bundle: Path | None, count: int, seed: int = 0, seconds: float = 3_600) -> dict[str, Any]:
    """Malformed and hostile requests: no crash, no 5xx, no trace, and it still decides."""
    with serving(bundle, "--request-seconds", "0.5") as (server, _):
        before = asyncio.run(load(server.port, 4, 0.5)) and server.memory()
        start = time.monotonic()
        statuses, leaks, _ = asyncio.run(attack(server.port, count, seed, 8, seconds))
        elapsed = time.monotonic() - start
        after = asyncio.run(load(server.port, 4, 0.5))
        memory, alive, failures = server.memory(), server.alive, server.failures
    server_errors = sum(number for status, number in statuses.items() if status >= 500)
    shown = {str(status): number for status, number in sorted(statuses.items())}
    print(f"{sum(statuses.values())} requests in {elapsed:.0f} s: {shown} (-1: no answer)")
    print(f"5xx: {server_errors}, traces in answers: {len(leaks)}, failures in the log: "
          f"{len(failures)}, alive: {alive}, memory {before:.0f} to {memory:.0f} MB")  # fmt: skip
    for line in [*leaks, *failures][:5]:
        print(line)
    failed = bool(server_errors or leaks or failures) or not alive
    return {
        "failed": failed or set(after["statuses"]) != {"200"},
        "requests": int(sum(statuses.values())),
        "seconds": elapsed,
        "statuses": shown,
        "server_errors": server_errors,
        "traces": len(leaks),
        "memory_mb": [before, memory],
    }


def main(
    what: Literal["load", "soak", "fuzz"] = "load",
    bundle: Path | None = None,
    seconds: float | None = None,
    count: int = 100_000,
    seed: int = 0,
    output: Path | None = RESULTS,
) -> int:
    """Put the service to a test; the exit code is 1 where it fails.

    Args:
        what: load, soak or fuzz.
        bundle: the bundle to serve; by default one is made.
        seconds: of each load (5), of the soak (600), and at most of the fuzzing (3600).
        count: requests of the fuzzing.
        seed: of the fuzzing.
        output: the folder for the results as JSON; None writes nothing.
    """
    machine = {"system": platform.platform(), "load_average": os.getloadavg()}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if what == "load":
        result = measure_load(bundle, 5.0 if seconds is None else seconds)
    elif what == "soak":
        result = soak(bundle, 600.0 if seconds is None else seconds)
    else:
        result = fuzz(bundle, count, seed, 3_600.0 if seconds is None else seconds)
    if output is not None:
        file = output / f"service_{what}.json"
        document = {"started": started, "machine": machine, **result}
        write_whole(file, json.dumps(document, indent=2) + "\n")
        print(f"results: {file}")
    print("failed" if result["failed"] else "passed")
    return int(result["failed"])


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
