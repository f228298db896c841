"""What is read of traced programs, whatever version of JAX lays them out."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.deploy import jaxpr

W = jnp.arange(6.0).reshape(2, 3)


def loop(constants, carried, rows, put_out, length=4, reverse=False):
    """A function with a scan of so many operands and results of each kind."""

    def function(x):
        def step(carry, row):
            total = x[:constants].sum() + sum(r.sum() for r in row)
            return tuple(c + total for c in carry), tuple(total * (i + W) for i in range(put_out))

        carry = tuple(x[i] + jnp.zeros(i) for i in range(carried))
        inputs = tuple(x[i] * jnp.ones((length, *(2,) * i)) for i in range(rows))
        return jax.lax.scan(step, carry, inputs, length=length, reverse=reverse)

    return function


@pytest.mark.parametrize(
    ("carried", "rows", "put_out"), [(0, 1, 1), (1, 0, 0), (2, 3, 0), (3, 0, 2), (1, 2, 3)]
)
def test_a_scan_is_read_as_it_was_written(carried, rows, put_out):
    function = loop(2, carried, rows, put_out, reverse=rows == 3)
    (equation,) = [
        e for e in jaxpr.every(jaxpr.trace(function, jnp.ones(4))) if e.primitive.name == "scan"
    ]
    read = jaxpr.scan(equation)
    assert (read.carried, read.length, read.reverse) == (carried, 4, rows == 3)
    assert read.constants == len(equation.invars) - carried - rows > 0
    assert len(equation.outvars) == carried + put_out == len(read.body.outputs)
    assert jaxpr.shapes(equation.outvars)[carried:] == [(4, 2, 3)] * put_out


def test_no_count_among_its_parameters_is_needed():
    """They are other ones in other versions."""
    program = jaxpr.trace(loop(1, 1, 1, 1), jnp.ones(4))
    (real,) = [e for e in program.equations if e.primitive.name == "scan"]
    kept = {name: real.params[name] for name in ("jaxpr", "length", "reverse")}
    bare = types.SimpleNamespace(invars=real.invars, outvars=real.outvars, params=kept)
    read, wanted = jaxpr.scan(bare), jaxpr.scan(real)
    assert (read.constants, read.carried) == (wanted.constants, wanted.carried)


def test_constants_and_literals_have_their_values():
    table = np.arange(5, dtype=np.float32)
    program = jaxpr.trace(
        lambda x: (x + jnp.asarray(table), 3), jax.ShapeDtypeStruct((5,), "float32")
    )
    ((_, value),) = program.constants
    np.testing.assert_array_equal(value, table)
    variable, three = program.outputs
    assert jaxpr.literal(variable) is None and jaxpr.literal(three) == 3
    assert jaxpr.shapes(program.outputs) == [(5,), ()]
    (shape,) = jaxpr.shapes(program.inputs)
    assert shape == (5,)


def test_inner_programs_are_walked_too():
    def function(x):
        x = jax.jit(jnp.sin)(x)
        x = jax.lax.cond(x.sum() > 0, jnp.cos, jnp.tan, x)
        return jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: jax.checkpoint(jnp.exp)(v), x)

    names = {e.primitive.name for e in jaxpr.every(jaxpr.trace(function, jnp.ones(3)))}
    assert {"sin", "cos", "tan", "while", "cond", "lt", "exp"} <= names
