"""Checks of values: each says of a field what it is, and what was expected of it.

A check is a function from a value and its name to the problems with it. Those of single values
take Python's numbers and, where it says so, arrays; others are made of them, for what JSON holds.
Configurations are checked when a person builds them::

    def __post_init__(self) -> None:
        checks.fields(self, discount=checks.number(0, most=1), trials=checks.whole(1))

What JAX is tracing has no value yet and passes. This module imports neither JAX nor NumPy, so
that it runs at the edge.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Protocol, SupportsIndex, cast, runtime_checkable

from jaxmec.core.naming import suggestion

if TYPE_CHECKING:
    import numpy as np

Problems = Iterator[str]
Check = Callable[[object, str], Problems]  # of a value and its name

MAX_NUMBER = 1e300  # a whole number may be too large for a float
SHOWN = 3  # problems that an error names


@runtime_checkable
class _Array(Protocol):
    """Of NumPy or JAX; a list is none."""

    def __array__(self) -> np.ndarray: ...


def require(name: str, value: object, check: Check) -> None:
    """Raise a ``ValueError`` with what ``check`` finds first, if anything."""
    if problem := next(check(value, name), None):
        raise ValueError(problem)


def integer(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number, Python's or NumPy's, as Python's int; :func:`require`, if it is none."""
    require(name, value, whole(least, most))
    return operator.index(cast("SupportsIndex", value))


def fields(owner: object, **checks: Check) -> None:
    """:func:`require` of each field named; NumPy's whole numbers in them become Python's."""
    for name, check in checks.items():
        value = getattr(owner, name)
        require(name, value, check)
        if type(value) not in (int, bool) and isinstance(value, Integral):
            object.__setattr__(owner, name, int(value))


def problems(value: object, check: Check, name: str = "") -> str:
    """The first problems in one text, "" if there are none."""
    return "; ".join(itertools.islice(check(value, name), SHOWN))


def shown(value: object) -> str:
    """A value as an error shows it: escaped, on one line, and short."""
    if isinstance(value, list | dict):  # not written out whole only to be cut
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def is_traced(value: object) -> bool:
    """Whether JAX is tracing the value; where nobody has imported JAX, nothing is traced."""
    jax = sys.modules.get("jax")
    if jax is None or type(value) in (int, float, bool, str):
        return False
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _wrong(name: str, what: str, value: object) -> str:
    return f"{name or 'it'} must be {what}, got {shown(value)}"


# Single values


def number(
    least: float = -math.inf,
    *,
    above: float = -math.inf,
    most: float = math.inf,
    finite: bool = True,
) -> Check:
    """A number, at ``least`` or ``above`` a bound and at ``most`` another, or an array of such."""
    bounds = [f"above {above:g}"] if above > -math.inf else []
    bounds += [f"of at least {least:g}"] if least > -math.inf else []
    bounds += [f"at most {most:g}" if bounds else f"of at most {most:g}"] if most < math.inf else []
    what = f"a {'finite ' if finite else ''}number {' and '.join(bounds)}".rstrip()

    def fits(value: float) -> bool:
        sound = abs(value) <= MAX_NUMBER if finite else not math.isnan(value)
        return sound and above < value and least <= value <= most

    def problems(value: object, name: str) -> Problems:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not fits(value):
                yield _wrong(name, what, value)
        elif is_traced(value):
            return
        elif not isinstance(value, _Array) or (entries := value.__array__()).dtype.kind in "bOSUMm":
            yield _wrong(name, what, value)
        else:
            for place, entry in enumerate(entries.ravel().tolist()):
                if not fits(entry):
                    yield _wrong(f"{name}{_index(place, entries.shape)}", what, entry)

    return problems


def _index(place: int, shape: tuple[int, ...]) -> str:
    """``[1, 2]`` for the place in an array of that shape, laid out in a row."""
    index: list[int] = []
    for size in reversed(shape):
        place, rest = divmod(place, size)
        index.insert(0, rest)
    return f"[{', '.join(map(str, index))}]" if index else ""


def whole(least: int, most: int | None = None, limit: str = "") -> Check:
    """A whole number, ``least`` to ``most``: an int of Python's or NumPy's.

    ``limit`` says what ``most`` is.
    """
    what = f"a whole number of at least {least}"
    if most is not None:
        what = f"a whole number of {least} to {f'{limit}, ' if limit else ''}{most}"

    def problems(value: object, name: str) -> Problems:
        number = as_int(value)
        if number is None or number < least or (most is not None and number > most):
            yield _wrong(name, what, value)

    return problems


def as_int(value: object) -> int | None:
    """The whole number that a value is, Python's or NumPy's; None for any other, True and False."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several, or one that is traced
        return None


def one_of(choices: Collection[str]) -> Check:
    """One of the names."""

    def problems(value: object, name: str) -> Problems:
        if value not in choices:
            yield _wrong(name, f"one of {', '.join(choices)}", value)

    return problems


def text(pattern: str = r"(?s).*", what: str = "a string", most: int = 4096) -> Check:
    """A string, of a pattern."""
    of = re.compile(pattern)

    def problems(value: object, name: str) -> Problems:
        if not isinstance(value, str) or len(value) > most or not of.fullmatch(value):
            yield _wrong(name, f"{what} of at most {most} characters", value)

    return problems


def flag(value: object, name: str) -> Problems:
    """True or False, and nothing that is merely like it."""
    if type(value) is not bool:
        yield _wrong(name, "True or False", value)


def anything(value: object, name: str) -> Problems:
    """What its reader checks itself."""
    del value, name
    yield from ()


def widths(value: object, name: str) -> Problems:
    """A tuple of one positive int a hidden layer, at least one."""
    if not (isinstance(value, tuple) and value):
        yield _wrong(name, "a tuple with at least one layer's width", value)
        return
    for index, width in enumerate(value):
        yield from whole(1)(width, f"{name}[{index}]")


def optional(inner: Check) -> Check:
    """None, null in JSON, or what ``inner`` takes."""
    return _or(inner, (None,), "null")


def either(inner: Check, *values: str | None) -> Check:
    """One of the ``values``, "all" or None say, or what ``inner`` takes."""
    return _or(inner, values, " or ".join(map(repr, values)))


def _or(inner: Check, values: tuple[str | None, ...], written: str) -> Check:
    def problems(value: object, name: str) -> Problems:
        if not (isinstance(value, str | None) and value in values):
            for problem in inner(value, name):
                yield problem.replace(" must be ", f" must be {written} or ", 1)

    return problems


# What JSON holds


def listing(inner: Check, least: int = 0, most: int = 2**16) -> Check:
    """A list; its length is looked at before what it holds."""

    def problems(value: object, name: str) -> Problems:
        if not isinstance(value, list) or not least <= len(value) <= most:
            yield _wrong(name, f"a list of {least} to at most {most}", value)
        else:
            for index, entry in enumerate(value):
                yield from inner(entry, f"{name}[{index}]")

    return problems


def pair(first: Check, second: Check) -> Check:
    """A list of two."""

    def problems(value: object, name: str) -> Problems:
        if not isinstance(value, list) or len(value) != 2:
            yield _wrong(name, "a list of 2", value)
        else:
            yield from first(value[0], f"{name}[0]")
            yield from second(value[1], f"{name}[1]")

    return problems


def mapping(inner: Check, most: int = 4096) -> Check:
    """An object of any keys, all of whose values are alike."""

    def problems(value: object, name: str) -> Problems:
        if not isinstance(value, dict):
            yield _wrong(name, "an object", value)
        elif len(value) > most:
            yield _wrong(name, f"an object of at most {most} entries", value)
        else:
            for key, entry in value.items():
                yield from inner(entry, f"{name}.{key[:200]}".lstrip("."))

    return problems


def record(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object with the ``required`` keys, perhaps the ``others``, and any more."""

    def problems(value: object, name: str) -> Problems:
        if not isinstance(value, dict):
            yield _wrong(name, "an object", value)
            return
        for key, inner in {**required, **(others or {})}.items():
            full = f"{name}.{key}".lstrip(".")
            if key in value:
                yield from inner(value[key], full)
            elif key in required:
                yield f"{full} is missing"

    return problems


def closed(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object with the ``required`` keys, perhaps the ``others``, and no more."""
    known = {**required, **(others or {})}
    inner = record(required, others)

    def problems(value: object, name: str) -> Problems:
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                full = f"{name}.{shown(key)[1:-1]}".lstrip(".")
                yield f"{full} is not one of {', '.join(known)}{suggestion(key, known)}"
        yield from inner(value, name)

    return problems
