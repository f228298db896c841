"""What programs ask of the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec import compilation


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
    ours = jax.jit(lambda x: jnp.sum(x, -1), compiler_options=jaxmec.compilation.options())
    assert "ynn" not in ours.lower(waits).compile().as_text()
    np.testing.assert_allclose(ours(waits), np.sum(np.asarray(waits), -1), rtol=1e-6)


def test_a_compiler_that_does_not_know_an_option_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(compilation, "ON_CPU", {"xla_cpu_no_such_option": True})
    assert compilation.options() is None


def test_other_devices_are_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.options() is None
