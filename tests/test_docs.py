"""Every code block of the documents: Python runs, commands are ones that would.

Python blocks of a document run one after the other, as a reader would type them, with trainings
cut to a few steps. Commands are parsed by the programs that they name, with every flag and name.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

import jaxmec
from jaxmec import cli
from jaxmec.cli import programs
from jaxmec.schedulers import Scheduler
from jaxmec.training.off_policy import TrainConfig

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# In a document's own words, what its blocks take as given.
GIVEN = {"docs/pathwise.md": "import jaxmec", "docs/deployment.md": None, "docs/scale.md": None}
SLOW = ("docs/pathwise.md",)  # trains as README does, by another method
LANGUAGES = {"python", "sh", "csv", "json", "text", "toml"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="the documents are not installed"
)


def blocks(path, *languages):
    return [code for name, code in BLOCK.findall(path.read_text("utf-8")) if name in languages]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def commands():
    """(document, words) of every line of every shell block; a line may go on with a backslash."""
    for path in DOCUMENTS:
        for code in blocks(path, "sh"):
            text = ""
            for line in code.replace("\\\n", " ").splitlines():
                text += line + "\n"
                try:
                    words = shlex.split(text, comments=True)
                except ValueError:  # a quotation goes on
                    continue
                text = ""
                if words:
                    yield pytest.param(words, id=f"{name_of(path)}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_block_says_what_it_is(path):
    unknown = [code for name, code in BLOCK.findall(path.read_text("utf-8"))
               if name not in LANGUAGES]  # fmt: skip
    assert not unknown


def test_fleets_are_fleets(tmp_path):
    from jaxmec.serving import find_serving_preset
    from jaxmec_testbed.faults import read_faults

    found = [code for path in DOCUMENTS for code in blocks(path, "toml")]
    assert found
    for number, code in enumerate(found):
        path = tmp_path / f"{number}.toml"
        path.write_text(code)
        if "[[fault]]" in code:
            assert read_faults(path, servers=5)
        else:
            find_serving_preset(path).params()


SIZES = {"steps": 96, "eval_every": 32, "eval_episodes": 1}
OF_TRANSITIONS = {"num_envs": 4, "prefill": 32, "batch_size": 8, "updates_per_step": 1,
                  "buffer_size": 64}  # fmt: skip
OF_WINDOWS = {"num_envs": 1, "window": 96, "validation_envs": 1}
SHORT = {"slots": 2}
OF_NETWORKS = {"hidden": (8,), "denoising_steps": 1}


@pytest.fixture
def briefly(monkeypatch, tmp_path):
    """Where a reader sits, whose trainings take a moment."""
    monkeypatch.chdir(tmp_path)
    train = jaxmec.train

    @functools.wraps(train)
    def brief(method, **options):
        row = jaxmec.METHODS[method] if isinstance(method, str) else None
        learns = row is None or isinstance(row.config, TrainConfig)
        sizes = SIZES | (OF_TRANSITIONS if learns else OF_WINDOWS)
        if "config" in options:
            sizes = {}
        if row is not None:
            sizes |= OF_NETWORKS
        if "Offloading" in (options.get("env") or getattr(row, "env", "")):
            sizes |= SHORT
        return train(method, **(options | sizes | {"progress": False}))

    evaluate = jaxmec.evaluate

    def once(policy, **options):
        rule = isinstance(policy, str | Scheduler) and not {"workload", "trace"} & set(options)
        slotted = options.get("env") != "GenerativeServing-v0"
        return evaluate(policy, **(options | {"episodes": 1} | (SHORT if rule and slotted else {})))

    monkeypatch.setattr(jaxmec, "train", brief)
    monkeypatch.setattr(jaxmec, "evaluate", once)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name_of(path), marks=[pytest.mark.slow] * (name_of(path) in SLOW))
        for path in DOCUMENTS
        if blocks(path, "python") and GIVEN.get(name_of(path), "") is not None
    ],
)
def test_python_runs_as_it_stands(path, briefly):
    space = {"__name__": "reader"}
    exec(GIVEN.get(name_of(path), ""), space)
    for number, code in enumerate(blocks(path, "python"), 1):
        exec(compile(code, f"{name_of(path)}, block {number}", "exec"), space)


class Parsed(Exception):
    """The words were understood."""


@pytest.fixture
def parsing(monkeypatch):
    """tyro says that it understood, and nothing runs."""
    real = tyro.cli

    def parse(f, *args, **kwargs):
        if isinstance(f, type):
            real(f, *args, **kwargs)
            raise Parsed

        @functools.wraps(f)
        def stub(*_, **__):
            raise Parsed

        real(stub, *args, **kwargs)

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.setattr(programs, "keep", lambda: None)
    monkeypatch.setattr("jaxmec.training.devices.connect", lambda *_: None)


def targets():
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    return {line.split(":")[0] for line in lines if re.match(r"[a-z-]+:", line)}


def check_jaxmec(words):
    if words == ["--version"]:
        assert cli.main(words) == 0
        return
    with pytest.raises(Parsed):
        raise SystemExit(cli.main(words))


def check_script(file, words, monkeypatch):
    path = ROOT / file
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("__main__", path)
    module = importlib.util.module_from_spec(spec)
    module.__name__ = "__main__"
    monkeypatch.setitem(sys.modules, "__main__", module)
    with pytest.raises(Parsed):
        spec.loader.exec_module(module)


OTHERS = {"pip", "curl", "cd", "git", "python3", "docker", "sudo", "srun", "sbatch", "kubectl",
          "source", "mkdir", "systemctl", "cp", "tensorboard", "pytest"}  # fmt: skip
SHELL = {"&", ">", ">>", "|"}  # what follows is the shell's


@pytest.mark.parametrize("words", list(commands()))
def test_commands_are_understood(words, parsing, monkeypatch):
    while "=" in words[0]:  # settings of the environment
        words = words[1:]
    if words[0] == "eval":
        words = shlex.split(words[1].removeprefix("$(").removesuffix(")"))
    words = list(itertools.takewhile(lambda word: word not in SHELL, words))
    program, *rest = words
    if program == "make":
        assert {word for word in rest if "=" not in word} <= targets()
    elif program == "jaxmec" or rest[:2] == ["-m", "jaxmec"]:
        check_jaxmec(rest if program == "jaxmec" else rest[2:])
    elif program == "python" and rest[0].endswith(".py"):
        check_script(rest[0], rest[1:], monkeypatch)
    else:
        assert program in OTHERS
