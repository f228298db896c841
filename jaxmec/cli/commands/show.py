"""Pictures of what a policy or a scheduler does: timeline, map, denoising, film."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK, UsageError
from jaxmec.cli.scenario import Played
from jaxmec.core.naming import look_up
from jaxmec.core.terminal import quoted

PICTURES = ("timeline", "map", "denoising", "policy", "animation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(Played):
    """Pictures of what a saved policy (a path) or a scheduler (a name) does in one episode.

    Without --pictures, all that there are of it: a scheduler has no denoising, and an environment
    without tasks has no timeline, map or policy.
    """

    to: Path  # folder that they are written to
    pictures: tuple[str, ...] = ()  # some of timeline, map, denoising, policy, animation
    seed: int = 1  # of the episode: the first that `jaxmec evaluate` plays with that seed
    slots: tuple[int, int] | None = None  # first and last of timeline and animation; else one
    decision: int = 0  # number of the one whose denoising is shown
    chains: int = 8  # draws of its noise
    formats: tuple[str, ...] = ("png", "svg")  # png, svg or pdf
    film: str = "gif"  # gif, or mp4 where ffmpeg is


def run(words: Sequence[str]) -> int:
    command = tyro.cli(Show, args=list(words), prog="jaxmec show")
    for name in command.pictures:
        look_up("picture", name, dict.fromkeys(PICTURES))
    look_up("film", command.film, dict.fromkeys(("gif", "mp4")))
    programs.keep()
    from jaxmec import plots
    from jaxmec.envs import find_environment
    from jaxmec.experiment import Policy, opened
    from jaxmec.experiment.episode import record

    policy: Any = opened(command.what)
    where = command.where
    episode: Any = record(policy, seed=command.seed, **where)
    row = find_environment(episode.setting.env)
    possible = set(row.pictures)
    if not isinstance(policy, Policy) or not policy.denoises:
        possible -= {"denoising"}
    for name in command.pictures:
        if name not in possible:
            raise UsageError(
                f"there is no {name} picture of {episode.name} in {episode.setting.env}; "
                f"there are {', '.join(p for p in PICTURES if p in possible)}"
            )
    for name in PICTURES:
        if name not in (command.pictures or possible):
            continue
        file = command.to / name
        if name == "animation":
            film = file.with_name(f"{name}.{command.film}")
            if row.schedules:
                print(quoted(plots.animate_episode(episode, film, command.slots)))
            else:
                print(quoted(plots.animate_cartpole(episode, film)))
            continue
        if name == "timeline":
            figure = plots.timeline(episode, command.slots)
        elif name == "map":
            figure = plots.network_map(episode)
        elif name == "denoising":
            figure = plots.denoising(policy, episode, command.decision, chains=command.chains)
        else:
            figure = plots.policy_map(policy, **where)
        print("\n".join(map(quoted, plots.save(figure, file, command.formats))))
    return EXIT_OK
