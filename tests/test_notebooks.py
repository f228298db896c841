"""The notebooks: they run whole, show their figures, and are kept without outputs."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
FIGURES = {  # figures that each shows
    "quickstart": 1,
    "edge_scheduling": 3,
    "your_own_method": 2,
    "your_own_network": 2,
}
BADGE = re.compile(
    r"\[!\[Open In Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
    r"\(https://colab\.research\.google\.com/github/([\w-]+/[\w-]+)/blob/main/notebooks/(\S+)\)"
)
INSTALL = re.compile(r'%pip install --quiet "jaxmec\[[\w,]+\] @ git\+https://github\.com/(\S+)"')


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_kept_without_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    for number, cell in enumerate(notebook["cells"]):
        assert cell["metadata"] == {}, f"cell {number}"
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"cell {number}"
            assert cell["execution_count"] is None, f"cell {number}"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_badges_open_the_notebook_itself_and_install_from_where_it_lies():
    repositories = set()
    for name in FIGURES:
        text = "\n".join(cell.source for cell in read(name).cells)
        ((repository, file),) = BADGE.findall(text)
        assert file == f"{name}.ipynb"
        assert INSTALL.findall(text) == [repository]
        repositories.add(repository)
    assert len(repositories) == 1


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        *(pytest.param(n, marks=pytest.mark.slow) for n in FIGURES if n != "quickstart"),
    ],
)
def test_runs_whole(name, monkeypatch):
    monkeypatch.setenv("JAXMEC_NOTEBOOK_SIZE", "tiny")
    notebook = read(name)
    # An error in a cell is raised with the cell and its traceback.
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert sum("image/png" in out.get("data", ()) for out in outputs) == FIGURES[name]
    printed = "".join(out.text for out in outputs if out.get("name") == "stderr")
    assert "Warning" not in printed, printed


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
