"""Checks of physical quantities, made once, when a person builds an object.

Each takes the field's name and value and returns the value as an array of the default
float type, or raises ``ValueError`` naming the field, the value and what was expected.
A value that is being traced has no numbers to check and passes. What single numbers have to be
is said by :mod:`jaxmec.core.checks`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmec.core import checks
from jaxmec.struct import is_concrete


def real(
    name: str,
    value: ArrayLike,
    *,
    ndim: int | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    finite: bool = True,
) -> jax.Array:
    """``value`` as a float array, checked against the bounds given."""
    if not is_concrete(value):
        return jnp.asarray(value)
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got {value!r}") from error
    if ndim is not None and numbers.ndim != ndim:
        shape = {0: "a scalar", 1: "a vector"}[ndim]
        raise ValueError(f"{name} must be {shape}, got shape {numbers.shape}")
    least = -np.inf if at_least is None else at_least
    most = np.inf if at_most is None else at_most
    beyond = -np.inf if above is None else above
    checks.require(name, numbers, checks.number(least, above=beyond, most=most, finite=finite))
    given = value.dtype if isinstance(value, np.ndarray | np.generic | jax.Array) else None
    keep = given is not None and jnp.issubdtype(given, jnp.floating)
    dtype = jax.dtypes.canonicalize_dtype(given if keep else float)
    # Below the smallest normal number XLA counts with 0, above the largest with infinity.
    held, size = jnp.finfo(dtype), np.abs(numbers)
    lost = (numbers != 0) & np.isfinite(numbers) & ((size < held.tiny) | (size > held.max))
    if np.any(lost):
        where = np.argwhere(lost)[0]
        index = f"[{', '.join(map(str, where))}]" if where.size else ""
        raise ValueError(
            f"{name}{index} must be what {dtype} holds, 0 or {float(held.tiny):.3g} to "
            f"{float(held.max):.3g}, got {numbers[tuple(where)]:g}"
        )
    return jnp.asarray(value, dtype)


def reals(owner: object, *names: str, part_of: str = "", **bounds: Any) -> None:
    """Make each field named what :func:`real` makes of it, as an object is built.

    ``part_of`` stands before the names in errors.
    """
    for name in names:
        value = real(part_of + name, getattr(owner, name), **bounds)
        object.__setattr__(owner, name, value)


def same_length(**vectors: ArrayLike) -> None:
    """Raise unless all vectors have the first one's length."""
    (first, reference), *others = vectors.items()
    for name, vector in others:
        if jnp.shape(vector) != jnp.shape(reference):
            raise ValueError(
                f"{name} must have the shape of {first}, {jnp.shape(reference)}, "
                f"got {jnp.shape(vector)}"
            )
