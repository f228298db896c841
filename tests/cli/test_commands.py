"""The commands: a file each, found by its name."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from jaxmec import cli
from jaxmec.cli import commands


def test_a_new_file_is_a_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        '"""Say hello.\n\nTo whoever is named.\n"""\n\n'
        "def run(words):\n    print('hello', *words)\n    return 7\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert cli.main(["greet", "you"]) == 7
    assert capsys.readouterr().out == "hello you\n"
    assert cli.main(["--help"]) == 0
    assert "  greet      Say hello\n" in capsys.readouterr().out
    assert cli.main(["gret"]) == 2
    assert "did you mean 'greet'" in capsys.readouterr().err


def test_the_overview_names_every_command_and_imports_none():
    code = """if True:
        import sys
        from jaxmec import cli
        assert cli.main(["--help"]) == 0
        print([name for name in sys.modules if name.startswith("jaxmec.cli.commands.")])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *overview, imported = done.stdout.splitlines()
    assert imported == "[]"
    shown = {line.split()[0]: line.split(None, 1)[1] for line in overview if line[:2] == "  "}
    assert list(shown) == [*commands.names(), *commands.plugins()]
    assert all(shown.values())


@pytest.mark.parametrize("name", commands.names())
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"jaxmec {name}" in capsys.readouterr().out


def test_another_package_brings_a_command_but_none_of_ours(monkeypatch):
    brought = [
        EntryPoint("more", "jaxmec.cli.commands.doctor:about", commands.GROUP),
        EntryPoint("more", "jaxmec.cli.commands.doctor:run", commands.GROUP),
        EntryPoint("train", "jaxmec.cli.commands.doctor:run", commands.GROUP),
    ]
    monkeypatch.setattr(commands, "entry_points", lambda group: brought)
    assert list(commands.plugins()) == ["more"]
    assert commands.about("more") == commands.about("doctor")
    assert "more" not in commands.names()
    with pytest.raises(SystemExit):
        commands.run("more", ["--help"])
    with pytest.raises(ValueError, match="did you mean 'more'"):
        commands.run("mor", [])
