"""Print a script by which bash, zsh or fish completes this command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tyro

from jaxmec.cli import commands, index
from jaxmec.cli.actions import ACTIONS_OF
from jaxmec.cli.commands import list as listing
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.naming import look_up

# Where a flag's values are the names of tables.
INDEX_TABLES = {
    "--env": ("environments",),
    "--preset": ("presets", "fleets"),
    "--presets": ("presets", "fleets"),
    "--fleet": ("fleets",),
    "--methods": ("methods",),
    "--schedulers": ("schedulers",),
    "--start": ("methods",),
    "--reference": ("methods",),
}


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, names, flags and fields.

    bash: eval "$(jaxmec completion bash)", or the output in
    ~/.local/share/bash-completion/completions/jaxmec, which is quicker; zsh: in a directory of
    fpath, as _jaxmec; fish: in ~/.config/fish/completions/jaxmec.fish.
    """

    shell: tyro.conf.Positional[str]  # bash, zsh or fish


@dataclasses.dataclass(frozen=True)
class Words:
    """What may follow one command."""

    about: str
    names: Sequence[str] = ()  # right after it
    flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """anywhere after it, and the words that may follow each"""


@dataclasses.dataclass(frozen=True)
class Completions:
    """What may follow `--set`."""

    of: Mapping[str, Sequence[str]]  # group.name, by method
    choices: Mapping[str, Sequence[str]]  # by name, of fields that are one of a few words


def run(words: Sequence[str]) -> int:
    shell = tyro.cli(Completion, args=list(words), prog="jaxmec completion").shell
    print(script(shell, _commands(), _fields_by_owner()))
    return EXIT_OK


def _commands() -> dict[str, Words]:
    tables = index.load_index()
    methods, schedulers = list(tables["methods"]), list(tables["schedulers"])
    names: dict[str, Sequence[str]] = {
        "train": methods,
        "evaluate": [*schedulers, *tables["rules"]],
        "show": schedulers,
        "compare": list(tables["studies"]),
        "gap": [*schedulers, *methods],
        **ACTIONS_OF,
        "list": listing.LISTS,
        "completion": list(SHELLS),
    }
    return {
        name: Words(
            commands.about(name),
            names.get(name, ()),
            {
                flag: [name for table in INDEX_TABLES[flag] for name in tables[table]]
                if flag in INDEX_TABLES
                else values
                for flag, values in tables["flags"].get(name, {}).items()
            },
        )
        for name in commands.names()
    }


def _fields_by_owner() -> Completions:
    of: dict[str, Sequence[str]] = {}
    choices: dict[str, Sequence[str]] = {}
    for method in index.load_index()["methods"]:
        known = index.fields_of(method)
        of[method] = [f"{field.group}.{field.name}" for field in known]
        choices |= {
            field.name: field.choices or ("true", "false")
            for field in known
            if field.choices or field.type == "true or false"
        }
    return Completions(of, choices)


def script(shell: str, commands: Mapping[str, Words], fields: Completions) -> str:
    """The script of a shell: bash, zsh or fish.

    Raises:
        ValueError: another shell.
    """
    return look_up("shell", shell, SHELLS)(commands, fields)


def _joined_words(of: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], list[str]]:
    """The names that have the same words, by those words."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, words in of.items():
        alike.setdefault(tuple(words), []).append(name)
    return alike


def _case(of: Mapping[str, Sequence[str]], line: str) -> list[str]:
    """Branches of a `case` of bash or zsh, in whose line WORDS stands for the words."""
    return [
        f"      {'|'.join(names)}) {line.replace('WORDS', ' '.join(words))} ;;"
        for words, names in _joined_words(of).items()
    ]


def _valued(commands: Mapping[str, Words]) -> dict[str, Sequence[str]]:
    """By "COMMAND FLAG", the words that may follow."""
    return {
        f'"{name} {flag}"': values
        for name, words in commands.items()
        for flag, values in words.flags.items()
        if values
    }


def _bash(commands: Mapping[str, Words], fields: Completions) -> str:
    cases = [
        line
        for name, words in commands.items()
        for line in (
            f"      {name})",
            f'        words="{" ".join(words.flags)}"',
            f'        [ "$COMP_CWORD" -eq 2 ] && words="{" ".join(words.names)} $words"',
            "        ;;",
        )
    ]
    # Bash splits words at = and :, hence the plain lists; without a match it offers files.
    return "\n".join(
        [
            "_jaxmec() {",
            '  local words="" current="${COMP_WORDS[COMP_CWORD]}" field=""',
            '  local command="${COMP_WORDS[1]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            '  if [ "$current" = "=" ]; then field="$previous"; current=""',
            '  elif [ "$previous" = "=" ]; then field="${COMP_WORDS[COMP_CWORD-2]}"',
            '  elif [ "${previous:0:2}" = "--" ]; then field="$previous"; fi',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    words="{" ".join(commands)} --help --version"',
            '  elif [ "$command $field" = "train --set" ]; then',
            '    local each fields=""',
            '    case "${COMP_WORDS[2]}" in',
            *_case(fields.of, 'fields="WORDS"'),
            "    esac",
            "    for each in $fields; do",
            '      case "$current" in',
            '        *.*) words="$words $each=" ;;',
            '        *) words="$words ${each#*.}=" ;;',
            "      esac",
            "    done",
            "    compopt -o nospace 2> /dev/null",
            "  else",
            '    case "$command $field" in',
            *_case(_valued(commands), 'words="WORDS"'),
            "    esac",
            '    [ "$command" = train ] && case "${field##*.}" in',
            *_case(fields.choices, 'words="WORDS"'),
            "    esac",
            '    [ -z "$words" ] && case "$command" in',
            *cases,
            "    esac",
            "  fi",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o bashdefault -o default -F _jaxmec jaxmec",
        ]
    )


def _zsh(commands: Mapping[str, Words], fields: Completions) -> str:
    lines = [
        "#compdef jaxmec",
        "_jaxmec() {",
        "  local current=$words[CURRENT] previous=$words[CURRENT-1] field each",
        "  local -a names",
        "  if (( CURRENT == 2 )); then",
        "    names=(",
        *(f"      {_in_shell_quotes(f'{name}:{words.about}')}" for name, words in commands.items()),
        "    )",
        "    _describe command names",
        "    return",
        "  fi",
        '  if [[ "$words[2] $previous" == "train --set" ]]; then',
        "    if [[ $current == *=* ]]; then",
        "      field=${${current%%=*}##*.}",
        "      compset -P '*='",
        "      case $field in",
        *_case(fields.choices, "compadd -- WORDS"),
        "      esac",
        "      return",
        "    fi",
        "    case $words[3] in",
        *_case(fields.of, "names=(WORDS)"),
        "    esac",
        "    [[ $current == *.* ]] || names=(${names#*.})",
        "    compadd -S = -- $names",
        "    return",
        "  fi",
        '  case "$words[2] $previous" in',
        *_case(_valued(commands), "compadd -- WORDS; return"),
        "  esac",
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


def _fish(commands: Mapping[str, Words], fields: Completions) -> str:
    lines = ["function __jaxmec_fields", "  switch (commandline -opc)[3]"]
    for names, methods in _joined_words(fields.of).items():
        plain = [name.partition(".")[2] for name in names]
        given = [f"{name}={value}" for name in plain for value in fields.choices.get(name, ("",))]
        lines += [f"    case {' '.join(methods)}", f"      printf '%s\\n' {' '.join(given)}"]
    lines += ["  end", "end"]
    first = "complete -c jaxmec -n __fish_use_subcommand"
    for name, words in commands.items():
        lines.append(f"{first} -f -a {name} -d {_in_shell_quotes(words.about)}")
        after = f"complete -c jaxmec -n '__fish_seen_subcommand_from {name}'"
        if words.names:
            lines.append(f"{after} -a {_in_shell_quotes(' '.join(words.names))}")
        for flag, values in words.flags.items():
            takes = f" -x -a {_in_shell_quotes(' '.join(values))}" if values else ""
            if (name, flag) == ("train", "--set"):
                takes = " -x -a '(__jaxmec_fields)'"
            lines.append(f"{after} -l {flag.removeprefix('--')}{takes}")
    return "\n".join(lines)


def _in_shell_quotes(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
