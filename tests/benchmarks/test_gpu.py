"""All that is measured on a card runs on a CPU too, at a size that measures nothing."""

import json

import gpu
import pytest

FIRST = ("checks", "seeds")


def run(only, tmp_path):
    output = tmp_path / "gpu.json"
    report = gpu.main(size="tiny", only=only, output=output, figure=tmp_path / "gpu")
    assert json.loads(output.read_text())["parts"].keys() == report["parts"].keys()
    failed = [row for rows in report["parts"].values() for row in rows if "failed" in row]
    assert not failed, failed
    return report


@pytest.mark.slow
def test_what_must_hold_holds_and_parts_add_up(tmp_path, capsys):
    run(FIRST[:1], tmp_path)
    report = run(FIRST[1:], tmp_path)
    assert set(report["parts"]) == set(FIRST)  # the first one was kept
    same, opened = report["parts"]["checks"]
    assert same["holds"] and opened["same_actions"] == 1
    assert "x" in capsys.readouterr().out


def test_a_part_that_fails_says_so_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(size):
        raise MemoryError("too much")

    monkeypatch.setitem(gpu.PARTS, "steps", broken)
    monkeypatch.setitem(gpu.PARTS, "servers", lambda size: [{"case": "fine", "per_second": 1.0}])
    report = gpu.main("tiny", ("steps", "servers"), tmp_path / "gpu.json", None)
    assert report["parts"]["steps"] == [{"case": "steps", "failed": "MemoryError: too much"}]
    assert "fine" in capsys.readouterr().out


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    report = run((), tmp_path)
    assert list(report["parts"]) == list(gpu.PARTS)
    assert (tmp_path / "gpu.svg").exists()
