"""Environments, presets, fleets, agents and methods, schedulers, rules, studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro
from rich.table import Table

from jaxmec.cli import index
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.naming import look_up
from jaxmec.core.terminal import Screen

LISTS = (
    *("environments", "presets", "fleets", "agents", "methods", "schedulers", "rules", "studies"),
    "all",
)
PROBLEM_WORDS = {"multi": ("multi-server", "a set"), "single": ("single-server", "one server")}


@dataclasses.dataclass(frozen=True)
class List:
    """What there is, by name."""

    kind: tyro.conf.Positional[str] = "all"
    """environments, presets, fleets, methods (the agents by name), schedulers, rules (of serving),
    studies, or all"""


def run(words: Sequence[str]) -> int:
    kind = tyro.cli(List, args=list(words), prog="jaxmec list").kind
    look_up("kind", kind, dict.fromkeys(LISTS))
    tables = {
        "environments": _environments,
        "presets": _presets,
        "fleets": _fleets,
        "methods": _methods,
        "schedulers": _schedulers,
        "rules": _rules,
        "studies": _studies,
    }
    console = Screen(soft_wrap=False)
    for name, table in tables.items():
        if kind in (name, "all") or (kind, name) == ("agents", "methods"):
            console.print(table())
    return EXIT_OK


def _table(title: str, *columns: str, caption: str | None = None) -> Table:
    return Table(*columns, title=title, title_justify="left",
                 caption=caption, caption_justify="left")  # fmt: skip


def _environments() -> Table:
    table = _table("Environments", "environment", "what it is")
    for name, row in index.load_index()["environments"].items():
        table.add_row(name, row["about"])
    return table


def _presets() -> Table:
    table = _table(
        "Presets", "preset", "problem", "servers", "arrivals", "slots",
        caption="amcoedge-20 is amcoedge with 20 servers at the same load; so any preset, with "
        "any number",
    )  # fmt: skip
    for name, row in index.load_index()["presets"].items():
        arrivals = f"{row['arrivals']}, up to {row['positions']} a station and slot"
        problem, _ = PROBLEM_WORDS[row["problem"]]
        table.add_row(name, problem, str(row["servers"]), arrivals, str(row["slots"]))
    return table


def _fleets() -> Table:
    table = _table(
        "Fleets", "fleet", "what it is", "servers", "load 1",
        caption="presets of GenerativeServing-v0; a file of your own is named by its path",
    )  # fmt: skip
    for name, row in index.load_index()["fleets"].items():
        table.add_row(name, row["about"], str(row["servers"]), f"{row['capacity']:g} requests/s")
    return table


def _methods() -> Table:
    table = _table("Agents and methods", "name", "what it does", "environment", "source")
    for name, row in index.load_index()["methods"].items():
        where = row["env"] if row["preset"] is None else f"{row['env']}, {row['preset']}"
        table.add_row(name, row["about"], where, row["source"])
    return table


def _schedulers() -> Table:
    table = _table(
        "Schedulers that do not learn", "scheduler", "what it does", "selects", "needs to see"
    )
    for name, row in index.load_index()["schedulers"].items():
        _, selects = PROBLEM_WORDS[row["problem"]]
        table.add_row(name, row["about"], selects, row["information"])
    return table


def _rules() -> Table:
    table = _table(
        "Rules of serving, which do not learn", "rule", "what it does", "needs to see",
        caption="jaxmec evaluate RULE --env GenerativeServing-v0",
    )  # fmt: skip
    for name, row in index.load_index()["rules"].items():
        table.add_row(name, row["about"], row["information"])
    return table


def _studies() -> Table:
    table = _table(
        "Studies (jaxmec compare)", "study", "what it compares", "settings, short and full"
    )
    for name, row in index.load_index()["studies"].items():
        table.add_row(name, row["about"], f"{row['short']} and {row['full']}")
    return table
