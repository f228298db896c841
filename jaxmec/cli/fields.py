"""Fields of what is trained, as `--set NAME=VALUE` takes them, and what their values mean."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxmec.cli.errors import UsageError
from jaxmec.core.naming import suggestion
from jaxmec.core.types import Document

WORDS = {"none": None, "true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the training's config, of the agent, or of the environment and its preset."""

    group: str  # config, agent or env, which may stand before the name: agent.start
    name: str
    type: str  # what a value is: "whole number", "list of numbers", ...
    default: str  # as `--set` would take it
    about: str
    choices: tuple[str, ...] = ()  # where it is one of a few words


def kind_in_words(hint: Any) -> str:
    """What a value of that type is, for messages and help."""
    parts = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(kind_in_words, parts))
    if origin is typing.Literal:
        return " or ".join(map(str, parts))
    if origin is tuple:
        return f"list of {'' if Ellipsis in parts else f'{len(parts)} '}{kind_in_words(parts[0])}s"
    names = {bool: "true or false", int: "whole number", float: "number", str: "word"}
    return names.get(hint, "none" if hint is types.NoneType else "value")


def as_text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def parse_value(name: str, text: str, hint: Any) -> Any:
    """The value that a text means for a field of that type.

    Raises:
        ValueError: it means none; names the field, the text and what is expected.
    """
    try:
        return _parse(text.strip(), hint)
    except ValueError:
        expected = kind_in_words(hint)
        article = "" if expected.startswith("true") else "a "
        raise ValueError(f"{name} must be {article}{expected}, got {text!r}") from None


def _parse(text: str, hint: Any) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # Whatever is a number is meant as one, before it is a word.
        for part in sorted(parts, key=lambda part: part is str):
            try:
                return _parse(text, part)
            except ValueError:
                continue
        raise ValueError
    if origin is typing.Literal:
        return {str(part): part for part in parts}[text] if text in map(str, parts) else _none()
    if origin is tuple:
        pieces = [piece for piece in text.strip("()[] ").split(",") if piece.strip()]
        kinds = [parts[0]] * len(pieces) if Ellipsis in parts else list(parts)
        if len(kinds) != len(pieces) or not pieces:
            raise ValueError
        return tuple(_parse(piece.strip(), kind) for piece, kind in zip(pieces, kinds, strict=True))
    if hint in (bool, types.NoneType):
        value = WORDS.get(text.lower(), text)
        return value if type(value) is hint else _none()
    return hint(text) if hint in (int, float, str, Path) else text


def _none() -> Any:
    raise ValueError


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """What several NAME=VALUE say, by name.

    Raises:
        UsageError: one that is none, or a name that is given twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--set {text!r}: expected NAME=VALUE, as --set discount=0.9")
        if name in given:
            raise UsageError(f"--set {name} is given twice: {given[name]} and {value}")
        given[name] = value
    return given


def values(
    given: Mapping[str, str], hints: Mapping[str, Mapping[str, object]], owner: str
) -> Document:
    """The values of fields, which are written ``name`` or ``group.name``.

    Args:
        given: texts by name.
        hints: the type of each field, by group and name.
        owner: whose fields they are, for messages.

    Raises:
        UsageError: a name that no group has, with the nearest that one has.
        ValueError: a value that is not of the field's type.
    """
    found = {}
    for key, text in given.items():
        group, _, name = key.rpartition(".")
        groups = [group] if group in hints else [] if group else list(hints)
        owners = [each for each in groups if name in hints[each]]
        if not owners:
            known = {each for names in hints.values() for each in names}
            raise UsageError(f"{owner} has no field {key!r}{suggestion(name, sorted(known))}")
        # What several groups have is theirs to settle; what one has is meant, whatever else has
        # that name where training is asked for.
        full = key if group or len(owners) > 1 else f"{owners[0]}.{name}"
        if full in found:
            raise UsageError(f"{full} is given twice, as {name} too")
        found[full] = parse_value(key, text, hints[owners[0]][name])
    return found
