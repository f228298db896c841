"""Names that a person types: the right one, or an error that suggests it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def suggestion(name: str, names: Iterable[str]) -> str:
    """ "; did you mean ...?" for the nearest of ``names``, or nothing where none is near."""
    by_lower_case = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of that name.

    Raises:
        ValueError: there is none; the message lists the names and suggests the nearest.
    """
    if name in table:
        return table[name]
    raise ValueError(f"{kind} {name!r} is not one of {', '.join(table)}{suggestion(name, table)}")
