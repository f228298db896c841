"""Checks name the field, the value and what was expected, of single numbers, arrays and JSON."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.core import checks


@pytest.mark.parametrize("value", [0, 0.5, 1, np.float32(0.5), np.array([0, 1]), jnp.zeros((2, 3))])
def test_numbers_and_arrays_of_them_pass(value):
    checks.require("share", value, checks.number(0, most=1))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-1, "share must be a finite number of at least 0 and at most 1, got -1"),
        (float("nan"), "share must be .* got nan"),
        (True, "share must be .* got True"),
        ("0.5", "share must be .* got '0.5'"),
        (None, "share must be .* got None"),
        (np.array([0.5, 2.0]), r"share\[1\] must be .* got 2.0"),
        (jnp.array([[0.5], [jnp.nan]]), r"share\[1, 0\] must be .* got nan"),
        (jnp.asarray(2.0), "share must be .* got 2.0"),
        (np.array(["a"]), "share must be .* got array"),
    ],
)
def test_what_is_wrong_is_named(value, problem):
    with pytest.raises(ValueError, match=problem):
        checks.require("share", value, checks.number(0, most=1))


def test_what_is_traced_passes():
    def positive(x):
        checks.require("x", x, checks.number(above=0))
        return x

    assert jax.jit(positive)(-1.0) == -1
    with pytest.raises(ValueError, match="x must be a finite number above 0"):
        positive(-1.0)


def test_fields_of_a_configuration():
    @dataclasses.dataclass
    class Sizes:
        steps: object = 1
        hidden: object = (4,)
        kind: object = "a"
        fast: object = False

        def __post_init__(self):
            checks.fields(
                self,
                steps=checks.whole(1),
                hidden=checks.widths,
                kind=checks.one_of(("a", "b")),
                fast=checks.flag,
            )

    Sizes()
    for changes, problem in (
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": True}, "steps must be .* got True"),
        ({"hidden": (4, 0)}, r"hidden\[1\] must be a whole number of at least 1, got 0"),
        ({"hidden": ()}, "hidden must be a tuple"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"fast": 1}, "fast must be True or False, got 1"),
    ):
        with pytest.raises(ValueError, match=problem):
            Sizes(**changes)


def test_all_that_is_wrong_with_json_up_to_three():
    schema = checks.record(
        {"name": checks.text(), "sizes": checks.listing(checks.whole(1, 9)), "loss": checks.flag},
        {"rate": checks.optional(checks.number(above=0))},
    )
    assert checks.problems({"name": "a", "sizes": [1], "loss": True, "more": 1}, schema) == ""
    found = checks.problems({"name": 1, "sizes": [1, 10], "loss": True, "rate": 0}, schema)
    assert found == (
        "name must be a string of at most 4096 characters, got 1; "
        "sizes[1] must be a whole number of 1 to 9, got 10; "
        "rate must be null or a finite number above 0, got 0"
    )
    assert checks.problems({}, schema) == "name is missing; sizes is missing; loss is missing"


def test_neither_jax_nor_numpy_is_needed():
    code = (
        "import sys; sys.modules['jax'] = sys.modules['numpy'] = None\n"
        "from jaxmec.core import checks, sealed\n"
        "checks.require('x', 1.5, checks.number(0))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_numpys_whole_numbers_count_too(value):
    checks.require("slots", value, checks.whole(1, 4))


@pytest.mark.parametrize("value", [3.0, True, np.True_, np.array([3, 3]), "3", np.float32(3)])
def test_what_only_looks_like_a_whole_number_is_refused(value):
    with pytest.raises(ValueError, match="slots must be a whole number of 1 to 4, got"):
        checks.require("slots", value, checks.whole(1, 4))


def test_a_closed_record_has_no_other_keys():
    check = checks.closed({"memory": checks.number(above=0)}, {"name": checks.text()})
    assert checks.problems({"memory": 8, "name": "T4"}, check, "server") == ""
    found = checks.problems({"memmory": 8}, check, "server")
    assert "server.memmory is not one of memory, name; did you mean 'memory'?" in found
    assert "server.memory is missing" in found
    assert checks.problems([], check, "server") == "server must be an object, got a list of 0"
