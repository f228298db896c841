"""What is asked of the compiler, beside what programs compute: only what it knows.

Its options and flags come and go with its versions. A program that you jit yourself can ask
for what jaxmec's own do::

    step = jax.jit(jax.vmap(env.step), compiler_options=jaxmec.core.compilation.options())
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jaxmec.core.types import Keywords

# XLA gives sums and products on a CPU to a library of kernels, one call each, which cannot be
# fused with what is around them. Ours are over a few servers: without the library a decision
# takes less than half the time, and an update about the same (benchmarks/NOTES.md).
ON_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}

# The same bits every time on a GPU; slower.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}


def jax_setting(name: str) -> Any:
    """One of JAX's settings now, such as "enable_x64"; it makes their names at run time."""
    import jax

    return getattr(jax.config, f"jax_{name}")


@functools.cache
def options() -> Keywords | None:
    """``compiler_options`` for a ``jax.jit`` that no other encloses; None where there are none."""
    import jax

    return (understood(ON_CPU) or None) if jax.default_backend() == "cpu" else None


def deterministic() -> Keywords | None:
    """``compiler_options`` of a program that computes the same bits every time.

    Raises:
        RuntimeError: the GPU's compiler has no such option any more.
    """
    import jax

    if jax.default_backend() != "gpu":
        return options()
    if understood(DETERMINISTIC) != DETERMINISTIC:
        raise RuntimeError(
            f"deterministic is True, but the compiler of JAX {jax.__version__} does not know "
            f"{', '.join(DETERMINISTIC)}: leave deterministic out, or install another JAX"
        )
    return DETERMINISTIC


def understood(wanted: Keywords) -> Keywords:
    """Those of some ``compiler_options`` that this compiler takes; each is tried."""
    import jax
    import jax.numpy as jnp

    def taken(option: Keywords) -> bool:
        try:
            jax.jit(lambda x: x + 1, compiler_options=option).lower(jnp.zeros(())).compile()
        except (RuntimeError, ValueError):
            return False
        return True

    return {name: value for name, value in wanted.items() if taken({name: value})}


def known_flags(flags: Sequence[str]) -> list[str]:
    """Those of some flags for ``XLA_FLAGS`` that XLA knows; one it does not ends the process.

    They are tried in processes of their own: JAX is not imported here, and may be afterwards.
    """

    def taken(some: Sequence[str]) -> bool:
        environment = os.environ | {"XLA_FLAGS": " ".join(some), "JAX_PLATFORMS": "cpu"}
        start = [sys.executable, "-c", "import jax; jax.devices()"]
        done = subprocess.run(start, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode == 0

    return list(flags) if taken(flags) else [flag for flag in flags if taken([flag])]
