"""Play episodes with a saved policy or a scheduler."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK
from jaxmec.cli.scenario import Played


@dataclasses.dataclass(frozen=True)
class Evaluate(Played):
    """Play whole episodes with a saved policy (a path) or a scheduler (a name)."""

    episodes: int = 20  # whole episodes, side by side
    seed: int = 1  # of the episodes: the same seed gives everybody the same arrivals
    json: bool = False  # print JSON instead of text


def run(words: Sequence[str]) -> int:
    programs.keep()
    import jaxmec

    command = tyro.cli(Evaluate, args=list(words), prog="jaxmec evaluate")
    report = jaxmec.evaluate(
        command.what, episodes=command.episodes, seed=command.seed, **command.where
    )
    if command.json:
        values = {name: value.tolist() for name, value in report.values.items()}
        print(json.dumps({"name": report.name, "information": report.information, **values}))
    else:
        print(report)
    return EXIT_OK
