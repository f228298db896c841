"""The notebooks: kept without output, and each runs from its first cell to its last."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("quickstart", "edge_scheduling", "your_own_method", "your_own_network")


def test_every_notebook_is_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kept_without_output_and_with_a_badge(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text) < 50_000
    cells = json.loads(text)["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert f"/blob/main/notebooks/{name}.ipynb" in "".join(cells[0]["source"])
    nbformat.validate(nbformat.reads(text, as_version=4))


@pytest.mark.parametrize("name", NAMES)
def test_the_extra_brings_what_colab_installs(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    wanted = re.findall(r"jaxmec\[([\w,]+)\] @ git", text)
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    brought = re.findall(r"jaxmec\[([\w,]+)\]", " ".join(extras["notebook"]))
    assert len(wanted) == len(brought) == 1
    assert set(wanted[0].split(",")) <= set(brought[0].split(","))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_the_first_cell_to_the_last(name, monkeypatch):
    monkeypatch.setenv("JAXMEC_NOTEBOOK_SIZE", "tiny")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": FOLDER}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr"
                and "Warning" in output["text"]]  # fmt: skip
