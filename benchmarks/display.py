"""What it costs to show and write down how training goes; see README.md.

python benchmarks/display.py --size small

`dsac` learns CartPole without a display and metrics, with them, and with TensorBoard's event file
as well, in turns. The clock starts after the first chunk, which is compiled, and stops at the last.
Checkpoints are neither display nor metrics, and are saved before and after. A cost of a few per
cent is less than what else goes on in a machine, which only ever adds: the least of the
repetitions is compared.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import tyro
from measuring import RESULTS, begin, write
from rich.console import Console

import jaxmec
from jaxmec.methods import find_method
from jaxmec.training import runner
from jaxmec.training.progress import ProgressDisplay
from jaxmec.training.trackers import TensorBoard

RESULT = RESULTS / "display.json"
WAYS = ("nothing", "display and metrics", "and TensorBoard")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int
    repetitions: int


SIZES = {"tiny": Size(12_000, 1), "small": Size(20_000, 7), "full": Size(100_000, 11)}


class Clock:
    """A display that measures, and shows what the one inside shows."""

    def __init__(self, inside: ProgressDisplay) -> None:
        self._inside = inside
        self._updates = 0
        self.begun = self.ended = (0.0, 0.0)  # s of wall clock, s of all processors

    def __enter__(self) -> Clock:
        self._inside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)

    def update(self, steps: int, evaluation: Any) -> None:
        self._inside.update(steps, evaluation)
        self._updates += 1
        now = (time.perf_counter(), time.process_time())
        if self._updates == 2:  # the first chunk is done
            self.begun = now
        self.ended = now

    def message(self, text: str) -> None:
        self._inside.message(text)


def train(way: str, size: Size) -> tuple[float, float]:
    """Seconds of wall clock and of all processors that the chunks after the first took."""
    settings = find_method("dsac").settings(False)
    config = dataclasses.replace(settings.config, steps=size.steps)
    env, params = jaxmec.make("CartPole-v1")
    shown = way != WAYS[0]
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    clock = Clock(ProgressDisplay(size.steps, enabled=shown, console=screen))
    with tempfile.TemporaryDirectory() as directory:
        runner.run(
            settings.agent(), env, params, config, 1, progress=clock,
            directory=Path(directory) / "run" if shown else None,
            checkpoint_seconds=1e9,  # before the first chunk and after the last: off the clock
            trackers=[TensorBoard()] if way == WAYS[2] else (),
        )  # fmt: skip
    return tuple(after - before for before, after in zip(clock.begun, clock.ended, strict=True))


def main(
    size: Literal["tiny", "small", "full"] = "small", output: Path | None = RESULT
) -> dict[str, Any]:
    """Measure, print and write the results."""
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    train(WAYS[0], chosen)  # fills the caches
    for _ in range(chosen.repetitions):
        for way, taken in seconds.items():
            taken.append(train(way, chosen))
    report["results"] = []
    for way, taken in seconds.items():
        row: dict[str, Any] = {"case": way, "steps": chosen.steps}
        for place, clock in enumerate(("wall", "processors")):
            own = [pair[place] for pair in taken]
            row[clock] = min(own)
            row[f"{clock}_seconds"] = own
            row[f"{clock}_ratio"] = row[clock] / min(pair[place] for pair in seconds[WAYS[0]])
        report["results"].append(row)
        print(
            f"{way:<20} {row['wall']:.3f} s ({row['wall_ratio']:.3f} x), all processors "
            f"{row['processors']:.3f} s ({row['processors_ratio']:.3f} x)"
        )
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
