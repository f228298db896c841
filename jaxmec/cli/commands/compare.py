"""Run a named study, or methods and schedulers of your own choice."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_FAILED, EXIT_OK, UsageError
from jaxmec.cli.scenario import trace_file
from jaxmec.core.terminal import Screen, quoted
from jaxmec.core.types import Keywords


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


def run(words: Sequence[str]) -> int:
    programs.keep()
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
        study.check_cells(plan)
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

    methods = None if command.methods is None else tuple(map(_entry_of, command.methods))
    schedulers = None if command.schedulers is None else tuple(map(_entry_of, command.schedulers))
    given: Keywords = {
        "methods": methods,
        "schedulers": schedulers,
        "env": command.env,
        "presets": command.presets,
        "trace": trace_file(command.trace, command.trace_slots),
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
        values = tuple(map(_option_value, command.values))
        env = command.env or FOR_SCHEDULERS
        changes["sweep"] = sweep_over(command.sweep, values, base, env)
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


def _entry_of(text: str) -> Any:
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
    values = tuple(sorted((option, _option_value(value)) for option, value in options.items()))
    return Entry(name, values, label, published="published" in parts)


def _option_value(text: str) -> Any:
    """A number, a list of numbers (10,20,30), True, False or a word."""
    if "," in text:
        return tuple(_option_value(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)  # "true" is a word: of waits
