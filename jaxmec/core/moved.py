"""Modules that have moved: their old names go on working for one version, with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "bundle": "core.bundle",
    "cluster": "studies.cluster",
    "comparison": "studies.comparison",
    "compilation": "core.compilation",
    "completion": "cli.commands.completion",
    "demonstrations": "experiment.demonstrations",
    "doctor": "cli.commands.doctor",
    "episode": "experiment.episode",
    "files": "core.files",
    "gap": "studies.gap",
    "manifest": "core.sealed",
    "naming": "core.naming",
    "networks.diffusion": "networks.chain",
    "networks.equivariant": "networks.servers",
    "registration": "core.registration",
    "reproduction": "studies.page",
    "results": "studies.results",
    "selection": "mec.selection",
    "statistics": "core.statistics",
    "study": "studies.study",
    "tables": "core.tables",
    "terminal": "core.terminal",
    "training.loop": "training",
    "watch": "cli.commands.watch",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``jaxmec.OLD``, which may have dots, at ``jaxmec.NEW``; both are one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "jaxmec" or old not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = f"jaxmec.{MOVED[module.__name__.partition('.')[2]]}"
        warnings.warn(
            f"{module.__name__} is {new} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        # The import system hands out what stands in sys.modules once this has returned.
        sys.modules[module.__name__] = importlib.import_module(new)


def find_moved() -> None:
    """Make the old names importable; once is enough."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
