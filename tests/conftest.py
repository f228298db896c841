"""How the tests compile: most of their time is XLA's, so it works less and nothing twice."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from jaxmec import compilation

# Before jax is imported: XLA reads it once. The programs stay the same; LLVM polishes them less,
# and what is fused is written out the older way, which compiles in two thirds of the time (JAX
# 0.11 has no older way). All tests pass without any of it, in half as much time again.
FLAGS = (
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_backend_optimization_level=1",
    "--xla_cpu_use_fusion_emitters=false",
)
TRIED = "JAXMEC_TESTS_XLA_FLAGS"
if TRIED not in os.environ:  # a worker has them from the process that started it
    os.environ[TRIED] = " ".join(compilation.known_flags(FLAGS))
    given = os.environ.get("XLA_FLAGS", "")  # what is given last holds
    os.environ["XLA_FLAGS"] = f"{os.environ[TRIED]} {given}".strip()

CACHE = "JAX_COMPILATION_CACHE_DIR"
owned = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """One cache of compiled programs for all workers, thrown away afterwards."""
    if CACHE not in os.environ:  # a worker has it from the process that started it
        config.stash[owned] = Path(tempfile.mkdtemp(prefix="jaxmec-tests-"))
        os.environ[CACHE] = str(config.stash[owned])
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_unconfigure(config: pytest.Config) -> None:
    if owned in config.stash:
        shutil.rmtree(config.stash[owned], ignore_errors=True)
