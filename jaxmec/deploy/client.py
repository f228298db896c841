"""A client of the decision service, of Python's standard library alone.

    with Client("http://127.0.0.1:8080") as client:
        decision = client.decide(task={"origin": 0, "size": 3, "work": 0.6},
                                 queues={"backlog": [0, 1, 2, 0, 0]})

A decision changes nothing at the service, so asking again is always safe: a request that found
no answer (the service restarts, the connection broke, it is too busy) is repeated with growing
pauses until it has one or the time is up.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from jaxmec.core.types import Document

RETRIED = (502, 503, 504)
UNBOUNDED = 1e12  # s


class ServiceError(Exception):
    """The service refused a request, or gave no answer in time; ``status`` is None for that."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One connection to a decision service, kept open between requests; for one thread."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = 2.0,
        patience: float = 30.0,
    ) -> None:
        """Args:
            url: of the service, without a path.
            token: sent as the bearer token.
            timeout: s that one attempt may take.
            patience: s after which no further attempt is made.

        Raises:
            ValueError: a URL that is none, or a time that is not positive.
        """
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.path not in ("", "/")
        ):
            raise ValueError(f"url must be like http://127.0.0.1:8080, got {url!r}")
        for name, value in (("timeout", timeout), ("patience", patience)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._url, self._patience = url, patience
        self.retries = 0  # attempts beyond the first, over all requests

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def decide(self, task: Any, queues: Any, network: Any = None) -> Document:
        """The decision for one task: servers, fractions, makespan and by.

        ``task``, ``queues`` and ``network`` are mappings, or the runtime's dataclasses.

        Raises:
            ServiceError: refused, with the service's reasons; or no answer in time.
        """
        body = {"task": _as_json(task), "queues": _as_json(queues), **_optional(network)}
        result: Document = self.request("POST", "/v1/decide", body)["decision"]
        return result

    def decide_many(
        self, tasks: Sequence[Any], queues: Sequence[Any], network: Any = None
    ) -> list[Document]:
        """The decisions for several tasks, each with its own queues; raises as ``decide``."""
        batch = [
            {"task": _as_json(task), "queues": _as_json(entry)}
            for task, entry in zip(tasks, queues, strict=True)
        ]
        body = {"batch": batch, **_optional(network)}
        result: list[Document] = self.request("POST", "/v1/decide", body)["decisions"]
        return result

    def health(self) -> Document:
        """What ``/healthz`` says; raises as ``decide``."""
        result: Document = self.request("GET", "/healthz")
        return result

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer to one request, repeated while there is none."""
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        deadline = time.monotonic() + self._patience
        pause, problem = 0.02, ""
        while True:
            wait = None
            try:
                self._connection.request(method, path, content, self._headers)
                response = self._connection.getresponse()
                answer = response.read()
                if response.status == 200:
                    return json.loads(answer)
                if response.status not in RETRIED:
                    raise ServiceError(_reason(response.status, answer), response.status)
                problem = _reason(response.status, answer)
                wait = response.getheader("retry-after")
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                problem = f"{type(error).__name__}: {error}"
                self._connection.close()
            # Spread out, so that many clients do not come back in one moment.
            delay = pause * random.uniform(0.5, 1.5)
            if wait is not None and wait.isdigit():
                delay = max(delay, min(int(wait), 5) * random.uniform(0.5, 1.0))
            if time.monotonic() + delay > deadline:
                raise ServiceError(
                    f"no answer from {self._url} within {self._patience:g} s; the last: {problem}"
                )
            time.sleep(delay)
            pause = min(2 * pause, 1.0)
            self.retries += 1


def _reason(status: int, answer: bytes) -> str:
    try:
        content = json.loads(answer)
        return "; ".join([f"{status}: {content['error']}", *content.get("details", [])])
    except (ValueError, KeyError, TypeError):
        return f"{status}: {answer[:200]!r}"


def _optional(network: Any) -> Document:
    return {} if network is None else {"network": _as_json(network)}


def _as_json(value: Any) -> Document:
    """A mapping or dataclass as JSON holds it: without what is None, arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a mapping or a dataclass, got {type(value).__name__}")
    plain = {
        name: entry.tolist() if hasattr(entry, "tolist") else entry for name, entry in value.items()
    }
    # Infinity is not JSON. A network's max_wait may be infinite, and has no bound where it is the
    # largest number that the service takes; left out, it would be the bundle's.
    return {
        name: UNBOUNDED if name == "max_wait" and entry == float("inf") else entry
        for name, entry in plain.items()
        if entry is not None
    }
