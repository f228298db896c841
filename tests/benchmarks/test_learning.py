"""The benchmarks of learning and of decisions, at a size that measures nothing."""

import importlib
import json

import pytest

WHAT = {
    "updates": "DSAC",
    "decisions": "NumPy",
    "training": "lad-ts",
    "hot_path": "whole update",
}


@pytest.mark.parametrize("name", WHAT)
def test_it_prints_a_table_and_keeps_what_it_measured(name, tmp_path, capsys):
    benchmark = importlib.import_module(name)
    output = tmp_path / "new" / f"{name}.json"
    benchmark.main(size="tiny", output=output)
    assert WHAT[name] in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert {"cpu", "cores", "load_average"} <= set(report["machine"])
    assert report["versions"]["jax"]
