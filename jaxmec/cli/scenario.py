"""Flags that say where: in which environment, and on which tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmec.cli.errors import UsageError

if TYPE_CHECKING:
    from jaxmec.traces import TraceFile


@dataclasses.dataclass(frozen=True)
class Where:
    """Which environment."""

    env: str | None = None  # environment id; by default what the method is for
    preset: str | None = None  # published setting; by default the method's
    preset_seed: int = 0  # of what a preset draws once: densities, qualities, result sizes
    trace: Path | None = None  # file of tasks (jaxmec trace) that arrive instead of the preset's
    trace_slots: int | None = None  # play only its first so many slots


def trace_file(path: Path | None, slots: int | None) -> TraceFile | None:
    """What --trace and --trace-slots name."""
    if path is None:
        if slots is not None:
            raise UsageError("--trace-slots needs --trace, the file of which it plays a part")
        return None
    from jaxmec.traces import TraceFile

    return TraceFile.of(path, slots)
