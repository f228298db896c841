"""Flags that say who plays where: in which environment, and on which tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxmec.cli.errors import UsageError
from jaxmec.core.types import Keywords

if TYPE_CHECKING:
    from jaxmec.traces import TraceFile

PRESET = Annotated[str | None, tyro.conf.arg(aliases=["--fleet"])]


@dataclasses.dataclass(frozen=True)
class Played:
    """What is played, and where."""

    what: tyro.conf.Positional[str]
    """a scheduler's name, or else the path of a policy, a run or a bundle: ./local is a path"""
    env: str | None = None  # environment id; by default the policy's own
    preset: PRESET = None  # published setting, or fleet; by default the policy's own
    preset_seed: int | None = None  # of what a preset draws once; by default the policy's own
    trace: Path | None = None  # file of tasks; by default what the policy was trained on
    trace_slots: int | None = None  # play only its first so many slots
    information: str | None = None  # for a scheduler; by default the least that it needs

    @property
    def where(self) -> Keywords:
        """The keywords that `jaxmec.evaluate` takes for it."""
        return {
            "env": self.env,
            "preset": self.preset,
            "preset_seed": self.preset_seed,
            "trace": trace_file(self.trace, self.trace_slots),
            **({} if self.information is None else {"information": self.information}),
        }


def trace_file(path: Path | None, slots: int | None) -> TraceFile | None:
    """What --trace and --trace-slots name."""
    if path is None:
        if slots is not None:
            raise UsageError("--trace-slots needs --trace, the file of which it plays a part")
        return None
    from jaxmec.traces import TraceFile

    return TraceFile.of(path, slots)
