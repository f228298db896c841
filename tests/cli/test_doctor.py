"""What `jaxmec doctor` finds, and that it finds it where things are missing."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from jaxmec import cli
from jaxmec.cli.commands import doctor


def findings(report):
    return {found.name: found for found in (*report.required, *report.extras)}


def test_all_is_well_here(capsys, tmp_path, monkeypatch):
    (tmp_path / "program").write_bytes(bytes(1_500_000))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}: 1 files, 1.5 MB" in out and "x cpu" in out
    for name in ("python", "jax", "flax", "optax", "orbax-checkpoint", "gymnax"):
        assert any(line.split()[0] == name for line in out.splitlines())
    assert "to do" not in out


def test_what_is_missing_old_or_broken_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: (
            [
                "numpy>=2.0",
                "six>=999,<1000",
                "no-such-thing[all]>=1; python_version >= '3'",
                "chex>=0.1",
                "rich>=14; extra == 'good'",
                "jaxmec[good,bad]; extra == 'both'",
                "no-other-thing>=2; extra == 'bad'",
                "six>=999; extra == 'old'",
                "no-other-thing; (sys_platform == 'plan9') and extra == 'elsewhere'",
            ]
            if name == "jaxmec"
            else []
        ),
    )
    monkeypatch.setitem(sys.modules, "chex", None)
    report = doctor.examine(tmp_path / "none")
    found = findings(report)
    assert not found["numpy"].remedy
    assert (
        found["six"].remedy == "pip install 'six>=999,<1000'" and "not >=999" in found["six"].says
    )
    assert found["no-such-thing"].remedy == "pip install 'no-such-thing>=1'"
    assert "cannot be imported" in found["chex"].says and "force-reinstall" in found["chex"].remedy
    assert [broken.name for broken in report.broken] == ["six", "no-such-thing", "chex"]
    assert found["good"].says == found["elsewhere"].says == "installed"
    for extra, missing in (
        ("bad", "no-other-thing"),
        ("both", "no-other-thing"),
        ("old", "six>=999"),
    ):
        assert found[extra].says == f"pip install 'jaxmec[{extra}]'  (not here: {missing})"
    assert "0 files" in report.programs.says


def test_without_jax_it_says_so_and_does_not_fall_over(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('no JAX for this machine')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = subprocess.run(
        [sys.executable, "-m", "jaxmec", "doctor"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    assert "cannot be imported: no JAX for this machine" in process.stdout
    assert "devices: repair jax" in process.stdout


def test_jaxmec_that_is_not_installed_is_a_finding(tmp_path, monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert [found.name for found in doctor.examine(tmp_path).broken] == ["jaxmec"]


@pytest.mark.parametrize(("version", "fits"), [((3, 10), False), ((3, 13), True), ((3, 14), False)])
def test_the_python_must_be_one_that_is_supported(monkeypatch, version, fits):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert (doctor._python().remedy == "") == fits


def test_at_the_edge_jax_is_not_missed(tmp_path, monkeypatch):
    def requires(name):
        if name != doctor.EDGE:
            raise importlib.metadata.PackageNotFoundError(name)
        return ["numpy>=2.0"]

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1")
    monkeypatch.setitem(sys.modules, "jax", None)
    report = doctor.examine(tmp_path)
    assert not report.broken and "jaxmec-edge" in findings(report)
