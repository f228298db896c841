"""Flags that are read before the others have their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro


def read_ahead(command: Any, words: Sequence[str], prog: str) -> Any:
    """What a few flags say, read before the others have their defaults, by the same parser.

    The other flags are left for later, and so is ``--help``.
    """
    parsed, _ = tyro.cli(
        command, args=list(words), prog=prog, return_unknown_args=True, add_help=False
    )
    return parsed
