"""How far training is: a progress bar on a terminal, plain lines elsewhere. Host side only."""

from __future__ import annotations

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
)

from jaxmec.core.terminal import Screen, quoted

# What is watched: the first of these that there is.
SCORES = (("makespan", "make-span"), ("return", "return"), ("loss", "loss"))


class Display(Protocol):
    """What a run tells how far it is; a caller with several runs shows them its own way."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *error: Any) -> None: ...

    def update(self, steps: int, evaluation: Mapping[str, np.ndarray]) -> None:
        """Each run stands at ``steps``, with these evaluations, [S] by name."""
        ...

    def message(self, text: str) -> None:
        """Something to tell the user."""
        ...


class ProgressDisplay:
    """Shows steps done, rate, time left and how good the policy is, on stderr.

    A context manager. In a notebook one line is kept up to date; where stderr is no terminal
    otherwise (a log file) a line is printed every ``interval`` seconds at most, and at the end.
    """

    def __init__(
        self,
        total: int,
        runs: int = 1,
        *,
        enabled: bool = True,
        interval: float = 5.0,
        console: Console | None = None,
    ) -> None:
        """
        Args:
            total: environment steps of one run, at which it is done.
            runs: S, runs side by side; the rate counts the steps of all.
            enabled: if False, nothing is shown.
            interval: seconds between plain lines.
            console: where to show it.
        """
        self._total = total
        self._runs = runs
        self._enabled = enabled
        self._interval = interval
        self._console = Screen(stderr=True) if console is None else console
        self._began = time.monotonic()
        self._last_line = -np.inf  # seconds
        self._updates = 0
        self._seen: collections.deque[tuple[float, int]] = collections.deque(maxlen=16)
        self._line = _notebook_line() if enabled and console is None else None
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            self._bar = _bar(self._console, TextColumn("{task.description}", markup=False))
            self._task = self._bar.add_task("compiling", total=total, status="")

    def __enter__(self) -> ProgressDisplay:
        with _while_seen(self):
            if self._bar is not None:
                self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _while_seen(self):
            if self._bar is not None:
                self._bar.stop()

    def update(self, steps: int, evaluation: Mapping[str, np.ndarray]) -> None:
        """Show that each run stands at ``steps``, with these evaluations, [S] by name."""
        now = time.monotonic()
        # Between the first update and the second, the chunk is compiled: no rate from that.
        if self._updates > 0:
            self._seen.append((now, steps))
        self._updates += 1
        if not self._enabled:
            return
        done = steps >= self._total
        status = ", ".join(filter(None, (self._pace(now, steps), score(evaluation))))
        with _while_seen(self):
            if self._bar is not None:
                self._bar.update(self._task, completed=steps, description="training", status=status)
                self._bar.refresh()
            elif self._line is not None:
                self._line(f"{steps:,} of {self._total:,} steps, {status}")
            elif done or now - self._last_line >= self._interval:
                self._last_line = now
                _print(self._console, f"{steps:,} of {self._total:,} steps, {status}")

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._enabled:
            with _while_seen(self):
                _print(self._console, text)

    def _pace(self, now: float, steps: int) -> str:
        if steps >= self._total:
            return f"done in {duration(now - self._began)}"
        if len(self._seen) < 2:
            return ""
        (first, from_steps), (last, to_steps) = self._seen[0], self._seen[-1]
        if to_steps <= from_steps or last <= first:
            return ""
        rate = (to_steps - from_steps) / (last - first)
        left = duration((self._total - steps) / rate)
        return f"{rate * self._runs:,.0f} steps/s, {left} left"


class PlanDisplay:
    """Several runs, one after the other, under one bar with the time left, on stderr.

    A context manager. Each run shows itself through :meth:`piece`; its work is given in any
    unit that is about proportional to time. In a notebook one line is kept up to date; where
    stderr is no terminal otherwise a line is printed every ``interval`` seconds at most, and at
    the end of each piece.
    """

    def __init__(
        self,
        pieces: int,
        work: float,
        *,
        enabled: bool = True,
        interval: float = 30.0,
        console: Console | None = None,
    ) -> None:
        """
        Args:
            pieces: runs to do.
            work: of all of them.
            enabled: if False, nothing is shown.
            interval: seconds between plain lines within a piece.
            console: where to show it.
        """
        self._pieces, self._work = pieces, work
        self._enabled = enabled
        self._interval = interval
        self._console = Screen(stderr=True) if console is None else console
        self._begun, self._done = 0, 0.0
        self._began = self._last_line = time.monotonic()
        self._line = _notebook_line() if enabled and console is None else None
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task("", total=work, status="")

    def __enter__(self) -> PlanDisplay:
        with _while_seen(self):
            if self._bar is not None:
                self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        with _while_seen(self):
            if self._bar is not None:
                self._bar.stop()

    @contextlib.contextmanager
    def piece(self, name: str, steps: int, work: float) -> Iterator[Display]:
        """The display of one run of so many steps; leaving it counts the run's work as done."""
        self._begun += 1
        piece = _Piece(self, name, steps, work)
        piece.show(0.0, "")
        yield piece
        self._done += work
        piece.show(0.0, "done", line=True)

    def show(self, name: str, part: float, status: str, line: bool) -> None:
        """Show that ``part`` of the work of the piece ``name`` is done."""
        if not self._enabled:
            return
        now, done = time.monotonic(), self._done + part
        elapsed = now - self._began
        left = ""
        if 0 < done < self._work:
            left = f"about {duration(elapsed * (self._work - done) / done)} left"
        elif done:
            left = f"all done in {duration(elapsed)}"
        text = ", ".join(filter(None, (f"{self._begun} of {self._pieces}: {name}", status, left)))
        text = quoted(text)
        if self._bar is not None:
            with _while_seen(self):
                self._bar.update(self._task, completed=done, status=text)
                self._bar.refresh()
        elif self._line is not None:
            self._line(text)
        elif line or now - self._last_line >= self._interval:
            self._last_line = now
            self.message(text)

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._enabled:
            with _while_seen(self):
                _print(self._console, text)


class _Piece:
    """The :class:`Display` of one run within a plan."""

    def __init__(self, plan: PlanDisplay, name: str, steps: int, work: float) -> None:
        self._plan, self._name, self._steps, self._work = plan, name, max(1, steps), work

    def __enter__(self) -> _Piece:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def update(self, steps: int, evaluation: Mapping[str, np.ndarray]) -> None:
        part = min(1.0, steps / self._steps)
        self.show(part * self._work, f"{100 * part:.0f} %, {score(evaluation)}".rstrip(", "))

    def show(self, part: float, status: str, line: bool = False) -> None:
        self._plan.show(self._name, part, status, line)

    def message(self, text: str) -> None:
        self._plan.message(text)


@contextlib.contextmanager
def _while_seen(display: ProgressDisplay | PlanDisplay) -> Iterator[None]:
    """Ends a display whose terminal or reader has gone, and not the run."""
    try:
        yield
    except (OSError, SystemExit):  # rich's own console ends the process at a broken pipe
        display._enabled, display._bar = False, None


def _print(console: Console, text: str) -> None:
    console.print(quoted(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _bar(console: Console, *before: ProgressColumn) -> Progress:
    return Progress(
        *before,
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
        auto_refresh=False,  # a thread that draws ten times a second costs training 2 %
    )


def _notebook_line() -> Callable[[str], None] | None:
    """What shows a text in one line of a notebook's cell, each time in place of the last.

    None outside a kernel of IPython, which is not imported where it is not there already.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    handle: Any = None

    def show(text: str) -> None:
        nonlocal handle
        if handle is None:
            handle = ipython.display.display({"text/plain": text}, raw=True, display_id=True)
        else:
            handle.update({"text/plain": text}, raw=True)

    return show


def score(evaluation: Mapping[str, np.ndarray]) -> str:
    """The number to watch, the first of SCORES that there is; mean over S."""
    for name, shown in SCORES:
        if name in evaluation:
            return f"{shown} {float(np.mean(evaluation[name])):.4g}"
    return ""


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
