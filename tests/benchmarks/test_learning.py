"""Updates, decisions, training and the hot path are measured, at a size that says nothing."""

import importlib
import json
import sys
from pathlib import Path

import pytest

WHAT = {
    "updates": "DSAC",
    "decisions": "NumPy",
    "training": "lad-ts",
    "hot_path": "whole update",
    "peers": "SAC on CartPole: jaxmec",
    "scaling": "seeds    2",
}


LONG = ("decisions", "training", "scaling", "peers", "hot_path")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in WHAT]
)
def test_it_prints_a_table_and_keeps_what_it_measured(name, tmp_path, capsys):
    benchmark = importlib.import_module(name)
    output = tmp_path / "new" / f"{name}.json"
    benchmark.main(size="tiny", output=output)
    assert WHAT[name] in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert {"cpu", "cores", "load_average"} <= set(report["machine"])
    assert report["versions"]["jax"]


@pytest.mark.slow
def test_one_table_has_all_parts(tmp_path, capsys):
    run = importlib.import_module("run")
    run.main(size="tiny", only=("decisions",), output=tmp_path)
    printed = capsys.readouterr().out
    assert "beside what" in printed and "cost in B: water-filling" in printed
    assert (tmp_path / "decisions.json").exists()
    with pytest.raises(ValueError, match=r"only must name parts .* got 'nothing'"):
        run.main(only=("nothing",))


def test_a_peer_that_cannot_start_is_an_error_and_no_wait():
    """This interpreter has no rejax."""
    peers = importlib.import_module("peers")
    with pytest.raises(RuntimeError, match="rejax ended with exit code 1"):
        peers.Rejax(Path(sys.executable), "sac", peers.SIZES["tiny"].config)
