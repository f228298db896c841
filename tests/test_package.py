"""What people install: the wheel, its metadata, its dependencies and their pins."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jaxmec

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    name: (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    for name in ("cpu", "gpu", "peers")
}
PACKAGES = ("jaxmec", "jaxmec_testbed")
# Whose module is imported, where it is not installed and has another name.
ABSENT = {"skimage": "scikit-image"}
# What a module may import beyond the dependencies, and the extra that brings it.
OPTIONAL = {
    "cluster.py": ("cluster",),
    **dict.fromkeys(
        ("curves.py", "decisions.py", "policies.py", "films.py", "style.py"), ("plot",)
    ),
    "diffusers_painter.py": ("peers",),  # who brings a pipeline, brings PyTorch
    "graph.py": ("onnx",),
    "gymnasium.py": ("plot",),
    **dict.fromkeys(("cartpole.py", "offloading.py", "serving.py"), ("plot",)),  # types alone
    "compare.py": ("plot",),
    **dict.fromkeys(("node.py", "wire.py"), ("serve",)),  # which the extra testbed contains
    "results.py": ("plot",),
    "onnx.py": ("edge",),
    "server.py": ("serve",),
    "reading.py": ("parquet",),
    "trackers.py": ("tensorboard", "wandb"),
}


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    """The output of a fresh interpreter, which must succeed."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    run("-c", build, str(folder), cwd=ROOT)
    return next(folder.glob("jaxmec-*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        *PACKAGES,
        f"jaxmec-{PROJECT['version']}.dist-info",
    }
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "jaxmec").rglob("*.py")}
    fleets = (ROOT / "jaxmec" / "serving").rglob("*.toml")
    data = {"jaxmec/py.typed", "jaxmec/cli/index.json"}
    data |= {path.relative_to(ROOT).as_posix() for path in fleets}
    assert sources | data == {name for name in names if name.startswith("jaxmec/")}
    weights = (ROOT / "jaxmec_testbed" / "weights").iterdir()
    assert {path.relative_to(ROOT).as_posix() for path in weights} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_works_outside_the_repository(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = """if True:
        import jax, jaxmec
        env, params = jaxmec.make("CartPole-v1")
        observation, state = env.reset(jax.random.key(0), params)
        print(jaxmec.__file__, observation.shape)
    """
    output = run("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path), JAX_PLATFORMS="cpu")
    assert output.split(maxsplit=1) == [str(tmp_path / "jaxmec" / "__init__.py"), "(4,)\n"]


def test_versions_agree():
    assert jaxmec.__version__ == PROJECT["version"] == importlib.metadata.version("jaxmec")


def test_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="jaxmec")
    assert command.value == "jaxmec.cli:main"
    usage = run("-m", "jaxmec", "--help", cwd=ROOT, JAX_PLATFORMS="cpu")
    for verb in ("train", "evaluate", "list"):
        assert verb in usage


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@pytest.mark.parametrize(
    "module",
    sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")),
    ids=lambda path: path.stem,
)
def test_every_import_is_declared(module):
    """gymnax imports six without declaring it; we do not do the like to others."""
    declared = names_of(PROJECT["dependencies"])
    extras = OPTIONAL.get(module.name, ())
    if module.is_relative_to(ROOT / "jaxmec_testbed"):
        extras = ("testbed", *extras)
    for extra in extras:
        declared |= names_of(PROJECT["optional-dependencies"][extra])
    distributions = importlib.metadata.packages_distributions()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {(node.module or "").split(".")[0]}
        else:
            continue
        for root in roots - sys.stdlib_module_names - set(PACKAGES):
            names = distributions.get(root, [ABSENT.get(root, root)])
            owners = {canonicalize_name(name) for name in names}
            assert owners & declared, f"line {node.lineno}: {root} is no declared dependency"


@pytest.mark.parametrize("name", PINS)
def test_pins_are_exact_and_of_no_particular_index(name):
    for line in PINS[name]:
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[A-Za-z0-9.+!]+( ; [^#@]+)?", line), line
        assert "://" not in line


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("cpu", ["plot", "notebook", "test"]),
        ("gpu", ["plot", "notebook", "test", "gpu", "gpu-cuda12"]),
        ("peers", ["plot", "notebook", "test", "peers"]),
    ],
)
def test_pins_cover_what_is_declared(name, extras, python):
    """Every requirement has one pin for each Python, and the pin satisfies it."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
    }
    pinned: dict[str, str] = {}
    for line in PINS[name]:
        if line.startswith("#"):
            continue
        pin, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate(machine):
            package, _, version = pin.partition("==")
            assert package not in pinned, f"{package} is pinned twice"
            pinned[package] = version
    texts = PROJECT["dependencies"] + [
        text for extra in extras for text in PROJECT["optional-dependencies"][extra]
    ]
    for requirement in map(Requirement, texts):
        if requirement.name == "jaxmec":
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
    assert pinned["jax"].startswith("0.10." if python == "3.11" else "0.11.")
