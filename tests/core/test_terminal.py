"""What a terminal is shown, whatever it can take and whatever names are in it."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from jaxmec import cli
from jaxmec.cli import errors
from jaxmec.core.tables import results_table
from jaxmec.core.terminal import Screen, quoted


def jaxmec(*words, shell="", **environment):
    """A command in a process of its own: its exit code, output and errors, as bytes."""
    command = [sys.executable, "-m", "jaxmec", *words]
    if shell:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    without = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(command, capture_output=True, env=without | environment, check=False)
    return done.returncode, done.stdout, done.stderr


ASCII = {"PYTHONIOENCODING": "ascii"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["list", "methods"], ASCII),
        (["train", "lad-ts", "--help"], ASCII),
        (["evaluate", "--help"], C),
    ],
)
def test_output_is_ascii_where_nothing_else_can_be_shown(words, environment):
    code, out, err = jaxmec(*words, **environment)
    assert (code, err) == (0, b"")
    text = out.decode("ascii")
    assert words[0] != "list" or "+--" in text
    assert not re.search(r"\\[ux]", text), "escaped where there is a way to say it"


def test_ascii_says_what_the_character_did():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="jaxmec")
    stream.write("1 ± 2 … γ Ω α² │─╭ ▁█ é √2 5 µs −3 ≤ 4 汉 \udc80")
    stream.flush()
    said = stream.buffer.getvalue().decode()
    expected = r"1 +- 2 ... gamma Omega alpha2 |-+ 18 e sqrt 2 5 us -3 <= 4 \u6c49 \udc80"
    assert said == expected


@pytest.mark.parametrize(
    ("words", "shell"),
    [
        (["list", "presets"], ">&-"),
        (["evaluate", "--help"], ">&-"),
        (["evaluate", "--help"], "<&- >&- 2>&-"),
    ],
)
def test_closed_output_is_no_error(words, shell):
    assert jaxmec(*words, shell=shell) == (0, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has it")
def test_a_full_disk_is_said_without_a_number_of_the_system():
    code, _, err = jaxmec("--help", shell=">/dev/full")
    assert (code, err) == (1, b"jaxmec: No space left on device\n")


def test_a_reader_that_leaves_a_table_is_no_error():
    command = [sys.executable, "-m", "jaxmec", "list", "presets"]
    pipe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pipe.stdout.close()
    assert (pipe.stderr.read(), pipe.wait()) == (b"", errors.EXIT_PIPE)


@pytest.mark.parametrize("columns", ["0", "abc", "-5", "1", ""])
def test_a_width_that_is_none_is_not_believed(columns):
    code, out, err = jaxmec("evaluate", "--help", COLUMNS=columns)
    assert (code, err) == (0, b"")
    borders = [line for line in out.decode().splitlines() if line.startswith("╰")]
    assert {len(line) for line in borders} == {20 if columns == "1" else 80}


def test_a_table_has_the_width_of_a_terminal_that_says_it_has_none(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    assert cli.main(["list", "presets"]) == 0
    assert "amcoedge" in capsys.readouterr().out


NASTY = "lr[1] [bold]x[/bold] :smile:\x1b[31m\x9b\n\r\u202e\u2028\udc80é"
SHOWN = r"lr[1] [bold]x[/bold] :smile:\x1b[31m\x9b\n\r\u202e\u2028\udc80é"


def test_quoted_is_one_line_that_a_terminal_does_not_obey():
    assert quoted(NASTY) == SHOWN == quoted(SHOWN)


def test_screens_and_tables_show_names_as_they_are():
    table = results_table(NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    for kind in (Screen, Console):
        console = kind(file=io.StringIO(), width=200)
        console.print(table)
        assert console.file.getvalue().count(SHOWN) == 3
    screen = Screen(file=io.StringIO(), width=20)
    screen.print(NASTY)
    assert screen.file.getvalue() == SHOWN + "\n"


@pytest.mark.parametrize(
    "words",
    [
        ["watch", NASTY],
        ["trace", "check", NASTY],
        ["evaluate", f"a/{NASTY}"],
        ["train", NASTY],
        ["compare", "--methods", f"{NASTY}:x"],
    ],
)
def test_errors_quote_what_they_name(capsys, words):
    assert cli.main(words) in (1, 2)
    err = capsys.readouterr().err
    assert (
        err.startswith("jaxmec: ")
        and err.count("\n") == 1
        and "lr[1] [bold]x[/bold] :smile:" in err
    )
    assert not set("\x1b\x9b\r\u202e\u2028") & set(err)
