"""Run the prototype: nodes, stations, and what the simulator foretells of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jaxmec.cli.actions import run_action
from jaxmec.cli.errors import EXIT_OK, extra
from jaxmec.core import checks, files
from jaxmec.core.naming import look_up
from jaxmec.core.terminal import Screen

if TYPE_CHECKING:
    from jaxmec_testbed.faults import Fault
    from jaxmec_testbed.painter import Painter

PAINTERS = ("tiny", "onnx")
POLICIES = ("triage", "shortest", "least-told", "power-of-two", "fixed-price")


def run(words: Sequence[str]) -> int:
    actions = {
        "node": (_node, "be one server of a fleet, which paints"),
        "run": (_run, "measure policies on real nodes, beside what is foretold"),
    }
    return run_action("testbed", actions, words)


def painter_of(name: str) -> Painter:
    """The application of that name.

    Raises:
        ValueError: there is no such one; suggests the nearest.
    """
    look_up("painter", name, dict.fromkeys(PAINTERS))
    if name == "onnx":
        from jaxmec_testbed.onnx_painter import OnnxPainter

        return OnnxPainter()
    from jaxmec_testbed.painter import TinyPainter

    return TinyPainter()


@dataclasses.dataclass(frozen=True)
class NodeCommand:
    """Be one server of a fleet: paint what stations send, first come first served."""

    index: int  # which server of the fleet
    fleet: str = "edge-inpainting"  # a fleet's name or file
    device: Path | None = None  # JSON of a device, instead of the fleet's; needs no JAX
    host: str = "127.0.0.1"  # address to listen on; beyond the loopback it is reachable
    port: int = 8100  # 0: any that is free
    token_file: Path | None = None  # holds the bearer token; else $JAXMEC_TOKEN, else none is asked
    painter: str = "tiny"  # the application: tiny, random weights; or onnx
    pace: str = "pace"  # as the device that it stands for; or "real", as fast as it is
    spool: Path | None = None  # folder that keeps what waits, should the process die
    max_queue: int = 64  # requests that wait, beyond them: 503
    faults: bool = False  # may be told to go slower
    not_before: float = 0.0  # s of this machine's monotonic clock, from when on it listens


def _node(words: Sequence[str]) -> int:
    command = tyro.cli(NodeCommand, args=list(words), prog="jaxmec testbed node")
    with extra("testbed"):
        from jaxmec.deploy import server
        from jaxmec_testbed.node import WEB, Device, Node, NodeConfig
    if command.device is not None:
        row = json.loads(command.device.read_text("utf-8"))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
        }
        device = Device(**values)
    else:
        from jaxmec.serving.presets import find_serving_preset

        preset = find_serving_preset(command.fleet)
        checks.require("index", command.index, checks.whole(0, len(preset.servers) - 1))
        device = Device.of(preset, command.index)
    config = NodeConfig(
        pace=command.pace, spool=command.spool, max_queue=command.max_queue, faults=command.faults
    )
    web = dataclasses.replace(
        WEB, host=command.host, port=command.port, token_file=command.token_file
    )
    server.log_in_json()
    node = Node(device, command.index, painter_of(command.painter), config, web)
    time.sleep(max(command.not_before - time.monotonic(), 0))
    server.run(node)
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class RunCommand:
    """Measure policies on nodes of this machine, and hold them against the simulator."""

    policies: tyro.conf.Positional[tuple[str, ...]] = POLICIES  # rules, one run each
    fleet: str = "edge-inpainting"  # a fleet's name or file
    seed: int = 0  # of the requests and the fleet
    load: float = 0.6  # of what the nodes can serve
    horizon: float = 60.0  # s in which requests arrive
    painter: str = "tiny"  # the application: tiny, random weights; or onnx
    pace: str = "pace"  # as the devices; or "real", as fast as the nodes are
    faults: Path | None = None  # TOML of faults
    kill_every: float = 0.0  # s between kills of a node; 0: none
    kill_seconds: float = 8.0  # that a killed node is away
    to: Path = Path("results/testbed")  # folder for what was measured


def _run(words: Sequence[str]) -> int:
    command = tyro.cli(RunCommand, args=list(words), prog="jaxmec testbed run")
    with extra("testbed"):
        measure(command)
    return EXIT_OK


def measure(command: RunCommand) -> dict[str, Any]:
    """Every policy's run beside its foretelling; printed, and written to the folder."""
    from jaxmec.serving.presets import find_serving_preset
    from jaxmec_testbed import compare, play
    from jaxmec_testbed.foretold import Simulator, arrivals
    from jaxmec_testbed.node import Device
    from jaxmec_testbed.policy import Policy
    from jaxmec_testbed.processes import Nodes

    preset = find_serving_preset(command.fleet)
    changes = {"load": command.load, "horizon": command.horizon}
    policies = [Policy(preset, name, command.seed, **changes) for name in command.policies]
    faults = _faults(command, len(preset.servers))
    requests = arrivals(policies[0].params, command.seed)
    devices = [Device.of(preset, index, command.seed) for index in range(len(preset.servers))]
    shown, runs = play.pictures(16), []
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="jaxmec-testbed-") as folder:
        nodes = Nodes(devices, Path(folder), command.painter, command.pace)
        for policy in policies:
            simulator = Simulator(policy, faults)
            foretold = simulator.play(requests)
            begun, before = time.monotonic(), _processor_seconds()
            outcomes = asyncio.run(play.measured(policy, nodes, requests, shown, faults))
            wall, used = time.monotonic() - begun, _processor_seconds()
            made = {n: [choice[1:] for choice in one.decisions] for n, one in enumerate(outcomes)}
            again = simulator.play(requests, made)
            one = compare.Run(policy.name, requests, outcomes, foretold, again)
            runs.append((one, _cost(outcomes, wall, before, used)))
            screen.print(f"{policy.name}: {len(requests)} requests in {wall:.0f} s")
    figures = _written(command, runs)
    screen.print(compare.table(figures["policies"]))
    screen.print(f"Kendall's tau of {len(runs)} policies: {figures['tau']}")
    screen.print(f"written to {command.to}")
    return figures


def _faults(command: RunCommand, servers: int) -> list[Fault]:
    from jaxmec_testbed.faults import read_faults, regular_kills

    if command.faults is not None:
        return read_faults(command.faults, servers)
    if command.kill_every > 0:
        return regular_kills(servers, command.horizon, command.kill_every, command.kill_seconds)
    return []


def _processor_seconds() -> tuple[float, float]:
    """Of nodes that have ended, and of this process."""
    return tuple(  # type: ignore[return-value]
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)
    )


def _cost(
    outcomes: Sequence[Any], wall: float, before: Sequence[float], after: Sequence[float]
) -> dict[str, float]:
    painted = sum(one.told.get("computed", 0.0) for one in outcomes)
    return {
        "wall, s": wall,
        "nodes, cores": (after[0] - before[0]) / wall,
        "stations, cores": (after[1] - before[1]) / wall,
        "painting, cores": painted / wall,
    }


def _written(command: RunCommand, runs: Sequence[tuple[Any, dict[str, float]]]) -> dict[str, Any]:
    """The figures, once they and every request's times are on disk."""
    from jaxmec_testbed import compare

    command.to.mkdir(parents=True, exist_ok=True)
    summaries = [{**compare.summary(one), "cost": cost} for one, cost in runs]
    asked = {key: str(value) if isinstance(value, Path) else value
             for key, value in dataclasses.asdict(command).items()}  # fmt: skip
    figures = {
        "command": asked,
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "load average": os.getloadavg()[0],
        },
        "policies": summaries,
        "tau": compare.agreement(summaries),
    }
    files.write_whole(command.to / "testbed.json", json.dumps(figures, indent=1) + "\n")
    rows = {one.policy: compare.as_rows(one) for one, _ in runs}
    files.write_whole(command.to / "requests.json", json.dumps(_finite(rows)) + "\n")
    with contextlib.suppress(ImportError):  # pip install 'jaxmec[plot]'
        compare.plot([one for one, _ in runs], command.to / "testbed.png")
    return figures


def _finite(value: Any) -> Any:
    """A document without infinities, which JSON has not."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
