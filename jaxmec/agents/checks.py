"""Checks of hyperparameters, made once, when a person builds an agent.

Each raises ``ValueError`` naming the field, the value and what was expected. Numbers may
also be arrays, one entry per member of a sweep; what is being traced has no value yet and
passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxmec.struct import is_concrete


def number(
    name: str, value: Any, *, least: float = -np.inf, most: float = np.inf, above: bool = False
) -> None:
    """A finite number in [least, most], or in (least, most] where ``above`` says so."""
    if not is_concrete(value):
        return
    expected = f"a finite number {'above' if above else 'of at least'} {least:g}"
    expected += f" and at most {most:g}" if np.isfinite(most) else ""
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {expected}, got {value!r}") from None
    inside = (numbers > least if above else numbers >= least) & (numbers <= most)
    if not np.all(inside & np.isfinite(numbers)):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """One of the names in ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def whole(name: str, value: Any, *, least: int) -> None:
    """A Python int of at least ``least``: it is a size, and part of the program."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def flag(name: str, value: Any) -> None:
    """True or False, and nothing that is merely like it: it is part of the program."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def widths(name: str, value: Any) -> None:
    """A tuple of one positive int per hidden layer, at least one."""
    if not (isinstance(value, tuple) and value):
        raise ValueError(f"{name} must be a tuple with at least one layer's width, got {value!r}")
    for index, width in enumerate(value):
        whole(f"{name}[{index}]", width, least=1)
