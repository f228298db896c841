"""Seeds one part after the other are those seeds, and resume; how many fit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxmec import cli
from jaxmec.cli.commands import watch
from jaxmec.deploy.export import training_summary
from jaxmec.training import checkpoint, memory, parts, runner
from jaxmec.training.devices import Placement
from jaxmec.training.off_policy import TrainConfig

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


@pytest.fixture
def given(counting: Any, walk: Any, walk_params: Any) -> Any:
    return counting, walk, walk_params, CONFIG


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_parts_are_the_seeds_and_resume(given: Any, tmp_path: Path) -> None:
    class Stopping:
        """Stops the run in its second part."""

        begun = 0

        def __enter__(self) -> Stopping:
            self.begun += 1
            return self

        def __exit__(self, *error: Any) -> None:
            return None

        def update(self, steps: int, evaluation: Any) -> None:
            if (self.begun, steps) == (2, 16):
                os.kill(os.getpid(), signal.SIGTERM)

        def message(self, text: str) -> None:
            return None

    how: dict[str, Any] = {"directory": tmp_path, "seeds_at_once": 2}
    with pytest.raises(runner.Interrupted, match="seeds_2_to_3"):
        parts.run(*given, 4, progress=Stopping(), **how)
    assert not (tmp_path / "metrics.jsonl").exists()
    shown, _ = watch._where_points_are(tmp_path)
    assert shown == tmp_path / "seeds_2_to_3"
    text = "\n".join(watch.Standing.of(shown).lines())
    assert "2 seeds, stopped" in text and f"a part of {tmp_path}" in text
    with pytest.raises(FileExistsError, match="run in parts"):
        parts.run(*given, 4, **how)
    with pytest.raises(ValueError, match="seeds_at_once is 3; expected 2"):
        parts.run(*given, 4, directory=tmp_path, seeds_at_once=3, resume=True)
    result = parts.run(*given, 4, progress=False, directory=tmp_path, resume=True)
    assert json.loads((tmp_path / "parts.json").read_text()) == {"seeds_at_once": 2}
    assert result.seeds == (0, 1, 2, 3)
    assert result.history.env_steps.shape == (4, CONFIG.num_points)
    take = lambda tree, rows: jax.tree.map(lambda leaf: leaf[rows], tree)  # noqa: E731
    alone, rows = runner.run(*given, [2, 3], progress=False), slice(2, 4)
    assert_equal(take(result.state.learner, rows), alone.state.learner)
    assert_equal(take(result.history, rows), alone.history)
    # At its end the run has what one of all seeds at once has.
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines] == result.history.env_steps[0].tolist()
    for name, values in result.history.evaluation.items():
        np.testing.assert_allclose([line["evaluation"][name] for line in lines], values.T)
    summed = [training_summary(tmp_path / f"seeds_{part}")["seconds"] for part in PARTS]
    summary = training_summary(tmp_path)
    assert summary["seconds"] == pytest.approx(sum(summed))
    assert len(summary["evaluation"]["return"]) == 4
    assert json.loads((tmp_path / "run.json").read_text())["seeds"] == [0, 1, 2, 3]
    standing = watch.Standing.of(watch._where_points_are(tmp_path)[0])
    assert standing.finished and "4 seeds, finished" in standing.lines()[0]
    (tmp_path / "metrics.jsonl").unlink()  # as runs in parts were left before
    assert training_summary(tmp_path) == summary


PARTS = ("0_to_1", "2_to_3")


def test_a_run_in_parts_is_held_by_one_process(given: Any, tmp_path: Path) -> None:
    with (
        runner.locked(tmp_path),
        pytest.raises(RuntimeError, match="another process is working on"),
    ):
        parts.run(*given, 4, seeds_at_once=2, directory=tmp_path, progress=False)


def test_a_run_begun_in_one_is_not_gone_on_with_in_parts(given: Any, tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointMissing, match="nothing to resume"):
        parts.run(*given, 4, seeds_at_once=2, directory=tmp_path, resume=True)
    (tmp_path / "checkpoints" / "step_000000008").mkdir(parents=True)
    with pytest.raises(ValueError, match="seeds_at_once is 2; expected None"):
        parts.run(*given, 4, seeds_at_once=2, directory=tmp_path, resume=True)
    assert parts._width("auto", 4, None, tmp_path) == 4


@pytest.mark.parametrize("value", [0, -1, True, "some", 1.5])
def test_seeds_at_once_is_checked(given: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=f"seeds_at_once must be .*, got {value!r}"):
        parts.run(*given, 4, seeds_at_once=value)


def test_as_many_as_the_memory_holds(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    one = runner.bytes_of_one(*given)
    begin = runner._Programs(*given[:2], CONFIG, False).begin
    state = jax.eval_shape(begin, given[2], (), keys(1))
    assert one > memory.size(state)
    monkeypatch.setattr(memory, "limit", lambda: int(2.5 * one / parts.SHARE))

    def count(*arguments: Any, **options: Any) -> Any:
        widths.append(len(arguments[4]))
        raise KeyError

    monkeypatch.setattr(runner, "run", count)
    with pytest.raises(KeyError):
        parts.run(*given, 5, seeds_at_once="auto")
    assert widths == [2]  # 2, 2 and 1


def test_what_fits() -> None:
    assert parts.fitting(100, 1000, 20, 1) == 8
    assert parts.fitting(100, 1000, 5, 1) == 5
    assert parts.fitting(5000, 1000, 5, 1) == 1  # one is tried, whatever it takes
    assert parts.fitting(300, 1000, 8, 4) == 8
    assert parts.fitting(300, 1000, 16, 4) == 8  # 10 would fit; 8 are shared out evenly
    assert memory.limit() > 10**6


def keys(count: int) -> Any:
    return jax.random.split(jax.random.key(0), count)


def test_memory_is_told_by_part(given: Any) -> None:
    program = runner._Programs(*given[:2], CONFIG, False)
    state = program.begin(given[2], (), keys(3))
    plain = memory._keys_as_data(state)
    assert memory.size(state) == sum(leaf.nbytes for leaf in jax.tree.leaves(plain))
    replay = sum(leaf.nbytes for leaf in jax.tree.leaves(plain.replay))
    assert memory.by_part(state)["replay"] == replay
    line = memory.described(state, 3, Placement())
    assert "for 3 seeds" in line and f"replay {memory.bytes_in_words(replay)}" in line
    assert [memory.bytes_in_words(n) for n in (512, 4.1e6, 2e10)] == ["512 B", "4.1 MB", "20 GB"]


@pytest.mark.slow
def test_the_command_line_keeps_a_policy_of_all_parts(tmp_path: Path, capsys: Any) -> None:
    sizes = "--steps 96 --num-envs 4 --prefill 32 --buffer-size 64 --batch-size 8 --eval-every 32"
    words = ["train", "dqn", "--out", str(tmp_path), "--seeds", "3", *sizes.split()]
    words += ["--eval-episodes", "2", "--agent.hidden", "8", "--seeds-at-once", "2"]
    assert cli.main(words) == cli.EXIT_OK
    said = capsys.readouterr()
    assert "for 2 seeds" in said.err and "policy: " in said.out
    assert {path.name for path in tmp_path.iterdir()} == {
        "parts.json", "policy", "seeds_0_to_1", "seeds_2_to_2", "metrics.jsonl", "run.json", "lock"
    }  # fmt: skip
    (printed,) = (w.split(": ")[1] for w in said.out.splitlines() if w.startswith("metrics: "))
    assert Path(printed).exists()
    assert cli.main([*words, "--resume"]) == cli.EXIT_OK
    assert cli.main(["evaluate", str(tmp_path), "--episodes", "2"]) == cli.EXIT_OK


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"seeds_at_once": 0}'])
def test_a_description_of_parts_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "parts.json").write_text(content)
    with pytest.raises(checkpoint.CheckpointCorrupt, match=r"damaged run: .*parts\.json"):
        parts._begun(tmp_path)
