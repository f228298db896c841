"""Schedulers that do not learn, each under a stated information model."""

from __future__ import annotations

import difflib

from jaxmec.schedulers.base import Scheduler
from jaxmec.schedulers.oracles import ORACLES
from jaxmec.schedulers.rules import RULES

SCHEDULERS = {scheduler.name: scheduler for scheduler in (*RULES, *ORACLES)}


def find_scheduler(name: str) -> Scheduler:
    """The scheduler of that name, or a ``ValueError`` that suggests the nearest one."""
    if name in SCHEDULERS:
        return SCHEDULERS[name]
    close = difflib.get_close_matches(str(name), SCHEDULERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"scheduler {name!r} is not one of {', '.join(SCHEDULERS)}{hint}")


__all__ = ["SCHEDULERS", "Scheduler", "find_scheduler"]
