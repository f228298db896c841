"""Schedulers that do not learn, each under a stated information model."""

from __future__ import annotations

from jaxmec.core.naming import look_up
from jaxmec.schedulers.base import Scheduler
from jaxmec.schedulers.oracles import ORACLES
from jaxmec.schedulers.rules import RULES
from jaxmec.schedulers.static import STATIC

SCHEDULERS = {scheduler.name: scheduler for scheduler in (*RULES, *STATIC, *ORACLES)}


def find_scheduler(name: str) -> Scheduler:
    """The scheduler of that name, or a ``ValueError`` that suggests the nearest one."""
    return look_up("scheduler", name, SCHEDULERS)


__all__ = ["SCHEDULERS", "Scheduler", "find_scheduler"]
