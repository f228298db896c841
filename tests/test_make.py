"""How tests are started: two Pythons side by side, and the newest that is promised."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = "{}.{}".format(*sys.version_info)
OTHER = "3.12" if VERSION != "3.12" else "3.13"


def environment(**changes):
    """Nothing that a `make test` around this one, or its tests, have set."""
    ours = ("MAKE", "MFLAGS", "PIP_CONSTRAINT", "PIP_BUILD", "PYTEST", "PYTHON", "JAX", "XLA")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | changes


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def planned(folder, *words):
    """What `make` would run in a folder."""
    command = ["make", "--dry-run", *words]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_two_pythons_live_side_by_side(checkout):
    default = f"PYTHON={sys.executable}"
    other = f"PYTHON={executable(checkout / 'other', f'echo {OTHER}')}"
    assert "-m venv .venv\n" in planned(checkout, "quick", default)
    (checkout / ".venv" / "lib" / f"python{VERSION}").mkdir(parents=True)
    for target in ("test", "quick", "run"):
        ours, beside = planned(checkout, target, default), planned(checkout, target, other)
        assert ".venv/bin/python" in ours and ".venv-" not in ours
        assert f".venv-{OTHER}/bin/python" in beside and ".venv/" not in beside
        assert "rm -rf" not in ours + beside


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_newest_of_everything_is_taken_without_pins(checkout):
    words = ["quick", f"PYTHON={sys.executable}", "VENV=newest"]
    assert "PIP_CONSTRAINT=constraints/cpu.txt " in planned(checkout, *words)
    text = planned(checkout, *words, "PINS=")
    assert "PIP_CONSTRAINT= " in text and "newest/bin/python -m pip" in text


@pytest.fixture
def machine(tmp_path):
    """A machine with the Pythons that a test gives it, and `make`, which notes what it is told."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    tools = tmp_path / "tools"
    executable(tools / "make", 'echo "make $*"; [ "$1" != "$FAILS" ]')
    for name in ("sh", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    executable(tools / "python3", "echo 3.11")

    def run(**changes):
        variables = {"PATH": str(tools), "PYENV_ROOT": str(tmp_path / "pyenv"), "FAILS": ""}
        return subprocess.run(
            [tmp_path / ".ci" / "run"],
            env=variables | {"CI": "true"} | changes,
            stdin=subprocess.DEVNULL, text=True, capture_output=True,
        )  # fmt: skip

    run.tools, run.pyenv = tools, tmp_path / "pyenv" / "versions"
    return run


def test_all_is_run_on_the_default_python_and_the_quick_part_on_the_newest_other(machine):
    executable(machine.tools / "python3.13", "exit 127")  # as pyenv's own command may
    executable(machine.tools / "python3.12", "echo 3.12")
    newest = executable(machine.pyenv / "3.13.0" / "bin" / "python", "echo 3.13")
    lines = machine().stdout.splitlines()
    assert lines[0] == "make test"
    assert lines[-1] == f"make quick PYTHON={newest}"
    default = {"PYTHON": str(newest)}  # then another is the newest other
    assert machine(**default).stdout.splitlines()[-1] == "make quick PYTHON=python3.12"


def test_where_there_is_no_other_python_it_is_said(machine):
    executable(machine.pyenv / "3.10.13" / "bin" / "python", "echo 3.10")
    done = machine()
    assert done.returncode == 0
    assert "make quick" not in done.stdout and "was not tried" in done.stdout


@pytest.mark.parametrize("failing", ["test", "quick"])
def test_what_fails_is_a_failure(machine, failing):
    executable(machine.tools / "python3.13", "echo 3.13")
    done = machine(FAILS=failing)
    assert done.returncode != 0
    assert ("make quick" in done.stdout) == (failing == "quick")


def interpreters():
    """The one that runs this, and the newest other one."""
    found = subprocess.run([ROOT / ".ci" / "other-python"], text=True, capture_output=True)
    return [sys.executable, *found.stdout.split()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("python", interpreters())
def test_what_pip_takes_today(python, tmp_path):
    """The newest of everything that pyproject.toml allows, in an environment of its own."""
    words = ["quick", f"PYTHON={python}", f"VENV={tmp_path / 'newest'}", "PINS="]
    done = subprocess.run(["make", *words], cwd=ROOT, env=environment(), text=True)
    assert done.returncode == 0
