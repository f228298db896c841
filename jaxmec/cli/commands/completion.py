"""Print a script by which bash, zsh or fish completes this command line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from jaxmec.cli import commands
from jaxmec.cli.commands import list as listing
from jaxmec.cli.commands import trace
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.naming import look_up


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, names and flags.

    bash: eval "$(jaxmec completion bash)", or the output in
    ~/.local/share/bash-completion/completions/jaxmec, which is quicker; zsh: in a directory of
    fpath, as _jaxmec; fish: in ~/.config/fish/completions/jaxmec.fish.
    """

    shell: tyro.conf.Positional[str]  # bash, zsh or fish


def run(words: Sequence[str]) -> int:
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS
    from jaxmec.studies.catalogue import STUDIES

    shell = tyro.cli(Completion, args=list(words), prog="jaxmec completion").shell
    look_up("shell", shell, SHELLS)
    by_kind: dict[Any, str] = {}  # the flags of a method are those of its agent and environment
    for row in METHODS.values():
        by_kind |= {type(row.settings(False).agent()): row.name}
        by_kind.setdefault(row.env, row.name)
    lines = {name: [[name]] for name in commands.names()}  # whose --help has the flags of a command
    lines["train"] = [["train", name] for name in dict.fromkeys(by_kind.values())]
    lines["trace"] = [["trace", action] for action in trace.ACTIONS]
    names: dict[str, Sequence[str]] = {
        "train": list(METHODS),
        "evaluate": list(SCHEDULERS),
        "show": list(SCHEDULERS),
        "compare": list(STUDIES),
        "gap": [*SCHEDULERS, *METHODS],
        "trace": trace.ACTIONS,
        "list": listing.KINDS,
        "completion": list(SHELLS),
    }
    completed = {
        name: Words(
            commands.about(name),
            names.get(name, ()),
            sorted({f for line in lines[name] for f in _flags(line)}),
        )
        for name in commands.names()
    }
    print(script(shell, completed))
    return EXIT_OK


def _flags(words: list[str]) -> set[str]:
    """The flags that a command's own help names, so that both are the same."""
    text = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"  # no flag is broken in two
    try:
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            commands.run(words[0], [*words[1:], "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text.getvalue()))


@dataclasses.dataclass(frozen=True)
class Words:
    """What may follow one command."""

    about: str
    names: Sequence[str] = ()  # right after it
    flags: Sequence[str] = ()  # anywhere after it


def script(shell: str, commands: Mapping[str, Words]) -> str:
    """The script of a shell: bash, zsh or fish.

    Raises:
        ValueError: another shell.
    """
    return look_up("shell", shell, SHELLS)(commands)


def _bash(commands: Mapping[str, Words]) -> str:
    cases = [
        f"""    {name})
      words="{" ".join(words.flags)}"
      [ "$COMP_CWORD" -eq 2 ] && words="{" ".join(words.names)} $words"
      ;;"""
        for name, words in commands.items()
    ]
    # Bash splits words at = and :, hence the plain lists; without a match it offers files.
    return "\n".join(
        [
            "_jaxmec() {",
            '  local words="" current="${COMP_WORDS[COMP_CWORD]}"',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    words="{" ".join(commands)} --help --version"',
            "  else",
            '    case "${COMP_WORDS[1]}" in',
            *(f"  {line}" for case in cases for line in case.splitlines()),
            "    esac",
            "  fi",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o bashdefault -o default -F _jaxmec jaxmec",
        ]
    )


def _zsh(commands: Mapping[str, Words]) -> str:
    lines = [
        "#compdef jaxmec",
        "_jaxmec() {",
        "  if (( CURRENT == 2 )); then",
        "    local -a names",
    ]
    lines += [
        "    names=(",
        *(f"      {_quoted(f'{name}:{words.about}')}" for name, words in commands.items()),
        "    )",
        "    _describe command names",
        "    return",
        "  fi",
        "  case $words[2] in",
    ]
    for name, words in commands.items():
        lines.append(f"    {name})")
        if words.names:
            lines.append(f"      (( CURRENT == 3 )) && compadd -- {' '.join(words.names)}")
        lines += [f"      compadd -- {' '.join(words.flags)}", "      ;;"]
    lines += [
        "  esac",
        "  _files",
        "}",
        # Read as a file of fpath it is the function's body; sourced, it must be registered.
        'if [[ "$funcstack[1]" == "_jaxmec" ]]; then _jaxmec "$@"; else compdef _jaxmec jaxmec; fi',
    ]
    return "\n".join(lines)


def _fish(commands: Mapping[str, Words]) -> str:
    first = "complete -c jaxmec -n __fish_use_subcommand"
    lines = []
    for name, words in commands.items():
        lines.append(f"{first} -f -a {name} -d {_quoted(words.about)}")
        after = f"complete -c jaxmec -n '__fish_seen_subcommand_from {name}'"
        if words.names:
            lines.append(f"{after} -a {_quoted(' '.join(words.names))}")
        lines += [f"{after} -l {flag.removeprefix('--')}" for flag in words.flags]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
