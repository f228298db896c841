"""Scripts by which a shell completes the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxmec.core.naming import look_up


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
