"""What is read of a traced program, in one place, since JAX lays it out anew now and then.

JAX 0.11 made the closed jaxpr and the open one the same class and replaced the counts of a
scan's constants and carry by trees. Here both are read by what no version changes: an equation
has operands, results and parameters, and a scan's rows have one axis more than its body's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core


class Program(NamedTuple):
    """A jaxpr and the values of its constants."""

    constants: tuple[tuple[Any, Any], ...]  # variables and their values
    inputs: tuple[Any, ...]  # variables
    equations: tuple[Any, ...]
    outputs: tuple[Any, ...]  # variables and literals


class Scan(NamedTuple):
    """A loop of known length. Its operands are constants, carry and rows, in this order."""

    body: Program  # of constants, carry and one of each of the rows
    constants: int  # how many operands are the same in each turn
    carried: int  # how many operands and results go from turn to turn
    length: int
    reverse: bool


def trace(function: Callable[..., Any], *arguments: Any) -> Program:
    """The program of a function, for arguments or their shapes."""
    return program(jax.make_jaxpr(function)(*arguments))


def program(jaxpr: Any) -> Program:
    """A jaxpr of JAX's, closed or without constants."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    values = getattr(jaxpr, "consts", ())
    return Program(
        tuple(zip(inner.constvars, values, strict=True)),
        tuple(inner.invars),
        tuple(inner.eqns),
        tuple(inner.outvars),
    )


def literal(atom: Any) -> np.ndarray | None:
    """The value of a literal; None for a variable."""
    if not isinstance(atom, core.Literal):
        return None
    aval: Any = atom.aval
    return np.asarray(atom.val, aval.dtype)


def shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
    """The shapes of variables and literals."""
    return [tuple(atom.aval.shape) for atom in atoms]


def called(equation: Any) -> Program:
    """The program of an equation that calls one."""
    (body,) = _programs(equation)
    return body


def scan(equation: Any) -> Scan:
    """How the loop of an equation ``scan`` is laid out."""
    body = called(equation)
    stacked, carried = (
        [len(outer) > len(inner) for outer, inner in zip(shapes(a), shapes(b), strict=True)]
        for a, b in ((equation.invars, body.inputs), (equation.outvars, body.outputs))
    )
    return Scan(
        body,
        constants=stacked.count(False) - carried.count(False),
        carried=carried.count(False),
        length=equation.params["length"],
        reverse=equation.params["reverse"],
    )


def every(whole: Program) -> Iterator[Any]:
    """Every equation, of inner programs too."""
    for equation in whole.equations:
        yield equation
        for inner in _programs(equation):
            yield from every(inner)


def _programs(equation: Any) -> list[Program]:
    """The programs among the parameters of an equation."""
    parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
    return [program(parameter) for parameter in parameters if _is_program(parameter)]


def _is_program(parameter: Any) -> bool:
    return hasattr(parameter, "eqns")
