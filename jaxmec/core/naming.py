"""Names that a person types: the right one, or an error that suggests it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from jaxmec.core.types import Keywords

Named = TypeVar("Named")


def suggestion(name: str, names: Iterable[str]) -> str:
    """ "; did you mean ...?" for the nearest of ``names``, or nothing where none is near."""
    by_lower_case = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""


def look_up(kind: str, name: str, table: Mapping[str, Named]) -> Named:
    """The entry of that name.

    Raises:
        ValueError: there is none; the message lists the names and suggests the nearest.
    """
    if name in table:
        return table[name]
    raise ValueError(f"{kind} {name!r} is not one of {', '.join(table)}{suggestion(name, table)}")


def by_layer(
    options: Mapping[str, object],
    layers: Mapping[str, Collection[str]],
    *,
    shared: Mapping[str, Collection[str]],
    arguments: Collection[str] = (),
    owner: str,
) -> dict[str, Keywords]:
    """Which layer each option is of, by its name, which may say so: ``agent.start``.

    Args:
        options: values by name.
        layers: the names that each layer knows.
        shared: names that several layers know on purpose, and the layers that take the value.
        arguments: names that mean something of their own where options are written.
        owner: whose options they are, for messages.

    Returns:
        For each layer, its options by their names in it.

    Raises:
        TypeError: a name that no layer knows, with the nearest that one does; a name that means
            several things, with how each is written; an option that is given twice.
    """
    found: dict[str, Keywords] = {layer: {} for layer in layers}
    for key, value in options.items():
        layer, dot, name = key.partition(".")
        full = bool(dot) and layer in layers
        name = name if full else key
        takers = [each for each in ([layer] if full else layers) if name in layers[each]]
        if not takers:
            known = {f"{layer}.{each}" for each in layers[layer]} if full else set()
            known = known or {*arguments, *(each for names in layers.values() for each in names)}
            raise TypeError(f"{owner} has no option {key!r}{suggestion(key, sorted(known))}")
        if not full and len(takers) > 1 and name in shared:
            takers = [each for each in takers if each in shared[name]]
        elif not full and (len(takers) > 1 or name in arguments):
            raise TypeError(ambiguous(name, takers, name in arguments))
        for layer in takers:
            if name in found[layer]:
                raise TypeError(f"{owner}: {layer}.{name} is given twice")
            found[layer][name] = value
    return found


def ambiguous(name: str, layers: Iterable[str], argument: bool = False) -> str:
    """What to say of a name that means several things: how each is written."""
    ways = " or ".join(f"{layer}.{name}" for layer in layers)
    if argument:
        return f"{name!r} is ambiguous: {ways}, or what training has by that name; write {ways}"
    return f"{name!r} is ambiguous; write {ways}"
