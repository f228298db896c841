"""The load, the soak and the fuzzing of the service, small; and the examples."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("service", ROOT / "benchmarks" / "service.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_load_is_measured(benchmark, bundle, tmp_path):
    code = benchmark.main("load", bundle("top_k"), seconds=0.4, output=tmp_path)
    result = json.loads((tmp_path / "service_load.json").read_text())
    assert code == 0 and not result["failed"]
    assert [row["connections"] for row in result["results"]] == [1, 16, 64]
    assert all(row["statuses"].keys() == {"200"} for row in result["results"])


def test_memory_is_watched_over_reloads(benchmark, bundle, tmp_path):
    code = benchmark.main("soak", bundle("top_k"), seconds=3.0, output=tmp_path)
    result = json.loads((tmp_path / "service_soak.json").read_text())
    assert code == 0, result
    assert result["reloads"] >= 3 and len(result["memory_mb"]) == result["reloads"]


def test_hostile_requests_break_nothing(benchmark, bundle, tmp_path):
    code = benchmark.main("fuzz", bundle("top_k"), count=500, seed=11, output=tmp_path)
    result = json.loads((tmp_path / "service_fuzz.json").read_text())
    assert code == 0, result
    assert result["requests"] >= 500 and result["server_errors"] == result["traces"] == 0
    assert {"200", "400", "413", "422"} <= result["statuses"].keys()


def test_the_fuzzing_finds_a_server_that_breaks(benchmark, bundle, tmp_path, monkeypatch):
    """Against a service with a mistake in it the same requests fail the test."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import jaxmec.deploy.server as s\n"
        "def answer(self, asked): raise KeyError(asked)\n"
        "s.Service._answer = answer\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    code = benchmark.main("fuzz", bundle("top_k"), count=200, seed=11, output=tmp_path)
    assert code == 1
    assert json.loads((tmp_path / "service_fuzz.json").read_text())["server_errors"] > 0


def test_the_example_client_asks_what_any_policy_needs(benchmark, bundle):
    with benchmark.serving(bundle("top_k")) as (server, _):
        run = subprocess.run(
            [
                sys.executable,
                ROOT / "examples" / "ask.py",
                "--url",
                f"http://127.0.0.1:{server.port}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode == 0, run.stderr
    assert "5 servers, needs backlog" in run.stdout and "decided by policy" in run.stdout


def test_the_examples_name_what_is_there():
    """Flags, paths and extras in the Dockerfile and the systemd unit exist."""
    dockerfile = (ROOT / "examples" / "Dockerfile").read_text()
    unit = (ROOT / "examples" / "jaxmec.service").read_text()
    for line in dockerfile.splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    helped = subprocess.run(
        [sys.executable, "-m", "jaxmec", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for text in (dockerfile, unit):
        for word in text.replace('"', " ").replace(",", " ").split():
            if word in ("--host", "--port", "--token-file"):
                assert word in helped
    assert "jaxmec serve" in unit and '"jaxmec", "serve"' in dockerfile
