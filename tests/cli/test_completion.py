"""Completion, as the shells themselves do it."""

import contextlib
import io
import shutil
import subprocess

import pytest

from jaxmec import cli
from jaxmec.cli.commands import names
from jaxmec.cli.commands.completion import SHELLS, Completions, Words, script
from jaxmec.methods import METHODS


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """A function: a command line up to <TAB> -> what bash offers."""
    file = tmp_path_factory.mktemp("completion") / "jaxmec"
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert cli.main(["completion", "bash"]) == 0
    file.write_text(text.getvalue())

    def offered(*words):
        asked = " ".join(f"'{word}'" for word in words)
        code = f"""source {file}
            complete -p jaxmec > /dev/null || exit 9
            COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}
            _jaxmec
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        process = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert not process.stderr
        return process.stdout.split()

    return offered


def test_bash_completes_commands_names_and_flags(bash):
    assert bash("jaxmec", "tr") == ["train", "trace"]
    assert set(bash("jaxmec", "")) == {*names(), "--help", "--version"}
    assert bash("jaxmec", "train", "ddrl-at") == [n for n in METHODS if n.startswith("ddrl-at")]
    assert bash("jaxmec", "train", "x", "--trac") == ["--trace", "--trace-slots"]
    assert bash("jaxmec", "trace", "im") == ["import"]
    assert bash("jaxmec", "trace", "import", "f", "--colu") == ["--column"]
    assert bash("jaxmec", "list", "stud") == ["studies"]
    assert bash("jaxmec", "fleet", "sh") == ["show"]
    assert bash("jaxmec", "evaluate", "x", "--preset", "genai-6") == ["genai-64"]
    assert bash("jaxmec", "train", "dsac", "ddrl") == []  # a name goes in its place only
    assert bash("jaxmec", "nothing", "--") == []


def test_bash_completes_fields_and_values(bash):
    train = ("jaxmec", "train", "dsac")
    assert bash(*train, "--set", "disc") == ["discount="]
    assert bash(*train, "--set", "agent.st") == ["agent.start="]
    assert bash(*train, "--set", "denoising") == ["denoising_steps="]
    assert bash("jaxmec", "train", "dqn", "--set", "denoising") == []  # of dsac only
    assert bash("jaxmec", "train", "ddrl-amsa", "--set", "alloc") == [
        "allocate=", "allocation_information=",
    ]  # fmt: skip
    assert bash(*train, "--set", "activation", "=") == ["relu", "tanh", "silu", "mish", "gelu"]
    assert bash(*train, "--set", "activation", "=", "t") == ["tanh"]
    assert bash(*train, "--set", "agent.start", "=", "n") == ["noise"]
    assert bash(*train, "--set", "layer_norm", "=", "f") == ["false"]
    assert bash(*train, "--scale", "") == ["cpu", "gpu"]
    assert bash(*train, "--scale", "=", "g") == ["gpu"]
    assert bash(*train, "--start", "ddrl-amsa-cl") == ["ddrl-amsa-cloned"]
    assert "amcoedge" in bash("jaxmec", "evaluate", "optimal", "--preset", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_everything_and_parses(tmp_path, shell):
    commands = {"train": Words("to a place, it's far", ["home"], {"--fast": (), "--set": ()}),
                "stay": Words("here", flags={"--how": ("well", "badly")})}  # fmt: skip
    fields = Completions({"home": ("agent.x_y", "env.mode")}, {"mode": ("one", "two")})
    text = script(shell, commands, fields)
    for word in ("train", "stay", "home", "fast", "x_y", "well", "one"):
        assert word in text
    if path := shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([path, "-n", tmp_path / "script"], check=True)


def test_another_shell_is_refused(capsys):
    assert cli.main(["completion", "bahs"]) == 2
    assert "did you mean 'bash'" in capsys.readouterr().err
