"""Follow a run, or show one that has ended: curve, losses, time left.

All is read from what the run writes as it goes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.live import Live
from rich.text import Text

from jaxmec.cli.errors import EXIT_OK, UsageError
from jaxmec.core import checks
from jaxmec.core.statistics import t_interval
from jaxmec.core.terminal import Screen, quoted
from jaxmec.core.types import Document
from jaxmec.training import parts
from jaxmec.training.progress import SCORES, duration
from jaxmec.training.runner import ABOUT_FILE, METRICS_FILE, START, is_running

BARS = "▁▂▃▄▅▆▇█"
RECENT = 16  # points that the rate is taken from


@dataclasses.dataclass(frozen=True)
class Watch:
    """Follow a run until it ends; Ctrl-C leaves it alone and only stops watching."""

    run: tyro.conf.Positional[Path]  # the directory that --out named
    once: bool = False  # say how it stands and leave
    every: float = 1.0  # s between looks
    width: int = 48  # characters of the curve

    def __post_init__(self) -> None:
        checks.fields(self, every=checks.number(above=0), width=checks.whole(1))


def run(words: Sequence[str]) -> int:
    command = tyro.cli(Watch, args=list(words), prog="jaxmec watch")
    if not command.run.is_dir():
        raise UsageError(f"there is no run at {command.run}")
    follow(command)
    return EXIT_OK


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run stands: P points of S seeds."""

    home: Path
    running: bool
    method: str
    total: int | None  # environment steps of one run, at which it is done
    steps: np.ndarray  # [P] environment steps of one run
    seconds: np.ndarray  # [P]
    evaluation: dict[str, np.ndarray]  # [P, S] by name
    training: dict[str, np.ndarray]  # [S] by name, of the last point that has any
    notes: tuple[str, ...] = ()  # what could not be read, and where

    @classmethod
    def of(cls, home: Path) -> Standing:
        """Read what there is.

        Raises:
            FileNotFoundError: there is no run in ``home``.
        """
        running = is_running(home)  # first: its last point is then not missed
        notes: list[str] = []
        about = _about(home / ABOUT_FILE, notes)
        file = home / METRICS_FILE
        if not file.exists() and not running:
            raise FileNotFoundError(f"there is no run in {home}: it has no {METRICS_FILE}")
        points = _points(file, running, notes)
        trained: Document = next((p["training"] for p in reversed(points) if p["training"]), {})
        names = points[-1]["evaluation"] if points else ()
        return cls(
            home=home,
            running=running,
            method=about.get("method") or "a run",
            total=about.get("steps"),
            steps=np.array([point["env_steps"] for point in points], int),
            seconds=np.array([point["seconds"] for point in points], float),
            evaluation={
                name: np.array([point["evaluation"][name] for point in points], float)
                for name in names
            },
            training={name: np.array(values, float) for name, values in trained.items()},
            notes=tuple(notes),
        )

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.total is not None and self.steps.size > 0 and self.steps[-1] >= self.total

    @property
    def rate(self) -> float:
        """Environment steps a second of one run, lately; NaN where it cannot be told."""
        # The first chunk is compiled before it runs: no rate from that.
        steps, seconds = self.steps[1:][-RECENT:], self.seconds[1:][-RECENT:]
        if steps.size < 2 or seconds[-1] <= seconds[0]:
            return float("nan")
        return float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))

    @property
    def progress(self) -> str:
        """Steps, rate and time left, in words."""
        if not self.steps.size:
            return "compiling" if self.running else "no points"
        steps, seeds = int(self.steps[-1]), next(iter(self.evaluation.values())).shape[1]
        parts = [f"{steps:,} steps"]
        if self.total is not None:
            parts = [f"{steps:,} of {self.total:,} steps ({100 * steps / self.total:.0f} %)"]
        if np.isfinite(self.rate):
            parts.append(f"{self.rate * seeds:,.0f} steps/s")
        if self.finished:
            parts.append(f"done in {duration(self.seconds[-1])}")
        elif self.running and self.total is not None and self.rate > 0:
            parts.append(f"{duration((self.total - steps) / self.rate)} left")
        return ", ".join(parts)

    def lines(self, width: int = 48) -> list[str]:
        """All there is to say."""
        state = "running" if self.running else "finished" if self.finished else "stopped"
        seeds = next((values.shape[1] for values in self.evaluation.values()), 0)
        lines = [f"{self.home}: {self.method}, {seeds} seed{'' if seeds == 1 else 's'}, {state}"]
        lines.append(self.progress)
        if state != "running" and self.home.name == START:
            lines.append("the first part of a run; to go on: the same command with --resume")
        elif state == "stopped":
            lines.append("to go on: the same command with --resume")
        if self.home.name != START and (self.home.parent / parts.PARTS_FILE).exists():
            lines.append(f"a part of {self.home.parent}, whose seeds are trained part by part")
        for name, shown in SCORES:
            if name in self.evaluation:
                values = self.evaluation[name]
                lines.append(f"{shown:<10} {least_to_most(values[-1])}")
                lines.append(f"{'':<10} {sparkline(values.mean(axis=1), width)}")
        losses = [f"{name} {np.mean(values):.4g}" for name, values in self.training.items()]
        if losses:
            lines.append("training   " + ", ".join(losses))
        lines += self.notes
        return [quoted(line) for line in lines]


def _about(file: Path, notes: list[str]) -> Document:
    """What the run says of itself; nothing, and a note, where that cannot be read."""
    try:
        about = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("steps"), int | None):
        notes.append(f"{file}: this is not what a run writes; its method and length are not known")
        return {}
    return about


def _points(file: Path, running: bool, notes: list[str]) -> list[Document]:
    """The points of a metrics file, and a note on lines that are none; what they name is left out.

    All have the evaluations, and the number of seeds, of the first.
    """
    *lines, rest = (file.read_bytes() if file.exists() else b"").split(b"\n")
    if rest and not running:  # else it may still be being written
        lines.append(rest)
    points: list[Document] = []
    wrong = []
    for number, line in enumerate(lines, 1):
        point = _point(line)
        if point is None or (points and _shape(point) != _shape(points[0])):
            wrong.append(number)
        else:
            points.append(point)
    if wrong:
        which = f"line {wrong[0]}" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        notes.append(f"{file}: {which} cannot be read and is left out")
    return points


def _point(line: bytes) -> Document | None:
    """A line of a metrics file, or None where it is none."""
    try:
        point = json.loads(line)
        point = {
            "env_steps": int(point["env_steps"]),
            "seconds": float(point["seconds"]),
            "evaluation": dict(point["evaluation"]),
            "training": dict(point.get("training") or {}),
        }
        for values in (*point["evaluation"].values(), *point["training"].values()):
            if np.array(values, float).ndim != 1 or not values:
                return None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return point if point["evaluation"] else None


def _shape(point: Document) -> dict[str, int]:
    return {name: len(values) for name, values in point["evaluation"].items()}


def least_to_most(values: np.ndarray) -> str:
    """A mean of seeds [S], and its interval where there are several."""
    text = f"{values.mean():.4g}"
    if values.size > 1 and np.all(np.isfinite(values)):
        low, high = t_interval(values)
        text += f"  95 % {low:.4g} to {high:.4g} over {values.size} seeds"
    return text


def sparkline(values: Sequence[float] | np.ndarray, width: int) -> str:
    """A curve in one line of at most ``width`` characters, and what its ends stand for.

    Several points may share a character, which shows their mean; a gap is not finite.
    """
    values = np.asarray(values, float)
    parts = np.array_split(values, min(width, len(values))) if len(values) else []
    means = np.array([part.mean() for part in parts])
    finite = means[np.isfinite(means)]
    if not finite.size:
        return ""
    low, high = finite.min(), finite.max()
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    curve = "".join(
        BARS[round((mean - low) * scale)] if np.isfinite(mean) else " " for mean in means
    )
    return f"{curve}  {low:.4g} to {high:.4g}"


def follow(command: Watch, console: Console | None = None) -> None:
    """Show a run, and follow it while it goes on.

    Raises:
        FileNotFoundError: there is no run there.
    """
    console = Screen() if console is None else console
    try:
        if console.is_terminal and not command.once:
            with Live(console=console, auto_refresh=False) as live:
                for standing in _standings(command):
                    live.update(_text(standing, command), refresh=True)
            return
        seen = -1
        for standing in _standings(command):
            if command.once or not standing.running:
                console.print(_text(standing, command))
                return
            if standing.steps.size > seen:
                seen = standing.steps.size
                console.print(Text(standing.progress))
    except KeyboardInterrupt:
        return


def _standings(command: Watch) -> Iterator[Standing]:
    """How the run stands, time and again, until it goes on no longer.

    A run that starts from another method has that one's in ``start``, and until that has ended
    nothing of its own; one in parts has nothing of its own until all have ended.
    """
    while True:
        shown, running = _where_points_are(command.run)
        standing = Standing.of(shown)
        # Between two parts nobody works on either of them.
        standing = dataclasses.replace(standing, running=standing.running or running)
        yield standing
        if not standing.running:
            return
        time.sleep(command.every)


def _where_points_are(home: Path) -> tuple[Path, bool]:
    """The directory that tells how a run stands now, and whether the run goes on."""
    running = is_running(home)
    own = (home / METRICS_FILE).exists()
    in_parts = parts.begun(home) if home.is_dir() else []
    if in_parts and (running or not own):
        there = [part for part in in_parts if (part / METRICS_FILE).exists()]
        now = [part for part in in_parts if is_running(part)]
        return (now or there or in_parts)[-1], running
    first = home / START
    if own or running or not first.is_dir():
        return home, running
    return _where_points_are(first)


def _text(standing: Standing, command: Watch) -> Text:
    return Text("\n".join(standing.lines(command.width)))
