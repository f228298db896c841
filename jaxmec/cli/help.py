"""Help on one screen: a line a flag, and the fields of `--set`."""

from __future__ import annotations

import dataclasses
import textwrap
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jaxmec.cli.comments import comments
from jaxmec.cli.fields import Field

WIDTH = 80
GROUPS = {"config": "training", "agent": "agent", "env": "environment"}


def flags(command: Any, skip: Collection[str] = ()) -> list[str]:
    """A line for each flag of a dataclass: how it is written, what it is, its default."""
    hints, notes = typing.get_type_hints(command, include_extras=True), comments(command)
    rows = []
    for field in dataclasses.fields(command):
        if field.name in skip or field.default is dataclasses.MISSING:
            continue
        flag = field.name.replace("_", "-")
        shown = _placeholder(hints[field.name])
        about = notes[field.name]
        if field.default is True:  # what can be said of it is that it is not so
            flag, about = f"no-{flag}", f"do not {about}"
        elif field.default not in (None, (), False):
            about += f" (default: {field.default})"
        rows.append((f"--{flag}{shown and ' '}{shown}", about))
    width = max(len(flag) for flag, _ in rows)
    return [f"  {flag:<{width}}  {about}" for flag, about in rows]


def _placeholder(hint: Any) -> str:
    """What follows a flag of that type."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        named = [note.metavar for note in notes if getattr(note, "metavar", None)]
        return named[0] if named else _placeholder(inner)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return "|".join(map(_placeholder, parts))
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    return {bool: "", int: "N", float: "X", Path: "PATH"}.get(hint, "NAME")


def field_names(fields: Sequence[Field]) -> list[str]:
    """The fields by group, their names alone."""
    lines = ["fields of --set:"]
    for group, about in GROUPS.items():
        names = ", ".join(field.name for field in fields if field.group == group)
        lines += textwrap.wrap(names, WIDTH - 2, initial_indent=f"  {about}: ",
                               subsequent_indent="    ")  # fmt: skip
    return lines


def every_field(fields: Sequence[Field]) -> list[str]:
    """Each field with what it is, its choices and its default."""
    lines = []
    for group, about in GROUPS.items():
        of_group = [field for field in fields if field.group == group]
        lines.append(f"fields of the {about}, --set NAME=VALUE or --set {group}.NAME=VALUE:")
        width = max((len(field.name) for field in of_group), default=0)
        for field in of_group:
            default = f" (default: {field.default})" if field.default else ""
            text = f"{field.about or field.type}{default}"
            lines += textwrap.wrap(text, WIDTH + 20, initial_indent=f"  {field.name:<{width}}  ",
                                   subsequent_indent=" " * (width + 4))  # fmt: skip
    return lines
