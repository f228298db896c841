"""Where compiled programs are kept, so that the same command does not compile again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path


def keep() -> None:
    """Keep compiled programs on disk.

    Only where JAX is still to be imported; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if "jax" not in sys.modules and (programs := directory()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)


def directory() -> Path | None:
    """The directory of compiled programs: JAX_COMPILATION_CACHE_DIR, or one in the user's cache.

    None where the user has no home: not set, nor an entry among the users.

    There each kind of processor has a directory of its own, since a program may use instructions
    that another one lacks and homes are shared among machines.
    """
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(home):  # a relative one is void, says the XDG specification
        home = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):
        return None
    processor = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        processor += "".join(sorted({x for x in lines if x.startswith(("flags", "Features"))}))
    return Path(home) / "jaxmec" / "programs" / hashlib.sha256(processor.encode()).hexdigest()[:12]
