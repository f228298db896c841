"""Times as whole numbers, in a file's own unit and with all its digits, and the slots they are in.

As floating-point numbers of seconds, times of an epoch lose what is below 0.2 microseconds, and
0.3 s over slots of 0.1 s is less than 3: rows would come a slot early.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxmec.traces.reading import Column, Piece

_MOST_DIGITS = 30  # before the point and after it
_DATE = re.compile(r"(.*:\d\d)[.,](\d+)(.*)", re.ASCII | re.DOTALL)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_BLOCK = 2**16  # rows that are calculated with Python's numbers at once


class Ticks(NamedTuple):
    """Times as whole numbers of 10^−decimals units: ``first`` and [M] how far after it."""

    first: int
    after: np.ndarray  # [M] int64, or Python's int where those are too large for it
    decimals: int

    @classmethod
    def of(cls, values: Sequence[int] | np.ndarray, decimals: int) -> Ticks:
        """From [M] whole numbers, at least one."""
        if isinstance(values, np.ndarray):
            first, last = int(values.min()), int(values.max())
            if max(abs(first), abs(last)) < 2**62:
                return cls(first, values.astype(np.int64) - first, decimals)
        first, last = int(min(values)), int(max(values))
        dtype = np.int64 if last - first < 2**63 else object
        return cls(first, np.array([int(value) - first for value in values], dtype), decimals)

    @classmethod
    def joined(cls, parts: list[Ticks]) -> Ticks:
        """All parts after the first of all times, in the finest of their units.

        ``parts`` is emptied on the way, so that a long file's times are not there twice.
        """
        decimals = max(part.decimals for part in parts)
        first = min(part.first * 10 ** (decimals - part.decimals) for part in parts)
        last, after = 0, []
        for part in parts:
            scale = 10 ** (decimals - part.decimals)
            last = max(last, (part.first + int(part.after.max())) * scale - first)
        dtype: Any = np.int64 if last < 2**63 else object
        while parts:
            part = parts.pop(0)
            scale = 10 ** (decimals - part.decimals)
            after.append(part.after.astype(dtype) * scale + (part.first * scale - first))
        return cls(first, np.concatenate(after), decimals)

    def slots(self, column: Column, length: Fraction, start: Fraction) -> np.ndarray:
        """[M] which slot of so many s a time is in, where the first begins ``start`` s after ours.

        int64, or Python's int where those are too large for it; negative before the start.
        """
        tick = Fraction(str(column.factor)) / 10**self.decimals  # s
        a, b = tick / length, start / length  # floor(a · after − b)
        over = a.denominator * b.denominator
        times, minus = a.numerator * b.denominator, b.numerator * a.denominator
        largest = int(self.after.max()) * times + abs(minus)
        if self.after.dtype != object and max(largest, over) < 2**62:
            slot = self.after * times
            slot -= minus
            slot //= over
            return slot
        dtype = np.int64 if largest // over < 2**62 else object
        blocks = range(0, len(self.after), _BLOCK)
        return np.concatenate([
            np.array([(value * times - minus) // over
                      for value in self.after[block : block + _BLOCK].tolist()], dtype)
            for block in blocks
        ])  # fmt: skip


def exactly(number: float) -> Fraction:
    """The number as a person wrote it: 0.1 is a tenth."""
    return Fraction(str(float(number)))


class _Unlike(ValueError):
    """Says what was expected."""


def read_times(piece: Piece, column: Column, zones: set[bool]) -> Ticks:
    """The times in a column.

    Args:
        zones: whether earlier pieces' dates have a zone; empty at the first piece.

    Raises:
        TraceError: no time, or a date that lacks the zone that others have, by row.
    """
    values = piece.columns[column.name]
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "O"
    if kind == "M":  # Parquet knows dates itself
        piece.require(column, ~np.isnat(values), "a date and time")
        unit, count = np.datetime_data(values.dtype)
        decimals = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
        return Ticks.of(values.view(np.int64) * count, decimals)
    if column.unit == "date":
        expected = "a date and time as 2023-11-16 18:15:46"
        return _decimals(piece, column, values, lambda text: _date(text, zones), expected)
    expected = f"a time in {column.own_unit}"
    if kind in "iu":
        return Ticks.of(values, 0)
    if kind == "f":
        piece.require(column, np.isfinite(values), expected)
        values = values.astype(str).tolist()  # the fewest digits that mean this number
    return _decimals(piece, column, values, _number, expected)


def _decimals(
    piece: Piece,
    column: Column,
    values: Sequence[Any],
    read: Callable[[Any], tuple[int, int]],
    expected: str,
) -> Ticks:
    """By a function that makes of a value its digits as one whole number, and how many decimals."""
    digits, places = [], []
    for row, value in enumerate(values):
        try:
            number, decimals = read(value)
        except _Unlike as error:
            raise piece.wrong(column, row, str(error)) from None
        except (ValueError, TypeError, AttributeError, ArithmeticError):
            raise piece.wrong(column, row, expected) from None
        digits.append(number)
        places.append(decimals)
    most = max(places)
    if min(places) < most:
        scale = [10 ** (most - number) for number in range(most + 1)]
        digits = [number * scale[place] for number, place in zip(digits, places, strict=True)]
    return Ticks.of(digits, most)


def _number(text: str) -> tuple[int, int]:
    text = text.strip()
    whole, point, part = text.partition(".")
    if len(text) < _MOST_DIGITS:
        if point and part.isdigit():
            return int(whole + part), len(part)
        if not point and text.isdigit():
            return int(text), 0
    number = Decimal(text)
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):  # not a number, or infinite
        raise ValueError(text)
    if number.adjusted() > _MOST_DIGITS or exponent < -_MOST_DIGITS:
        raise OverflowError(text)
    value = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    return (-value if sign else value), max(-exponent, 0)


def _date(text: str, zones: set[bool]) -> tuple[int, int]:
    text = text.strip()
    split = _DATE.fullmatch(text)  # Python's own dates end at microseconds
    head, part = (split[1] + split[3], split[2]) if split else (text, "")
    if len(part) > _MOST_DIGITS:
        raise OverflowError(text)
    moment = datetime.datetime.fromisoformat(head)
    zoned = moment.tzinfo is not None
    zones.add(zoned)
    if len(zones) > 1:
        raise _Unlike(f"a date {'without' if zoned else 'with'} a zone, as in the rows before")
    since = (moment if zoned else moment.replace(tzinfo=datetime.UTC)) - _EPOCH
    seconds = since.days * 86400 + since.seconds
    if since.microseconds:
        return seconds * 10**6 + since.microseconds, 6
    return seconds * 10 ** len(part) + int(part or 0), len(part)
