"""A small training run on CartPole, for tests that stop it from outside: small_run.py DIRECTORY."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import jaxmec
from jaxmec.agents import DQN
from jaxmec.training import runner
from jaxmec.training.off_policy import TrainConfig


def start(
    directory: Path | None, *, resume: bool = False, progress: bool = False
) -> runner.RunResult:
    env, params = jaxmec.make("CartPole-v1")
    config = TrainConfig(
        steps=4_000,
        num_envs=2,
        prefill=200,
        buffer_size=500,
        batch_size=8,
        updates_per_step=1,
        eval_every=100,
        eval_episodes=2,
    )
    return runner.run(
        DQN(hidden=(8,)),
        env,
        params,
        config,
        2,
        directory=directory,
        resume=resume,
        progress=progress,
        checkpoint_every=1,
    )


if __name__ == "__main__":
    try:
        start(Path(sys.argv[1]), resume="--resume" in sys.argv, progress="--progress" in sys.argv)
    except runner.Interrupted as error:
        with contextlib.suppress(OSError):  # a terminal may be gone
            os.write(2, str(error).encode())
        sys.exit(error.exit_code)
