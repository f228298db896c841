"""The cost of display and metrics is measured, at a size that says nothing."""

import json

import display
import pytest


@pytest.mark.slow
def test_each_way_of_watching_is_measured(tmp_path, capsys):
    display.main("tiny", tmp_path / "display.json")
    rows = json.loads((tmp_path / "display.json").read_text())["results"]
    assert [row["case"] for row in rows] == list(display.WAYS)
    assert rows[0]["wall_ratio"] == 1 and all(row["processors"] > 0 for row in rows)
    assert "and TensorBoard" in capsys.readouterr().out
