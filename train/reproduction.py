"""The papers' claims: runs every study at a size, and writes docs/reproduction.md.

Short takes under half an hour on two CPU cores; full is for a GPU. A run that was stopped
goes on where it was.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from jaxmec import reproduction, results, study
from jaxmec.naming import look_up
from jaxmec.studies import SIZES, STUDIES, find_study


@dataclasses.dataclass(frozen=True)
class Options:
    """Run the studies and write the page."""

    size: str = "full"  # short or full
    out: Path = Path("runs/studies")  # results of all studies, which share what they can
    page: Path = Path("docs/reproduction.md")  # the figures go to results/ beside it
    studies: tuple[str, ...] = tuple(STUDIES)  # to run; the page takes what there is of all
    progress: bool = True  # show a bar with the time left


def main(options: Options) -> None:
    """Run, write down, check."""
    look_up("size", options.size, dict.fromkeys(SIZES))
    plans = [find_study(name, options.size) for name in options.studies]
    for plan in plans:
        assert plan.cells, plan.name  # a wrong name anywhere is an error before hours of work
    for number, plan in enumerate(plans, 1):
        print(f"study {number} of {len(plans)}: {plan.name}", flush=True)
        outcome = study.run(plan, options.out, progress=options.progress)
        results.write(outcome, options.out / options.size / plan.name)
    command = f"python train/reproduction.py --size {options.size}"
    print("written:", reproduction.write(options.size, options.out, options.page, command))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
