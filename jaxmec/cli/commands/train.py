"""Train a method (or one agent) and save what it learned."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK, EXIT_USAGE, UsageError
from jaxmec.cli.options import read_ahead
from jaxmec.cli.scenario import Where, trace_file
from jaxmec.core.terminal import quoted


@dataclasses.dataclass(frozen=True)
class Run:
    """The run itself."""

    out: Path | None = None  # directory for checkpoints, metrics and the policy
    seeds: int = 1  # how many seeds, side by side in one program
    resume: bool = False  # go on from the newest checkpoint in --out
    progress: bool = True  # show a progress display
    deterministic: bool = False  # the same bits every time on a GPU too; slower
    published: bool = False  # the method as its authors ran it; changes the other defaults
    scale: Literal["cpu", "gpu"] = "cpu"
    """our settings for few environments, or for thousands; changes the other defaults"""
    start: str | None = None
    """a method to start from, or else the path of a policy or a run (./NAME); by default the
    method's"""
    tensorboard: bool = False  # write TensorBoard's event file into --out
    wandb: str | None = None  # project of Weights & Biases to log to
    devices: int | Literal["all"] = 1  # to share out seeds, or else environments, among
    seeds_at_once: int | Literal["auto"] | None = None
    """seeds side by side, the others after them; auto: as many as memory holds; by default all"""
    distributed: bool = False
    """one of several processes that SLURM, Open MPI or Kubernetes started; uses all devices"""
    coordinator: str | None = None  # HOST:PORT of process 0, where nothing else says it
    processes: int | None = None  # with --coordinator: how many there are
    process_id: int | None = None  # with --coordinator: which one this is, from 0


def _changes(old: Any, new: Any) -> dict[str, Any]:
    """The fields in which two objects of one dataclass differ."""
    pairs = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old))
    return {name: now for name, before, now in pairs if now != before}


@dataclasses.dataclass(frozen=True)
class _TrainAhead:
    """The flags of a training that do not depend on the method."""

    run: Annotated[Run, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Run)
    where: Annotated[Where, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Where)


def run(words: Sequence[str]) -> int:
    named = bool(words) and not words[0].startswith("-")
    prog = f"jaxmec train {words[0]}" if named else "jaxmec train"
    ahead = read_ahead(_TrainAhead, words[1:], prog) if named else _TrainAhead()
    together = not {"-h", "--help"} & set(words) and _connected(ahead.run)

    programs.keep()
    import jaxmec
    from jaxmec import envs
    from jaxmec.agents import PerStation
    from jaxmec.envs.presets import find_preset
    from jaxmec.methods import METHODS, find_method
    from jaxmec.training.devices import is_first

    if not named:
        print("usage: jaxmec train METHOD [flags]\n\nmethods:")
        width = max(map(len, METHODS))
        print("\n".join(f"  {row.name:<{width}} {row.about}" for row in METHODS.values()))
        print("\njaxmec train METHOD --help shows every flag with its default for that method.")
        return EXIT_OK if words and words[0] in ("-h", "--help") else EXIT_USAGE
    row = find_method(words[0])
    # The defaults of the flags depend on the method, the environment and the preset, so
    # those were looked up first; tyro then parses all of it.
    env = ahead.where.env or row.env
    where = envs.find_environment(env)
    own = env == row.env
    name = ahead.where.preset or (row.preset if own else None)

    # As written, and checked by `jaxmec.make`: an array has no flag, and what does not go
    # together by itself may go with the flags.
    options = _unchecked(where.options)
    setting: Any = None
    if where.default_preset is not None:
        name = name or where.default_preset
        setting = find_preset(name)
    published, scale = ahead.run.published, ahead.run.scale
    settings = row.settings(published, scale)
    agent: Any = settings.agent()
    per_station = isinstance(agent, PerStation)
    agent = agent.inner if per_station else agent
    choices: Any = NoChoices()
    if setting is None:
        setting = options()
    else:
        choices = options(**(dict(settings.options) if own else {}))
    if hasattr(agent, "k") and hasattr(choices, "k"):
        choices = dataclasses.replace(choices, k=agent.k)
    flat = tyro.conf.arg(name="")
    command = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[Run, flat], Run(published=published, scale=scale)),
            ("where", Annotated[Where, flat], Where(env=env, preset=name)),
            ("choices", Annotated[type(choices), flat], choices),
            ("config", Annotated[type(settings.config), flat], settings.config),
            ("agent", type(agent), agent),
            ("setting", type(setting), setting),
        ],
        frozen=True,
    )
    command.__doc__ = f"{row.about}. Source: {row.source}."
    parsed: Any = tyro.cli(command, args=list(words[1:]), prog=prog)
    run = parsed.run
    if run.resume and run.out is None:
        raise UsageError("--resume needs --out, the directory of the run to go on with")
    if run.tensorboard and run.out is None:
        raise UsageError("--tensorboard needs --out, where its event file goes")
    trained = parsed.agent
    of_env = _given(parsed.choices)
    if hasattr(trained, "k") and "k" in of_env:  # known to both
        told = {chosen for chosen in (trained.k, of_env["k"]) if chosen != agent.k} or {agent.k}
        if len(told) > 1:
            raise UsageError(f"--k is {of_env['k']} and --agent.k {trained.k}; expected one number")
        of_env["k"] = told.pop()
        trained = dataclasses.replace(trained, k=of_env["k"])
    result = jaxmec.train(
        PerStation(trained) if per_station else trained,
        name=row.label(published, scale),
        env=env,
        preset=name,
        preset_seed=parsed.where.preset_seed,
        seeds=run.seeds,
        config=parsed.config,
        own=settings.config,
        directory=run.out,
        resume=run.resume,
        progress=run.progress,
        deterministic=run.deterministic,
        start=row.start if run.start is None else _start(run.start),
        trace=trace_file(parsed.where.trace, parsed.where.trace_slots),
        tensorboard=run.tensorboard,
        wandb=run.wandb,
        devices="all" if together else run.devices,
        seeds_at_once=run.seeds_at_once,
        env_options={
            **of_env,
            **_changes(setting, parsed.setting),
        },
    )
    if not is_first():
        return EXIT_OK
    last = {key: float(value[:, -1].mean()) for key, value in result.history.evaluation.items()}
    print(f"{row.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
    if run.out is not None:
        print(f"policy: {quoted(run.out / 'policy')}\nmetrics: {quoted(run.out / 'metrics.jsonl')}")
    return EXIT_OK


def _start(text: str) -> str | Path:
    """A method by its bare name, else a path: on the command line nothing else is meant."""
    return Path(text) if os.sep in text else text


def _connected(run: Run) -> bool:
    """Whether this is one of several processes, which know each other when this returns.

    Before all else, since nothing may have been computed.
    """
    named = (run.coordinator, run.processes, run.process_id)
    if not run.distributed and all(value is None for value in named):
        return False
    from jaxmec.training import devices

    devices.connect(*named)
    return True


@dataclasses.dataclass(frozen=True)
class NoChoices:
    """An environment without presets has parameters alone."""


def _unchecked(options: Any) -> Any:
    """The dataclass without its checks."""
    skip = {"__doc__": options.__doc__, "__post_init__": lambda self: None}
    return type(options.__name__, (options,), skip)


def _given(choices: Any) -> dict[str, Any]:
    return {f.name: getattr(choices, f.name) for f in dataclasses.fields(choices)}
