"""Train a method (or one agent) and save what it learned."""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxmec.cli import fields, help, index, programs
from jaxmec.cli.errors import EXIT_OK, EXIT_USAGE, UsageError
from jaxmec.cli.scenario import PRESET, trace_file
from jaxmec.core.terminal import Screen, quoted

if TYPE_CHECKING:
    from jaxmec.experiment import TrainResult

METHOD = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
Assigned = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a method; what is trained can be changed field by field with --set."""

    method: METHOD
    set: Assigned = ()  # a field of what is trained; once for each
    steps: int | None = None  # environment steps of each seed; as --set steps=N
    seeds: int = 1  # how many, side by side in one program
    out: Path | None = None  # directory for checkpoints, metrics, policy
    resume: bool = False  # go on from the newest checkpoint in --out
    published: bool = False  # the method as its authors ran it
    scale: Literal["cpu", "gpu"] = "cpu"  # ours, for few environments or many
    start: str | None = None  # method to start from, or path of a policy
    env: str | None = None  # environment id; else the method's
    preset: PRESET = None  # published setting, or fleet; else the method's
    preset_seed: int = 0  # of what a preset draws once
    trace: Path | None = None  # file of tasks instead of the preset's
    trace_slots: int | None = None  # play only its first so many slots
    progress: bool = True  # show a progress display
    tensorboard: bool = False  # write TensorBoard's event file into --out
    wandb: str | None = None  # project of Weights & Biases to log to
    devices: int | Literal["all"] = 1  # to share out seeds or environments among
    seeds_at_once: int | Literal["auto"] | None = None  # the others after them
    deterministic: bool = False  # the same bits on a GPU too; slower
    distributed: bool = False  # one of a SLURM, MPI or Kubernetes job
    coordinator: str | None = None  # HOST:PORT of process 0, if not in a job
    processes: int | None = None  # with --coordinator: how many there are
    process_id: int | None = None  # with --coordinator: which one, from 0


def run(words: Sequence[str]) -> int:
    if {"-h", "--help", "--help-all"} & {*words} or not words or words[0].startswith("-"):
        return _help(words)
    words = _modern(words)
    command = tyro.cli(Train, args=words, prog="jaxmec train", add_help=False)
    if command.resume and command.out is None:
        raise UsageError("--resume needs --out, the directory of the run to go on with")
    if command.tensorboard and command.out is None:
        raise UsageError("--tensorboard needs --out, where its event file goes")
    given = fields.assignments(command.set)
    if command.steps is not None:
        if {"steps", "config.steps"} & given.keys():
            raise UsageError("--steps and --set steps say the same; give one")
        given["config.steps"] = str(command.steps)
    programs.keep()
    together = _connected(command)  # before anything is computed
    result = _trained(command, given, together)
    from jaxmec.training.devices import is_first

    if not is_first():
        return EXIT_OK
    last = {key: float(value[:, -1].mean()) for key, value in result.history.evaluation.items()}
    print(f"{command.method}: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
    if (out := command.out) is not None:
        print(f"policy: {quoted(out / 'policy')}\nmetrics: {quoted(out / 'metrics.jsonl')}")
    return EXIT_OK


def _trained(command: Train, given: dict[str, str], together: bool) -> TrainResult:
    """Train as the command line says."""
    import jaxmec
    from jaxmec.envs import find_environment
    from jaxmec.methods import find_method

    row = find_method(command.method)
    settings = row.settings(command.published, command.scale)
    env = find_environment(row.env if command.env is None else command.env)
    kinds = index.kinds(settings, env)
    start = command.start
    return jaxmec.train(
        command.method,
        published=command.published,
        scale=command.scale,
        env=env.name,
        preset=command.preset,
        preset_seed=command.preset_seed,
        seeds=command.seeds,
        directory=command.out,
        resume=command.resume,
        progress=command.progress,
        deterministic=command.deterministic,
        # A method by its bare name, else a path: on the command line nothing else is meant.
        start=Path(start) if start is not None and os.sep in start else start,
        trace=trace_file(command.trace, command.trace_slots),
        tensorboard=command.tensorboard,
        wandb=command.wandb,
        devices="all" if together else command.devices,
        seeds_at_once=command.seeds_at_once,
        **fields.values(given, index.hints(kinds), command.method),
    )


def _connected(command: Train) -> bool:
    """Whether this is one of several processes, which know each other when this returns."""
    named = (command.coordinator, command.processes, command.process_id)
    if not command.distributed and all(value is None for value in named):
        return False
    from jaxmec.training import devices

    devices.connect(*named)
    return True


RARE = ("distributed", "coordinator", "processes", "process_id", "preset_seed", "trace_slots")


def _help(words: Sequence[str]) -> int:
    """The flags and a method's fields, from the index: nothing of JAX is imported."""
    asked = {"-h", "--help", "--help-all"} & {*words}
    whole = "--help-all" in words
    flags = help.flags(Train, skip=() if whole else RARE)
    if not words or words[0].startswith("-"):
        print("usage: jaxmec train METHOD [flags]\n\nmethods:")
        methods = index.load_index()["methods"]
        width = max(map(len, methods))
        print("\n".join(f"  {name:<{width}} {row['about']}" for name, row in methods.items()))
        print("\njaxmec train METHOD --help shows the flags and the fields of --set.")
        return EXIT_OK if asked else EXIT_USAGE
    method, rest = words[0], [word for word in words[1:] if word not in asked]
    command = tyro.cli(Train, args=_modern([method, *rest]), prog="jaxmec train", add_help=False)
    known = index.fields_of(method, command.published, command.scale, command.env, command.preset)
    row = index.load_index()["methods"][method]
    about = textwrap.fill(f"{row['about']}. Source: {row['source']}.", help.WIDTH)
    print(f"usage: jaxmec train {method} [flags]\n\n{about}\n\n" + "\n".join(flags))
    if whole:
        print("\n".join(["", *help.every_field(known)]))
    else:
        print("\n".join(["", *help.field_names(known)]))
        print("\n--help-all shows all flags, and each field with its unit and its default.")
    return EXIT_OK


FLAG = re.compile(r"--(?P<no>no-)?(?P<name>[A-Za-z][\w.-]*)(?:=(?P<value>.*))?$", re.DOTALL)


def _modern(words: Sequence[str]) -> list[str]:
    """The words with `--set NAME=VALUE` where a field has a flag, as all of them had before.

    They go with the next version.
    """
    own = {field.name for field in dataclasses.fields(Train)}
    known = {name for kind in index.load_index()["classes"].values() for name in kind}
    modern: list[str] = []
    told: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, value = _old_field(word, own, known)
        if name is None:
            modern.append(word)
            continue
        taken = []
        while value is None and rest and not rest[0].startswith("--"):
            taken.append(rest.pop(0))
        text = value if value is not None else ",".join(taken) if taken else "true"
        modern += ["--set", f"{name}={text}"]
        told.append(f"--set {name}={text}")
    if told:
        Screen(stderr=True).print(
            f"jaxmec: fields are set as {' '.join(told)} now; their own flags go with the next "
            "version",
            style="yellow",
        )
    return modern


def _old_field(
    word: str, own: Collection[str], known: Collection[str]
) -> tuple[str | None, str | None]:
    """The field that a flag of before names, and the value that it gives, if it is one."""
    match = FLAG.match(word)
    if match is None:
        return None, None
    name = match["name"].replace("-", "_")
    group, _, name = name.rpartition(".")
    negated = bool(match["no"])
    if name.startswith("no_") and name.removeprefix("no_") in known:  # --agent.no-layer-norm
        name, negated = name.removeprefix("no_"), True
    group = {"setting": "env"}.get(group, group)
    if (not group and name in own) or name not in known or group not in ("", "agent", "env"):
        return None, None
    return f"{group}.{name}" if group else name, "false" if negated else match["value"]
