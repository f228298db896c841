"""Write the page that sets the papers' claims against what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.naming import look_up
from jaxmec.core.terminal import quoted


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """Write the page that sets the papers' claims against what the studies measured."""

    size: str = "full"  # of the studies: short or full
    out: Path = Path("runs/studies")  # where `jaxmec compare` put their results
    page: Path = Path("docs/reproduction.md")  # the figures go to results/ beside it


def run(words: Sequence[str]) -> int:
    from jaxmec.studies import page
    from jaxmec.studies.catalogue import SIZES

    command = tyro.cli(WriteReport, args=list(words), prog="jaxmec report")
    look_up("size", command.size, dict.fromkeys(SIZES))
    again = f"jaxmec report --size {command.size}"
    written = page.write(command.size, command.out, command.page, again)
    print(f"written: {quoted(written)}")
    return EXIT_OK
