"""The command line: ``jaxmec train``, ``evaluate``, ``compare``, ``show``, ``list`` and more.

The flags are the fields of the dataclasses that the library itself uses, so ``--help``
shows each with its unit, its default for the method and preset at hand, and nothing has to
be kept in step by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from jaxmec.core.naming import look_up
from jaxmec.core.terminal import Screen, prepare, quoted

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141

COMMANDS = {
    "train": "train a method (or one agent) and save what it learned",
    "evaluate": "play episodes with a saved policy or a scheduler",
    "compare": "run a named study, or methods and schedulers of your own choice",
    "show": "pictures of what a policy or a scheduler does: timeline, map, denoising, film",
    "gap": "how far schedulers are from the best plan known and from a lower bound",
    "trace": "check, import or draw a file of tasks, to train and evaluate on",
    "report": "write the page that sets the papers' claims against what was measured",
    "export": "write a bundle of a trained policy, for boxes at the edge",
    "serve": "answer over HTTP where tasks go, from a bundle",
    "watch": "follow a run, or show one that has ended: curve, losses, time left",
    "list": "environments, presets, agents and methods, schedulers, studies",
    "doctor": "what is installed here, and what to do about what is broken",
    "completion": "print a script by which bash, zsh or fish completes this command line",
}


LISTED = ("environments", "presets", "agents", "methods", "schedulers", "studies", "all")
TRACE_ACTIONS = ("check", "import", "synth")
COMPILING = ("train", "evaluate", "compare", "show", "gap", "export")  # what JAX compiles for


class UsageError(Exception):
    """The command line is wrong; the message says how."""


@dataclasses.dataclass(frozen=True)
class Where:
    """Which environment."""

    env: str | None = None  # environment id; by default what the method is for
    preset: str | None = None  # published setting; by default the method's
    preset_seed: int = 0  # of what a preset draws once: densities, qualities, result sizes
    trace: Path | None = None  # file of tasks (jaxmec trace) that arrive instead of the preset's
    trace_slots: int | None = None  # play only its first so many slots


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(words), f"{words[0]!r}" if words else "it")


def guarded(work: Callable[[], int | None], what: str = "it") -> int:
    """Do some work, where an error that a person can mend is one message, without a traceback.

    For the command line, and for scripts that are run like it. ``what`` stands for the work
    where it needs more than is installed. Returns the exit code.
    """
    prepare()

    def complain(text: object, style: str | None = "red") -> None:
        with contextlib.suppress(OSError):  # where nobody reads it any more
            Screen(stderr=True).print(f"jaxmec: {text}", style=style)

    try:
        code = work() or EXIT_OK
        sys.stdout.flush()  # a reader that has gone is told of here, and not as Python ends
        return code
    except SystemExit as exit_:  # tyro has printed what it has to say
        return exit_.code if isinstance(exit_.code, int) else EXIT_USAGE
    except (UsageError, ValueError, TypeError) as error:
        complain(error)
        return EXIT_USAGE
    except KeyboardInterrupt as error:
        complain(str(error) or "interrupted", style=None)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as `| head` leaves behind: whoever read has read enough
        with contextlib.suppress(OSError, ValueError):  # Python flushes once more as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:
        from jaxmec.core.bundle import BundleError

        if isinstance(error, ImportError) and str(error.name).startswith("jaxmec."):
            error = ImportError(
                f"{what} needs the whole of jaxmec; this is jaxmec-edge, for `jaxmec serve`"
            )
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            error = OSError(f"{error.filename}: {error.strerror}")  # no number of C's
        elif isinstance(error, OSError) and error.filename is None and error.strerror:
            error = OSError(error.strerror)
        if isinstance(error, BundleError | ImportError | OSError):
            complain(error)
            return EXIT_FAILED
        from jaxmec.traces import TraceError
        from jaxmec.training.checkpoint import CheckpointError
        from jaxmec.training.runner import Diverged, Interrupted

        if isinstance(error, Interrupted):
            complain(error, style=None)
            return error.exit_code
        if isinstance(error, CheckpointError | TraceError | Diverged | RuntimeError):
            complain(error)
            return EXIT_FAILED
        raise


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK if words else EXIT_USAGE
    if words[0] == "--version":
        import jaxmec

        print(f"jaxmec {jaxmec.__version__}")
        return EXIT_OK
    command = {
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "show": _show,
        "gap": _gap,
        "trace": _trace,
        "report": _report,
        "export": _export,
        "serve": _serve,
        "watch": _watch,
        "list": _list,
        "doctor": _doctor,
        "completion": _completion,
    }
    look_up("command", words[0], COMMANDS)
    if words[0] in COMPILING:
        _keep_programs()
    return command[words[0]](words[1:])


def _keep_programs() -> None:
    """Keep compiled programs on disk, so that the same command does not compile again.

    Only where JAX is still to be imported; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if "jax" not in sys.modules and (programs := _programs()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)


def _programs() -> Path | None:
    """The directory of compiled programs: JAX_COMPILATION_CACHE_DIR, or one in the user's cache.

    None where the user has no home: not set, nor an entry among the users.

    There each kind of processor has a directory of its own, since a program may use instructions
    that another one lacks and homes are shared among machines.
    """
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(home):  # a relative one is void, says the XDG specification
        home = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):
        return None
    processor = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        processor += "".join(sorted({x for x in lines if x.startswith(("flags", "Features"))}))
    return Path(home) / "jaxmec" / "programs" / hashlib.sha256(processor.encode()).hexdigest()[:12]


def _overview() -> str:
    lines = ["usage: jaxmec COMMAND ...", ""]
    lines += [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    lines += ["", "jaxmec COMMAND --help says more; jaxmec train METHOD --help shows every field."]
    return "\n".join(lines)


def _ahead(command: Any, words: Sequence[str], prog: str) -> Any:
    """What a few flags say, read before the others have their defaults, by the same parser.

    The other flags are left for later, and so is ``--help``.
    """
    parsed, _ = tyro.cli(
        command, args=list(words), prog=prog, return_unknown_args=True, add_help=False
    )
    return parsed


def _changes(old: Any, new: Any) -> dict[str, Any]:
    """The fields in which two objects of one dataclass differ."""
    pairs = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old))
    return {name: now for name, before, now in pairs if now != before}


@dataclasses.dataclass(frozen=True)
class _TrainAhead:
    """The flags of a training that do not depend on the method."""

    run: Annotated[Run, tyro.conf.arg(name="")] = Run()
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()


def _train(words: Sequence[str]) -> int:
    named = bool(words) and not words[0].startswith("-")
    prog = f"jaxmec train {words[0]}" if named else "jaxmec train"
    ahead = _ahead(_TrainAhead, words[1:], prog) if named else _TrainAhead()
    together = not {"-h", "--help"} & set(words) and _connected(ahead.run)

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
        trace=_trace_file(parsed.where.trace, parsed.where.trace_slots),
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


def _evaluate(words: Sequence[str]) -> int:
    import jaxmec

    command = tyro.cli(Evaluate, args=list(words), prog="jaxmec evaluate")
    report = jaxmec.evaluate(
        command.what,
        env=command.env,
        preset=command.preset,
        preset_seed=command.preset_seed,
        episodes=command.episodes,
        seed=command.seed,
        trace=_trace_file(command.trace, command.trace_slots),
        **({} if command.information is None else {"information": command.information}),
    )
    if command.json:
        values = {name: value.tolist() for name, value in report.values.items()}
        print(json.dumps({"name": report.name, "information": report.information, **values}))
    else:
        print(report)
    return EXIT_OK


PICTURES = ("timeline", "map", "denoising", "policy", "animation")


@dataclasses.dataclass(frozen=True)
class Show:
    """Pictures of what a saved policy (a path) or a scheduler (a name) does in one episode.

    Without --pictures, all that there are of it: a scheduler has no denoising, and CartPole
    has denoising and an animation.
    """

    what: tyro.conf.Positional[str]
    """a scheduler's name, or else the path of a policy, a run or a bundle: ./local is a path"""
    to: Path  # folder that they are written to
    pictures: tuple[str, ...] = ()  # some of timeline, map, denoising, policy, animation
    env: str | None = None  # environment id; by default the policy's own
    preset: str | None = None  # published setting; by default the policy's own
    preset_seed: int | None = None  # of what a preset draws once; by default the policy's own
    trace: Path | None = None  # file of tasks; by default what the policy was trained on
    trace_slots: int | None = None  # play only its first so many slots
    information: str | None = None  # for a scheduler; by default the least that it needs
    seed: int = 1  # of the episode: the first that `jaxmec evaluate` plays with that seed
    slots: tuple[int, int] | None = None  # first and last of timeline and animation; else one
    decision: int = 0  # number of the one whose denoising is shown
    chains: int = 8  # draws of its noise
    formats: tuple[str, ...] = ("png", "svg")  # png, svg or pdf
    film: str = "gif"  # gif, or mp4 where ffmpeg is


def _show(words: Sequence[str]) -> int:
    command = tyro.cli(Show, args=list(words), prog="jaxmec show")
    for name in command.pictures:
        look_up("picture", name, dict.fromkeys(PICTURES))
    look_up("film", command.film, dict.fromkeys(("gif", "mp4")))
    from jaxmec import plots
    from jaxmec.experiment import Policy, opened
    from jaxmec.experiment.episode import CartPoleEpisode, record

    policy: Any = opened(command.what)
    where: dict[str, Any] = {
        "env": command.env,
        "preset": command.preset,
        "preset_seed": command.preset_seed,
        "trace": _trace_file(command.trace, command.trace_slots),
        **({} if command.information is None else {"information": command.information}),
    }
    episode: Any = record(policy, seed=command.seed, **where)
    cartpole = isinstance(episode, CartPoleEpisode)
    possible = {"denoising", "animation"} if cartpole else set(PICTURES)
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
            if cartpole:
                print(quoted(plots.animate_cartpole(episode, film)))
            else:
                print(quoted(plots.animate_episode(episode, film, command.slots)))
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


@dataclasses.dataclass(frozen=True)
class Compare:
    """Methods and schedulers on the same arrivals: a named study, or your own choice.

    What is given replaces what the study says. An entry is NAME, NAME:published, or
    NAME:option=value:..., such as ddrl-amsa:allocate=cwa:label=ours. An option whose name means
    several things says which: lad-ts:agent.start=noise, or config., or env. A study that was
    stopped goes on where it was.
    """

    study: tyro.conf.Positional[str] = ""  # a name of `jaxmec list studies`; or none
    size: str = "full"  # short or full
    out: Path = Path("runs/studies")  # results of all studies, which share what they can
    methods: tuple[str, ...] | None = None  # to train
    schedulers: tuple[str, ...] | None = None
    env: str | None = None  # environment id
    presets: tuple[str, ...] | None = None  # published settings
    trace: Path | None = None  # file of tasks that arrive instead of the presets'
    trace_slots: int | None = None  # play only its first so many slots
    sweep: str | None = None  # a field of the presets, or servers
    values: tuple[str, ...] = ()  # of the sweep; a list of numbers as 10,20,30
    reference: str | None = None  # the entry that all are set against; else the first
    seeds: int | None = None  # training seeds of each method
    steps_scale: float | None = None  # times each method's own training steps
    episodes: int | None = None  # episodes to compare on
    gap_episodes: int = 0  # episodes that the planner schedules too, for the column "over plan"
    plan: bool = False  # only say what would be run
    progress: bool = True  # show a bar with the time left


def _compare(words: Sequence[str]) -> int:
    from jaxmec.studies import results, study
    from jaxmec.studies.catalogue import STUDIES, find_study

    command = tyro.cli(Compare, args=list(words), prog="jaxmec compare")
    plan = _study(command)
    cells = plan.cells  # before anything runs, a wrong name is an error
    if command.gap_episodes < 0:
        raise UsageError(f"--gap-episodes must be at least 0, got {command.gap_episodes}")
    if command.gap_episodes:
        results.planned_settings(plan)
    if command.plan:
        study.check(plan)
        finished = {result.cell.folder for result in study.collect(plan, command.out).results}
        for cell in cells:
            steps = f"{cell.config.total_steps:,} steps" if cell.config else "does not learn"
            state = "finished" if cell.folder in finished else "to do"
            print(f"{state:<9} {quoted(cell)}: {cell.seeds} seeds, {steps}")
        return EXIT_OK
    named = command.study in STUDIES and plan == find_study(command.study, command.size)
    outcome = study.run(plan, command.out, progress=command.progress)
    if command.gap_episodes:
        outcome = results.plan_places(
            outcome,
            command.out / "plans",
            command.gap_episodes,
            lambda text: print(quoted(text), file=sys.stderr),
        )
    home = command.out / command.size / plan.name if named else command.out / "chosen" / plan.name
    files = results.write(outcome, home)
    console = Screen(soft_wrap=False)
    for place, table in results.comparisons(outcome).items():
        console.print(table.table(str(place)))
    print("\n".join(f"written: {quoted(file)}" for file in files))
    if outcome.missing:
        print("not finished: " + "; ".join(map(quoted, outcome.missing)), file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _study(command: Compare) -> Any:
    """The study that a command line means."""
    from jaxmec.envs.presets import find_preset
    from jaxmec.envs.table import FOR_SCHEDULERS, find_environment, of_problem
    from jaxmec.methods import find_method
    from jaxmec.studies.catalogue import find_study
    from jaxmec.studies.study import Study, sweep_over

    methods = None if command.methods is None else tuple(map(_entry, command.methods))
    schedulers = None if command.schedulers is None else tuple(map(_entry, command.schedulers))
    given: dict[str, Any] = {
        "methods": methods,
        "schedulers": schedulers,
        "env": command.env,
        "presets": command.presets,
        "trace": _trace_file(command.trace, command.trace_slots),
        "reference": command.reference,
        "seeds": command.seeds,
        "steps_scale": command.steps_scale,
        "episodes": command.episodes,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if (command.sweep is None) != (not command.values):
        raise UsageError("--sweep names what is swept, and --values its values: give both")
    if command.sweep is not None:
        base = command.presets[0] if command.presets else None
        values = tuple(map(_value, command.values))
        changes["sweep"] = sweep_over(command.sweep, values, base)
    if command.study:
        study = find_study(command.study, command.size)
        if "reference" not in changes and ("methods" in changes or "schedulers" in changes):
            kept = [e.label for e in changes.get("methods", study.methods)]
            kept += [e.label for e in changes.get("schedulers", study.schedulers)]
            if study.reference not in kept:
                changes["reference"] = ""
        return dataclasses.replace(study, **changes)
    if not methods and not schedulers:
        raise UsageError("name a study (jaxmec list studies), or --methods or --schedulers")
    if "env" not in changes:
        if command.presets:
            changes["env"] = of_problem(find_preset(command.presets[0]).problem).name
        else:
            changes["env"] = find_method(methods[0].name).env if methods else FOR_SCHEDULERS
    find_environment(changes["env"])
    return Study("comparison", "Chosen on the command line", **changes)


def _entry(text: str) -> Any:
    from jaxmec.studies.study import Entry

    name, *parts = text.split(":")
    wrong = [part for part in parts if part != "published" and "=" not in part]
    if wrong:
        raise UsageError(f"{text!r}: {wrong[0]!r} is neither published nor option=value")
    if os.sep in name and Path(name).is_dir():
        raise UsageError(
            f"{name} is a directory; expected the name of a method, which is trained here. "
            f"What has been trained: jaxmec evaluate {name}, or jaxmec gap {name} optimal"
        )
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    label = options.pop("label", text.replace(":", ", ") if options else "")
    values = tuple(sorted((option, _value(value)) for option, value in options.items()))
    return Entry(name, values, label, published="published" in parts)


def _value(text: str) -> Any:
    """A number, a list of numbers (10,20,30), True, False or a word."""
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)  # "true" is a word: of waits


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """Write the page that sets the papers' claims against what the studies measured."""

    size: str = "full"  # of the studies: short or full
    out: Path = Path("runs/studies")  # where `jaxmec compare` put their results
    page: Path = Path("docs/reproduction.md")  # the figures go to results/ beside it


def _report(words: Sequence[str]) -> int:
    from jaxmec.studies import reproduction
    from jaxmec.studies.catalogue import SIZES

    command = tyro.cli(WriteReport, args=list(words), prog="jaxmec report")
    look_up("size", command.size, dict.fromkeys(SIZES))
    again = f"jaxmec report --size {command.size}"
    page = reproduction.write(command.size, command.out, command.page, again)
    print(f"written: {quoted(page)}")
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a bundle of a trained policy: checkpoint, StableHLO, ONNX and a manifest."""

    run: tyro.conf.Positional[Path]  # the path of a run, or of a saved policy
    to: Path  # directory of the bundle; a bundle that is there is replaced
    one_step: bool = False  # distil a chain of K steps into one; the loss of quality is measured


def _export(words: Sequence[str]) -> int:
    command = tyro.cli(Export, args=list(words), prog="jaxmec export")
    if not command.run.exists():
        raise UsageError(f"there is no run or policy at {command.run}")
    from jaxmec.deploy import export

    bundle = export.export(command.run, command.to, one_step=command.one_step)
    if measured := bundle.manifest["distilled"]:
        print(
            f"one step instead of {measured['denoising_steps']}: {measured['metric']} "
            f"{measured['student']:.4g} against {measured['teacher']:.4g} "
            f"({measured['ratio']:.3f} times), {measured['agreement']:.1%} alike"
        )
    print(f"bundle: {quoted(bundle.path)}\ndigest: {bundle.digest}")
    return EXIT_OK


def _serve(words: Sequence[str]) -> int:
    with _extra("serve"):
        from jaxmec.deploy.server import ServeConfig, serve

    flat = Annotated[ServeConfig, tyro.conf.arg(name="")]
    command: Any = dataclasses.make_dataclass(
        "Serve",
        [("bundle", tyro.conf.Positional[Path]), ("config", flat, ServeConfig())],
        frozen=True,
    )
    command.__doc__ = "Answer over HTTP where tasks go; SIGHUP reloads, SIGTERM stops."
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec serve")
    try:
        serve(parsed.bundle, parsed.config)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more would interrupt its last word
        raise
    return EXIT_OK


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Says which extra brings what cannot be imported."""
    try:
        yield
    except ImportError as error:
        if str(error.name).startswith("jaxmec."):  # a part of jaxmec, which no extra brings
            raise
        raise ImportError(f"{error}: pip install 'jaxmec[{name}]'") from error


def _gap(words: Sequence[str]) -> int:
    import numpy as np

    from jaxmec import plots
    from jaxmec.studies import gap

    command = tyro.cli(gap.Command, args=list(words), prog="jaxmec gap")
    gaps = gap.run(command, say=Screen(stderr=True).print)
    if command.json:
        print(json.dumps(gap.document(gaps), indent=1))
    else:
        for measured in gaps:
            Screen(soft_wrap=False).print(gap.table(measured))
    if command.out is not None:
        samples, (label, places) = gap.samples_by_name(gaps), gap.swept(gaps)
        if len(gaps) == 1:
            rows = {name: values[:, 0] for name, values in samples.items()}
            figure = plots.comparison_bars(rows, "make-span [s]", highlight=list(rows)[:2])
        else:
            order = np.argsort(places)
            curves = {
                name: plots.Curve(places[order], values[:, order])
                for name, values in samples.items()
            }
            figure = plots.sweep_curves(curves, label, "make-span [s]")
        for file in plots.save(figure, command.out / "gap"):
            print(f"figure: {quoted(file)}", file=sys.stderr)
    return EXIT_OK


def _trace_file(path: Path | None, slots: int | None) -> Any:
    """What --trace and --trace-slots name."""
    if path is None:
        if slots is not None:
            raise UsageError("--trace-slots needs --trace, the file of which it plays a part")
        return None
    from jaxmec.traces import TraceFile

    return TraceFile.of(path, slots)


def _trace(words: Sequence[str]) -> int:
    actions = {
        "check": (_trace_check, "read a trace file, say what is in it, or what is wrong and where"),
        "import": (
            _trace_import,
            "make one from a log: Azure LLM 2023, BurstGPT, columns of your own",
        ),
        "synth": (_trace_synth, "draw one: diurnal, mmpp (bursts) or heavy-tailed sizes"),
    }
    if not words or words[0].startswith("-"):
        print("usage: jaxmec trace ACTION ...\n")
        print("\n".join(f"  {name:<10} {about}" for name, (_, about) in actions.items()))
        print("\njaxmec trace ACTION --help says more.")
        return EXIT_OK if words and words[0] in ("-h", "--help") else EXIT_USAGE
    action, _ = look_up("action", words[0], actions)
    return action(words[1:])


@dataclasses.dataclass(frozen=True)
class TraceCheck:
    """Read a trace file and say what is in it, and the load that it is to a preset's servers."""

    file: tyro.conf.Positional[Path]  # columns slot, origin, size, work and, if any, result
    preset: str = "amcoedge"  # published setting whose servers have the load


def _trace_check(words: Sequence[str]) -> int:
    from jaxmec import traces

    command = tyro.cli(TraceCheck, args=list(words), prog="jaxmec trace check")
    with _reading(command.file) as progress:
        rows = traces.read_rows(command.file, progress)
    return _say_trace(command.file, rows, command.preset)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Callable[[int, int], None]]:
    """Shows on stderr how much of a file is read, where it takes more than a second."""
    console = Screen(stderr=True)
    began = last = time.monotonic()
    with contextlib.ExitStack() as shown:
        bar: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal bar, last
            now = time.monotonic()
            if now - began < 1:
                return
            if not console.is_terminal:  # a log file gets a line now and then
                if now - last >= 5:
                    share = f" of {total / 1e6:,.0f}" if total else ""
                    print(f"{quoted(file)}: {done / 1e6:,.0f}{share} MB read", file=sys.stderr)
                    last = now
                return
            if bar is None:
                from rich import progress as rich

                columns = (rich.BarColumn(), rich.DownloadColumn(), rich.TimeRemainingColumn())
                bar = shown.enter_context(rich.Progress(*columns, console=console, transient=True))
                bar.add_task("", total=total or None)
            bar.update(bar.task_ids[0], completed=done)

        yield progress


def _say_trace(file: Path, rows: Any, preset: str) -> int:
    """What is in a trace file; an error where the preset's network has not all its stations."""
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    params = find_preset(preset).params()
    print(quoted(file))
    for name, text in traces.describe(rows).items():
        print(f"  {name:<15} {quoted(text)}")
    load = traces.mean_load(rows, params.network)
    print(f"  {'load':<15} {load:.4g} of preset {quoted(preset)}" + (
        ": more than its servers can do" if load > 1 else ""))  # fmt: skip
    stations, servers = rows.stations, params.network.num_servers
    if stations > servers:
        raise traces.TraceError(
            f"{file}: the stations are 0 to {stations - 1}, expected at most {servers - 1}: preset "
            f"{preset} has {servers} servers; {preset.partition('-')[0]}-{stations} has enough"
        )
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class _TraceAhead:
    """The flag that the defaults of the others depend on."""

    preset: str = "amcoedge"


def _trace_import(words: Sequence[str]) -> int:
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    name = _ahead(_TraceAhead, words, "jaxmec trace import").preset
    preset = find_preset(name)

    @dataclasses.dataclass(frozen=True)
    class Options(traces.Conversion):
        __doc__ = traces.Conversion.__doc__
        start: Annotated[float, tyro.conf.arg(name="from")] = 0.0
        """s of the log after its first row to leave out; slots, where a column is slot"""

    default = Options(
        stations=len(preset.capacity),
        slot_length=preset.slot_length,
        assign="master" if preset.master else "round-robin",
    )
    formats = ", ".join(traces.FORMATS)
    command = dataclasses.make_dataclass(
        "Import",
        [
            ("file", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="the log")]),
            (
                "to",
                Annotated[Path, tyro.conf.arg(help="trace file to write: .csv[.gz] or .parquet")],
            ),
            ("format", Annotated[str, tyro.conf.arg(help=f"of the log: {formats}")], "csv"),
            (
                "column",
                Annotated[
                    tyro.conf.UseAppendAction[tuple[str, ...]],
                    tyro.conf.arg(
                        help="what=name or what=name:unit, as size=payload:kB or "
                        "time=arrived:ms, again for each column. What: "
                        + "; ".join(
                            f"{what} ({', '.join(units)})" if units else what
                            for what, units in traces.UNITS.items()
                        )
                    ),
                ],
                (),
            ),
            (
                "header",
                Annotated[
                    bool,
                    tyro.conf.arg(
                        help="whether the first row of a CSV file names its columns; "
                        "they are else called 1, 2, ..."
                    ),
                ],
                True,
            ),
            (
                "preset",
                Annotated[
                    str, tyro.conf.arg(help="whose stations, slot length and servers are meant")
                ],
                name,
            ),
            ("conversion", Annotated[Options, tyro.conf.arg(name="")], default),
        ],
        frozen=True,
    )
    command.__doc__ = (traces.Conversion.__doc__ or "").replace(
        "How a log's rows become tasks.", "Make a trace file from a log."
    )
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec trace import")
    with _reading(parsed.file) as progress:
        rows = traces.convert(
            parsed.file,
            parsed.format,
            parsed.column,
            parsed.conversion,
            header=parsed.header,
            say=lambda text: print(quoted(f"{parsed.file}: {text}"), file=sys.stderr),
            progress=progress,
        )
    return _say_trace(traces.write(parsed.to, rows), rows, parsed.preset)


def _trace_synth(words: Sequence[str]) -> int:
    from jaxmec import traces
    from jaxmec.envs.presets import find_preset

    name = _ahead(_TraceAhead, words, "jaxmec trace synth").preset
    preset = find_preset(name)
    mean_work = float(preset.params().workload.moments().work)
    default = traces.Synthetic(
        "diurnal",
        capacity=float(sum(preset.capacity)),
        slot_length=preset.slot_length,
        stations=len(preset.capacity),
        slots=preset.slots,
        density=round(2 * mean_work / sum(preset.size), 4),  # of its mean task
    )
    command = dataclasses.make_dataclass(
        "Synth",
        [
            (
                "to",
                Annotated[Path, tyro.conf.arg(help="trace file to write: .csv[.gz] or .parquet")],
            ),
            ("law", Annotated[traces.Synthetic, tyro.conf.arg(name="")], default),
            ("seed", Annotated[int, tyro.conf.arg(help="of what is drawn")], 0),
            (
                "preset",
                Annotated[
                    str, tyro.conf.arg(help="whose servers, slots and density are the defaults")
                ],
                name,
            ),
        ],
        frozen=True,
    )
    command.__doc__ = traces.Synthetic.__doc__
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec trace synth")
    rows = parsed.law.draw(parsed.seed)
    return _say_trace(traces.write(parsed.to, rows), rows, parsed.preset)


@dataclasses.dataclass(frozen=True)
class List:
    """What there is, by name."""

    kind: tyro.conf.Positional[str] = "all"
    """environments, presets, methods (the agents by name), schedulers, studies, or all"""


def _list(words: Sequence[str]) -> int:
    from jaxmec import envs
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS

    kind = tyro.cli(List, args=list(words), prog="jaxmec list").kind
    look_up("kind", kind, dict.fromkeys(LISTED))
    console = Screen(soft_wrap=False)
    if kind in ("environments", "all"):
        table = Table("environment", "what it is", title="Environments", title_justify="left")
        for environment in envs.ENVIRONMENTS.values():
            table.add_row(environment.name, environment.about)
        console.print(table)
    if kind in ("presets", "all"):
        table = Table("preset", "problem", "servers", "arrivals", "slots", title="Presets",
                      title_justify="left", caption_justify="left",
                      caption="amcoedge-20 is amcoedge with 20 servers at the same load; so any "
                              "preset, with any number")  # fmt: skip
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
    if kind in ("studies", "all"):
        from jaxmec.studies.catalogue import STUDIES

        table = Table("study", "what it compares", "settings, short and full",
                      title="Studies (jaxmec compare)", title_justify="left")  # fmt: skip
        for name, sizes in STUDIES.items():
            places = " and ".join(str(len(sizes[size].places)) for size in ("short", "full"))
            table.add_row(name, sizes["full"].about, places)
        console.print(table)
    return EXIT_OK


def _watch(words: Sequence[str]) -> int:
    from jaxmec.cli import watch

    command = tyro.cli(watch.Command, args=list(words), prog="jaxmec watch")
    if not command.run.is_dir():
        raise UsageError(f"there is no run at {command.run}")
    watch.run(command)
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What jaxmec stands on here; where something required is broken, what to do, and exit 1."""


def _doctor(words: Sequence[str]) -> int:
    from jaxmec.cli import doctor

    tyro.cli(Doctor, args=list(words), prog="jaxmec doctor")
    report = doctor.examine(_programs())
    print("\n".join(map(quoted, str(report).split("\n"))))
    return EXIT_FAILED if report.broken else EXIT_OK


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, names and flags.

    bash: eval "$(jaxmec completion bash)", or the output in
    ~/.local/share/bash-completion/completions/jaxmec, which is quicker; zsh: in a directory of
    fpath, as _jaxmec; fish: in ~/.config/fish/completions/jaxmec.fish.
    """

    shell: tyro.conf.Positional[str]  # bash, zsh or fish


def _completion(words: Sequence[str]) -> int:
    from jaxmec.cli.completion import SHELLS, Words, script
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS
    from jaxmec.studies.catalogue import STUDIES

    shell = tyro.cli(Completion, args=list(words), prog="jaxmec completion").shell
    look_up("shell", shell, SHELLS)
    by_kind: dict[Any, str] = {}  # the flags of a method are those of its agent and environment
    for row in METHODS.values():
        by_kind |= {type(row.settings(False).agent()): row.name}
        by_kind.setdefault(row.env, row.name)
    lines = {name: [[name]] for name in COMMANDS}  # whose --help has the flags of a command
    lines["train"] = [["train", name] for name in dict.fromkeys(by_kind.values())]
    lines["trace"] = [["trace", action] for action in TRACE_ACTIONS]
    names: dict[str, Sequence[str]] = {
        "train": list(METHODS),
        "evaluate": list(SCHEDULERS),
        "show": list(SCHEDULERS),
        "compare": list(STUDIES),
        "gap": [*SCHEDULERS, *METHODS],
        "trace": TRACE_ACTIONS,
        "list": LISTED,
        "completion": list(SHELLS),
    }
    commands = {
        name: Words(
            about, names.get(name, ()), sorted({f for line in lines[name] for f in _flags(line)})
        )
        for name, about in COMMANDS.items()
    }
    print(script(shell, commands))
    return EXIT_OK


def _flags(words: list[str]) -> set[str]:
    """The flags that a command's own help names, so that both are the same."""
    text = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"  # no flag is broken in two
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text.getvalue()))


if __name__ == "__main__":
    sys.exit(main())
