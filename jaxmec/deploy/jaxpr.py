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
from jax.typing import ArrayLike

from jaxmec.core.types import PyTree

Equation = core.JaxprEqn
Atom = core.Var | core.Literal  # what an equation takes
Shape = Sequence[int]


class Program(NamedTuple):
    """A jaxpr and the values of its constants."""

    constants: tuple[tuple[core.Var, ArrayLike], ...]  # variables and their values
    inputs: tuple[core.Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]


class Scan(NamedTuple):
    """A loop of known length. Its operands are constants, carry and rows, in this order."""

    body: Program  # of constants, carry and one of each of the rows
    constants: int  # how many operands are the same in each turn
    carried: int  # how many operands and results go from turn to turn
    length: int
    reverse: bool


def trace(function: Callable[..., PyTree], *arguments: PyTree) -> Program:
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


def literal(atom: Atom) -> np.ndarray | None:
    """The value of a literal; None for a variable."""
    if not isinstance(atom, core.Literal):
        return None
    return np.asarray(atom.val, dtype(atom))


def dtype(atom: Atom) -> np.dtype:
    """The dtype of a variable or literal: of a PRNG key, JAX's own."""
    aval: Any = atom.aval
    return aval.dtype


def shapes(atoms: Sequence[Atom]) -> list[tuple[int, ...]]:
    """The shapes of variables and literals."""
    avals: list[Any] = [atom.aval for atom in atoms]
    return [tuple(aval.shape) for aval in avals]


def called(equation: Equation) -> Program:
    """The program of an equation that calls one."""
    (body,) = _inner_programs(equation)
    return body


def scan(equation: Equation) -> Scan:
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


def every(whole: Program) -> Iterator[Equation]:
    """Every equation, of inner programs too."""
    for equation in whole.equations:
        yield equation
        for inner in _inner_programs(equation):
            yield from every(inner)


def _inner_programs(equation: Equation) -> list[Program]:
    """The programs among the parameters of an equation."""
    parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
    return [program(parameter) for parameter in parameters if _is_program(parameter)]


def _is_program(parameter: object) -> bool:
    return hasattr(parameter, "eqns")
