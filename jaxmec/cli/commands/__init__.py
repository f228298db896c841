"""The commands, a module each: ``jaxmec NAME`` is the module ``NAME`` in this package.

A module's first line says what the command does, for ``jaxmec --help``, and its function
``run(words)`` does it: it takes the words after the command's name and returns the exit code.
To add a command is to add a file here; nothing is registered anywhere.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from importlib.abc import InspectLoader

from jaxmec.core.naming import look_up

FIRST = ("train", "evaluate", "compare", "show", "gap", "list")  # in the overview; the rest A to Z


def names() -> list[str]:
    """The commands by name, in the order of the overview."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def about(name: str) -> str:
    """What a command does, in a line, without importing it."""
    spec = importlib.util.find_spec(f"{__name__}.{name}")
    if spec is None or not isinstance(spec.loader, InspectLoader):
        raise ValueError(f"there is no command {name!r}")
    source = spec.loader.get_source(spec.name) or ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


def run(name: str, words: Sequence[str]) -> int:
    """Run a command with the words after its name.

    Raises:
        ValueError: there is no such command; suggests the nearest.
    """
    look_up("command", name, dict.fromkeys(names()))
    return importlib.import_module(f"{__name__}.{name}").run(words)
