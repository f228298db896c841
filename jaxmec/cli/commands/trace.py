"""Check, import or draw a file of tasks, to train and evaluate on."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmec.cli import actions
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.terminal import Screen, quoted

if TYPE_CHECKING:
    from jaxmec.traces import RequestRows

FLEET = "genai-5"  # whose servers have the load of requests


def run(words: Sequence[str]) -> int:
    about = {
        "check": (_trace_check, "read a trace file, say what is in it, or what is wrong and where"),
        "import": (
            _trace_import,
            "make one from a log: Azure LLM 2023, BurstGPT, columns of your own",
        ),
        "requests": (
            _trace_requests,
            "make one of requests for pictures from a log: Alibaba GenTD26, columns of your own",
        ),
        "synth": (_trace_synth, "draw one: diurnal, mmpp (bursts) or heavy-tailed sizes"),
    }
    return actions.run_action("trace", about, words)


@dataclasses.dataclass(frozen=True)
class TraceCheck:
    """Read a trace file and say what is in it, and the load that it is to a preset's servers."""

    file: tyro.conf.Positional[Path]
    """of tasks: columns slot, origin, size, work; or of requests: time, origin, images, size"""
    preset: str | None = None
    """published setting, or fleet, whose servers have the load; by default amcoedge or genai-5"""


def _trace_check(words: Sequence[str]) -> int:
    from jaxmec import traces

    command = tyro.cli(TraceCheck, args=list(words), prog="jaxmec trace check")
    if traces.of_requests(command.file):
        with _reading(command.file) as progress:
            requests = traces.read_requests(command.file, progress)
        return _say_requests(command.file, requests, command.preset or FLEET)
    with _reading(command.file) as progress:
        rows = traces.read_rows(command.file, progress)
    return _say_trace(command.file, rows, command.preset or "amcoedge")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Callable[[int, int], None]]:
    """Shows on stderr how much of a file is read, where it takes more than a second."""
    console = Screen(stderr=True)
    began = last = time.monotonic()
    with contextlib.ExitStack() as shown:
        bar: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal bar, last
            now = time.monotonic()
            if now - began < 1:
                return
            if not console.is_terminal:  # a log file gets a line now and then
                if now - last >= 5:
                    share = f" of {total / 1e6:,.0f}" if total else ""
                    print(f"{quoted(file)}: {done / 1e6:,.0f}{share} MB read", file=sys.stderr)
                    last = now
                return
            if bar is None:
                from rich import progress as rich

                columns = (rich.BarColumn(), rich.DownloadColumn(), rich.TimeRemainingColumn())
                bar = shown.enter_context(rich.Progress(*columns, console=console, transient=True))
                bar.add_task("", total=total or None)
            bar.update(bar.task_ids[0], completed=done)

        yield progress


def _say_trace(file: Path, rows: Any, preset: str) -> int:
    """What is in a trace file; an error where the preset's network has not all its stations."""
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    params = find_preset(preset).params()
    print(quoted(file))
    for name, text in traces.describe(rows).items():
        print(f"  {name:<15} {quoted(text)}")
    load = traces.mean_load(rows, params.network)
    print(f"  {'load':<15} {load:.4g} of preset {quoted(preset)}" + (
        ": more than its servers can do" if load > 1 else ""))  # fmt: skip
    stations, servers = rows.stations, params.network.num_servers
    if stations > servers:
        raise traces.TraceError(
            f"{file}: the stations are 0 to {stations - 1}, expected at most {servers - 1}: preset "
            f"{preset} has {servers} servers; {preset.partition('-')[0]}-{stations} has enough"
        )
    return EXIT_OK


def _say_requests(file: Path, rows: RequestRows, fleet: str) -> int:
    """What is in a trace of requests; an error where the fleet has not all its stations."""
    from jaxmec import traces
    from jaxmec.serving import find_serving_preset

    preset = find_serving_preset(fleet)
    print(quoted(file))
    for name, text in traces.describe_requests(rows).items():
        print(f"  {name:<15} {quoted(text)}")
    images = float(rows.images.sum()) / max(float(rows.time[-1]), 1.0)  # a s
    load = images / (preset.capacity * preset.reference.images)
    print(f"  {'load':<15} {load:.4g} of fleet {quoted(fleet)}" + (
        ": more than its servers can do" if load > 1 else ""))  # fmt: skip
    if rows.stations > len(preset.servers):
        raise traces.TraceError(
            f"{file}: the stations are 0 to {rows.stations - 1}, expected at most "
            f"{len(preset.servers) - 1}: fleet {fleet} has {len(preset.servers)} servers"
        )
    return EXIT_OK


def _trace_requests(words: Sequence[str]) -> int:
    from jaxmec import traces
    from jaxmec.serving import find_serving_preset

    formats = ", ".join([*traces.REQUEST_FORMATS, *traces.FORMATS])
    columns = "what=name or what=name:unit, again for each column. What: " + "; ".join(
        f"{what} ({', '.join(units)})" if units else what
        for what, units in traces.REQUEST_UNITS.items()
    )
    header = "whether the first row of a CSV file names its columns; they are else called 1, 2, ..."
    append = tyro.conf.UseAppendAction[tuple[str, ...]]
    to = "trace file to write: .csv[.gz] or .parquet"
    fleet = "fleet, or path of one, whose requests say what the log does not"

    @dataclasses.dataclass(frozen=True)
    class Options(traces.RequestConversion):
        __doc__ = traces.RequestConversion.__doc__
        start: Annotated[float, tyro.conf.arg(name="from")] = 0.0
        """s of the log after its first row to leave out"""

    command = dataclasses.make_dataclass(
        "Requests",
        [
            ("file", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="the log")]),
            ("to", Annotated[Path, tyro.conf.arg(help=to)]),
            ("format", Annotated[str, tyro.conf.arg(help=f"of the log: {formats}")], "csv"),
            ("column", Annotated[append, tyro.conf.arg(help=columns)], ()),
            ("header", Annotated[bool, tyro.conf.arg(help=header)], True),
            ("preset", Annotated[str, tyro.conf.arg(help=fleet)], FLEET),
            ("conversion", Annotated[Options, tyro.conf.arg(name="")], Options()),
        ],
        frozen=True,
    )
    command.__doc__ = (traces.RequestConversion.__doc__ or "").replace(
        "How a log's rows become requests", "Make a trace file from a log, of requests"
    )
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec trace requests")
    with _reading(parsed.file) as progress:
        rows = traces.convert_requests(
            parsed.file,
            find_serving_preset(parsed.preset),
            parsed.format,
            parsed.column,
            parsed.conversion,
            header=parsed.header,
            say=lambda text: print(quoted(f"{parsed.file}: {text}"), file=sys.stderr),
            progress=progress,
        )
    return _say_requests(traces.write_requests(parsed.to, rows), rows, parsed.preset)


@dataclasses.dataclass(frozen=True)
class _Ahead:
    """The flag that the defaults of the others depend on."""

    preset: str = "amcoedge"


def _preset_of(words: Sequence[str], prog: str) -> str:
    """What --preset says, read before the other flags have their defaults, by the same parser.

    The other flags are left for later, and so is ``--help``.
    """
    ahead, _ = tyro.cli(
        _Ahead, args=list(words), prog=prog, return_unknown_args=True, add_help=False
    )
    return ahead.preset


def _trace_import(words: Sequence[str]) -> int:
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    name = _preset_of(words, "jaxmec trace import")
    preset = find_preset(name)

    @dataclasses.dataclass(frozen=True)
    class Options(traces.Conversion):
        __doc__ = traces.Conversion.__doc__
        start: Annotated[float, tyro.conf.arg(name="from")] = 0.0
        """s of the log after its first row to leave out; slots, where a column is slot"""

    default = Options(
        stations=len(preset.capacity),
        slot_length=preset.slot_length,
        assign="master" if preset.master else "round-robin",
    )
    formats = ", ".join(traces.FORMATS)
    command = dataclasses.make_dataclass(
        "Import",
        [
            ("file", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="the log")]),
            (
                "to",
                Annotated[Path, tyro.conf.arg(help="trace file to write: .csv[.gz] or .parquet")],
            ),
            ("format", Annotated[str, tyro.conf.arg(help=f"of the log: {formats}")], "csv"),
            (
                "column",
                Annotated[
                    tyro.conf.UseAppendAction[tuple[str, ...]],
                    tyro.conf.arg(
                        help="what=name or what=name:unit, as size=payload:kB or "
                        "time=arrived:ms, again for each column. What: "
                        + "; ".join(
                            f"{what} ({', '.join(units)})" if units else what
                            for what, units in traces.UNITS.items()
                        )
                    ),
                ],
                (),
            ),
            (
                "header",
                Annotated[
                    bool,
                    tyro.conf.arg(
                        help="whether the first row of a CSV file names its columns; "
                        "they are else called 1, 2, ..."
                    ),
                ],
                True,
            ),
            (
                "preset",
                Annotated[
                    str, tyro.conf.arg(help="whose stations, slot length and servers are meant")
                ],
                name,
            ),
            ("conversion", Annotated[Options, tyro.conf.arg(name="")], default),
        ],
        frozen=True,
    )
    command.__doc__ = (traces.Conversion.__doc__ or "").replace(
        "How a log's rows become tasks.", "Make a trace file from a log."
    )
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec trace import")
    with _reading(parsed.file) as progress:
        rows = traces.convert(
            parsed.file,
            parsed.format,
            parsed.column,
            parsed.conversion,
            header=parsed.header,
            say=lambda text: print(quoted(f"{parsed.file}: {text}"), file=sys.stderr),
            progress=progress,
        )
    return _say_trace(traces.write(parsed.to, rows), rows, parsed.preset)


def _trace_synth(words: Sequence[str]) -> int:
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    name = _preset_of(words, "jaxmec trace synth")
    preset = find_preset(name)
    mean_work = float(preset.params().workload.moments().work)
    default = traces.Synthetic(
        "diurnal",
        capacity=float(sum(preset.capacity)),
        slot_length=preset.slot_length,
        stations=len(preset.capacity),
        slots=preset.slots,
        density=round(2 * mean_work / sum(preset.size), 4),  # of its mean task
    )
    command = dataclasses.make_dataclass(
        "Synth",
        [
            (
                "to",
                Annotated[Path, tyro.conf.arg(help="trace file to write: .csv[.gz] or .parquet")],
            ),
            ("law", Annotated[traces.Synthetic, tyro.conf.arg(name="")], default),
            ("seed", Annotated[int, tyro.conf.arg(help="of what is drawn")], 0),
            (
                "preset",
                Annotated[
                    str, tyro.conf.arg(help="whose servers, slots and density are the defaults")
                ],
                name,
            ),
        ],
        frozen=True,
    )
    command.__doc__ = traces.Synthetic.__doc__
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec trace synth")
    rows = parsed.law.draw(parsed.seed)
    return _say_trace(traces.write(parsed.to, rows), rows, parsed.preset)
