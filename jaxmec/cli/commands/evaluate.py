"""Play episodes with a saved policy or a scheduler."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK
from jaxmec.cli.scenario import trace_file


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a saved policy (a path) or a scheduler (a name)."""

    what: tyro.conf.Positional[str]
    """a scheduler's name, or else the path of a policy, a run or a bundle: ./local is a path"""
    env: str | None = None  # environment id; by default the policy's own
    preset: str | None = None  # published setting; by default the policy's own
    preset_seed: int | None = None  # of what a preset draws once; by default the policy's own
    trace: Path | None = None  # file of tasks; by default what the policy was trained on
    trace_slots: int | None = None  # play only its first so many slots
    information: str | None = None  # for a scheduler; by default the least that it needs
    episodes: int = 20  # whole episodes, side by side
    seed: int = 1  # of the episodes: the same seed gives everybody the same arrivals
    json: bool = False  # print JSON instead of text


def run(words: Sequence[str]) -> int:
    programs.keep()
    import jaxmec

    command = tyro.cli(Evaluate, args=list(words), prog="jaxmec evaluate")
    report = jaxmec.evaluate(
        command.what,
        env=command.env,
        preset=command.preset,
        preset_seed=command.preset_seed,
        episodes=command.episodes,
        seed=command.seed,
        trace=trace_file(command.trace, command.trace_slots),
        **({} if command.information is None else {"information": command.information}),
    )
    if command.json:
        values = {name: value.tolist() for name, value in report.values.items()}
        print(json.dumps({"name": report.name, "information": report.information, **values}))
    else:
        print(report)
    return EXIT_OK
