"""The decision service: what it answers, what it refuses, and that it goes on."""

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from edge_policies import CASES

from jaxmec.core.bundle import BundleDamaged
from jaxmec.deploy import export, onnx, server
from jaxmec.deploy.client import Client, ServiceError
from jaxmec.deploy.runtime import Network, Queues, Task
from jaxmec.deploy.server import ServeConfig, Service

ROOT = Path(__file__).parents[2]
TASK = {"origin": 1, "size": 20.0, "work": 0.1}
QUEUES = {"backlog": [0, 0.2, 0.4, 0.1, 1.0]}
ONE = {"task": TASK, "queues": QUEUES}


class Running:
    """A service in a thread of this process, on a free port of the loopback."""

    def __init__(self, path, config=None, load=onnx.load):
        self.service = Service(path, config or ServeConfig(port=0, reload_seconds=0.05), load)
        self._server = server.make_server(self.service)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # answers do not hide there
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def stop(self):
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def ask(self, body, method="POST", path="/v1/decide", **headers):
        """Status, headers and content of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            if not isinstance(body, bytes | None):
                body = json.dumps(body).encode()
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            content = response.read()
            with contextlib.suppress(ValueError):
                content = json.loads(content)
            return response.status, response.headers, content
        finally:
            connection.close()

    @property
    def connections(self):
        return len(self._server.server_state.connections)

    def metric(self, name, **labels):
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def path(bundle):
    return bundle("top_k")


@pytest.fixture(scope="module")
def running(path):
    started = Running(path)
    yield started
    started.stop()


def test_one_task_is_decided_as_the_runtime_does(running, path):
    status, headers, content = running.ask(ONE)
    assert status == 200 and headers["content-type"] == "application/json"
    expected = onnx.load(path).decide(None, Queues(**QUEUES), Task(**TASK))
    assert content["decision"]["servers"] == list(expected.servers)
    np.testing.assert_allclose(content["decision"]["fractions"], expected.fractions)
    assert content["decision"]["makespan"] == pytest.approx(expected.makespan)
    assert content["decision"]["by"] == "policy"
    assert content["bundle"] == expected_digest(path)


def expected_digest(path):
    return json.loads((path / "manifest.json").read_text())["sha256"]


def test_a_batch_is_decided_in_order(running):
    entries = [{"task": {**TASK, "origin": b}, "queues": QUEUES} for b in (0, 3, -1)]
    status, _, content = running.ask({"batch": entries})
    assert status == 200
    alone = [running.ask(entry)[2]["decision"] for entry in entries]
    for together, one in zip(content["decisions"], alone, strict=True):
        assert together["servers"] == one["servers"]
        np.testing.assert_allclose(together["fractions"], one["fractions"], atol=1e-6)


def test_entries_of_a_batch_may_tell_other_fields(running):
    other = {"task": TASK, "queues": {**QUEUES, "inflight": [5] * 5}}
    status, _, content = running.ask({"batch": [ONE, other]})
    assert status == 200
    alone = [running.ask(entry)[2]["decision"] for entry in (ONE, other)]
    for together, one in zip(content["decisions"], alone, strict=True):
        assert together["servers"] == one["servers"]
        np.testing.assert_allclose(together["fractions"], one["fractions"], atol=1e-6)


def test_a_network_may_come_along(running):
    network = {"capacity": [50, 40, 30, 20, 10], "rate": [400] * 5}
    first = running.ask(ONE)[2]["decision"]
    other = running.ask({**ONE, "network": network})[2]["decision"]
    assert other["fractions"] != first["fractions"]


def test_what_a_network_does_not_name_is_the_bundles(running):
    """The bundle's waits end at its deadline of 1 s: 10 s of work ahead is no more than that."""
    bundled = running.service.scheduler.network
    assert bundled.max_wait == 1.0
    named = {"capacity": bundled.capacity.tolist(), "rate": bundled.rate.tolist()}
    asked = {**ONE, "queues": {"backlog": (10 * bundled.capacity).tolist()}}
    usual = running.ask(asked)[2]["decision"]
    assert usual["makespan"] < 2
    for network in (named, {**named, "max_wait": None, "uplink_contention": None}):
        assert running.ask({**asked, "network": network})[2]["decision"] == usual
    with Client(running.url) as client:
        unbounded = Network(bundled.capacity, bundled.rate, max_wait=float("inf"))
        decision = client.decide(asked["task"], asked["queues"], unbounded)
        assert decision["makespan"] > 10


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b'{"task": NaN}', 422, "task"),
        (b"[" * 1_000, 400, "not JSON"),
        (b'{"a":' * 1_000, 400, "not JSON"),
        (b"[" * 100_000, 422, "lists, got 100000"),
        (b'{"\\ud800": 1}', 400, "not JSON"),
        (b"null", 422, "schema"),
        (b"[]", 422, "schema"),
        (b"3", 422, "schema"),
        ({}, 422, "task: Field required"),
        ({"task": TASK}, 422, "queues: Field required"),
        ({**ONE, "extra": 1}, 422, "extra: Extra inputs"),
        ({"task": {**TASK, "size": "3"}, "queues": QUEUES}, 422, "task.size"),
        ({"task": {**TASK, "size": -1}, "queues": QUEUES}, 422, "task.size"),
        ({"task": {**TASK, "size": 1e300}, "queues": QUEUES}, 422, "task.size"),
        ({"task": {**TASK, "work": 0}, "queues": QUEUES}, 422, "task.work"),
        ({"task": {**TASK, "work": 1e-320}, "queues": QUEUES}, 422, "task.work"),
        ({"task": {**TASK, "origin": 7}, "queues": QUEUES}, 422, "origin must be a station"),
        ({"task": {**TASK, "origin": 1.5}, "queues": QUEUES}, 422, "task.origin"),
        ({"task": {**TASK, "origin": True}, "queues": QUEUES}, 422, "task.origin"),
        ({"task": {**TASK, "origin": 10**400}, "queues": QUEUES}, 422, "task.origin"),
        ({"task": TASK, "queues": {"backlog": [1]}}, 422, "backlog must be 5 numbers"),
        ({"task": TASK, "queues": {"backlog": [[1]] * 5}}, 422, "queues.backlog"),
        ({"task": TASK, "queues": {"backlog": [None] * 5}}, 422, "queues.backlog"),
        ({"task": TASK, "queues": {"backlog": [0] * 5000}}, 422, "queues.backlog"),
        ({**ONE, "network": {"capacity": [0] * 5, "rate": [1] * 5}}, 422, "network.capacity"),
        ({**ONE, "network": {"capacity": [1] * 4, "rate": [1] * 4}}, 422, "5 entries"),
        ({**ONE, "network": {"capacity": [1] * 5, "rate": [1] * 4}}, 422, "network.rate"),
        ({"batch": []}, 422, "batch"),
        ({"batch": [ONE] * 1025}, 422, "at most 1024 tasks, got 1025"),
        ({"batch": [ONE, {"task": TASK}]}, 422, "batch.1.queues"),
        ({"batch": [{"task": TASK, "queues": QUEUES}] * 2 + [
            {"task": {**TASK, "origin": 9}, "queues": QUEUES}]}, 422, r"tasks[2].origin"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_named(running, body, status, said):
    got, _, content = running.ask(body)
    assert got == status, content
    assert said in json.dumps(content)
    assert "Traceback" not in json.dumps(content)


def some(count, item):
    return ",".join([item] * count)


MANY = ",".join(f'"{i}":0' for i in range(90_000))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f'{{"batch": [{some(500_000, "0")}]}}', "at most 1024 tasks, got 500000"),
        (f'{{"batch": [{some(340_000, "{}")}]}}', "objects, got 340001"),
        (f'{{"batch": [{some(340_000, "[]")}]}}', "lists, got 340001"),
        (f'{{"batch": [{some(1024, "0")}]}}', "batch.0"),
        (f'{{"task": 0, "queues": {{"backlog": [{some(340_000, "{}")}]}}}}', "objects, got"),
        (f'{{"task": 0, "queues": {{"backlog": [{some(500_000, "0")}]}}}}', "queues.backlog"),
        (f'{{"task": 0, "queues": {{"backlog": [{some(3_000, "{}")}]}}}}', "queues.backlog.0"),
        (f"{{{MANY}}}", "fields, got 90000"),
        (f'{{"task": {{{MANY}}}}}', "fields, got 90001"),
        ("{" + ",".join(f'"{i}":0' for i in range(17_000)) + "}", "17002 fields are wrong"),
        ('{"batch": ' * 90_000, "objects, got 90000"),
    ],
)
def test_what_a_refusal_costs_does_not_grow_with_the_request(running, body, said):
    """All of these took from 1 to 7 s of everybody's time, and up to 800 MB."""
    assert len(body) <= 1_048_576
    began = time.monotonic()
    status, _, content = running.ask(body.encode())
    taken = time.monotonic() - began
    assert status == 422 and said in json.dumps(content), content
    assert len(content["details"]) <= server.MAX_DETAILS
    assert taken < 0.5


def test_large_requests_do_not_keep_small_ones_waiting(path, monkeypatch):
    started = Running(path)
    go_on = threading.Event()
    answer = started.service._answer

    def slowly(asked):
        if isinstance(asked, server.BatchRequest):
            assert go_on.wait(20)
        return answer(asked)

    monkeypatch.setattr(started.service, "_answer", slowly)
    large = threading.Thread(target=started.ask, args=({"batch": [ONE] * 1024},))
    large.start()
    try:
        wait_until(lambda: started.metric("jaxmec_requests_open") == 1)
        for _ in range(3):
            assert started.ask(ONE)[0] == 200
        assert large.is_alive()
    finally:
        go_on.set()
        large.join(20)
        started.stop()


def test_nan_and_infinity_are_not_numbers(running):
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = json.dumps(ONE).replace("20.0", word).encode()
        status, _, content = running.ask(body)
        assert status in (400, 422), (word, content)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/decide", 405),
        ("POST", "/healthz", 405),
        ("GET", "/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("PATCH", "/v1/decide", 405),
    ],
)
def test_other_methods_and_paths(running, method, target, status):
    got, _, content = running.ask(None, method, target)
    assert got == status
    assert "error" in content


def test_only_json_is_read(running):
    assert running.ask(b"x=1", content_type="application/x-www-form-urlencoded")[0] == 415
    assert running.ask(ONE, content_type="application/json; charset=utf-8")[0] == 200


def test_health_and_metrics(running, path):
    status, _, content = running.ask(None, "GET", "/healthz")
    assert status == 200
    assert content["status"] == "ok" and content["bundle"] == expected_digest(path)
    assert content["needs"] == ["backlog"] and content["servers"] == 5
    before = running.metric("jaxmec_decisions_total", by="policy")
    running.ask({"batch": [{"task": TASK, "queues": QUEUES}] * 3})
    status, headers, text = running.ask(None, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    assert f'jaxmec_decisions_total{{by="policy"}} {before + 3}' in text.decode()
    assert b"process_resident_memory_bytes" in text


def test_the_interface_is_described(running):
    status, _, document = running.ask(None, "GET", "/openapi.json")
    assert status == 200 and document["openapi"].startswith("3.1")
    operation = document["paths"]["/v1/decide"]["post"]
    refused = {"400", "404", "405", "408", "431", "500", "503"}
    assert operation["responses"].keys() == refused | {"200", "401", "413", "415", "422"}
    for path in ("/healthz", "/metrics", "/openapi.json"):
        assert refused <= document["paths"][path]["get"]["responses"].keys()
    schemas = document["components"]["schemas"]
    for model, name in (("BatchRequest", "batch"), ("BatchAnswer", "decisions")):
        lengths = schemas[model]["properties"][name]
        assert (lengths["minItems"], lengths["maxItems"]) == (1, 1024)
    for model, name in (
        ("QueuesModel", "backlog"), ("NetworkModel", "capacity"), ("DecisionModel", "fractions"),
    ):  # fmt: skip
        lengths = schemas[model]["properties"][name]
        assert (lengths["minItems"], lengths["maxItems"]) == (5, 5)
    inflight, _ = schemas["QueuesModel"]["properties"]["inflight"]["anyOf"]
    assert (inflight["minItems"], inflight["maxItems"]) == (5, 5)
    assert "Mbit" in schemas["TaskModel"]["properties"]["size"]["description"]

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    named = set(references(document))
    assert named
    for reference in named:
        prefix, name = reference.rsplit("/", 1)
        assert prefix == "#/components/schemas" and name in schemas


def test_large_requests_are_refused(path):
    started = Running(path, ServeConfig(port=0, max_body_bytes=2_000))
    try:
        assert started.ask(ONE)[0] == 200
        assert started.ask(b" " * 2_001)[0] == 413

        # Many chunks at once: a client that is still sending may only see the connection reset.
        chunks = 21 * f"64\r\n{' ' * 100}\r\n"
        head = "POST /v1/decide HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
        assert b" 413 " in raw(started.port, head + chunks)[:20]
        for header in ("content-length: 99999999999999999999999", "content-length: -1"):
            assert b" 4" in raw(started.port, f"POST /v1/decide HTTP/1.1\r\n{header}\r\n\r\n")[:12]
    finally:
        started.stop()


def raw(port, text, timeout=10.0):
    """What comes back for some bytes on a bare connection, until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(text.encode("latin-1"))
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := connection.recv(65536):
                answer += part
        return answer


def test_slow_clients_are_given_up(path):
    """Neither a connection without a word, nor half a header, nor half a body holds a place."""
    started = Running(path, ServeConfig(port=0, request_seconds=0.4, keep_alive_seconds=1))
    try:
        whole = f"POST /v1/decide HTTP/1.1\r\ncontent-length: {len(json.dumps(ONE))}\r\n\r\n"
        for text, status in (
            ("", b"408"),
            ("POST /v1/dec", b"408"),
            (whole + '{"task"', b"408"),
            (f"GET /healthz HTTP/1.1\r\nx: {'y' * 40_000}", b"431"),
        ):
            began = time.monotonic()
            answer = raw(started.port, text)
            assert answer.split(b" ")[1] == status, (text[:40], answer)
            assert time.monotonic() - began < 5
        # A second request on the same connection has the same time, and no more.
        with socket.create_connection(("127.0.0.1", started.port), timeout=10) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert b"200 OK" in connection.recv(65536)
            connection.sendall(b"GET /heal")
            answer = b""
            while part := connection.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 408")
        assert started.ask(ONE)[0] == 200
    finally:
        started.stop()


HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"


def asked(body, close=False):
    body = json.dumps(body).encode()
    head = f"POST /v1/decide HTTP/1.1\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{'connection: close' if close else 'a: b'}\r\n\r\n".encode() + body


LARGE = {"batch": [ONE] * 1024}  # its answer has 150 kB
UNASKED = b"POST /nowhere HTTP/1.1\r\ncontent-length: 90\r\n\r\n"
UPGRADE = b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
CHUNKED = b"POST /v1/decide HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
# What a client sends, whether it reads the answer, and what it sends then: a single byte now and
# then where the name says so.
STATES = {
    "silent": (b"", False, b""),
    "in a header": (b"GET /heal", False, b""),
    "in a header, now and then": (b"GET /heal", False, b"x"),
    "in a body": (asked(ONE)[:-5], False, b""),
    "in a body, now and then": (asked(LARGE)[:-9_000], False, b" "),
    "in a chunk": (CHUNKED + b"5\r\nab", False, b""),
    "in a trailer, now and then": (CHUNKED + b"1\r\n0\r\n0\r\n", False, b"a: b\r\n"),
    "idle": (HEALTH, True, b""),
    "an empty line after an answer": (HEALTH, True, b"\r\n"),
    "an empty line with the request": (HEALTH + b"\r\n", True, b""),
    "a first byte after an answer": (HEALTH, True, b"G"),
    "a body announced after an answer": (HEALTH, True, asked(ONE)[:-5]),
    "a body that nobody waits for": (UNASKED, True, b"x"),
    "a body that nobody waits for, now and then": (UNASKED, True, b"x"),
    "an upgrade, now and then": (UPGRADE, True, b"x"),
    "an answer that is not read": (asked(LARGE), False, b""),
    "a last answer that is not read": (asked(LARGE, close=True), False, b""),
    "answers that are not read": (asked(LARGE) * 3, False, b""),
}


def test_every_state_of_a_connection_has_a_clock(path):
    """Whatever a client does or leaves, its connection is given up in time."""
    started = Running(path, ServeConfig(port=0, request_seconds=0.5, keep_alive_seconds=1))
    connections, trickling = [], []
    try:
        for name, (text, reads, rest) in STATES.items():
            connection = socket.socket()
            connections.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(5)
            connection.connect(("127.0.0.1", started.port))
            with contextlib.suppress(ConnectionError):  # a slow machine: its time is up already
                connection.sendall(text)
                if reads:
                    assert connection.recv(65_536).startswith(b"HTTP/1.1 "), name
                if rest:
                    connection.sendall(rest)
            if name.endswith("now and then"):
                trickling.append((connection, rest))
        deadline = time.monotonic() + 10
        while started.connections and time.monotonic() < deadline:
            for connection, text in trickling:
                with contextlib.suppress(OSError):
                    connection.sendall(text)
            time.sleep(0.05)
        assert started.connections == 0
        assert started.ask(ONE)[0] == 200
    finally:
        for connection in connections:
            connection.close()
        started.stop()


def test_connections_that_are_held_are_freed_for_others(path):
    most = 16
    config = ServeConfig(port=0, request_seconds=0.5, keep_alive_seconds=1, max_connections=most)
    started = Running(path, config)
    held = []
    try:
        for _ in range(most):
            held.append(socket.create_connection(("127.0.0.1", started.port), timeout=10))
            held[-1].sendall(HEALTH)
            assert held[-1].recv(65_536).startswith(b"HTTP/1.1 200")
            held[-1].sendall(b"\r\n")
        status, headers, content = started.ask(ONE)
        assert status == 503 and headers["retry-after"] == "1"
        assert content == {"error": "too many connections", "details": []}
        with Client(started.url, patience=10) as client:
            assert client.decide(TASK, QUEUES)["by"] == "policy"
    finally:
        for connection in held:
            connection.close()
        started.stop()


def test_a_client_that_asks_without_a_pause_keeps_its_connection(path):
    """No clock is for the connection as a whole."""
    started = Running(path, ServeConfig(port=0, request_seconds=0.3, keep_alive_seconds=1))
    try:
        with Client(started.url, patience=0.001) as client:
            until = time.monotonic() + 1.2
            while time.monotonic() < until:
                client.decide(TASK, QUEUES)
            time.sleep(0.6)  # longer than a request may take, shorter than a connection is kept
            client.decide(TASK, QUEUES)
        assert client.retries == 0
    finally:
        started.stop()


@contextlib.contextmanager
def logged():
    """What is logged at the level of a warning or above by anybody."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    loggers = [logging.getLogger(name) for name in ("jaxmec.serve", "uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("text", [HEALTH * 40, asked(LARGE) * 4, asked(ONE) * 3 + asked(ONE)[:-9]])
def test_a_client_that_asks_on_and_leaves_is_no_failure(path, text):
    started = Running(path)
    try:
        with logged() as records:
            for _ in range(5):
                connection = socket.create_connection(("127.0.0.1", started.port), timeout=10)
                connection.sendall(text)
                time.sleep(0.1)  # so that answers are under way
                connection.close()
            wait_until(lambda: not (started.connections or started._server.server_state.tasks))
        assert [record.getMessage() for record in records] == []
        assert started.metric("jaxmec_requests_open") == 0
        assert started.ask(ONE)[0] == 200
    finally:
        started.stop()


def test_what_waits_on_one_connection_is_bounded_and_answered_in_order(path):
    started = Running(path, ServeConfig(port=0, max_requests=5))
    try:
        answers = raw(started.port, (HEALTH * 4).decode() + "nonsense\r\n\r\n")
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers)
        assert statuses == [b"200"] * 4 + [b"400"]
        answers = raw(started.port, (HEALTH * 1_000).decode())
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers)
        assert statuses == [b"200"] * 5 + [b"503"]
    finally:
        started.stop()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET http://[ HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\n x\r\n\r\n", 400),
        (f"GET /healthz HTTP/1.1\r\nx: {'y' * 33_000}\r\n\r\n", 431),
        (f"GET /{'y' * 33_000} HTTP/1.1\r\n\r\n", 431),
        ("GET /healthz HTTP/1.1\r\n" + "x: y\r\n" * 6_000 + "\r\n", 431),
        ("GET /healthz HTTP/1.1\r\nx: " + "y" * 70_000, 431),
        ("GET /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        ("PUT /healthz HTTP/1.1\r\nconnection: close\r\n\r\n", 405),
    ],
)
def test_whatever_is_refused_is_refused_with_a_problem(running, text, status):
    before = running.metric("jaxmec_requests_total", status=str(status))
    head, _, content = raw(running.port, text).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head
    problem = json.loads(content)
    assert problem["error"] and problem["details"] == []
    wait_until(lambda: running.metric("jaxmec_requests_total", status=str(status)) == before + 1)


def test_a_header_of_the_largest_size_is_read(running):
    text = f"GET /healthz HTTP/1.1\r\nconnection: close\r\nx: {'y' * 32_600}\r\n\r\n"
    assert raw(running.port, text).startswith(b"HTTP/1.1 200")


def test_too_many_at_once_are_told_to_come_back(path):
    started = Running(path, ServeConfig(port=0, max_requests=2, request_seconds=5))
    try:
        waiting = []
        for _ in range(2):  # bodies that have not arrived yet
            connection = socket.create_connection(("127.0.0.1", started.port), timeout=10)
            connection.sendall(b"POST /v1/decide HTTP/1.1\r\ncontent-length: 5\r\n\r\n")
            waiting.append(connection)
        deadline = time.monotonic() + 5
        while started.metric("jaxmec_requests_open") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        status, headers, content = started.ask(ONE)
        assert status == 503 and headers["retry-after"] == "1" and "too many" in content["error"]
        assert started.ask(None, "GET", "/healthz")[0] == 200
        for connection in waiting:
            connection.close()
        with Client(started.url, patience=10) as client:
            assert client.decide(TASK, QUEUES)["by"] == "policy"
    finally:
        started.stop()


def test_a_token_is_asked_for(path, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    started = Running(path, ServeConfig(port=0, token_file=token))
    try:
        for given in (None, "Bearer wrong", "Basic s3cret", "Bearer", "Bearer s3cret2"):
            headers = {} if given is None else {"authorization": given}
            status, answered, _ = started.ask(ONE, **headers)
            assert status == 401 and answered["www-authenticate"] == "Bearer"
        assert started.ask(None, "GET", "/metrics")[0] == 401
        assert started.ask(None, "GET", "/openapi.json")[0] == 401
        assert started.ask(None, "GET", "/openapi.json", authorization="Bearer s3cret")[0] == 200
        assert started.ask(None, "GET", "/healthz")[0] == 200
        assert started.ask(ONE, authorization="Bearer s3cret")[0] == 200
        with Client(started.url, token="s3cret") as client:
            assert client.decide(TASK, QUEUES)["servers"]
        with Client(started.url, token="other") as client:
            with pytest.raises(ServiceError, match="401: a bearer token is needed") as caught:
                client.decide(TASK, QUEUES)
            assert caught.value.status == 401 and client.retries == 0
    finally:
        started.stop()
    token.write_text("\n")
    with pytest.raises(ValueError, match="token_file must hold a token"):
        Service(path, ServeConfig(token_file=token))
    monkeypatch.setenv(server.TOKEN_VARIABLE, "other")
    assert Service(path)._token == b"other"


def test_where_the_policy_fails_a_rule_decides_and_says_so(path):
    def load(place):
        scheduler = onnx.load(place)
        works = scheduler.rows_to_decisions

        def decide(rows):
            if rows.max() > 999:  # large tasks break it
                raise RuntimeError("no memory")
            return works(rows)

        scheduler.rows_to_decisions = decide
        return scheduler

    started = Running(path, load=load)
    try:
        large = {"task": {**TASK, "size": 1000.0}, "queues": QUEUES}
        status, _, content = started.ask(large)
        assert status == 200 and content["decision"]["by"] == "water_filling"
        assert sum(content["decision"]["fractions"]) == pytest.approx(1)
        assert started.metric("jaxmec_fallbacks_total") == 1
        assert started.metric("jaxmec_decisions_total", by="water_filling") == 1
        # In a batch the others keep their policy.
        status, _, content = started.ask({"batch": [ONE, large, ONE]})
        assert [d["by"] for d in content["decisions"]] == ["policy", "water_filling", "policy"]
    finally:
        started.stop()


def test_a_mistake_of_ours_shows_no_trace(path, monkeypatch, caplog):
    started = Running(path)
    try:

        def broken(*arguments):
            raise KeyError("internal detail")

        monkeypatch.setattr(started.service, "_answer", broken)
        status, _, content = started.ask(ONE)
        assert status == 500 and content == {"error": "internal error", "details": []}
        monkeypatch.undo()
        assert started.ask(ONE)[0] == 200
    finally:
        started.stop()


def test_a_new_bundle_is_swapped_in_without_a_lost_request(path, tmp_path):
    place = tmp_path / "bundle"
    shutil.copytree(path, place)
    started = Running(place)
    seen, failures = set(), []
    stop = threading.Event()

    def keep_asking():
        with Client(started.url, patience=0.001) as client:  # no second attempt
            while not stop.is_set():
                try:
                    answer = client.request("POST", "/v1/decide", ONE)
                    seen.add(answer["bundle"])
                except ServiceError as error:
                    failures.append(error)

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        first = expected_digest(place)
        new = export.export(CASES["top_k"].policy(seed=1), place)
        wait_until(lambda: new.digest in seen)
        assert {first, new.digest} == seen

        # A damaged one is refused and reported, and the one before goes on.
        (place / "policy.onnx").write_bytes(b"")
        os.utime(place / "manifest.json")
        wait_until(lambda: started.metric("jaxmec_reloads_total", result="refused") >= 1)
        health = started.ask(None, "GET", "/healthz")[2]
        assert "log" in health["reload_error"] and health["bundle"] == new.digest
        assert "policy.onnx" in started.service.reload_error
        shutil.rmtree(place)
        time.sleep(0.2)
        assert started.ask(ONE)[2]["bundle"] == new.digest
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
        started.stop()
    assert not failures


def test_the_watcher_outlives_whatever_opening_a_bundle_ends_in(path):
    """And tries again: the bundle may have been sound all the time, and memory short."""
    problems = [TypeError("no list"), KeyError("capacity"), MemoryError(), RecursionError()]
    given = []

    def load(place):
        if 0 < len(given) <= len(problems):
            given.append(problems[len(given) - 1])
            raise given[-1]
        given.append(None)
        return onnx.load(place)

    started = Running(path, load=load)
    try:
        with logged() as records:
            first = started.service.scheduler
            started.service._seen = None  # as if it were another
            wait_until(lambda: started.metric("jaxmec_reloads_total", result="done") == 1)
        assert started.metric("jaxmec_reloads_total", result="refused") == len(problems)
        assert [record.fields["error"] for record in records] == [
            "TypeError: no list", "KeyError: 'capacity'", "MemoryError: ", "RecursionError: ",
        ]  # fmt: skip
        assert not any(record.exc_info for record in records)
        assert started.service.scheduler is not first and started.service.reload_error is None
        assert started.ask(None, "GET", "/healthz")[2]["reload_error"] is None
    finally:
        started.stop()


def test_a_refusal_that_stays_the_same_is_logged_once(path):
    started = Running(path)

    def load(place):
        raise BundleDamaged("/secret/place is damaged")

    started.service._load = load
    try:
        with logged() as records:
            started.service._seen = None
            wait_until(lambda: started.metric("jaxmec_reloads_total", result="refused") >= 2)
        assert len(records) == 1 and "/secret/place" in records[0].fields["error"]
        told = started.ask(None, "GET", "/healthz")[2]
        assert told["reload_error"] and "/secret" not in json.dumps(told)
    finally:
        started.stop()


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Process:
    """`jaxmec serve` as an operator runs it."""

    def __init__(self, path, port=0, *flags, ignored=None):
        # As from a shell, also where the tests themselves run with SIGINT ignored.
        start = (
            "import os, signal, sys\n"
            "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
            f"{f'signal.signal({ignored:d}, signal.SIG_IGN)' if ignored else ''}\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        command = ["-m", "jaxmec", "serve", str(path), "--port", str(port), *flags]
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, *command],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "none"},  # it must not need JAX
        )
        self.lines, self.words = [], []
        for line in self._process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == "listening":
                break
        self.port = self.lines[-1]["port"]
        assert self.lines[-1]["host"] == "127.0.0.1"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:  # the last word of an interrupted command
                self.words.append(line)

    def end(self, *numbers):
        for number in numbers:
            self._process.send_signal(number)
            time.sleep(0.2 * (len(numbers) > 1))
        code = self._process.wait(20)
        self._reader.join(10)
        return code


def test_killed_and_restarted_under_load_nothing_is_lost(path):
    """Several clients that retry: every request gets its answer, whatever happens to the server."""
    process = Process(path)
    port, wanted = process.port, 150
    answers, errors = [], []

    def work():
        with Client(f"http://127.0.0.1:{port}", patience=60) as client:
            for number in range(wanted):
                task = {**TASK, "origin": number % 5}
                try:
                    answers.append((number % 5, tuple(client.decide(task, QUEUES)["servers"])))
                except ServiceError as error:
                    errors.append(error)
                time.sleep(0.005)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (signal.SIGKILL, signal.SIGTERM):
        time.sleep(0.3)
        assert process.end(number) == -number
        process = Process(path, port)
    for thread in threads:
        thread.join(60)
    process.end(signal.SIGTERM)
    assert not errors
    assert len(answers) == 3 * wanted
    assert len(set(answers)) == 5  # the same task, the same answer, before and after
    assert process.lines[-1]["event"] == "stopped"


def test_stopping_waits_for_the_request_in_flight(path):
    process = Process(path)
    body = json.dumps(ONE).encode()
    with socket.create_connection(("127.0.0.1", process.port), timeout=10) as connection:
        head = f"POST /v1/decide HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
        time.sleep(0.2)
        ending = threading.Thread(target=process.end, args=(signal.SIGTERM,))
        ending.start()
        time.sleep(0.3)
        connection.sendall(body[10:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    ending.join(20)
    assert answer.startswith(b"HTTP/1.1 200")


def test_hangup_reloads(path, tmp_path):
    place = tmp_path / "bundle"
    shutil.copytree(path, place)
    process = Process(place, 0, "--reload-seconds", "0")
    with Client(f"http://127.0.0.1:{process.port}") as client:
        before = client.health()["bundle"]
        shutil.rmtree(place)
        shutil.copytree(path, place)
        process._process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum(line["event"] == "bundle" for line in process.lines) == 2)
        assert client.health()["bundle"] == before
    assert process.end(signal.SIGINT) == 130


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_without_a_trace(path, second):
    process = Process(path, 0, "--request-seconds", "30")
    with socket.create_connection(("127.0.0.1", process.port), timeout=10) as connection:
        connection.sendall(asked(ONE)[:-5])  # a request in flight, for which one signal waits
        time.sleep(0.2)
        began = time.monotonic()
        assert process.end(signal.SIGINT, second) == 130
        assert time.monotonic() - began < 5
    assert process.words == ["jaxmec: interrupted\n"]
    assert process.lines[-1]["event"] == "stopped"
    assert [line for line in process.lines if "trace" in line] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_stays_ignored(path, number):
    """As a script's background job has SIGINT."""
    process = Process(path, ignored=number)
    with Client(f"http://127.0.0.1:{process.port}", patience=10) as client:
        assert client.health()["status"] == "ok"  # it is under way
        process._process.send_signal(number)
        time.sleep(0.5)
        assert client.decide(TASK, QUEUES)["by"] == "policy"
        assert client.retries == 0
    process.end(signal.SIGTERM if number == signal.SIGINT else signal.SIGINT)
    assert process.lines[-1]["event"] == "stopped"


def test_stopping_waits_no_longer_than_it_may(path):
    """For a request that does not arrive; and it ends without a trace."""
    flags = ("--request-seconds", "30", "--shutdown-seconds", "1")
    process = Process(path, 0, *flags)
    with socket.create_connection(("127.0.0.1", process.port), timeout=10) as connection:
        connection.sendall(asked(ONE)[:-5])
        time.sleep(0.2)
        began = time.monotonic()
        assert process.end(signal.SIGTERM) == -signal.SIGTERM
        assert 0.9 < time.monotonic() - began < 5
    assert process.lines[-1]["event"] == "stopped"
    assert [line for line in process.lines if line["level"] == "error"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 70_000}, "port must be a whole number of 0 to 65535, got 70000"),
        ({"max_batch": 0}, "max_batch must be a whole number of at least 1, got 0"),
        ({"request_seconds": 0}, "request_seconds must be a finite number above 0"),
        ({"reload_seconds": -1}, "reload_seconds must be a finite number of at least 0"),
    ],
)
def test_limits_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        ServeConfig(**changes)


def test_an_address_that_is_taken_is_said(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            server.serve(path, ServeConfig(port=port))
    for name in ("jaxmec.serve", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 300, "a b", "[::1", ""])
def test_an_address_that_is_unknown_is_named(host):
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {host} port 8080: ")):
        server._listen(ServeConfig(host=host))


@pytest.mark.parametrize("host", ["::1", "[::1]", "127.0.0.1", "localhost"])
def test_addresses_as_people_write_them(host):
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with server._listen(ServeConfig(host=host, port=0)) as listener:
        assert listener.getsockname()[0] in ("::1", "127.0.0.1")


def _has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_a_client_names_the_service_that_it_does_not_find():
    with (
        Client("http://nowhere.invalid:80", patience=0.01) as client,
        pytest.raises(ServiceError, match=r"no answer from http://nowhere\.invalid:80 within"),
    ):
        client.decide(TASK, QUEUES)


def test_a_client_gives_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(url, timeout=0.1, patience=0.5) as client,
            pytest.raises(ServiceError, match=rf"{url} within 0\.5 s; the last: TimeoutError"),
        ):
            client.decide(TASK, QUEUES)
        assert client.retries >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:80"}, "url must be like"),
        ({"url": "http://host/path"}, "url must be like"),
        ({"timeout": 0}, "timeout must be above 0"),
    ],
)
def test_clients_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Client(**arguments)


def test_a_client_takes_the_runtimes_dataclasses(running):
    with Client(running.url) as client:
        network = running.service.scheduler.network
        queues = Queues(backlog=np.array(QUEUES["backlog"]))
        decision = client.decide(Task(**TASK), queues, network)
        assert decision == client.decide(TASK, QUEUES)
        (of_many,) = client.decide_many([Task(**TASK)], [queues])
        assert of_many["servers"] == decision["servers"]
        with pytest.raises(TypeError, match="mapping or a dataclass, got int"):
            client.decide(3, queues)
