"""What is installed at the edge: few files, and not one import of JAX."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edge_policies import visited
from packaging.requirements import Requirement

from jaxmec.deploy import onnx

ROOT = Path(__file__).parents[2]
EDGE = tomllib.loads((ROOT / "edge" / "pyproject.toml").read_text())["project"]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Only the distributions that are declared, and what those declare, can be imported. `ssl` and
# other parts of Python itself are no distributions.
ONLY = """
import importlib.abc, importlib.metadata, sys
from packaging.requirements import Requirement

def needed(name, extras, seen):
    if name in seen:
        return
    seen.add(name)
    try:
        texts = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed(requirement.name.lower().replace("_", "-"), requirement.extras, seen)

allowed = set()
for text in sys.argv[1].split(";"):
    if text:
        needed(Requirement(text).name.lower(), (), allowed)
owners = importlib.metadata.packages_distributions()

class Gate(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        owned = {owner.lower().replace("_", "-") for owner in owners.get(root, ())}
        if owned and root not in ("jaxmec", "packaging") and not owned & allowed:
            raise ModuleNotFoundError(f"No module named {name!r} at the edge", name=name)

for root in [name for name in sys.modules if name in owners and name != "packaging"]:
    del sys.modules[root]
sys.meta_path.insert(0, Gate())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel of jaxmec-edge holds."""
    folder = tmp_path_factory.mktemp("edge")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT / "edge", check=True,
                   capture_output=True, timeout=120)  # fmt: skip
    (wheel,) = folder.glob("jaxmec_edge-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def at_the_edge(installed, code, *arguments, extras=()):
    requirements = list(EDGE["dependencies"])
    for extra in extras:
        requirements += EDGE["optional-dependencies"][extra]
    names = ";".join(requirement.partition(";")[0].strip() for requirement in requirements)
    return subprocess.run(
        [sys.executable, "-c", ONLY + code, names, *map(str, arguments)],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_jax_cannot_be_imported_in_this_test(installed):
    """The gate of these tests closes: else they would prove nothing."""
    for name in ("jax", "flax", "orbax.checkpoint", "tyro", "onnx", "jaxmec.mec"):
        run = at_the_edge(installed, f"import {name}")
        assert run.returncode != 0
        assert "ModuleNotFoundError" in run.stderr
    run = at_the_edge(installed, "import numpy, onnxruntime, jaxmec; print(jaxmec.__file__)")
    assert run.stdout.strip() == str(installed / "jaxmec" / "__init__.py"), run.stderr


def plain(part):
    given = {name: value for name, value in vars(part).items() if value is not None}
    return {name: np.asarray(value).tolist() for name, value in given.items()}


def test_a_bundle_decides_the_same_at_the_edge(installed, bundle):
    path = bundle("subset")
    _, _, queues, tasks = visited("subset")
    asked = [(plain(entry), plain(task)) for entry, task in zip(queues, tasks, strict=True)]
    code = """
import json, sys
from jaxmec.deploy import onnx
from jaxmec.deploy.runtime import Queues, Task
scheduler = onnx.load(sys.argv[2])
answers = []
for queues, task in json.load(open(sys.argv[3])):
    decision = scheduler.decide(None, Queues(**queues), Task(**task))
    answers.append([decision.servers, decision.fractions.tolist()])
roots = {name.partition(".")[0] for name in sys.modules}
heavy = sorted(roots & {"jax", "jaxlib", "flax", "orbax"})
print(json.dumps([answers, heavy]))
"""
    file = installed.parent / "asked.json"
    file.write_text(json.dumps(asked))
    run = at_the_edge(installed, code, path, file)
    assert run.returncode == 0, run.stderr
    answers, heavy = json.loads(run.stdout)
    assert heavy == []
    scheduler = onnx.load(path)
    for (servers, fractions), wanted in zip(
        answers, scheduler.decide_many(None, queues, tasks), strict=True
    ):
        assert tuple(servers) == wanted.servers
        np.testing.assert_allclose(fractions, wanted.fractions, atol=1e-6)


def test_the_service_and_the_command_need_no_jax(installed, bundle):
    code = """
import sys
from jaxmec import cli
from jaxmec.deploy import client, server
server.Service(sys.argv[2])
assert cli.main(["--version"]) == 0
assert cli.main(["serve", "--help"]) == 0
assert cli.main(["serve", "nowhere"]) == 1
assert cli.main(["train", "dsac"]) == 1
assert cli.main(["export", ".", "--to", "there"]) == 1
"""
    run = at_the_edge(installed, code, bundle("top_k"), extras=["serve"])
    assert run.returncode == 0, run.stderr
    assert "there is no bundle" in run.stderr
    for command in ("train", "export"):
        assert f"'{command}' needs the whole of jaxmec; this is jaxmec-edge" in run.stderr
    assert "--max-body-bytes" in run.stdout


def test_the_two_distributions_agree(installed):
    """The same version, and for the same library the same range."""
    assert EDGE["version"] == WHOLE["version"] == importlib.metadata.version("jaxmec")
    ranges = {}
    for text in [
        *WHOLE["dependencies"],
        *WHOLE["optional-dependencies"]["edge"],
        *WHOLE["optional-dependencies"]["serve"],
    ]:
        requirement = Requirement(text)
        ranges[requirement.name] = requirement.specifier
    for text in [*EDGE["dependencies"], *EDGE["optional-dependencies"]["serve"]]:
        requirement = Requirement(text)
        assert requirement.specifier == ranges[requirement.name], text
    for file in (installed / "jaxmec").rglob("*.py"):
        original = ROOT / "jaxmec" / file.relative_to(installed / "jaxmec")
        assert file.read_bytes() == original.read_bytes()
