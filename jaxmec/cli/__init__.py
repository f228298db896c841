"""The command line: ``jaxmec train``, ``evaluate``, ``compare``, ``show``, ``list`` and more.

A command is a module of :mod:`jaxmec.cli.commands`; how they end is in :mod:`jaxmec.cli.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxmec.cli import commands
from jaxmec.cli.errors import EXIT_OK, EXIT_USAGE, guarded

__all__ = ["guarded", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(words), repr(words[0]) if words else "it")


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK if words else EXIT_USAGE
    if words[0] == "--version":
        import jaxmec

        print(f"jaxmec {jaxmec.__version__}")
        return EXIT_OK
    return commands.run(words[0], words[1:])


def _overview() -> str:
    lines = ["usage: jaxmec COMMAND ...", ""]
    lines += [
        f"  {name:<10} {commands.about(name)}" for name in [*commands.names(), *commands.plugins()]
    ]
    lines += ["", "jaxmec COMMAND --help says more; jaxmec train METHOD --help shows every field."]
    return "\n".join(lines)
