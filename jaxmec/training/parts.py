"""More seeds than a device's memory holds: equal parts of them, one after the other.

A part is a run of its own (``training.runner``), in a directory of its own below the one that
was asked for, and computes what it would compute alone. The directory says in ``parts.json``
how many seeds a part has, so that a resumed run has the same parts. When the last part has ended
it has the metrics of all of them, as a run in one has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmec.agents.base import Agent, Learner
from jaxmec.core import checks, files, sealed
from jaxmec.core.types import Document, EnvParams, PyTree
from jaxmec.training import checkpoint, memory, runner
from jaxmec.training import devices as on_devices
from jaxmec.training.rollout import Environment
from jaxmec.training.runner import Job, RunSettings
from jaxmec.training.trainer import AnyTrainer, History

_PARTS_SCHEMA = checks.record({"seeds_at_once": checks.whole(1, 2**31)})
PARTS_FILE = "parts.json"
SHARE = 0.8  # of the memory that the training may take


class Learned(NamedTuple):
    """What is kept of the training states of all parts."""

    learner: Learner  # [S], NumPy arrays


def run(
    agent: Agent,
    env: Environment,
    params: EnvParams,
    config: AnyTrainer,
    seeds: int | Sequence[int],
    settings: RunSettings = RunSettings(),  # noqa: B008 (it is frozen)
    *,
    seeds_at_once: int | str | None = None,
    **changes: Any,
) -> runner.RunResult:
    """``runner.run`` of so many seeds at once, and the next ones when those are trained.

    Args:
        agent, env, params, config, seeds, settings, changes: as for ``runner.run``.
        seeds_at_once: seeds side by side; "auto" for as many as the memory holds, for which
            the program is compiled once more; all if None.

    Returns:
        What ``runner.run`` does. Of several parts ``state`` is a :class:`Learned`.

    Raises:
        ValueError: on resuming, parts of another size than when the run was begun.
        Others: as ``runner.run`` does.
    """
    settings = dataclasses.replace(settings, **changes)
    job, numbers = Job(agent, env, params, config), runner.check_seeds(seeds)
    home, resume = settings.home, settings.resume
    with on_devices.together():  # all read before the first one writes
        before = None if home is None else _begun(home)
        width = _width(seeds_at_once, len(numbers), before if resume else None, home)
        if width is None:
            width = _fitting(job, numbers, settings)
        if home is not None and before is not None and not resume:
            raise FileExistsError(
                f"{home} holds a run in parts: resume it, or choose another directory"
            )
    width = -on_devices.agree(-width)[0]  # the host with the least memory decides
    if width >= len(numbers):
        return runner.run(*job, numbers, settings)
    if home is not None and before is None and checkpoint.checkpoints(home / runner.CHECKPOINTS):
        raise ValueError(f"seeds_at_once is {width}; expected None, with which {home} was begun")
    if resume and before is None:
        raise checkpoint.CheckpointMissing(f"nothing to resume: there is no run in {home}")
    with on_devices.together():  # all have looked
        pass
    return _in_parts(job, numbers, settings, width)


def _fitting(job: Job, numbers: tuple[int, ...], settings: RunSettings) -> int:
    """How many of the seeds the memory holds."""
    first = job._replace(agent=_agents(job.agent, numbers, np.arange(1)))
    one = runner.bytes_of_one(*first, settings.deterministic)
    return fitting(one, memory.limit(), len(numbers), settings.devices)


def _in_parts(
    job: Job, numbers: tuple[int, ...], settings: RunSettings, width: int
) -> runner.RunResult:
    """Parts of at most ``width`` seeds, and the directory that joins them."""
    home = settings.home
    writing = home if on_devices.is_first() else None
    if writing is not None:
        files.write_whole(writing / PARTS_FILE, json.dumps({"seeds_at_once": width}))
    with contextlib.ExitStack() as stack:
        with on_devices.together():
            stack.enter_context(runner.locked(writing))
        split = np.array_split(np.arange(len(numbers)), math.ceil(len(numbers) / width))
        result = _in_turn(job, numbers, split, settings)
        if writing is not None:
            folders = [folder_of(writing, [numbers[row] for row in rows]) for rows in split]
            lines = "".join(json.dumps(point) + "\n" for point in joined_points(folders))
            files.write_whole(writing / runner.METRICS_FILE, lines)
            last_step = int(result.history.env_steps[0, -1])
            runner.write_about(writing, last_step, numbers, settings.metadata or {})
    return result


def _in_turn(
    job: Job, numbers: tuple[int, ...], split: Sequence[np.ndarray], settings: RunSettings
) -> runner.RunResult:
    """The parts, one after the other, joined."""
    home, start = settings.home, settings.start
    learners, histories = [], []
    for rows in split:
        part = [numbers[row] for row in rows]
        folder = None if home is None else folder_of(home, part)
        with on_devices.together():
            there = folder is not None and checkpoint.checkpoints(folder / runner.CHECKPOINTS)
        result = runner.run(
            *job._replace(agent=_agents(job.agent, numbers, rows)),
            part,
            settings,
            directory=folder,
            resume=settings.resume and bool(there),
            start=None if start is None else jax.tree.map(lambda x, rows=rows: x[rows], start),
        )
        learners.append(jax.device_get(on_devices.gather(result.state.learner)))
        histories.append(result.history)
        del result  # the next part needs its memory
    join = lambda *leaves: np.concatenate(leaves)  # noqa: E731
    learned: PyTree = Learned(jax.tree.map(join, *learners))
    history: History = jax.tree.map(join, *histories)
    return runner.RunResult(learned, history, numbers, home)


def _agents(agent: Agent, numbers: tuple[int, ...], rows: np.ndarray) -> PyTree:
    """The agents of these rows, or the one of all."""
    if runner.agents_of(agent, len(numbers)) == ():
        return agent
    return jax.tree.map(lambda x: x[rows], agent)


def folder_of(home: Path, part: Sequence[int]) -> Path:
    """Where the part with these seeds goes."""
    return home / f"seeds_{part[0]}_to_{part[-1]}"


def begun(home: Path) -> list[Path]:
    """The folders of the parts that a run has begun, by their seeds."""
    found = [(re.fullmatch(r"seeds_(\d+)_to_\d+", path.name), path) for path in home.iterdir()]
    parts = [(int(name[1]), path) for name, path in found if name and path.is_dir()]
    return [path for _, path in sorted(parts)]


def joined_points(folders: Sequence[Path]) -> list[Document]:
    """The lines of the parts' metrics as one run's: all seeds' numbers, and the seconds summed.

    As many points as the part has that has the fewest.
    """
    parts = [
        [json.loads(line) for line in (folder / runner.METRICS_FILE).read_text().splitlines()]
        for folder in folders
        if (folder / runner.METRICS_FILE).exists()
    ]
    return [
        {
            "env_steps": points[0]["env_steps"],
            "seconds": round(sum(point["seconds"] for point in points), 3),
            **{
                kind: {
                    name: [value for point in points for value in point[kind][name]]
                    for name in points[0][kind]
                }
                for kind in ("evaluation", "training")
            },
        }
        for points in zip(*parts, strict=False)
    ]


def has_begun(home: Path) -> bool:
    """Whether ``home`` holds something to go on with: a run, or parts of one."""
    return (home / runner.CHECKPOINTS).exists() or _begun(home) is not None


def fitting(one: int, limit: int, seeds: int, devices: int | str) -> int:
    """How many of S seeds fit side by side.

    Args:
        one: bytes that one seed takes.
        limit: bytes of a device.
        seeds: S.
        devices: N, or "all".
    """
    count = len(jax.devices()) if devices == "all" else int(devices)
    width = max(1, math.floor(SHARE * limit * count / one))
    if seeds % count == 0:  # parts that are shared out as all would have been
        width = max(count, width // count * count)
    return min(width, seeds)


def _begun(home: Path) -> int | None:
    """The seeds at once of the run in parts that ``home`` holds; None if there is none."""
    file = home / PARTS_FILE
    if not file.exists():
        return None
    try:
        about = sealed.parse(file, sealed.read_plain(file, most=4096))
        sealed.check(file, about, _PARTS_SCHEMA)
    except sealed.Unsound as error:
        raise checkpoint.CheckpointCorrupt(f"damaged run: {error}") from None
    width: int = about["seeds_at_once"]
    return width


def _width(asked: int | str | None, seeds: int, begun: int | None, home: Path | None) -> int | None:
    """Seeds side by side; None where they are to be found out."""
    checks.require("seeds_at_once", asked, checks.either(checks.whole(1), "auto", None))
    width = checks.as_int(asked)
    if begun is not None:
        if width not in (None, begun):
            raise ValueError(
                f"seeds_at_once is {asked}; expected {begun}, with which {home} was begun"
            )
        return begun
    if isinstance(asked, str):
        there = home is not None and checkpoint.checkpoints(home / runner.CHECKPOINTS)
        return seeds if there else None  # begun with all at once
    return seeds if width is None else width
