"""Learned policies are set beside the tuned rule, at a size that says nothing."""

import importlib

import pytest


@pytest.mark.slow
def test_cells_are_kept_and_make_the_table(tmp_path, capsys):
    benchmark = importlib.import_module("serving_learning")
    options = benchmark.Options(
        methods=("serving-es",), seeds=1, settings=("load 0.4, heartbeat 10 s",), size="tiny",
        out=tmp_path,
    )  # fmt: skip
    table = benchmark.main(options)
    rows = table["load 0.4, heartbeat 10 s"]
    assert set(rows) == {*benchmark.TUNED, "serving-es"}
    assert 0 <= rows["serving-es"][0]["sampled"]["served"] <= 1
    before = sorted((path, path.read_bytes()) for path in tmp_path.iterdir())
    assert len(before) == 3
    benchmark.main(options)
    assert sorted((path, path.read_bytes()) for path in tmp_path.iterdir()) == before
    assert "| serving-es | sampled | 1 |" in capsys.readouterr().out
