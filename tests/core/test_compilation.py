"""What programs ask of the compiler."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec.core import compilation


@pytest.fixture(autouse=True)
def forget():
    compilation.options.cache_clear()
    yield
    compilation.options.cache_clear()


def test_sums_over_servers_are_no_calls_of_a_library_and_come_to_the_same():
    if jax.default_backend() != "cpu":
        pytest.skip("of the CPU's compiler")
    assert compilation.options() is not None
    waits = jax.random.uniform(jax.random.key(0), (4096, 5))
    ours = jax.jit(lambda x: jnp.sum(x, -1), compiler_options=jaxmec.core.compilation.options())
    assert "ynn" not in ours.lower(waits).compile().as_text()
    np.testing.assert_allclose(ours(waits), np.sum(np.asarray(waits), -1), rtol=1e-6)


def test_a_compiler_that_does_not_know_an_option_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(compilation, "ON_CPU", {"xla_cpu_no_such_option": True})
    assert compilation.options() is None


def test_of_several_options_those_that_are_known_are_asked_for():
    wanted = {"xla_cpu_no_such_option": 1, **compilation.DETERMINISTIC}
    assert compilation.understood(wanted) == compilation.DETERMINISTIC


def test_what_was_promised_of_the_compiler_is_refused_where_it_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.deterministic() == {"xla_gpu_deterministic_ops": True}
    monkeypatch.setattr(compilation, "DETERMINISTIC", {"xla_gpu_no_such_option": True})
    with pytest.raises(RuntimeError, match=r"deterministic is True, .* xla_gpu_no_such_option"):
        compilation.deterministic()


def test_a_flag_that_xla_does_not_know_is_left_out():
    """It would end the process, which shows nothing but a worker that crashed."""
    flags = ["--xla_no_such_flag=1", "--xla_backend_optimization_level=1"]
    assert compilation.known_flags(flags) == flags[1:]


ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("jaxmec", "train", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in (Path(__file__), ROOT / "tests" / "conftest.py")  # which tries its own
]


def test_nothing_is_asked_of_xla_that_was_not_tried():
    asked = re.compile(r"""compiler_options\s*=\s*(\{|dict)|["' ]--xla_\w+""")
    untried = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asked.search(line) and "known_flags(" not in line
    ]
    assert untried == []


def test_other_devices_are_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.options() is None
