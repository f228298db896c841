"""Environments, presets, agents and methods, schedulers, studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro
from rich.table import Table

from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.naming import look_up
from jaxmec.core.terminal import Screen

KINDS = ("environments", "presets", "agents", "methods", "schedulers", "studies", "all")


@dataclasses.dataclass(frozen=True)
class List:
    """What there is, by name."""

    kind: tyro.conf.Positional[str] = "all"
    """environments, presets, methods (the agents by name), schedulers, studies, or all"""


def run(words: Sequence[str]) -> int:
    from jaxmec import envs
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS

    kind = tyro.cli(List, args=list(words), prog="jaxmec list").kind
    look_up("kind", kind, dict.fromkeys(KINDS))
    console = Screen(soft_wrap=False)
    if kind in ("environments", "all"):
        table = Table("environment", "what it is", title="Environments", title_justify="left")
        for environment in envs.ENVIRONMENTS.values():
            table.add_row(environment.name, environment.about)
        console.print(table)
    if kind in ("presets", "all"):
        table = Table("preset", "problem", "servers", "arrivals", "slots", title="Presets",
                      title_justify="left", caption_justify="left",
                      caption="amcoedge-20 is amcoedge with 20 servers at the same load; so any "
                              "preset, with any number")  # fmt: skip
        for name, preset in envs.PRESETS.items():
            kind_of = {"multi": "multi-server", "single": "single-server"}[preset.problem]
            arrivals = f"{preset.arrivals}, up to {preset.positions} a station and slot"
            table.add_row(name, kind_of, str(len(preset.capacity)), arrivals, str(preset.slots))
        console.print(table)
    if kind in ("methods", "agents", "all"):
        table = Table("name", "what it does", "environment", "source",
                      title="Agents and methods", title_justify="left")  # fmt: skip
        for row in METHODS.values():
            where = row.env if row.preset is None else f"{row.env}, {row.preset}"
            table.add_row(row.name, row.about, where, row.source)
        console.print(table)
    if kind in ("schedulers", "all"):
        table = Table("scheduler", "what it does", "selects", "needs to see",
                      title="Schedulers that do not learn", title_justify="left")  # fmt: skip
        for scheduler in SCHEDULERS.values():
            selects = {"single": "one server", "multi": "a set"}[scheduler.problem]
            table.add_row(scheduler.name, scheduler.about, selects, scheduler.information)
        console.print(table)
    if kind in ("studies", "all"):
        from jaxmec.studies.catalogue import STUDIES

        table = Table("study", "what it compares", "settings, short and full",
                      title="Studies (jaxmec compare)", title_justify="left")  # fmt: skip
        for name, sizes in STUDIES.items():
            places = " and ".join(str(len(sizes[size].places)) for size in ("short", "full"))
            table.add_row(name, sizes["full"].about, places)
        console.print(table)
    return EXIT_OK
