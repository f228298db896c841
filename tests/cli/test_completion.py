"""Completion, as the shells themselves do it."""

import contextlib
import io
import shutil
import subprocess

import pytest

from jaxmec import cli
from jaxmec.cli.commands import names
from jaxmec.cli.commands.completion import SHELLS, Words, script
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
    assert bash("jaxmec", "train", "dsac", "--agent.disc") == ["--agent.discount"]
    assert "--agent.denoising-steps" in bash("jaxmec", "train", "x", "--agent.d")  # of dsac only
    assert bash("jaxmec", "train", "x", "--trac") == ["--trace", "--trace-slots"]
    assert bash("jaxmec", "trace", "im") == ["import"]
    assert bash("jaxmec", "trace", "import", "f", "--colu") == ["--column"]
    assert bash("jaxmec", "list", "stud") == ["studies"]
    assert bash("jaxmec", "train", "dsac", "ddrl") == []  # a name goes in its place only
    assert bash("jaxmec", "nothing", "--") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_everything_and_parses(tmp_path, shell):
    commands = {"go": Words("to a place, it's far", ["home"], ["--fast", "--agent.x-y"]),
                "stay": Words("here")}  # fmt: skip
    text = script(shell, commands)
    for word in ("go", "stay", "home", "fast", "agent.x-y"):
        assert word in text
    if path := shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([path, "-n", tmp_path / "script"], check=True)


def test_another_shell_is_refused(capsys):
    assert cli.main(["completion", "bahs"]) == 2
    assert "did you mean 'bash'" in capsys.readouterr().err
