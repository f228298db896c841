"""What there is by name, in a file of the package, so that nothing of JAX is imported to list it.

`jaxmec list`, the help of `jaxmec train` and completion read ``index.json``. It is made from the
tables themselves (methods, schedulers, environments, presets, studies), by

    python -m jaxmec.cli.index

which `make format` runs too; a test says when it is to be made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmec.cli.actions import ACTIONS_OF
from jaxmec.cli.comments import comments
from jaxmec.cli.fields import Field, as_text, kind_in_words
from jaxmec.core import files
from jaxmec.core.naming import look_up
from jaxmec.core.types import Document

FILE = Path(__file__).with_name("index.json")
NOTHING = dataclasses.MISSING


@functools.cache
def load_index() -> Document:
    """The index: tables by name, fields by class, and what each method has of them."""
    index: Document = json.loads(FILE.read_text("utf-8"))
    return index


def fields_of(
    method: str,
    published: bool = False,
    scale: str = "cpu",
    env: str | None = None,
    preset: str | None = None,
) -> list[Field]:
    """The fields that `--set` takes for a method, with their defaults there.

    Raises:
        ValueError: an unknown name, with the nearest right one.
    """
    index = load_index()
    row = look_up("method", method, index["methods"])
    settings = row["settings"]
    kind = settings["published" if published else scale] or settings["cpu"]
    env = row["env"] if env is None else env
    where = look_up("environment", env, index["environments"])
    own = env == row["env"]
    parts = [
        ("config", kind["config"], kind["values"]["config"]),
        ("agent", kind["agent"], kind["values"]["agent"]),
        ("env", where["options"], kind["values"]["env"] if own else {}),
    ]
    if where["preset"] is not None:
        named = preset or (row["preset"] if own else None) or where["preset"]
        named = named if named in index["presets"] else named.partition("-")[0]
        values = index["presets"].get(named, {}).get("values", {})
        parts.append(("env", where["fields"], values))
    return [
        Field(group, name, field["type"], values.get(name, field["default"]), field["about"],
              tuple(field["choices"]))
        for group, kind_name, values in parts
        for name, field in index["classes"][kind_name].items()
    ]  # fmt: skip


def build() -> Document:
    """The index as the package is now."""
    from jaxmec.cli import commands
    from jaxmec.envs.presets import PRESETS, Preset
    from jaxmec.envs.table import ENVIRONMENTS
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS
    from jaxmec.serving.presets import FLEETS, find_serving_preset
    from jaxmec.serving.rules import RULES
    from jaxmec.studies.catalogue import STUDIES

    classes: Document = {"Preset": _fields(Preset, next(iter(PRESETS.values())))}
    for place in ENVIRONMENTS.values():
        for kind in place.kinds:
            if kind.__name__ not in classes:
                classes[kind.__name__] = _fields(kind, kind())
    return {
        "environments": {
            name: {"about": row.about, "options": row.options.__name__,
                   "preset": row.default_preset, "fields": row.kinds[-1].__name__}
            for name, row in ENVIRONMENTS.items()
        },
        "presets": {
            name: {"problem": preset.problem, "servers": len(preset.capacity),
                   "arrivals": preset.arrivals, "positions": preset.positions,
                   "slots": preset.slots, "values": _differing(preset, classes["Preset"])}
            for name, preset in PRESETS.items()
        },
        "fleets": {
            name: {"about": preset.about, "servers": len(preset.servers),
                   "capacity": float(f"{preset.capacity:.3g}")}
            for name in FLEETS
            for preset in [find_serving_preset(name)]
        },
        "methods": {name: _method(row, classes) for name, row in METHODS.items()},
        "rules": {
            name: {"about": rule.about, "information": rule.information}
            for name, rule in RULES.items()
        },
        "schedulers": {
            name: {"about": row.about, "problem": row.problem, "information": row.information}
            for name, row in SCHEDULERS.items()
        },
        "studies": {
            name: {"about": sizes["full"].about,
                   **{size: len(study.places) for size, study in sizes.items()}}
            for name, sizes in STUDIES.items()
        },
        "classes": classes,
        "flags": {name: _flags(name) for name in commands.names()},
    }  # fmt: skip


def kinds(settings: Any, env: Any) -> dict[str, tuple[type, ...]]:
    """The dataclasses whose fields `--set` takes, by group."""
    from jaxmec.agents.per_station import of_station

    agent = type(of_station(settings.agent()))
    return {"config": (type(settings.config),), "agent": (agent,), "env": env.kinds}


def hints(kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Document]:
    """The type of each field, by group and name."""
    return {
        group: {
            field.name: typing.get_type_hints(kind)[field.name]
            for kind in of_group
            for field in dataclasses.fields(kind)
        }
        for group, of_group in kinds.items()
    }


def _method(row: Any, classes: Document) -> Document:
    """A method's row, and what its ways to run have that their classes have not."""
    from jaxmec.agents.per_station import of_station
    from jaxmec.envs.table import ENVIRONMENTS

    settings: Document = {}
    for kind, given in (("cpu", row.tuned), ("gpu", row.gpu), ("published", row.published)):
        settings[kind] = None
        if given is None:
            continue
        agent = of_station(given.agent())
        for part in (given.config, agent):
            name = type(part).__name__
            if name not in classes:
                classes[name] = _fields(type(part), part)
        settings[kind] = {
            "config": type(given.config).__name__,
            "agent": type(agent).__name__,
            "values": {
                "config": _differing(given.config, classes[type(given.config).__name__]),
                "agent": _differing(agent, classes[type(agent).__name__]),
                "env": {name: as_text(value) for name, value in given.options},
            },
        }
    options = ENVIRONMENTS[row.env].options.__name__
    assert options in classes
    return {"about": row.about, "source": row.source, "env": row.env, "preset": row.preset,
            "start": row.start, "settings": settings}  # fmt: skip


def _flags(command: str) -> dict[str, list[str]]:
    """The flags that a command's own help names, and the words of those that take one of a few."""
    from jaxmec.cli import commands, help
    from jaxmec.cli.commands.train import Train

    if command == "train":  # whose help is made from the index
        text = "\n".join(["--help --help-all", *help.flags(Train)])
    else:
        shown = io.StringIO()
        for action in ACTIONS_OF.get(command, ("",)):
            words = [action] if action else []
            with _unbroken(), contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
                commands.run(command, [*words, "--help"])
        text = shown.getvalue()
    found: dict[str, list[str]] = {}
    for flag, value in re.findall(r"(?<![\w-])(--[a-z][\w.-]*\w)(?: (\S*[{|]\S*))?", text):
        found.setdefault(flag, [word for word in re.split(r"[{},|]", value) if word.islower()])
    return dict(sorted(found.items()))


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Help in lines so long that no flag is broken in two."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _fields(kind: Any, example: Any) -> Document:
    """The fields of a dataclass: type, default, what the comment beside it says, choices."""
    hints, notes = typing.get_type_hints(kind), comments(kind)
    found = {}
    for field in dataclasses.fields(kind):
        default = "" if field.default is NOTHING else as_text(field.default)
        found[field.name] = {
            "type": kind_in_words(hints[field.name]),
            "default": default,
            "about": notes.get(field.name, ""),
            "choices": _choices(example, field.name),
        }
    return found


def _choices(example: Any, name: str) -> list[str]:
    """The words that a field takes, as its own check names them when it is given another."""
    if not isinstance(getattr(example, name), str):
        return []
    try:
        dataclasses.replace(example, **{name: "?"})
    except (ValueError, TypeError) as error:
        listed = re.search(rf"\b{name} must be (?:one of )?(.*), got '\?'", str(error))
        words = re.split(r", | or ", listed[1]) if listed else []
        return [word.strip("'") for word in words if re.fullmatch(r"'?[\w-]+'?", word)]
    return []


def _differing(instance: Any, fields: Document) -> dict[str, str]:
    """The fields whose value is not the default of the class."""
    texts = {name: as_text(getattr(instance, name)) for name in fields}
    return {name: text for name, text in texts.items() if text != fields[name]["default"]}


def text_of(index: Document) -> str:
    """The file that holds an index: a row of a table in a line, so that changes can be read."""
    tables = []
    for name, table in index.items():
        rows = [f" {json.dumps(key)}: {json.dumps(row)}" for key, row in table.items()]
        if name == "classes":
            rows = [
                f" {json.dumps(key)}: {{\n"
                + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in row.items())
                + "\n }"
                for key, row in table.items()
            ]
        tables.append(f"{json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n}")
    return "{" + ",\n".join(tables) + "}\n"


if __name__ == "__main__":
    files.write_whole(FILE, text_of(build()))
