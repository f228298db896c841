"""JAX in processes that were forked, where it does not work."""

from __future__ import annotations

import os
import sys

_forked_after_start = False


def _in_the_child() -> None:
    global _forked_after_start
    _forked_after_start = "gymnax" in sys.modules  # importing it starts JAX


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_in_the_child)


def refuse_after_fork() -> None:
    """JAX's threads do not survive a fork: whatever it computes in the child hangs.

    Raises:
        RuntimeError: this process was forked from one in which JAX had started.
    """
    if _forked_after_start:
        raise RuntimeError(
            "JAX does not work in a process that was forked after it had started. Start the "
            'processes anew: AsyncVectorEnv(..., context="spawn") or context="forkserver"; with '
            'make_vec, vectorization_mode="async" and vector_kwargs={"context": "spawn"}; with '
            'multiprocessing, get_context("spawn")'
        )
