"""The progress display: a bar on a terminal, few plain lines elsewhere, nothing if unwanted."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jaxmec.core.terminal import Screen
from jaxmec.training import progress
from jaxmec.training.progress import ProgressDisplay


class Clock:
    """Stands in for ``time``."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def train(display: ProgressDisplay, clock: Clock) -> None:
    """1000 steps in 10 chunks: 30 s for the first, which is compiled, then 2 s for each."""
    with display:
        display.update(0, {"return": np.array([1.0, 3.0])})
        for chunk in range(1, 11):
            clock.now += 30 if chunk == 1 else 2
            display.update(100 * chunk, {"return": np.array([10.0, 20.0]) * chunk})


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_are_few_and_say_all(clock: Clock) -> None:
    screen = console(terminal=False)
    train(ProgressDisplay(1000, runs=4, console=screen), clock)
    assert text(screen).splitlines() == [
        "0 of 1,000 steps, return 2",
        "100 of 1,000 steps, return 15",
        "400 of 1,000 steps, 200 steps/s, 12 s left, return 60",
        "700 of 1,000 steps, 200 steps/s, 6 s left, return 105",
        "1,000 of 1,000 steps, done in 48 s, return 150",
    ]


def test_bar_on_a_terminal(clock: Clock) -> None:
    screen = console(terminal=True)
    train(ProgressDisplay(1000, runs=4, console=screen), clock)
    for part in ("compiling", "training", "━", "100%", "200 steps/s", "2 s left", "return 150"):
        assert part in text(screen)


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_if_disabled(clock: Clock, terminal: bool) -> None:
    screen = console(terminal)
    display = ProgressDisplay(1000, enabled=False, console=screen)
    train(display, clock)
    display.message("resuming")
    assert text(screen) == ""


def test_the_make_span_is_what_matters_where_there_is_one() -> None:
    assert progress.score({"return": [-30.0], "makespan": [1.0, 2.0]}) == "make-span 1.5"
    assert progress.score({"length": [3.0]}) == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


def test_a_plan_says_how_much_is_done_and_how_long_the_rest_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with progress.PlanDisplay(2, 40.0, console=console, interval=0.0) as plan:
        with plan.piece("first", steps=100, work=30.0) as display, display:
            now[0] = 30.0
            display.update(50, {"return": np.array([1.0, 3.0])})
        with plan.piece("second", steps=0, work=10.0):
            now[0] = 90.0
    lines = console.file.getvalue().splitlines()
    # Half of 30 in 30 s: the other 25 take 50 s.
    assert "1 of 2: first, 50 %, return 2, about 50 s left" in lines
    assert "1 of 2: first, done, about 10 s left" in lines
    assert lines[-1] == "2 of 2: second, done, all done in 1 min 30 s"


def test_a_plan_is_a_bar_on_a_terminal_and_silent_where_it_is_not_wanted():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress.PlanDisplay(1, 1.0, console=console) as plan, plan.piece("only", 10, 1.0):
        plan.message("a word")
    text = console.file.getvalue()
    assert "1 of 1: only" in text and "100%" in text and "a word" in text
    silent = Console(file=io.StringIO(), width=120)
    with (
        progress.PlanDisplay(1, 1.0, enabled=False, console=silent) as plan,
        plan.piece("only", 10, 1.0),
    ):
        plan.message("a word")
    assert silent.file.getvalue() == ""


class Notebook(types.ModuleType):
    """Stands in for IPython with its kernel, or without."""

    def __init__(self, kernel: bool) -> None:
        super().__init__("IPython")
        self.lines: list[list[str]] = []
        self.get_ipython = lambda: types.SimpleNamespace(kernel=object() if kernel else None)

        def display(data: dict[str, str], raw: bool, display_id: bool) -> Any:
            assert raw and display_id
            self.lines.append([data["text/plain"]])
            return types.SimpleNamespace(
                update=lambda data, raw: self.lines[-1].append(data["text/plain"])
            )

        self.display = types.SimpleNamespace(display=display)


def test_in_a_notebook_one_line_is_kept_up_to_date(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    train(ProgressDisplay(1000, runs=4), clock)
    (updates,) = notebook.lines
    assert updates[0] == "0 of 1,000 steps, return 2" and len(updates) == 11
    assert updates[-1] == "1,000 of 1,000 steps, done in 48 s, return 150"
    with progress.PlanDisplay(1, 1.0) as plan, plan.piece("only", 10, 1.0):
        pass
    assert notebook.lines[1][-1].startswith("1 of 1: only, done")
    train(ProgressDisplay(1000, enabled=False), clock)
    assert len(notebook.lines) == 2 and capsys.readouterr().err == ""


def test_ipython_without_a_kernel_is_no_notebook(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(kernel=False)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    train(ProgressDisplay(1000, runs=4), clock)
    assert notebook.lines == [] and "done in 48 s" in capsys.readouterr().err


def test_names_are_quoted_and_markup_is_none(clock: Clock) -> None:
    nasty, shown = "lr[1][bold]\x1b[31m\nx", r"lr[1][bold]\x1b[31m\nx"
    for terminal in (False, True):
        screen = console(terminal)
        with ProgressDisplay(10, console=screen) as display:
            display.message(nasty)
        with progress.PlanDisplay(1, 1.0, console=screen) as plan, plan.piece(nasty, 10, 1.0):
            pass
        assert text(screen).count(shown) >= 2
        assert "\x1b[31m" not in text(screen)


class Gone(io.StringIO):
    """A terminal that is no longer there, or a reader that has left."""

    def __init__(self, error: type[OSError]) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error("gone")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", [OSError, BrokenPipeError])
def test_a_display_that_nobody_sees_ends_no_run(
    clock: Clock, terminal: bool, error: type[OSError]
) -> None:
    screen = Screen(file=Gone(error), force_terminal=terminal, width=120)
    train(ProgressDisplay(1000, console=screen), clock)
    with progress.PlanDisplay(1, 1.0, console=screen) as plan, plan.piece("a", 10, 1.0) as piece:
        piece.update(5, {})
        piece.message("b")
