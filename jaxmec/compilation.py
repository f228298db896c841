"""What jaxmec's own programs ask of the compiler, beside what they compute.

A program that you jit yourself can ask for the same::

    step = jax.jit(jax.vmap(env.step), compiler_options=jaxmec.compilation.options())
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

# XLA gives sums and products on a CPU to a library of kernels, one call each, which cannot be
# fused with what is around them. Ours are over a few servers: without the library a decision
# takes less than half the time, and an update about the same (benchmarks/NOTES.md).
ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options() -> dict[str, Any] | None:
    """``compiler_options`` for a ``jax.jit`` that no other encloses; None where there are none.

    The options are experimental: a compiler that does not know them is asked for nothing.
    """
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=ON_CPU)(jnp.zeros(()))
    except (RuntimeError, ValueError):
        return None
    return ON_CPU
