"""The commands, a module each: ``jaxmec NAME`` is the module ``NAME`` in this package.

A module's first line says what the command does, for ``jaxmec --help``, and its function
``run(words)`` does it: it takes the words after the command's name and returns the exit code.
To add a command is to add a file here; nothing is registered anywhere.

Another package may bring commands of its own, by entry points of the group ``jaxmec.commands``
that name such a function ``run``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from importlib.abc import InspectLoader
from importlib.metadata import EntryPoint, entry_points

from jaxmec.core.naming import look_up

GROUP = "jaxmec.commands"  # of entry points
FIRST = ("train", "evaluate", "compare", "show", "gap", "list")  # in the overview; the rest A to Z


def names() -> list[str]:
    """The commands by name, in the order of the overview."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def plugins() -> dict[str, EntryPoint]:
    """The commands that other packages bring; one of ours goes first."""
    ours = names()
    found = {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in ours}
    return dict(sorted(found.items()))


def about(name: str) -> str:
    """What a command does, in a line, without importing it."""
    module = plugins()[name].module if name in plugins() else f"{__name__}.{name}"
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # its package is broken or half removed
        return ""
    if spec is None or not isinstance(spec.loader, InspectLoader):
        raise ValueError(f"there is no command {name!r}")
    source = spec.loader.get_source(spec.name) or ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


def run(name: str, words: Sequence[str]) -> int:
    """Run a command with the words after its name.

    Raises:
        ValueError: there is no such command; suggests the nearest.
    """
    brought = plugins()
    look_up("command", name, dict.fromkeys([*names(), *brought]))
    if name in brought:
        command: Callable[[Sequence[str]], int] = brought[name].load()
        return command(words)
    return importlib.import_module(f"{__name__}.{name}").run(words)
