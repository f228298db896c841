"""A node: one process that is one server of a fleet, and paints what stations send it.

    POST /v1/run        paint; the answer's header comes as its turn does, its content when done
    GET  /v1/runs/ID    the answer to a request that was sent before
    GET  /v1/state      its heartbeat: backlog, resident variants, boot
    POST /v1/speed      only with --faults: of the nominal speed, from now on
    GET  /metrics       Prometheus
    GET  /healthz       whether it is there

One queue, first come first served, and one thread that paints. What waits is kept in a spool, so
that it survives the process; what is being painted does not. A request's id makes repeating it
harmless. Paced, each step really computes and then waits until the device that the node stands for
would be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import prometheus_client
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from jaxmec.core import checks
from jaxmec.core.naming import look_up
from jaxmec.deploy.server import JSON, Application, Refused, ServeConfig, log, misfit
from jaxmec_testbed import wire
from jaxmec_testbed.painter import ONE_PASS, Loaded, Painter

if TYPE_CHECKING:  # a node needs no JAX
    from jaxmec.serving.presets import ServingPreset

KEPT = 128  # answers that are remembered, for those who ask again
LAG = 1.0  # s that a step may be late and still be made up for
PACES = ("pace", "real")
WEB = ServeConfig(max_body_bytes=4_194_304)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a node stands for: a server of a fleet's file, [M] each."""

    name: str
    variants: tuple[str, ...]
    step_time: tuple[float, ...]  # s
    task_time: tuple[float, ...]  # s
    load_time: tuple[float, ...]  # s
    size: tuple[float, ...]  # GB
    memory: float  # GB
    rate: float  # Mbit/s

    @classmethod
    def of(cls, preset: ServingPreset, server: int, seed: int = 0) -> Device:
        """A server of a fleet, its load times as drawn by ``seed``."""
        one = preset.servers[server]
        loads = np.asarray(preset.params(seed=seed).fleet.load_time)[server]
        return cls(
            name=one.name,
            variants=tuple(variant.name for variant in preset.variants),
            step_time=tuple(one.step_time),
            task_time=tuple(one.task_time),
            load_time=tuple(float(load) for load in loads),
            size=tuple(variant.size for variant in preset.variants),
            memory=one.memory,
            rate=one.rate,
        )

    def work(self, run: wire.Run) -> float:
        """s at nominal speed that a request asks for, a cold start left out."""
        m = self.variants.index(run.variant)
        steps = 1 if run.variant == ONE_PASS else run.steps
        return self.task_time[m] + run.images * steps * self.step_time[m]


@dataclasses.dataclass(frozen=True)
class NodeConfig:
    """How a node works.

    Raises:
        ValueError: a field outside what its comment allows.
    """

    pace: str = "pace"  # as the device that it stands for; or "real", as fast as it is
    max_queue: int = 64  # requests that wait, beyond them: 503
    max_backlog: float = 90.0  # s of work that wait, beyond them: 503
    max_pixels: int = wire.MAX_PIXELS  # of an image
    spool: Path | None = None  # folder that keeps what waits; None: it goes with the process
    faults: bool = False  # may be told to go slower

    def __post_init__(self) -> None:
        checks.fields(
            self,
            pace=checks.one_of(PACES),
            max_queue=checks.whole(1),
            max_backlog=checks.number(above=0),
            max_pixels=checks.whole(1),
        )


class Residents:
    """The variants in memory, the least recently used of which make room."""

    def __init__(self, device: Device) -> None:
        self._size, self._memory = dict(zip(device.variants, device.size, strict=True)), device
        self.held: OrderedDict[str, Any] = OrderedDict()

    def wants(self, variant: str) -> bool:
        """Make room for a variant and hold it; returns whether it has to be loaded."""
        cold = variant not in self.held
        held = self.held.pop(variant, None)
        total = self._size[variant]
        for other in reversed(list(self.held)):  # it stays if it fits with all used since
            total += self._size[other]
            if total > self._memory.memory:
                del self.held[other]
        self.held[variant] = held
        return cold


class Cancelled(Exception):
    """Nobody waits for it any more."""


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way through a node."""

    run: wire.Run
    image: np.ndarray
    mask: np.ndarray
    digest: str
    ask: float  # s at nominal speed, a cold start included
    at: float  # s, when it was there
    begun: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    done: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    listeners: int = 0
    cancelled: bool = False
    worked: float = 0.0  # s at nominal speed, so far
    since: float = 0.0  # s, when that was
    answer: dict[str, Any] = dataclasses.field(default_factory=dict)


class Node(Application):
    """The application of one node."""

    def __init__(
        self,
        device: Device,
        index: int,
        painter: Painter,
        config: NodeConfig | None = None,
        web: ServeConfig = WEB,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
            device: what it stands for.
            index: which server of the fleet it is; the station there has no way to go.
            painter: what paints; it has the device's variants.
            config, web: limits.
            clock: s.

        Raises:
            ValueError: a variant that the painter has not.
        """
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        super().__init__(web, self._counter("requests", "Answers given", ["status"]))
        self._painted = self._counter("painted", "Images painted", ["variant"])
        self._loads = self._counter("loads", "Variants brought into memory", ["variant"])
        for variant in device.variants:
            look_up("variant", variant, dict.fromkeys(painter.variants))
        self.device, self.index, self.painter = device, index, painter
        self.node, self.clock = config or NodeConfig(), clock
        self.boot, self.speed = secrets.token_hex(6), 1.0
        self._memory, self._tail = Residents(device), Residents(device)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: list[Job] = []
        self._current: Job | None = None
        self._free, self._number = 0.0, 0
        self._thread = ThreadPoolExecutor(1, "painter")
        routes = [
            Route("/v1/run", self._run, methods=["POST"]),
            Route("/v1/runs/{id}", self._again, methods=["GET"]),
            Route("/v1/state", self._state, methods=["GET"]),
            Route("/v1/speed", self._slow, methods=["POST"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/healthz", self._health, methods=["GET"]),
        ]
        self.app = self.routed(routes, self._lifespan)

    def _counter(self, name: str, about: str, labels: list[str]) -> prometheus_client.Counter:
        name = f"jaxmec_node_{name}"
        return prometheus_client.Counter(name, about, labels, registry=self.registry)

    # What it is asked.

    async def _run(self, request: Request) -> Response:
        self._check_token(request)
        # The station beside it has no way to go.
        near = request.headers.get("jaxmec-origin") == str(self.index)
        link = None if near else wire.Link(self.device.rate, self.clock).take
        try:
            body = await self._receive(request, link)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        return await self._follow(request, self._accept(body), near)

    async def _again(self, request: Request) -> Response:
        self._check_token(request)
        job = self._jobs.get(request.path_params["id"])
        if job is None:
            raise Refused(404, "there is no such request", [])
        return await self._follow(request, job, False)

    def _accept(self, body: bytes) -> Job:
        """A request's job, the one that it has where it was sent before."""
        body = body.rstrip()
        run = wire.parse(body, wire.RUN)
        digest = hashlib.sha256(body).hexdigest()
        known = self._jobs.get(run.id)
        if known is not None:
            if known.digest != digest:
                raise Refused(409, "another request had this id", [f"id: {run.id}"])
            return known
        if run.variant not in self.device.variants:
            raise misfit([f"variant: must be one of {', '.join(self.device.variants)}"])
        size = dict(zip(self.device.variants, self.device.size, strict=True))[run.variant]
        if size > self.device.memory:
            raise misfit([f"variant: it takes {size:g} GB of {self.device.memory:g}"])
        image, mask = wire.unpack(run, self.node.max_pixels)
        if len(self._waiting) >= self.node.max_queue or self.backlog() > self.node.max_backlog:
            raise Refused(503, "the queue is full", [])
        job = self._queue(run, image, mask, digest)
        if self.node.spool is not None:
            self._number += 1
            file = self.node.spool / f"{time.time_ns()}-{self._number}.json"
            file.write_bytes(body)
            self._spooled[job] = file
        return job

    def _queue(self, run: wire.Run, image: np.ndarray, mask: np.ndarray, digest: str) -> Job:
        m = self.device.variants.index(run.variant)
        cold = self.device.load_time[m] if self._tail.wants(run.variant) else 0.0
        job = Job(run, image, mask, digest, cold + self.device.work(run), self.clock())
        self._jobs[run.id] = job
        for name, other in list(self._jobs.items()):
            if len(self._jobs) <= KEPT + self.node.max_queue or not other.done.is_set():
                break
            del self._jobs[name]
        self._waiting.append(job)
        self._news.set()
        return job

    async def _follow(self, request: Request, job: Job, near: bool) -> Response:
        """The answer to a job: its header when the job begins, its content when it is done."""
        job.listeners += 1
        await job.begun.wait()

        async def content() -> AsyncIterator[bytes]:
            try:
                await job.done.wait()
                body = JSON.dump_json(job.answer)
                link = wire.Link(float("inf") if near else self.device.rate, self.clock)
                for start in range(0, len(body), wire.CHUNK):
                    part = body[start : start + wire.CHUNK]
                    await link.take(len(part))
                    yield part
            finally:
                job.listeners -= 1
                if job.listeners == 0 and not job.done.is_set():
                    job.cancelled = True

        self._note(200, None, request.client and request.client.host, request)
        return StreamingResponse(content(), media_type="application/json")

    async def _state(self, request: Request) -> Response:
        self._check_token(request)
        return self._respond(request, 200, self.state())

    async def _slow(self, request: Request) -> Response:
        self._check_token(request)
        if not self.node.faults:
            raise Refused(404, "it takes no faults", [])
        speed = wire.parse(await self._receive(request), wire.SPEED).speed
        self.speed = speed
        return self._respond(request, 200, {"speed": speed})

    async def _metrics(self, request: Request) -> Response:
        self._check_token(request)
        text = prometheus_client.generate_latest(self.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _health(self, request: Request) -> Response:
        return self._respond(request, 200, {"status": "ok", "name": self.device.name})

    # What it tells.

    def backlog(self) -> float:
        """s of work at nominal speed that it holds."""
        total = sum(job.ask for job in self._waiting)
        job = self._current
        if job is not None:
            worked = job.worked + max(self.clock() - job.since, 0) * self.speed
            total += max(job.ask - worked, 0)
        return total

    def state(self) -> dict[str, Any]:
        """Its heartbeat."""
        return {
            "backlog": round(self.backlog(), 4),
            "resident": list(self._memory.held),
            "boot": self.boot,
            "waiting": len(self._waiting),
            "serving": self._current.run.id if self._current else None,
            "name": self.device.name,
        }

    # The work.

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        self._news = asyncio.Event()
        self._spooled: dict[Job, Path] = {}
        self._take_up()
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            worker.cancel()
            if self._current is not None:
                self._current.cancelled = True
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _take_up(self) -> None:
        """Queue what the spool holds, in the order in which it came."""
        if self.node.spool is None:
            return
        self.node.spool.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.node.spool.glob("*.json")):
            try:
                body = file.read_bytes()
                run = wire.parse(body, wire.RUN)
                job = self._queue(
                    run, *wire.unpack(run, self.node.max_pixels), hashlib.sha256(body).hexdigest()
                )
                self._spooled[job] = file
            except (Refused, OSError):  # half written when the process was killed
                file.unlink(missing_ok=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            job = self._waiting.pop(0)
            self._current = job
            # From here on it goes with the process.
            if (file := self._spooled.pop(job, None)) is not None:
                file.unlink(missing_ok=True)
            now = self.clock()
            start = max(job.at, self._free)
            start = now if now - start > LAG else start
            job.since = start
            job.begun.set()
            try:
                job.answer = await loop.run_in_executor(self._thread, self._paint, job, start)
            except Cancelled:
                job.answer = {"id": job.run.id, "error": "nobody waited for it"}
                self._jobs.pop(job.run.id, None)
            except Exception as error:
                log.error("failure", exc_info=error)
                job.answer = {"id": job.run.id, "error": "internal error"}
            self._current = None
            job.image = job.mask = np.empty(0)
            job.done.set()

    def _paint(self, job: Job, start: float) -> dict[str, Any]:
        """Paint a job; in the painter's thread."""
        run, m = job.run, self.device.variants.index(job.run.variant)
        pace = _Pace(self, job, start)
        begun = time.thread_time()
        cold = self._memory.wants(run.variant)
        if cold:
            self._memory.held[run.variant] = self.painter.load(run.variant)
            self._loads.labels(run.variant).inc()
            pace.step(self.device.load_time[m])
        loaded: Loaded = self._memory.held[run.variant]
        ready = self._free if cold else start
        step = run.images * self.device.step_time[m]
        painted = loaded.paint(
            job.image, job.mask, run.images, run.steps, run.seed, lambda _: pace.step(step)
        )
        pictures = [wire.to_png(one) for one in painted]
        pace.step(self.device.task_time[m])
        self._painted.labels(run.variant).inc(run.images)
        return {
            "id": run.id,
            "images": pictures,
            "variant": run.variant,
            "steps": 1 if run.variant == ONE_PASS else run.steps,
            "queue": round(start - job.at, 4),
            "cold": round(ready - start, 4),
            "service": round(self._free - start, 4),
            "computed": round(time.thread_time() - begun, 4),
        }


class _Pace:
    """The clock of the device that a node stands for."""

    def __init__(self, node: Node, job: Job, start: float) -> None:
        self._node, self._job, self._due = node, job, start

    def step(self, seconds: float) -> None:
        """Wait until the device would have worked so many s more, at nominal speed.

        Raises:
            Cancelled: nobody waits for the job any more.
        """
        node, job = self._node, self._job
        now = node.clock()
        if node.node.pace == "real":
            self._due = now
        else:
            self._due += seconds / node.speed
            if now - self._due > LAG:  # the process stood still, or the machine is too slow
                self._due = now
            while (wait := self._due - node.clock()) > 0 and not job.cancelled:
                time.sleep(min(wait, 0.1))
        job.worked += seconds
        job.since = self._due
        node._free = self._due
        if job.cancelled:
            raise Cancelled
