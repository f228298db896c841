"""A decision service over HTTP for one base station: ``jaxmec serve BUNDLE``.

    POST /v1/decide     where a task goes, or each of a batch of tasks
    GET  /healthz       whether it serves, and which bundle
    GET  /metrics       Prometheus
    GET  /openapi.json  the interface, machine-readable

One process, one thread that decides: a decision takes a fraction of a millisecond, less than
handing it to another thread would. Large requests have a thread of their own, one after another,
so that small ones do not wait for them. Everything from outside is bounded: connections, requests
at once, header and body size, the time in which a request has to arrive, tasks in a batch, and
every number. A bundle that is replaced on disk is opened beside the old one and swapped in
between two requests; one that cannot be opened is reported, and the old one goes on. Where the
policy fails, water-filling decides, and the answer says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import prometheus_client
import pydantic
import uvicorn
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jaxmec.core import checks
from jaxmec.core.bundle import MANIFEST, BundleError, PathLike
from jaxmec.core.types import Document
from jaxmec.deploy import onnx
from jaxmec.deploy.runtime import (
    LARGEST,
    LEAST_WORK,
    MAX_SERVERS,
    SMALLEST,
    Decision,
    PolicyFailed,
    Scheduler,
)

TOKEN_VARIABLE = "JAXMEC_TOKEN"  # the environment variable, not a token
MAX_HEADER_BYTES = 32_768
SMALL = 16_384  # bytes of a request that is answered in less time than another thread would take
LONGEST_PAUSE = 60.0  # s between two tries to open a bundle that was refused
MAX_ERRORS = 100  # of one request, that are looked at
MAX_DETAILS = 10  # of them that are told
log = logging.getLogger("jaxmec.serve")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """How to listen, and what to put up with.

    Raises:
        ValueError: a number outside what its comment allows.
    """

    host: str = "127.0.0.1"  # address or name to listen on; beyond the loopback it is reachable
    port: int = 8080  # 0: any that is free
    token_file: Path | None = None  # holds the bearer token; else $JAXMEC_TOKEN, else none is asked
    max_body_bytes: int = 1_048_576  # of one request, >= 1
    max_batch: int = 1024  # tasks in one request, >= 1
    max_connections: int = 256  # beyond them: 503
    max_requests: int = 64  # being received or answered at once, beyond them: 503
    request_seconds: float = 5.0  # in which a request has to arrive, > 0
    keep_alive_seconds: int = 30  # that an idle connection is kept, >= 1
    shutdown_seconds: int = 10  # for requests in flight when asked to stop, >= 1
    reload_seconds: float = 2.0  # between looks at the bundle on disk; 0: only on SIGHUP
    log_requests: bool = False  # a line for each request, not only for those refused

    def __post_init__(self) -> None:
        checks.fields(
            self,
            port=checks.whole(0, 65535),
            max_body_bytes=checks.whole(1),
            max_batch=checks.whole(1),
            max_connections=checks.whole(1),
            max_requests=checks.whole(1),
            keep_alive_seconds=checks.whole(1),
            shutdown_seconds=checks.whole(1),
            request_seconds=checks.number(above=0),
            reload_seconds=checks.number(0),
        )


# What is asked. A model's fields are those of the runtime's dataclasses, for which it stands in.

Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)]
EachServer = Annotated[list[Amount], Field(min_length=1, max_length=MAX_SERVERS, fail_fast=True)]
EachRate = Annotated[list[Rate], Field(min_length=1, max_length=MAX_SERVERS, fail_fast=True)]


class _Model(pydantic.BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TaskModel(_Model):
    """The task to place."""

    origin: int = Field(
        ge=-1, lt=MAX_SERVERS, description="the station where it arrived; -1: a master node"
    )
    size: Amount = Field(description="Mbit, of its input")
    work: Annotated[float, Field(ge=LEAST_WORK, le=LARGEST, allow_inf_nan=False)] = Field(
        description="Gcycles"
    )
    result: Amount = Field(default=0.0, description="Mbit, of its result")


class QueuesModel(_Model):
    """What the station knows of the queues; which fields are needed is the policy's affair."""

    backlog: EachServer = Field(description="Gcycles queued at each server as the slot began")
    inflight: EachServer | None = Field(
        default=None, description="Gcycles that all stations have added in this slot"
    )
    sent: EachServer | None = Field(
        default=None, description="Gcycles that this station has added in this slot"
    )
    uplink: Amount | EachServer | None = Field(
        default=None,
        description="s for which this station's uplink is committed, or every station's",
    )
    progress: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="how far the station is through its slot"
    )
    remaining_tasks: Amount | None = Field(
        default=None, description="tasks that the station has still to decide in its slot"
    )
    remaining_work: Amount | None = Field(default=None, description="Gcycles, their work")
    place: Amount | None = Field(
        default=None,
        description="where in the episode the task is, (slot * B + station) * N + position",
    )
    slot: Amount | None = Field(default=None, description="slots of the episode gone by")
    sent_tasks: EachServer | None = Field(
        default=None, description="tasks that this station has sent to each server since it began"
    )
    sent_work: EachServer | None = Field(
        default=None, description="Gcycles, their work, as far as it was sent there"
    )


class NetworkModel(_Model):
    """The servers and links as they are now; what is not named is as in the bundle."""

    capacity: EachRate = Field(description="Gcycles/s of each server")
    rate: EachRate = Field(description="Mbit/s toward each server")
    uplink_contention: bool | None = Field(
        default=None, description="whether a station's tasks wait for each other on its uplink"
    )
    max_wait: Amount | None = Field(
        default=None, description=f"s, the longest that a queue counts; {LARGEST:g}: no bound"
    )
    slot_length: Rate | None = Field(default=None, description="s")


class OneRequest(_Model):
    """One task."""

    task: TaskModel
    queues: QueuesModel
    network: NetworkModel | None = None


class Entry(_Model):
    """One task of a batch."""

    task: TaskModel
    queues: QueuesModel


class BatchRequest(_Model):
    """Several tasks, each decided as if it were alone."""

    batch: Annotated[list[Entry], Field(min_length=1, fail_fast=True)]
    network: NetworkModel | None = None


def _kind(value: Any) -> str:
    return "batch" if isinstance(value, dict) and "batch" in value else "one"


Asked = Annotated[
    Annotated[OneRequest, Tag("one")] | Annotated[BatchRequest, Tag("batch")],
    Discriminator(_kind),
]
JSON: TypeAdapter[Any] = TypeAdapter(Any)
ASKED: TypeAdapter[OneRequest | BatchRequest] = TypeAdapter(Asked)

# What an entry of a batch has at most: objects, lists and names of fields.
_MODELS = (Entry, TaskModel, QueuesModel)
_NAMES = sum(len(model.model_fields) for model in _MODELS)
SIGNS = {"objects": (b"{", len(_MODELS)), "lists": (b"[", _NAMES), "fields": (b":", _NAMES)}
BESIDE = 8  # entries that the rest of a request has room in


class DecisionModel(_Model):
    """Where a task goes."""

    servers: list[int] = Field(min_length=1, description="the set, ascending")
    fractions: list[float] = Field(description="of the task given to each server, summing to 1")
    makespan: float = Field(description="s, when the last finishes, by the queues given")
    by: str = Field(description="policy; water_filling or earliest_finish where the policy failed")


class OneAnswer(_Model):
    """The decision, and the digest of the bundle that made it."""

    decision: DecisionModel
    bundle: str


class BatchAnswer(_Model):
    """The decisions in the order of the tasks, and the digest of the bundle that made them."""

    decisions: list[DecisionModel] = Field(min_length=1)
    bundle: str


class Problem(_Model):
    """Why a request was refused."""

    error: str
    details: list[str] = Field(
        default=[], max_length=MAX_DETAILS, description="the fields that are wrong, and how"
    )


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self.requests = prometheus_client.Counter(
            "jaxmec_requests", "Answers given", ["status"], registry=self.registry
        )
        self.decisions = prometheus_client.Counter(
            "jaxmec_decisions", "Tasks decided", ["by"], registry=self.registry
        )
        self.fallbacks = prometheus_client.Counter(
            "jaxmec_fallbacks", "Tasks that the policy failed on", registry=self.registry
        )
        self.seconds = prometheus_client.Histogram(
            "jaxmec_decide_seconds",
            "Time to decide one request, once it was received",
            buckets=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0),
            registry=self.registry,
        )
        self.open = prometheus_client.Gauge(
            "jaxmec_requests_open", "Requests being received or answered", registry=self.registry
        )
        self.reloads = prometheus_client.Counter(
            "jaxmec_reloads", "Bundles opened while serving", ["result"], registry=self.registry
        )
        self.bundle = prometheus_client.Info(
            "jaxmec_bundle", "The bundle that decides", registry=self.registry
        )


class Application:
    """What our services have in common: bounds, a token, answers counted and logged.

    A service sets ``app`` once its routes are known.
    """

    app: Starlette

    def __init__(self, config: ServeConfig, answers: prometheus_client.Counter) -> None:
        """Args:
            config: the limits.
            answers: counts what is answered by its ``status``.

        Raises:
            ValueError: an empty token.
        """
        self.config, self.answers = config, answers
        self._token = _read_token(config.token_file)

    def routed(self, routes: list[Route], lifespan: Any) -> Starlette:
        """The application of these routes."""
        app = Starlette(
            routes=routes,
            lifespan=lifespan,
            exception_handlers={HTTPException: self._refused, Exception: self._broken},
        )
        app.router.redirect_slashes = False  # a path with one too many is not found
        return app

    async def _receive(
        self, request: Request, taken: Callable[[int], Awaitable[None]] | None = None
    ) -> bytes:
        """The body of a request; ``taken`` is told of each part's bytes, and may wait."""
        kind = request.headers.get("content-type", "application/json")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the content type must be application/json")
        limit = self.config.max_body_bytes
        too_large = HTTPException(413, f"a request has at most {limit} bytes", CLOSE)
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():  # which ends in time: _Protocol sees to it
            body += chunk
            if len(body) > limit:
                raise too_large
            if taken is not None:
                await taken(len(chunk))
        return bytes(body)

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Compared in constant time: how long it takes tells nothing of how much was right.
        right = hmac.compare_digest(given.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not right:
            raise HTTPException(401, "a bearer token is needed", {"www-authenticate": "Bearer"})

    # Answers.

    def _respond(
        self, request: Request, status: int, content: Any, headers: Any = None
    ) -> Response:
        error = content["error"] if status >= 400 else None
        self._note(status, error, request.client and request.client.host, request)
        if not isinstance(content, bytes):
            content = JSON.dump_json(content)
        return Response(content, status, headers, "application/json")

    def _note(
        self, status: int, error: str | None, client: str | None, request: Request | None = None
    ) -> None:
        """Count an answer, and log it where it is a refusal."""
        self.answers.labels(str(status)).inc()
        if not (self.config.log_requests or error):
            return
        fields: Document = {"status": status, "client": client}
        if request is not None:
            fields |= {"method": request.method[:20], "path": request.url.path[:200]}
        if error:
            fields["error"] = error
        log.info("request", extra={"fields": fields})

    def refusal(self, status: int, error: str, client: tuple[str, int] | None) -> bytes:
        """The content of an answer to what is no request yet, for the protocol to send."""
        self._note(status, error, client and client[0])
        return JSON.dump_json({"error": error, "details": []})

    async def crowded(self, scope: Any, receive: Any, send: Any) -> None:
        """The application for connections beyond those that there may be."""
        content = {"error": "too many connections", "details": []}
        answer = self._respond(Request(scope), 503, content, {**CLOSE, "retry-after": "1"})
        await answer(scope, receive, send)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        details = getattr(error, "details", [])
        content = {"error": error.detail, "details": details}
        return self._respond(request, error.status_code, content, error.headers)

    async def _broken(self, request: Request, error: Exception) -> Response:
        """A mistake of ours: told to the log, not to the client."""
        log.error("failure", exc_info=error)
        return self._respond(request, 500, {"error": "internal error", "details": []})


class Service(Application):
    """The application: a scheduler, and what may be asked of it."""

    def __init__(
        self,
        path: PathLike,
        config: ServeConfig | None = None,
        load: Callable[[PathLike], Scheduler] = onnx.load,
    ) -> None:
        """Args:
            path: the bundle; it may be replaced while serving.
            config: the limits.
            load: opens a bundle.

        Raises:
            jaxmec.core.bundle.BundleError: the bundle cannot be opened.
            ValueError: an empty token.
        """
        self.metrics = Metrics()
        super().__init__(config or ServeConfig(), self.metrics.requests)
        self.path, self._load = Path(path), load
        self._open_requests = 0
        self._aside = ThreadPoolExecutor(1, "large-requests")
        self._seen = _signature(self.path)
        self.reload_error: str | None = None
        self._pause, self._try_again = self.config.reload_seconds, 0.0
        self._use(load(self.path))
        self._reload_now = asyncio.Event()
        routes = [
            Route("/v1/decide", self._decide, methods=["POST"]),
            Route("/healthz", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        self.app = self.routed(routes, self._lifespan)

    def _use(self, scheduler: Scheduler) -> None:
        about = {"digest": scheduler.bundle.digest, "method": scheduler.method}
        schema = json.dumps(openapi(self.config, scheduler.num_servers)).encode()
        self.scheduler, self._schema = scheduler, schema
        self.metrics.bundle.info(about)
        log.info("bundle", extra={"fields": {"path": str(self.path), **about}})

    # Endpoints.

    async def _decide(self, request: Request) -> Response:
        self._check_token(request)
        if self._open_requests >= self.config.max_requests:
            raise HTTPException(503, "too many requests at once", {"retry-after": "1"})
        self._open_requests += 1
        self.metrics.open.inc()
        try:
            body = await self._receive(request)
            started = time.perf_counter()
            if len(body) > SMALL:
                loop = asyncio.get_running_loop()
                content = await loop.run_in_executor(self._aside, self._answer_to, body)
            else:
                content = self._answer_to(body)
            self.metrics.seconds.observe(time.perf_counter() - started)
            return self._respond(request, 200, content)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        finally:
            self._open_requests -= 1
            self.metrics.open.dec()

    def _answer_to(self, body: bytes) -> bytes:
        return JSON.dump_json(self._answer(self._parse(body)))

    def _parse(self, body: bytes) -> OneRequest | BatchRequest:
        """What is asked, or the first few things that are wrong with it.

        Sizes come before content, so that what a refusal costs does not grow with the request.
        """
        most = self.config.max_batch
        for name, (sign, each) in SIGNS.items():
            if (found := body.count(sign)) > (limit := each * (most + BESIDE)):
                raise misfit([f"body: at most {limit} {name}, got {found}"])
        try:
            value = JSON.validate_json(body)
        except pydantic.ValidationError as error:
            why = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise Refused(400, "the body is not JSON", [why[:200]]) from None
        entries = value.get("batch") if isinstance(value, dict) else None
        if isinstance(entries, list) and len(entries) > most:
            raise misfit([f"batch: at most {most} tasks, got {len(entries)}"])
        try:
            return ASKED.validate_python(value)
        except pydantic.ValidationError as error:
            if (found := error.error_count()) > MAX_ERRORS:
                raise misfit([f"body: {found} fields are wrong"]) from None
            raise misfit(
                [
                    f"{'.'.join(str(part) for part in problem['loc'][1:])[:200] or 'body'}: "
                    f"{problem['msg'][:200]}"
                    for problem in error.errors(
                        include_url=False, include_context=False, include_input=False
                    )[:MAX_DETAILS]
                ]
            ) from None

    def _answer(self, asked: OneRequest | BatchRequest) -> Document:
        scheduler = self.scheduler  # the same one throughout, whatever is swapped in meanwhile
        entries = asked.batch if isinstance(asked, BatchRequest) else [asked]
        queues, tasks = [entry.queues for entry in entries], [entry.task for entry in entries]
        try:
            decisions = self._decided(scheduler, asked.network, queues, tasks)
        except ValueError as error:  # a quantity does not fit the policy: the message names it
            raise Refused(422, "the request does not fit the policy", [str(error)[:500]]) from None
        shown = [_shown(decision) for decision in decisions]
        if isinstance(asked, BatchRequest):
            return {"decisions": shown, "bundle": scheduler.bundle.digest}
        return {"decision": shown[0], "bundle": scheduler.bundle.digest}

    def _decided(
        self, scheduler: Scheduler, network: Any, queues: list[Any], tasks: list[Any]
    ) -> list[Decision]:
        try:
            decisions = scheduler.decide_many(network, queues, tasks)
            self.metrics.decisions.labels("policy").inc(len(tasks))
        except PolicyFailed as error:
            if len(tasks) > 1:  # one strange task must not cost the others their policy
                return [
                    self._decided(scheduler, network, [entry], [task])[0]
                    for entry, task in zip(queues, tasks, strict=True)
                ]
            log.warning("fallback", extra={"fields": {"error": str(error)[:500]}})
            decisions = scheduler.decide_by_rule(network, queues, tasks)
            self.metrics.fallbacks.inc()
            self.metrics.decisions.labels(decisions[0].by).inc()
        return decisions

    async def _health(self, request: Request) -> Response:
        bundle = self.scheduler.bundle
        content = {
            "status": "ok",
            "bundle": bundle.digest,
            "method": self.scheduler.method,
            "servers": self.scheduler.num_servers,
            "needs": sorted(self.scheduler.needs),
            "reload_error": self.reload_error and "the new bundle is refused; the log says why",
        }
        return self._respond(request, 200, content)

    async def _metrics(self, request: Request) -> Response:
        self._check_token(request)
        text = prometheus_client.generate_latest(self.metrics.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _openapi(self, request: Request) -> Response:
        self._check_token(request)
        return Response(self._schema, media_type="application/json")

    # Reloading.

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch())
        hangup = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP")
        loop = asyncio.get_running_loop()
        if hangup:
            loop.add_signal_handler(signal.SIGHUP, self._reload_now.set)
        try:
            yield
        finally:
            watcher.cancel()
            self._aside.shutdown(wait=False, cancel_futures=True)
            if hangup:
                loop.remove_signal_handler(signal.SIGHUP)
            log.info("stopped")

    async def _watch(self) -> None:
        """Look for another bundle as long as the service runs, whatever comes of one look."""
        every = self.config.reload_seconds or None
        while True:
            asked = True
            try:
                await asyncio.wait_for(self._reload_now.wait(), every)
            except TimeoutError:
                asked = False
            self._reload_now.clear()
            try:
                await self._look(asked)
            except Exception as error:  # a bundle may be wrong in ways that nobody thought of
                self._reload_failed(error)

    async def _look(self, asked: bool) -> None:
        """Open the bundle that is there now, beside the one in use, and use it if it is sound.

        That is if somebody asked, if it is another one than before, and now and then if it was
        refused: it may have been read while it was being copied, or memory was short.
        """
        signature = await asyncio.to_thread(_signature, self.path)
        another = signature != self._seen
        again = self.reload_error is not None and time.monotonic() >= self._try_again
        if not (asked or (signature is not None and (another or again))):
            return
        self._seen = signature
        if asked or another:
            self._pause = self.config.reload_seconds
        self._use(await asyncio.to_thread(self._load, self.path))
        self.reload_error = None
        self.metrics.reloads.labels("done").inc()

    def _reload_failed(self, error: Exception) -> None:
        """The bundle before stays in use; one line says why, once as long as it is the same."""
        said = str(error)
        if not isinstance(error, BundleError | OSError | ValueError):
            said = f"{type(error).__name__}: {error}"
        if said != self.reload_error:
            log.error("reload refused", extra={"fields": {"error": said[:500]}})
        self.reload_error = said
        self.metrics.reloads.labels("refused").inc()
        self._try_again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


CLOSE = {"connection": "close"}
HEADER_TOO_LARGE = (431, f"the header of a request has at most {MAX_HEADER_BYTES} bytes")


class Refused(HTTPException):
    """A refusal with details."""

    def __init__(self, status: int, error: str, details: list[str]) -> None:
        super().__init__(status, error)
        self.details = details


def misfit(details: list[str]) -> Refused:
    return Refused(422, "the request does not fit the schema", details)


def _shown(decision: Decision) -> Document:
    return {
        "servers": decision.servers,
        "fractions": decision.fractions.tolist(),
        "makespan": decision.makespan,
        "by": decision.by,
    }


def _read_token(file: Path | None) -> bytes | None:
    if file is not None:
        token = file.read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"token_file must hold a token, and {file} is empty")
        return token.encode()
    return os.environ.get(TOKEN_VARIABLE, "").strip().encode() or None


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes when another bundle is put at ``path``; None while there is none."""
    try:
        status = (path / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _bounded(schema: Any, servers: int) -> None:
    """Write into a schema how long its lists of numbers are: one for each server."""
    if isinstance(schema, list):
        for entry in schema:
            _bounded(entry, servers)
    elif isinstance(schema, dict):
        if schema.get("type") == "array" and schema["items"].get("type") == "number":
            schema["minItems"] = schema["maxItems"] = servers
        for entry in schema.values():
            _bounded(entry, servers)


STATUSES = {
    400: "not JSON, or not HTTP",
    401: "a bearer token is needed",
    404: "there is no such path",
    405: "the path has no such method",
    408: "the request did not arrive in time",
    413: "the request is too large",
    415: "the content type is not JSON",
    422: "a field is wrong; details name it",
    431: "the header is too large",
    500: "a mistake of the service",
    503: "too many requests or connections at once; try again",
}
ALWAYS = (400, 404, 405, 408, 431, 500, 503)  # what any path may answer


def _schemas(config: ServeConfig, servers: int) -> tuple[Document, Document]:
    """The schema of each message by name, and the definitions that they refer to."""
    models = {model.__name__: (model, "validation") for model in (OneAnswer, BatchAnswer, Problem)}
    adapters: Any = [(name, mode, TypeAdapter(model)) for name, (model, mode) in models.items()]
    adapters.append(("Asked", "validation", ASKED))
    by_key, definitions = TypeAdapter.json_schemas(
        adapters, ref_template="#/components/schemas/{model}"
    )
    schemas = {name: by_key[(name, "validation")] for name, _, _ in adapters}
    components = definitions.get("$defs", {})
    _bounded(components, servers)
    components["TaskModel"]["properties"]["origin"]["exclusiveMaximum"] = servers
    components["DecisionModel"]["properties"]["servers"]["maxItems"] = servers
    for model, name in (("BatchRequest", "batch"), ("BatchAnswer", "decisions")):
        components[model]["properties"][name]["maxItems"] = config.max_batch
    return schemas, components


def openapi(config: ServeConfig, servers: int) -> Document:
    """The interface as an OpenAPI 3.1 document, for a policy of so many servers."""
    schemas, components = _schemas(config, servers)
    problem = {"application/json": {"schema": schemas["Problem"]}}

    def answers(*statuses: int) -> Document:
        return {
            str(status): {"description": STATUSES[status], "content": problem}
            for status in sorted({*ALWAYS, *statuses})
        }

    decided = {"anyOf": [schemas["OneAnswer"], schemas["BatchAnswer"]]}
    token: list[dict[str, list[str]]] = [{}, {"token": []}]
    plain = {"200": {"description": "as it is now"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxmec decision service", "version": "1"},
        "paths": {
            "/v1/decide": {
                "post": {
                    "summary": "The servers for one task, or for each of a batch, and fractions",
                    "security": token,
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": schemas["Asked"]}},
                    },
                    "responses": {
                        "200": {
                            "description": "decided",
                            "content": {"application/json": {"schema": decided}},
                        },
                        **answers(401, 413, 415, 422),
                    },
                }
            },
            "/healthz": {"get": {"summary": "Whether it serves, and which bundle",
                                 "security": [{}],
                                 "responses": {**plain, **answers()}}},
            "/metrics": {"get": {"summary": "Prometheus metrics", "security": token,
                                 "responses": {**plain, **answers(401)}}},
            "/openapi.json": {"get": {"summary": "This document", "security": token,
                                      "responses": {**plain, **answers(401)}}},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


# Running.


RECEIVING, ANSWERING, TAKING, IDLE = "receiving", "answering", "taking", "idle"
ANSWER_SECONDS = 120.0  # that an answer may take us; no sound one comes near


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, where a connection has a clock whatever it is about.

    A connection is `receiving` from its start, or from the first byte after an answer, whatever
    byte that is, until a request has wholly arrived; `answering` while that is the service's
    affair; `taking` while the client has to take what was written; and else `idle`. A clock
    starts as the state changes, and bytes that change nothing do not move it. (uvicorn has one
    clock, for idle connections, and any byte stops it.)

    The bytes of a header and the requests that wait on one connection are bounded too. What is
    refused here is told as elsewhere: a `Problem`, counted and logged.
    """

    service: Application

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._receiving = self._in_header = True  # a request; its header has not ended
        self._bytes = 0  # of it
        self._unanswered: deque[Any] = deque()  # uvicorn's cycles, the oldest first
        self._refusal: tuple[int, str] | None = None  # the last that this connection is told
        self._state = ""
        self._clock: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        config = self.service.config
        self._seconds = {
            RECEIVING: config.request_seconds,
            ANSWERING: ANSWER_SECONDS,
            TAKING: config.request_seconds,
            IDLE: float(config.keep_alive_seconds),
        }
        if len(self.connections) > 2 * config.max_connections:
            transport.abort()  # as many have been told already that they are too many
        self._set_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._clock, self._end):
            if timer is not None:
                timer.cancel()
        self._leave_unanswered()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if not self._receiving:
            self._receiving, self._in_header, self._bytes = True, True, 0
        super().data_received(data)
        if self._receiving:
            self._bytes += len(data)
            if self._in_header and self._bytes > MAX_HEADER_BYTES:
                self._refuse(*HEADER_TOO_LARGE)
            elif self._bytes > MAX_HEADER_BYTES + 8 * self.service.config.max_body_bytes:
                self._refuse(413, "the request is too large")  # in chunks and trailers
        self._set_clock()

    def on_message_begin(self) -> None:
        self._receiving, self._in_header, self._bytes = True, True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEADER_BYTES:
            self._refusal = HEADER_TOO_LARGE
        elif len(self._unanswered) >= self.service.config.max_requests:
            self._refusal = (503, "too many requests at once")
        if self._refusal is not None:
            raise ValueError(self._refusal)  # ends the parsing, and comes back as a bad request
        crowded = len(self.connections) > self.service.config.max_connections
        self.app = self.service.crowded if crowded else self.config.loaded_app
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        self._in_header = False

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        super().on_response_complete()
        self._state = ""  # an answer given: whatever comes has a clock of its own
        if self._refusal is not None:
            self._tell()
        self._set_clock()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not HTTP/1.1")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_clock()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_clock()

    def shutdown(self) -> None:
        super().shutdown()
        self._end = self.loop.call_later(self.service.config.shutdown_seconds, self.transport.abort)
        self._set_clock()

    # The clock.

    def _answering(self) -> bool:
        return bool(self._unanswered) and not self._unanswered[0].more_body

    def _set_clock(self) -> None:
        if self.transport.is_closing() or self.flow.write_paused:
            state = TAKING
        elif self._answering():
            state = ANSWERING
        else:
            state = RECEIVING if self._receiving else IDLE
        if state != self._state:
            self._state = state
            if self._clock is not None:
                self._clock.cancel()
            self._clock = self.loop.call_later(self._seconds[state], self._time_is_up)

    def _time_is_up(self) -> None:
        if self._state == RECEIVING:
            seconds = self.service.config.request_seconds
            self._refuse(408, f"a request has to arrive within {seconds:g} s")
        elif self._state == IDLE:
            self.transport.close()
        else:
            self.transport.abort()
        self._set_clock()

    # Refusals.

    def _refuse(self, status: int, error: str) -> None:
        """Tell it once what came before has its answers, and close."""
        self._refusal = self._refusal or (status, error)
        self._tell()

    def _tell(self) -> None:
        if self._answering() or self.transport.is_closing():
            return
        assert self._refusal is not None
        # Of a request that is being answered before it has arrived nothing more can be said.
        begun = self._unanswered[0].response_started if self._unanswered else not self._in_header
        self._leave_unanswered()
        content = self.service.refusal(*self._refusal, self.client)
        if not begun:
            status, reply = HTTPStatus(self._refusal[0]), "retry-after: 1\r\n"
            head = (
                f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\nconnection: close\r\n"
                f"{reply if status == 503 else ''}\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()

    def _leave_unanswered(self) -> None:
        """uvicorn tells the latest request alone that nobody waits for its answer."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()


class _JSONLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def serve(path: PathLike, config: ServeConfig | None = None) -> None:
    """Serve the bundle at ``path`` until SIGTERM or SIGINT; SIGHUP reloads it.

    A second signal ends requests in flight; a signal that was ignored before stays ignored.

    Raises:
        jaxmec.core.bundle.BundleError: the bundle cannot be opened.
        OSError: the address is taken, unknown, or not this machine's; the message names it.
    """
    log_in_json()
    run(Service(path, config))


def log_in_json() -> None:
    """What services and uvicorn log goes to standard error, an object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONLines())
    for name in ("jaxmec.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "jaxmec.serve" else logging.ERROR)


def run(service: Application) -> None:
    """Serve an application until SIGTERM or SIGINT.

    Raises:
        OSError: the address is taken, unknown, or not this machine's; the message names it.
    """
    listener = _listen(service.config)
    host, port = listener.getsockname()[:2]
    log.info("listening", extra={"fields": {"host": host, "port": port, "pid": os.getpid()}})
    if not ipaddress.ip_address(host).is_loopback and service._token is None:
        log.warning("open to the network without a token", extra={"fields": {"host": host}})
    make_server(service).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which stops in order at any number of signals, and at none ignored.

    uvicorn catches signals that were ignored when it began, as they are under nohup or in a
    script's background, and at a second SIGINT leaves everything where it is, with a trace.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._loop, self._first = asyncio.get_running_loop(), 0
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: what for number, what in before.items() if what is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, what in before.items():
                signal.signal(number, what)
        if self._first:  # and act as it would have acted here
            signal.raise_signal(self._first)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # asked again: nobody is waited for any more
            self._loop.call_soon_threadsafe(self._hang_up)
        self._first = self._first or sig
        self.should_exit = True

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def make_server(service: Application) -> uvicorn.Server:
    """The HTTP server around a service; it stops when its ``should_exit`` is set."""
    config = service.config
    protocol = type("Protocol", (_Protocol,), {"service": service})
    return _Server(
        uvicorn.Config(
            service.app,
            http=protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=config.max_connections,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=config.shutdown_seconds + 1,  # our own clocks come first
        )
    )


def _listen(config: ServeConfig) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            _bare(config.host), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:  # a ValueError where it is no name at all
        raise _no_listener(config, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(config.max_connections)  # from here on clients wait instead of failing
    except OSError as error:
        listener.close()
        raise _no_listener(config, error) from error
    return listener


def _bare(host: str) -> str:
    """An IPv6 address may come in the brackets that it has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _no_listener(config: ServeConfig, error: Exception) -> OSError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return OSError(f"cannot listen on {config.host} port {config.port}: {why}")
