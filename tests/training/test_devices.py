"""Several devices, and several processes, learn what one does; their checkpoints are one's."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmec import cli
from jaxmec.cli import errors
from jaxmec.training import devices
from jaxmec.training.off_policy import TrainConfig

HERE = Path(__file__).parent


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu"} | changes


def run_on_eight(directory: Path, *cases: str) -> None:
    command = [sys.executable, str(HERE / "many_devices.py"), str(directory), *cases]
    subprocess.run(command, env=environment(JAX_NUM_CPU_DEVICES="8"), check=True, timeout=500)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_all(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Return code, stdout and stderr of processes that run at once."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=environment(), **pipes) for command in commands]
    try:
        ended = [process.communicate(timeout=200) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_eight_devices_learn_what_one_does(tmp_path: Path) -> None:
    run_on_eight(tmp_path, "refused", "walk")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["dqn", "n_step", "dsac", "ddrl_amsa", "mlp_pathwise", "mlp_cloned"]
)
def test_every_kind_of_agent_does(tmp_path: Path, case: str) -> None:
    run_on_eight(tmp_path, case)


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(tmp_path: Path) -> None:
    port = str(free_port())
    script = [sys.executable, str(HERE / "several_processes.py")]
    ended = start_all([[*script, port, "2", i, str(tmp_path / "two"), "24"] for i in "01"])
    assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2, ended
    for _, said, _ in ended:
        assert "stopped at 24 of 40 steps; saved in" in said
    assert " of 40 steps" in ended[0][2] and "steps" not in ended[1][2]
    saved = tmp_path / "two" / "checkpoints"
    assert sorted(path.name for path in saved.iterdir()) == ["step_000000008", "step_000000024"]
    assert [line["env_steps"] for line in lines(tmp_path / "two")] == [8, 16, 24]

    start = runpy.run_path(str(HERE / "several_processes.py"))["start"]
    resumed = start(tmp_path / "two", resume=True, progress=False)
    alone = start(tmp_path / "one", progress=False)
    np.testing.assert_array_equal(
        resumed.state.replay.items.action, alone.state.replay.items.action
    )
    np.testing.assert_allclose(resumed.state.learner.dice, alone.state.learner.dice)
    np.testing.assert_allclose(resumed.state.learner.weight, alone.state.learner.weight, rtol=1e-5)
    for one, other in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        for name, value in one["evaluation"].items():
            assert value == pytest.approx(other["evaluation"][name], rel=1e-4)


@pytest.mark.slow
def test_the_command_line_in_two_processes(tmp_path: Path) -> None:
    def command(*more: str) -> list[str]:
        sizes = "--steps 128 --num-envs 8 --prefill 32 --buffer-size 64 --batch-size 8"
        sizes += " --updates-per-step 1 --eval-every 32 --eval-episodes 2 --agent.hidden 8"
        return [sys.executable, "-m", "jaxmec", "train", "dqn", *sizes.split(), *more]

    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    two = ["--out", str(tmp_path / "two"), *together]
    ended = start_all([command(*two, "--process-id", i) for i in "01"])
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "policy: " in ended[0][1] and ended[1][1] == ""
    assert (tmp_path / "two" / "policy").is_dir()
    ((code, _, said),) = start_all([command("--out", str(tmp_path / "one"))])
    assert code == 0, said
    for one, other in zip(lines(tmp_path / "two")[1:], lines(tmp_path / "one")[1:], strict=True):
        for name in ("critic_loss", "q", "critic_gradient_norm"):
            assert one["training"][name] == pytest.approx(other["training"][name], rel=1e-3)


def test_another_process_that_fails_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "agree", lambda *values: (1,))
    with pytest.raises(RuntimeError, match="another process failed"), devices.together():
        pass
    with pytest.raises(KeyError), devices.together():
        raise KeyError


@pytest.mark.parametrize("value", [0, -1, True, "two", 1.0])
def test_devices_are_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=f"devices must be 'all' or a whole .* 1, got {value!r}"):
        devices.place(value, 1, TrainConfig())


def test_no_more_devices_than_there_are() -> None:
    reason = "devices is 4096; expected at most .*JAX_NUM_CPU_DEVICES=4096"
    with pytest.raises(ValueError, match=reason):
        devices.place(4096, 1, TrainConfig())


def test_who_the_others_are_is_said_whole_or_not_at_all(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", unknown)
    with pytest.raises(ValueError, match="process_id is None; expected all of"):
        devices.connect("127.0.0.1:1", 2)
    assert cli.main(["train", "dqn", "--coordinator", "127.0.0.1:1"]) == errors.EXIT_USAGE
    assert "processes is None" in capsys.readouterr().err
    assert cli.main(["train", "dqn", "--processes", "two"]) == errors.EXIT_USAGE
    assert "two" in (said := capsys.readouterr().err) and "processes" in said
    assert cli.main(["train", "dqn", "--distributed"]) == errors.EXIT_FAILED
    assert "no launcher that JAX knows" in capsys.readouterr().err
