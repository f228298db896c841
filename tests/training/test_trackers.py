"""Metrics that leave a run: TensorBoard's file, read back, and a stand-in for Weights & Biases."""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxmec
from jaxmec.training import runner, trackers
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.trackers import TensorBoard, WandB
from jaxmec.training.trainer import History

CONFIG = TrainConfig(
    steps=24,
    num_envs=2,
    prefill=8,
    buffer_size=32,
    batch_size=4,
    updates_per_step=1,
    eval_every=8,
    eval_episodes=2,
)


def events(home: Path) -> list[Any]:
    """The events of all files of a directory, in the order of their writing."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(
        home.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns
    ):
        data = file.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            found.append(event)
            data = data[16 + length :]
    return found


def curve(home: Path, tag: str) -> list[tuple[int, float]]:
    """A scalar's points that hold: those after a file's start void what was there."""
    points: dict[int, float] = {}
    for event in events(home):
        if event.session_log.status == 1:  # START
            points = {step: value for step, value in points.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                points[event.step] = value.simple_value
    return sorted(points.items())


class Library(types.ModuleType):
    """Stands in for wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []

    def init(self, **options: Any) -> Any:
        run: dict[str, Any] = {"options": options, "points": [], "exit_code": None}
        self.runs.append(run)
        return types.SimpleNamespace(
            log=lambda metrics, step: run["points"].append((step, metrics)),
            finish=lambda exit_code: run.update(exit_code=exit_code),
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.mark.slow
def test_both_have_the_run_from_its_first_point_to_its_last_and_when_it_goes_on(
    counting: Any, walk: Any, walk_params: Any, wandb: Library, tmp_path: Path
) -> None:
    def run(steps: int, resume: bool = False) -> History:
        config = TrainConfig(**{**vars(CONFIG), "steps": steps})
        return runner.run(
            counting, walk, walk_params, config, (3, 5), directory=tmp_path, progress=False,
            resume=resume, trackers=[TensorBoard(), WandB("edge", "counting", {"a": 1})],
        ).history  # fmt: skip

    run(24)
    history = run(40, resume=True)
    expected = history.evaluation["return"].mean(axis=0)
    steps = history.env_steps[0].tolist()
    for tag, values in (
        ("evaluation/return", expected),
        ("seeds/return/5", history.evaluation["return"][1]),
    ):
        got = curve(tmp_path, tag)
        assert [step for step, _ in got] == steps
        np.testing.assert_allclose([value for _, value in got], values, rtol=1e-6)
    assert [step for step, _ in curve(tmp_path, "training/loss")] == steps[1:]

    first, second = wandb.runs
    assert first["options"]["project"] == "edge" and first["options"]["name"] == "counting"
    assert first["options"]["config"] == {"a": 1, "seeds": [3, 5]}
    assert first["options"]["id"] == second["options"]["id"]
    assert second["options"]["resume"] == "allow"
    assert [step for step, _ in first["points"] + second["points"]] == steps
    last = second["points"][-1][1]
    assert last["evaluation/return"] == pytest.approx(expected[-1])
    assert first["exit_code"] == second["exit_code"] == 0


def test_what_was_lost_by_a_crash_is_void(tmp_path: Path) -> None:
    one = TensorBoard()
    one.begin(tmp_path, (0,), -1)
    for step in (0, 8, 16):
        one.log(step, {"return": [1.0]}, {})
    one.end(True)
    one.begin(tmp_path, (0,), 8)
    one.log(16, {"return": [2.0]}, {})
    one.end(False)
    assert curve(tmp_path, "evaluation/return") == [(0, 1.0), (8, 1.0), (16, 2.0)]


def test_a_run_that_fails_is_ended_as_failed(wandb: Library) -> None:
    def run() -> None:
        with runner._tracking([WandB("edge", "counting", {})]) as tracked:
            tracked.begin(None, (0,), -1)
            tracked.log(8, {"return": [1 / 0]}, {})

    with pytest.raises(ZeroDivisionError):
        run()
    assert wandb.runs[0]["exit_code"] == 1 and wandb.runs[0]["options"]["dir"] is None


def test_numbers_that_are_not_finite_are_left_out() -> None:
    numbers = trackers.scalars((0, 1), {"return": [1.0, np.nan]}, {"loss": [np.inf, 1.0]})
    assert numbers == {"seeds/return/0": 1.0}


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [("tensorboardX", {"tensorboard": True}, "tensorboard"), ("wandb", {"wandb": "edge"}, "wandb")],
)
def test_without_the_library_the_extra_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, options: Any, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'jaxmec\[{extra}\]'"):
        jaxmec.train("dqn", directory=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_an_event_file_needs_a_place() -> None:
    with pytest.raises(ValueError, match="tensorboard needs directory"):
        jaxmec.train("dqn", tensorboard=True)
