"""How the tests run: alike however they are started, and most of their time is XLA's, which works
less and nothing twice."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from jaxmec.core import compilation

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
    """Signals as in a terminal, and one cache of compiled programs, thrown away afterwards.

    Started by nohup or cron, or in the background, SIGINT or SIGHUP is ignored here and in all
    that tests start. SIGHUP still ends nothing here: a suite that is meant to outlive its terminal
    does.
    """
    as_in_a_terminal = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: lambda *_: None}
    for number, handler in as_in_a_terminal.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
    if CACHE not in os.environ:  # a worker has it from the process that started it
        config.stash[owned] = Path(tempfile.mkdtemp(prefix="jaxmec-tests-"))
        os.environ[CACHE] = str(config.stash[owned])
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_unconfigure(config: pytest.Config) -> None:
    if owned in config.stash:
        shutil.rmtree(config.stash[owned], ignore_errors=True)
