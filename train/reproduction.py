"""The papers' claims: runs every study at a size, and writes docs/reproduction.md.

Short takes under half an hour on two CPU cores (``--jobs 2``); full is for a GPU. A run that
was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import tyro
from rich.progress import Progress, TimeElapsedColumn

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
    jobs: int = 1  # processes side by side, which share out the cells
    worker: int | None = None  # which of them this is; set by the first one
    progress: bool = True  # show a bar


def shares(plans: list[study.Study], jobs: int) -> list[set[str]]:
    """The cells of all studies, by folder, shared out so that the jobs have equal work."""
    work = {cell.folder: cell.work for plan in plans for cell in plan.cells}
    loads, folders = [0.0] * jobs, [set[str]() for _ in range(jobs)]
    for folder in sorted(work, key=lambda folder: (-work[folder], folder)):
        least = loads.index(min(loads))
        loads[least] += work[folder]
        folders[least].add(folder)
    return folders


def side_by_side(options: Options, plans: list[study.Study]) -> None:
    """Run the jobs as processes of their own, and wait for them.

    Raises:
        SystemExit: one of them failed, or was stopped; the same command goes on.
    """
    cores = max(1, (os.cpu_count() or 1) // options.jobs)
    flags = os.environ.get("XLA_FLAGS", "")
    if cores == 1:  # one thread each: two that share a core only wait for one another
        flags += " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [sys.executable, __file__, "--size", options.size, "--out", str(options.out)]
    command += ["--jobs", str(options.jobs), "--studies", *options.studies, "--no-progress"]
    workers = [
        subprocess.Popen(
            [*command, "--worker", str(number)], env={**os.environ, "XLA_FLAGS": flags.strip()}
        )
        for number in range(options.jobs)
    ]
    cells = {cell.folder: cell for plan in plans for cell in plan.cells}
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), disable=not options.progress
    ) as bar:
        task = bar.add_task("cells", total=sum(cell.work for cell in cells.values()))
        try:
            while any(worker.poll() is None for worker in workers):
                done = sum(c.work for c in cells.values() if study.is_finished(options.out, c))
                bar.update(task, completed=done)
                time.sleep(1)
        except KeyboardInterrupt:  # which the workers were sent too; they save
            pass
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(max(map(abs, codes)))


def main(options: Options) -> None:
    """Run, write down, check."""
    look_up("size", options.size, dict.fromkeys(SIZES))
    plans = [find_study(name, options.size) for name in options.studies]
    for plan in plans:
        assert plan.cells, plan.name  # a wrong name anywhere is an error before hours of work
    if options.worker is not None:
        mine = shares(plans, options.jobs)[options.worker]
        for plan in plans:
            study.run(plan, options.out, progress=options.progress, only=mine)
        return
    if options.jobs > 1:
        side_by_side(options, plans)
    for number, plan in enumerate(plans, 1):
        print(f"study {number} of {len(plans)}: {plan.name}", flush=True)
        outcome = study.run(plan, options.out, progress=options.progress)
        results.write(outcome, options.out / options.size / plan.name)
    command = f"python train/reproduction.py --size {options.size} --jobs {options.jobs}"
    print("written:", reproduction.write(options.size, options.out, options.page, command))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
