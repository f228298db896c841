"""A small run as one of several processes: several_processes.py PORT PROCESSES ID DIRECTORY STOP.

All but the first process send themselves SIGTERM when the run stands at STOP steps.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from jaxmec.training import devices, runner
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.progress import ProgressDisplay

if __name__ == "__main__":  # before the import below, which computes
    port, processes, number, directory, stop_at = sys.argv[1:]
    devices.connect(f"127.0.0.1:{port}", int(processes), int(number))

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Counting, Walk, WalkParams

CONFIG = TrainConfig(
    steps=40,
    num_envs=2,
    prefill=8,
    buffer_size=32,
    batch_size=4,
    updates_per_step=1,
    eval_every=8,
    eval_episodes=2,
)  # 4 chunks of 4 vectorised steps


class Stopping(ProgressDisplay):
    """Shows nothing, and stops its own process at so many steps."""

    stop_at = 0

    def update(self, steps: int, evaluation: Any) -> None:
        if steps == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def start(directory: Path, **options: Any) -> runner.RunResult:
    return runner.run(Counting(), Walk(), WalkParams(), CONFIG, 1, directory=directory, **options)


if __name__ == "__main__":
    if not devices.is_first():  # such a process shows nothing, but it is told
        runner.ProgressDisplay = Stopping  # type: ignore[misc]
        Stopping.stop_at = int(stop_at)
    try:
        start(Path(directory), devices="all")
    except runner.Interrupted as error:
        sys.stdout.write(str(error))
        sys.exit(error.exit_code)
