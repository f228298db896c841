"""Imports go one way, and importing costs no backend and no plotting."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def python(code: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that sees the package lying in ``cwd``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_imports_go_one_way():
    lint = python(LINT)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    assert "0 broken" in lint.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mec/network.py", "from jaxmec.envs import make"),
        ("networks/mlp.py", "from jaxmec.mec import Task"),
        ("agents/dqn.py", "from jaxmec.agents.sac import SAC"),
        ("agents/losses.py", "from jaxmec.mec import Task"),
        ("training/off_policy.py", "from jaxmec.agents import DQN"),
        ("training/replay.py", "from jaxmec.envs import make"),
        ("experiment.py", "from jaxmec.cli import main"),
        ("selection.py", "from jaxmec import train"),  # by way of the package's __init__
        ("solvers/bounds.py", "import jaxmec_testbed.painter"),
        ("nowhere.py", ""),  # a new module without a place in the layers
    ],
)
def test_wrong_import_is_found(tmp_path, module, line):
    for package in ("jaxmec", "jaxmec_testbed"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "jaxmec" / module).open("a") as file:
        file.write(f"\n{line}\n")
    lint = python(LINT, cwd=tmp_path)
    assert lint.returncode == 1, lint.stdout + lint.stderr
    assert "1 broken" in lint.stdout or "2 broken" in lint.stdout


def test_import_starts_no_backend_and_loads_no_matplotlib():
    """A user may still choose devices, or join other hosts, after the import."""
    code = """if True:
        import importlib, sys
        for part in ("", ".agents", ".cli", ".mec", ".methods", ".networks", ".plots", ".training"):
            importlib.import_module("jaxmec" + part)
            assert "matplotlib" not in sys.modules, f"jaxmec{part} loads matplotlib"
    """
    run = python(code, JAX_PLATFORMS="no_such_platform")  # starting a backend is an error
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_command_keeps_its_programs_in_the_users_cache_unless_told_otherwise(tmp_path):
    code = """if True:
        import os
        from jaxmec import cli
        cli.main(["evaluate", "no-such-scheduler"])
        print("at", os.environ["JAX_COMPILATION_CACHE_DIR"])
        import jax
        print("at", jax.config.jax_compilation_cache_dir)
    """
    without = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path)}
    for given, expected in ((without, tmp_path / "jaxmec" / "programs"), (
        {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}, tmp_path / "own",
    )):  # fmt: skip
        run = python(code, **given)
        assert run.returncode == 0, run.stderr
        for line in run.stdout.splitlines():
            assert line.startswith(f"at {expected}")
