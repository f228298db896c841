"""The command line: ``jaxmec train``, ``jaxmec evaluate``, ``jaxmec list``.

The flags are the fields of the dataclasses that the library itself uses, so ``--help``
shows each with its unit, its default for the method and preset at hand, and nothing has to
be kept in step by hand.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from jaxmec.naming import look_up

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "train": "train a method (or one agent) and save what it learned",
    "evaluate": "play episodes with a saved policy or a scheduler",
    "list": "environments, presets, agents and methods, schedulers",
}


class UsageError(Exception):
    """The command line is wrong; the message says how."""


@dataclasses.dataclass(frozen=True)
class Where:
    """Which environment."""

    env: str | None = None  # environment id; by default what the method is for
    preset: str | None = None  # published setting; by default the method's
    preset_seed: int = 0  # of what a preset draws once: densities, qualities, result sizes


@dataclasses.dataclass(frozen=True)
class Run:
    """The run itself."""

    out: Path | None = None  # directory for checkpoints, metrics and the policy
    seeds: int = 1  # how many seeds, side by side in one program
    resume: bool = False  # go on from the newest checkpoint in --out
    progress: bool = True  # show a progress display
    deterministic: bool = False  # the same bits every time on a GPU too; slower


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True, soft_wrap=True)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return EXIT_OK if words else EXIT_USAGE
        if words[0] == "--version":
            import jaxmec

            print(f"jaxmec {jaxmec.__version__}")
            return EXIT_OK
        command = {"train": _train, "evaluate": _evaluate, "list": _list}
        look_up("command", words[0], COMMANDS)
        return command[words[0]](words[1:])
    except SystemExit as exit_:  # tyro has printed what it has to say
        return exit_.code if isinstance(exit_.code, int) else EXIT_USAGE
    except (UsageError, ValueError, TypeError) as error:
        console.print(f"jaxmec: {error}", style="red", markup=False, highlight=False)
        return EXIT_USAGE
    except KeyboardInterrupt as error:
        console.print(f"jaxmec: {error or 'interrupted'}", markup=False, highlight=False)
        return EXIT_INTERRUPTED
    except Exception as error:
        from jaxmec.training.checkpoint import CheckpointError
        from jaxmec.training.runner import Diverged, Interrupted

        if isinstance(error, Interrupted):
            console.print(f"jaxmec: {error}", markup=False, highlight=False)
            return error.exit_code
        if isinstance(error, CheckpointError | Diverged | OSError | RuntimeError):
            console.print(f"jaxmec: {error}", style="red", markup=False, highlight=False)
            return EXIT_FAILED
        raise


def _overview() -> str:
    lines = ["usage: jaxmec COMMAND ...", ""]
    lines += [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    lines += ["", "jaxmec COMMAND --help says more; jaxmec train METHOD --help shows every field."]
    return "\n".join(lines)


def _flag(words: Sequence[str], name: str) -> str | None:
    """The value of ``--name value`` or ``--name=value``, if it is there."""
    for i, word in enumerate(words):
        if word == f"--{name}" and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def _changes(old: Any, new: Any) -> dict[str, Any]:
    """The fields in which two objects of one dataclass differ."""
    pairs = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old))
    return {name: now for name, before, now in pairs if now != before}


def _train(words: Sequence[str]) -> int:
    import jaxmec
    from jaxmec import envs
    from jaxmec.envs.cartpole import CartPoleParams
    from jaxmec.envs.presets import Preset, find_preset
    from jaxmec.methods import METHODS, find_method
    from jaxmec.training.loop import TrainConfig

    if not words or words[0].startswith("-"):
        print("usage: jaxmec train METHOD [flags]\n\nmethods:")
        print("\n".join(f"  {row.name:<10} {row.about}" for row in METHODS.values()))
        print("\njaxmec train METHOD --help shows every flag with its default for that method.")
        return EXIT_OK if words and words[0] in ("-h", "--help") else EXIT_USAGE
    row = find_method(words[0])
    # The defaults of the flags depend on the method, the environment and the preset, so
    # those are looked up first; tyro then parses all of it.
    env = _flag(words, "env") or row.env
    look_up("environment", env, envs.ABOUT)
    own = env == row.env
    name = _flag(words, "preset") or (row.preset if own else None)
    setting: Any = CartPoleParams()
    if env != "CartPole-v1":
        name = name or envs.DEFAULT_PRESET[env]
        setting = find_preset(name)
    agent = row.agent()
    choices = _env_choices(env)(**(dict(row.options) if own else {}))
    flat = tyro.conf.arg(name="")
    command = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[Run, flat], Run()),
            ("where", Annotated[Where, flat], Where(env=env, preset=name)),
            ("choices", Annotated[type(choices), flat], choices),
            ("config", Annotated[TrainConfig, flat], row.config),
            ("agent", type(agent), agent),
            ("setting", type(setting), setting),
        ],
        frozen=True,
    )
    command.__doc__ = f"{row.about}. Source: {row.source}."
    parsed: Any = tyro.cli(command, args=list(words[1:]), prog=f"jaxmec train {row.name}")
    run = parsed.run
    if run.resume and run.out is None:
        raise UsageError("--resume needs --out, the directory of the run to go on with")
    result = jaxmec.train(
        parsed.agent,
        name=row.name,
        env=env,
        preset=None if env == "CartPole-v1" else parsed.where.preset,
        preset_seed=parsed.where.preset_seed,
        seeds=run.seeds,
        config=parsed.config,
        directory=run.out,
        resume=run.resume,
        progress=run.progress,
        deterministic=run.deterministic,
        env_options={
            **_given(parsed.choices),
            **(_changes(setting, parsed.setting) if isinstance(setting, Preset) else {}),
        },
    )
    last = {key: float(value[:, -1].mean()) for key, value in result.history.evaluation.items()}
    print(f"{row.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
    if run.out is not None:
        print(f"policy: {run.out / 'policy'}\nmetrics: {run.out / 'metrics.jsonl'}")
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class NoChoices:
    """CartPole has no choices."""


@dataclasses.dataclass(frozen=True)
class SingleChoices:
    """What the scheduler sees."""

    information: str = "slot_start"  # slot_start, local, slot or full
    features: str = "queues"  # queues (as published), times (waits too) or places (of lad-ts)


@dataclasses.dataclass(frozen=True)
class MultiChoices:
    """What the scheduler sees, and who splits a task."""

    information: str = "slot_start"  # slot_start, local, slot or full
    features: str = "queues"  # queues (as published), times (waits too) or places (of lad-ts)
    action: str = "subset"  # subset, local_plus_one, top_k or score, as the agent's kind asks
    k: int = 3  # servers that an action top_k names
    allocate: str = "cwa"  # cwa, hecwa or water_filling
    allocation_information: str = "true"  # true (as published) or seen


def _env_choices(env: str) -> type:
    return {
        "CartPole-v1": NoChoices,
        "SingleServerOffloading-v0": SingleChoices,
        "MultiServerOffloading-v0": MultiChoices,
    }[env]


def _given(choices: Any) -> dict[str, Any]:
    return {f.name: getattr(choices, f.name) for f in dataclasses.fields(choices)}


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a saved policy (a path) or a scheduler (a name)."""

    what: tyro.conf.Positional[str]  # the path of a policy or of a run, or a scheduler's name
    env: str | None = None  # environment id; by default the policy's own
    preset: str | None = None  # published setting; by default the policy's own
    preset_seed: int | None = None  # of what a preset draws once; by default the policy's own
    information: str | None = None  # for a scheduler; by default the least that it needs
    episodes: int = 20  # whole episodes, side by side
    seed: int = 1  # of the episodes: the same seed gives everybody the same arrivals
    json: bool = False  # print JSON instead of text


def _evaluate(words: Sequence[str]) -> int:
    import jaxmec

    command = tyro.cli(Evaluate, args=list(words), prog="jaxmec evaluate")
    path = Path(command.what)
    policy: Any = command.what
    if path.exists():
        policy = jaxmec.load_policy(path / "policy" if (path / "policy").is_dir() else path)
    elif command.what not in jaxmec.SCHEDULERS and (len(path.parts) > 1 or path.suffix):
        raise UsageError(f"there is no policy at {path}")
    report = jaxmec.evaluate(
        policy,
        env=command.env,
        preset=command.preset,
        preset_seed=command.preset_seed,
        episodes=command.episodes,
        seed=command.seed,
        **({} if command.information is None else {"information": command.information}),
    )
    if command.json:
        values = {name: value.tolist() for name, value in report.values.items()}
        print(json.dumps({"name": report.name, "information": report.information, **values}))
    else:
        print(report)
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class List:
    """What there is, by name."""

    kind: tyro.conf.Positional[str] = "all"
    """environments, presets, methods (the agents by name), schedulers, or all"""


def _list(words: Sequence[str]) -> int:
    from jaxmec import envs
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS

    kinds = ("environments", "presets", "agents", "methods", "schedulers", "all")
    kind = tyro.cli(List, args=list(words), prog="jaxmec list").kind
    look_up("kind", kind, dict.fromkeys(kinds))
    console = Console()
    if kind in ("environments", "all"):
        table = Table("environment", "what it is", title="Environments", title_justify="left")
        for name, about in envs.ABOUT.items():
            table.add_row(name, about)
        console.print(table)
    if kind in ("presets", "all"):
        table = Table("preset", "problem", "servers", "arrivals", "slots", title="Presets",
                      title_justify="left")  # fmt: skip
        for name, preset in envs.PRESETS.items():
            kind_of = {"multi": "multi-server", "single": "single-server"}[preset.problem]
            arrivals = f"{preset.arrivals}, up to {preset.positions} a station and slot"
            table.add_row(name, kind_of, str(len(preset.capacity)), arrivals, str(preset.slots))
        console.print(table)
    if kind in ("methods", "agents", "all"):
        table = Table("name", "what it does", "environment", "source",
                      title="Agents and methods", title_justify="left")  # fmt: skip
        for row in METHODS.values():
            where = row.env if row.preset is None else f"{row.env}, {row.preset}"
            table.add_row(row.name, row.about, where, row.source)
        console.print(table)
    if kind in ("schedulers", "all"):
        table = Table("scheduler", "what it does", "selects", "needs to see",
                      title="Schedulers that do not learn", title_justify="left")  # fmt: skip
        for scheduler in SCHEDULERS.values():
            selects = {"single": "one server", "multi": "a set"}[scheduler.problem]
            table.add_row(scheduler.name, scheduler.about, selects, scheduler.information)
        console.print(table)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
