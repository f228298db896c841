"""The papers' claims: runs every study at a size, and writes docs/reproduction.md.

Short takes 65 minutes of a CPU core, half as long on two (``--jobs 2``); full is for a GPU. A run
that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import tyro
from rich.progress import Progress, TimeElapsedColumn

from jaxmec.cli import guarded
from jaxmec.core import compilation
from jaxmec.core.naming import look_up
from jaxmec.studies import page, results, study
from jaxmec.studies.catalogue import APART, SIZES, STUDIES, find_study

ASKS = "next\n"  # a worker's line when it has no cell


@dataclasses.dataclass(frozen=True)
class Options:
    """Run the studies and write the page."""

    size: str = "full"  # short or full
    out: Path = Path("runs/studies")  # results of all studies, which share what they can
    page: Path = Path("docs/reproduction.md")  # the figures go to results/ beside it
    studies: tuple[str, ...] = tuple(name for name in STUDIES if name not in APART)  # to run
    jobs: int = 1  # processes side by side, which share out the cells
    worker: bool = False  # whether this is one of them; set by the first one
    progress: bool = True  # show a bar


def in_turn(plans: list[study.Study], out: Path) -> list[str]:
    """Folders of the cells that are missing, each once, the most work first.

    Handed out in this order, the jobs end together.
    """
    work = {cell.folder: cell.work for plan in plans for cell in plan.cells}
    missing = {c.folder for plan in plans for c in plan.cells if not study.is_finished(out, c)}
    return sorted(missing, key=lambda folder: (-work[folder], folder))


def side_by_side(options: Options, plans: list[study.Study]) -> None:
    """Run the jobs as processes of their own, each given a cell whenever it has none.

    Raises:
        SystemExit: one of them failed, or was stopped; the same command goes on.
    """
    cores = max(1, (os.cpu_count() or 1) // options.jobs)
    flags = os.environ.get("XLA_FLAGS", "")
    if cores == 1:  # one thread each: two that share a core only wait for one another
        one = compilation.known_flags(["--xla_cpu_multi_thread_eigen=false"])
        flags = " ".join([flags, *one, "intra_op_parallelism_threads=1"])
    command = [sys.executable, __file__, "--size", options.size, "--out", str(options.out)]
    command += ["--studies", *options.studies, "--no-progress", "--worker"]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, "XLA_FLAGS": flags.strip()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(options.jobs)
    ]
    waiting = iter(in_turn(plans, options.out))
    lock = threading.Lock()

    def serve(worker: subprocess.Popen[str]) -> None:
        assert worker.stdin and worker.stdout
        for line in worker.stdout:
            if line != ASKS:
                print(line, end="", flush=True)  # of a method that diverged, say
                continue
            with lock:
                folder = next(waiting, "")
            with contextlib.suppress(BrokenPipeError):  # it is gone, and its code says so
                worker.stdin.write(folder + "\n")
                worker.stdin.flush()

    threads = [threading.Thread(target=serve, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
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
            with lock:
                waiting = iter(())
    codes = [worker.wait() for worker in workers]
    for thread in threads:
        thread.join()
    if any(codes):
        raise SystemExit(max(map(abs, codes)))


def work(options: Options, plans: list[study.Study]) -> None:
    """Ask for a cell, measure it, until there is none."""
    while True:
        print(ASKS, end="", flush=True)
        folder = sys.stdin.readline().strip()
        if not folder:
            return
        plan = next(plan for plan in plans if any(c.folder == folder for c in plan.cells))
        study.run(plan, options.out, progress=False, only={folder})


def main(options: Options) -> None:
    """Run, write down, check."""
    look_up("size", options.size, dict.fromkeys(SIZES))
    plans = [find_study(name, options.size) for name in options.studies]
    for plan in plans:
        if not options.worker:  # what is wrong anywhere is an error before hours of work
            study.check_cells(
                plan, [c for c in plan.cells if not study.is_finished(options.out, c)]
            )
    if options.worker:
        work(options, plans)
        return
    if options.jobs > 1:
        side_by_side(options, plans)
    for number, plan in enumerate(plans, 1):
        print(f"study {number} of {len(plans)}: {plan.name}", flush=True)
        outcome = study.run(plan, options.out, progress=options.progress)
        results.write(outcome, options.out / options.size / plan.name)
    command = f"python train/reproduction.py --size {options.size} --jobs {options.jobs}"
    print("written:", page.write(options.size, options.out, options.page, command))


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
