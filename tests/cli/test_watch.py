"""`jaxmec watch`: a run's standing, from the files that it writes."""

import fcntl
import io
import json
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from jaxmec import cli
from jaxmec.cli.commands import watch


def line(step, seconds, makespan, loss=None):
    return json.dumps(
        {
            "env_steps": step,
            "seconds": seconds,
            "evaluation": {"return": [-m for m in makespan], "makespan": makespan},
            "training": {} if loss is None else {"critic_loss": loss},
        }
    )


POINTS = [
    line(0, 20.0, [0.4, 0.4]),
    line(1000, 50.0, [0.3, 0.5], [3.0, 1.0]),  # compiled in between
    line(2000, 52.0, [0.3, 0.3], [1.0, 1.0]),
    line(3000, 54.0, [0.2, 0.3], [0.5, 0.1]),
]


@pytest.fixture
def home(tmp_path):
    (tmp_path / "lock").touch()
    about = {"steps": 10_000, "seeds": [0, 1], "method": "ddrl-amsa"}
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "metrics.jsonl").write_text("\n".join(POINTS) + "\n")
    return tmp_path


def shown(home, *flags, capsys):
    code = cli.main(["watch", str(home), *flags])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_run_that_stopped_says_all_and_how_to_go_on(home, capsys):
    code, out, _ = shown(home, capsys=capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{home}: ddrl-amsa, 2 seeds, stopped"
    # 500 steps a second of each of two seeds, the compiling left out.
    assert lines[1] == "3,000 of 10,000 steps (30 %), 1,000 steps/s"
    assert "--resume" in lines[2]
    # Student's t with one degree of freedom: 12.706 · 0.0707 / √2.
    assert lines[3] == "make-span  0.25  95 % -0.3853 to 0.8853 over 2 seeds"
    assert lines[4].split() == ["██▃▁", "0.25", "to", "0.4"]
    assert lines[-1] == "training   critic_loss 0.3"


def test_a_finished_run_says_how_long_it_took(home, capsys):
    with (home / "metrics.jsonl").open("a") as stream:
        stream.write(line(10_000, 200.0, [0.1, 0.1]) + "\n")
    _, out, _ = shown(home, capsys=capsys)
    assert "finished" in out and "10,000 of 10,000 steps (100 %)" in out
    assert "done in 3 min 20 s" in out and "--resume" not in out


def test_a_running_run_is_followed_until_it_ends(home):
    screen = Console(file=io.StringIO(), width=120)
    with (home / "lock").open() as lock, (home / "metrics.jsonl").open("a") as stream:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert watch.Standing.of(home).progress.endswith("14 s left")
        stream.write('{"env_steps": 4000, "sec')  # a line that is still being written
        stream.flush()
        assert watch.Standing.of(home).steps[-1] == 3000
        watch.follow(watch.Watch(home, once=True), screen)
        assert "running" in screen.file.getvalue()
        thread = threading.Thread(target=watch.follow, args=(watch.Watch(home, every=0.01), screen))
        thread.start()
        time.sleep(0.05)
        assert thread.is_alive()
        stream.write('onds": 56.0, "evaluation": {"return": [1, 1], "makespan": [1, 1]},')
        stream.write('"training": {}}\n')
        stream.flush()
        fcntl.flock(lock, fcntl.LOCK_UN)
        thread.join(10)
    assert not thread.is_alive()
    text = screen.file.getvalue()
    assert "4,000 of 10,000 steps (40 %)" in text and "stopped" in text


def test_ctrl_c_only_stops_watching(home, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with (home / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watch.follow(watch.Watch(home), screen)
    assert "30 %" in screen.file.getvalue()


def test_a_run_that_has_only_begun(home):
    (home / "metrics.jsonl").write_text("")
    (home / "run.json").unlink()
    assert watch.Standing.of(home).lines()[1] == "no points"


def test_what_a_run_starts_from_is_shown_until_it_has_begun_itself(home, capsys):
    run, first = home / "taught", home / "taught" / "start"
    first.mkdir(parents=True)
    for name in ("run.json", "metrics.jsonl"):
        (home / name).rename(first / name)
    code, out, _ = shown(run, capsys=capsys)
    assert code == 0
    assert out.startswith(f"{first}: ddrl-amsa, 2 seeds, stopped")
    assert "the first part of a run; to go on: the same command with --resume" in out
    (run / "metrics.jsonl").write_text(line(0, 1.0, [0.1, 0.1]) + "\n")
    assert shown(run, capsys=capsys)[1].startswith(f"{run}: a run")


def test_no_run_is_an_error(tmp_path, capsys):
    assert shown(tmp_path / "none", capsys=capsys)[0] == 2
    code, _, err = shown(tmp_path, capsys=capsys)
    assert code == 1 and "there is no run in" in err
    assert shown(tmp_path, "--every", "0", capsys=capsys)[0] == 2


JUNK = bytes(range(128, 256))


@pytest.mark.parametrize(
    "bad",
    [
        POINTS[3].replace(', "training": {"critic_loss": [0.5, 0.1]}', "").encode()[:-3],  # torn
        JUNK,
        b"[" * 100_000,
        b"[]",
        b"null",
        b"",
        b'{"env_steps": 1e999, "seconds": 1, "evaluation": {"return": [1, 1]}}',
        b'{"env_steps": 1, "seconds": 1, "evaluation": {"makespan": [1], "return": [1]}}',
        b'{"env_steps": 1, "seconds": 1, "evaluation": {"makespan": "x", "return": [1]}}',
        b'{"env_steps": 1, "seconds": 1, "evaluation": {}}',
    ],
)
def test_a_line_that_no_run_wrote_is_named_and_left_out(home, capsys, bad):
    file = home / "metrics.jsonl"
    text = file.read_bytes()
    file.write_bytes(
        text + bad + b"\n" + bad + b"\n" + line(4000, 56.0, [0.1, 0.1]).encode() + b"\n"
    )
    code, out, err = shown(home, capsys=capsys)
    assert (code, err) == (0, "")
    assert "4,000 of 10,000 steps" in out
    assert out.splitlines()[-1] == (f"{file}: line 5 and 1 more cannot be read and is left out")


def test_a_point_without_training_and_a_torn_last_line(home, capsys):
    file = home / "metrics.jsonl"
    point = json.loads(POINTS[3]) | {"env_steps": 4000}
    del point["training"]
    with file.open("a") as stream:
        stream.write(json.dumps(point) + "\n" + POINTS[3][:40])
    code, out, _ = shown(home, capsys=capsys)
    assert code == 0 and "4,000 of 10,000 steps" in out
    assert "critic_loss 0.3" in out
    assert f"{file}: line 6 cannot be read and is left out" in out


@pytest.mark.parametrize("bad", [b"", b'{"steps": 10', JUNK, b"[1]", b'{"steps": "many"}'])
def test_a_run_file_that_no_run_wrote_is_named(home, capsys, bad):
    (home / "run.json").write_bytes(bad)
    code, out, err = shown(home, capsys=capsys)
    assert (code, err) == (0, "")
    assert "3,000 steps" in out
    assert f"{home / 'run.json'}: this is not what a run writes" in out


def test_names_that_a_terminal_would_obey_are_quoted(home, capsys):
    text = (home / "metrics.jsonl").read_text()
    (home / "metrics.jsonl").write_text(text.replace("critic_loss", "lr[1]\\u001b[31m\\nloss"))
    about = {"steps": 10_000, "seeds": [0, 1], "method": "a\x1b]0;title\x07\nb[bold]"}
    (home / "run.json").write_text(json.dumps(about))
    _, out, _ = shown(home, capsys=capsys)
    assert "\x1b" not in out and "\x07" not in out
    assert r"a\x1b]0;title\x07\nb[bold], 2 seeds" in out
    assert r"lr[1]\x1b[31m\nloss 0.3" in out


def test_sparklines():
    assert watch.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█  0 to 7"
    assert watch.sparkline([0, 2, 4, 6], 2) == "▁█  1 to 5"
    assert watch.sparkline([5, 5], 9) == "▁▁  5 to 5"
    assert watch.sparkline([1, np.nan, 2], 9) == "▁ █  1 to 2"
    assert watch.sparkline([], 9) == watch.sparkline([np.nan], 9) == ""
