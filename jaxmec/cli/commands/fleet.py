"""Check, show, list or draw fleets that serve generative models."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxmec.cli import actions, help
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core import files
from jaxmec.core.tables import results_table
from jaxmec.core.terminal import Screen, quoted

if TYPE_CHECKING:
    from jaxmec.serving.presets import Server, ServingPreset


def run(words: Sequence[str]) -> int:
    about = {
        "check": (
            _check_fleet,
            "read a fleet's file, say what is in it, or what is wrong and where",
        ),
        "draw": (_draw, "write a file of a fleet of devices drawn at random"),
        "list": (_list_fleets, "the fleets of the package"),
        "show": (_show_fleet, "what a fleet serves, how fast, and to whom"),
    }
    return actions.run_action("fleet", about, words)


@dataclasses.dataclass(frozen=True)
class FleetCheck:
    """Read a fleet's file and say what is in it, or what is wrong and where."""

    file: tyro.conf.Positional[Path]  # TOML, as docs/fleets.md says


def _check_fleet(words: Sequence[str]) -> int:
    command = tyro.cli(FleetCheck, args=list(words), prog="jaxmec fleet check")
    from jaxmec.serving.preset_files import read_preset

    preset = read_preset(command.file)
    preset.params()
    print(quoted(command.file))
    for name, text in _in_short(preset).items():
        print(f"  {name:<10} {quoted(text)}")
    return EXIT_OK


def _in_short(preset: ServingPreset) -> dict[str, str]:
    setting = preset.setting
    rate = setting.load * preset.capacity
    with_cloud = "" if preset.cloud is None else " and a cloud"
    return {
        "servers": f"{len(preset.servers)}{with_cloud}, stations at {preset.stations} of them",
        "variants": ", ".join(variant.name for variant in preset.variants),
        "options": str(len(preset.options)),
        "classes": ", ".join(each.name for each in preset.classes),
        "load 1": f"{preset.capacity:.3g} requests/s of {preset.reference.images:g} images, "
        f"{preset.reference.variant} at {preset.reference.steps} steps",
        "load": f"{setting.load:g}, that is {rate:.3g} requests/s, "
        f"{rate * setting.horizon:.0f} in {setting.horizon:g} s",
        "outages": preset.outages.law,
    }


@dataclasses.dataclass(frozen=True)
class FleetDraw:
    """Write a fleet's file: devices drawn from the catalogue, all else as in genai-5."""

    servers: tyro.conf.Positional[int]  # how many
    to: Path  # file to write, .toml
    seed: int = 0  # of the devices and their rates
    devices: tuple[str, ...] = ()  # those to draw from; by default six that stand at the edge


def _draw(words: Sequence[str]) -> int:
    command = tyro.cli(FleetDraw, args=list(words), prog="jaxmec fleet draw")
    from jaxmec.serving.preset_files import EDGE_DEVICES, drawn

    text = drawn(command.servers, command.seed, command.devices or EDGE_DEVICES)
    files.write_whole(command.to, text)
    print(f"written: {quoted(command.to)}")
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class FleetList:
    """The fleets of the package; a file of your own is named by its path."""


def _list_fleets(words: Sequence[str]) -> int:
    tyro.cli(FleetList, args=list(words), prog="jaxmec fleet list")
    from jaxmec.cli.commands import list as listing

    return listing.run(["fleets"])


@dataclasses.dataclass(frozen=True)
class FleetShow:
    """What a fleet serves, how fast, and to whom."""

    fleet: tyro.conf.Positional[str]  # its name, or the path of its file


def _show_fleet(words: Sequence[str]) -> int:
    command = tyro.cli(FleetShow, args=list(words), prog="jaxmec fleet show")
    from jaxmec.serving import find_serving_preset

    preset = find_serving_preset(command.fleet)
    console = Screen(soft_wrap=False)
    print(quoted(f"{preset.name}: {preset.about}"))
    for table in (_servers_of(preset), _variants_of(preset), _classes_of(preset)):
        print()
        console.print(table)
    print()
    for name, text in _in_short(preset).items():
        print(f"{name:<10} {quoted(text)}")
    fields = ", ".join(f"{name} {_value(value)}" for name, value in vars(preset.setting).items())
    print(textwrap.fill(fields, help.WIDTH, initial_indent=f"{'setting':<10} ",
                        subsequent_indent=" " * 11))  # fmt: skip
    return EXIT_OK


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _servers_of(preset: ServingPreset) -> object:
    """Servers that differ in nothing but their rate are one row."""
    alike: dict[Server, list[float]] = {}
    for server in preset.servers:
        row = dataclasses.replace(server, rate=1.0)
        alike.setdefault(row, []).append(server.rate)
    table = results_table("Servers, and seconds a step of each variant")
    table.add_column("server")
    table.add_column("number", justify="right")
    for variant in preset.variants:
        table.add_column(f"{variant.name} (s)", justify="right")
    table.add_column("GB", justify="right")
    table.add_column("Mbit/s", justify="right")
    for server, rates in alike.items():
        times = [
            f"{time:.3g}" if variant.size <= server.memory else "-"
            for variant, time in zip(preset.variants, server.step_time, strict=True)
        ]
        table.add_row(server.name, str(len(rates)), *times, f"{server.memory:g}", _range(rates))
    if preset.cloud is not None:
        cloud = preset.cloud
        text = f"{cloud.image_time / cloud.steps:.3g}"
        times = [text if variant.name == cloud.variant else "-" for variant in preset.variants]
        table.add_row("cloud", "", *times, "", f"{cloud.rate:g}")
        table.caption = f"the cloud answers {cloud.latency:g} s later; - does not fit, not offered"
        table.caption_justify = "left"
    return table


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _variants_of(preset: ServingPreset) -> object:
    table = results_table("Variants")
    table.add_column("variant")
    for column in ("GB", "s to load", "s a request"):
        table.add_column(column, justify="right")
    table.add_column("quality at so many steps")
    for variant in preset.variants:
        levels = zip(variant.steps, variant.quality, strict=True)
        table.add_row(
            variant.name,
            f"{variant.size:g}",
            f"{variant.load_time:g}",
            f"{variant.task_time:g}",
            ", ".join(f"{quality:g} at {steps}" for steps, quality in levels),
        )
    return table


def _classes_of(preset: ServingPreset) -> object:
    table = results_table("Classes of requests")
    table.add_column("class")
    for column in ("share", "quality, least", "limit (s)"):
        table.add_column(column, justify="right")
    total = sum(each.share for each in preset.classes)
    for each in preset.classes:
        share = f"{each.share / total:.0%}"
        table.add_row(each.name, share, f"{each.quality:g}", f"{each.limit:g}")
    return table
