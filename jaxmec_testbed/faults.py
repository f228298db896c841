"""Faults that are done to nodes, from a file, and what they are in the simulator."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path

from jaxmec.core import checks

KINDS = ("kill", "stop", "slow", "cut")
_FAULT = checks.closed(
    {
        "server": checks.whole(0),
        "at": checks.number(0),
        "seconds": checks.number(above=0),
        "kind": checks.one_of(KINDS),
    },
    {"speed": checks.number(above=0, most=1)},
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of one node."""

    server: int
    at: float  # s from the start
    seconds: float  # that it lasts, the time to start again included
    kind: str  # kill (SIGKILL, and started anew), stop (SIGSTOP), slow, cut (the way to it)
    speed: float = 0.5  # of the nominal one, where it is slow

    @property
    def trouble(self) -> tuple[int, float, float, float]:
        """Server, begin and end in s, and the speed between, for the simulator."""
        speed = self.speed if self.kind == "slow" else 0.0
        return self.server, self.at, self.at + self.seconds, speed


def read_faults(path: Path, servers: int) -> list[Fault]:
    """The faults in a TOML file, a table ``[[fault]]`` each.

    Raises:
        ValueError: names the file, the key, the value and what was expected.
        OSError: the file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        checks.require("", table, checks.closed({"fault": checks.listing(_FAULT)}))
        faults = [Fault(**row) for row in table["fault"]]
        _require_apart(faults, servers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return faults


def _require_apart(faults: Sequence[Fault], servers: int) -> None:
    ends = [0.0] * servers
    for index, fault in sorted(enumerate(faults), key=lambda pair: pair[1].at):
        if fault.server >= servers:
            raise ValueError(
                f"fault[{index}].server must be 0 to {servers - 1}, got {fault.server}"
            )
        if fault.at < ends[fault.server]:
            raise ValueError(
                f"fault[{index}].at must be {ends[fault.server]:g} or later, when the one before "
                f"ends, got {fault.at:g}"
            )
        ends[fault.server] = fault.at + fault.seconds


def regular_kills(servers: int, horizon: float, every: float, seconds: float) -> list[Fault]:
    """A kill every so many s, of one node after another, as long as it ends by the horizon."""
    count = int(max(horizon - seconds, 0) // every)
    return [Fault(k % servers, (k + 1) * every, seconds, "kill") for k in range(count)]
