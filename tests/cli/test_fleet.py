"""`jaxmec fleet`: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import re

import pytest

from jaxmec import cli
from jaxmec.serving.presets import FLEETS, FOLDER


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def run(capsys, *words):
    code = cli.main(["fleet", *words])
    out, err = capsys.readouterr()
    return code, out, re.sub(r"\s+", " ", err)


def test_the_fleets_are_listed(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    for name in FLEETS:
        assert f" {name} " in out
    assert "0.8 requests/s" in out
    assert cli.main(["list", "fleets"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("name", FLEETS)
def test_each_fleet_can_be_shown(capsys, name):
    code, out, err = run(capsys, "show", name)
    assert code == 0 and not err
    assert max(map(len, out.splitlines())) <= 300
    variants = (
        ("XS", "S", "M", "L") if name == "edge-inpainting" else ("turbo", "standard", "large")
    )
    for word in ("cloud", *variants, "fast", "normal", "fine", "load 1"):
        assert word in out


def test_what_is_shown_of_genai_5(capsys):
    _, out, _ = run(capsys, "show", "genai-5")
    assert re.search(r"GTX 1070 +1 +0\.495 +0\.55 +1\.87 +8 +500", out)
    assert re.search(r"cloud +- +- +0\.0333 +inf", out)
    assert re.search(r"standard +4 +8 +0\.15 +0\.72 at 10, 0\.84 at 20, 0\.88 at 30", out)
    assert re.search(r"normal +50% +0\.7 +15", out)
    assert "0.8 requests/s of 2.6 images, standard at 20 steps" in out
    assert "heartbeat 2.0" in out and "cold_spread 0.7 to 1.3" in re.sub(r"\s+", " ", out)


def test_servers_that_are_alike_are_one_row(capsys):
    _, out, _ = run(capsys, "show", "prototype")
    assert re.search(r"Jetson Xavier NX +3 +0\.9 +1 +- +6 +400", out)


def test_a_good_file_is_told_in_short(capsys, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('like = "genai-5"\n[[server]]\ndevice = "T4"\nrate = 100\n')
    code, out, err = run(capsys, "check", str(path))
    assert code == 0 and not err
    assert "servers    1 and a cloud, stations at 1 of them" in out
    assert run(capsys, "show", str(path))[0] == 0


def test_a_bad_file_is_one_line(capsys, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('like = "genai-5"\n[[server]]\ndevice = "T4"\nrate = -1\n')
    for action in ("check", "show"):
        code, out, err = run(capsys, action, str(path))
        assert code == 1 and not out
        assert err.strip() == (f"jaxmec: {path}: server[0].rate must be a number above 0, got -1")


def test_how_wrong_words_end(capsys, tmp_path):
    code, _, err = run(capsys, "show", "genai-6")
    assert code == 2 and "did you mean 'genai-" in err
    code, _, err = run(capsys, "check", str(tmp_path / "none.toml"))
    assert code == 1 and "No such file or directory" in err
    code, _, err = run(capsys, "shwo")
    assert code == 2 and "did you mean 'show'" in err
    assert run(capsys)[0] == 2
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "check" in out


def test_drawing_writes_what_is_shipped(capsys, tmp_path):
    path = tmp_path / "drawn.toml"
    code, out, _ = run(capsys, "draw", "20", "--seed", "20", "--to", str(path))
    assert code == 0 and str(path) in out
    assert path.read_text() == (FOLDER / "genai-20.toml").read_text()
    code, _, _ = run(capsys, "draw", "3", "--to", str(path), "--devices", "T4", "i7")
    assert code == 0 and set(re.findall(r'device = "(.*)"', path.read_text())) <= {"T4", "i7"}
    code, _, err = run(capsys, "draw", "3", "--to", str(path), "--devices", "T5")
    assert code == 2 and "devices must be one of" in err


def test_a_trace_of_requests_is_made_and_checked(capsys, tmp_path):
    log, trace = tmp_path / "log.csv", tmp_path / "requests.csv"
    log.write_text("at,who\n0,a\n30,b\n60,a\n")
    words = ["--to", str(trace), "--column", "time=at:s", "--column", "origin=who"]
    code = cli.main(["trace", "requests", str(log), *words, "--from", "10"])
    out = capsys.readouterr().out
    assert code == 0 and "2 in 50 s" in out and "of fleet genai-5" in out
    assert cli.main(["trace", "check", str(trace)]) == 0
    assert capsys.readouterr().out == out
    small = tmp_path / "small.toml"
    small.write_text('like = "genai-5"\n[[server]]\ndevice = "T4"\nrate = 1\n')
    assert cli.main(["trace", "check", str(trace), "--preset", str(small)]) == 1
    assert "expected at most 0" in capsys.readouterr().err
