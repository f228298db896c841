"""The script that runs all studies: its jobs share out the cells."""

import importlib.util
import sys
from pathlib import Path

import pytest

from jaxmec.studies.catalogue import STUDIES, find_study

SCRIPT = Path(__file__).parents[2] / "train" / "reproduction.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not installed")


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_reproduction", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_missing_cells_are_handed_out_once_the_largest_first(script, tmp_path, monkeypatch):
    plans = [find_study(name, "short") for name in STUDIES]
    cells = {cell.folder: cell for plan in plans for cell in plan.cells}
    order = script.in_turn(plans, tmp_path)
    assert sorted(order) == sorted(cells)
    work = [cells[folder].work for folder in order]
    assert work == sorted(work, reverse=True)
    monkeypatch.setattr(script.study, "is_finished", lambda out, cell: cell.folder == order[0])
    assert script.in_turn(plans, tmp_path) == order[1:]


WORKER = """
import pathlib, sys, time
out, lazy = pathlib.Path(sys.argv[1]), sys.argv[2] == "lazy"
while True:
    print("next", flush=True)
    folder = sys.stdin.readline().strip()
    if not folder:
        break
    if folder == "bad":
        print("it diverged", flush=True)
        sys.exit(3)
    time.sleep(0.5 if lazy else 0.05)
    with open(out / folder, "a") as file:
        file.write(str(lazy))
"""


def test_a_job_that_is_done_early_takes_what_is_left(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "worker.py").write_text(WORKER)
    started = []

    def popen(command, **given):
        kind = "quick" if started else "lazy"
        command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path), kind]
        started.append(subprocess_popen(command, **given))
        return started[-1]

    subprocess_popen = script.subprocess.Popen
    monkeypatch.setattr(script.compilation, "known_flags", list)  # tried in processes of their own
    monkeypatch.setattr(script.subprocess, "Popen", popen)
    folders = [f"cell{i}" for i in range(8)]
    monkeypatch.setattr(script, "in_turn", lambda plans, out: folders)
    script.side_by_side(script.Options(jobs=2, out=tmp_path, progress=False), [])
    by_whom = [(tmp_path / folder).read_text() for folder in folders]  # each was done once
    assert by_whom.count("False") > by_whom.count("True") > 0
    monkeypatch.setattr(script, "in_turn", lambda plans, out: ["bad"])
    with pytest.raises(SystemExit) as stopped:
        script.side_by_side(script.Options(jobs=2, out=tmp_path, progress=False), [])
    assert stopped.value.code == 3
    assert "it diverged" in capsys.readouterr().out
