"""Commands of several actions: ``jaxmec trace check``, ``jaxmec fleet show``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxmec.cli.errors import EXIT_OK, EXIT_USAGE
from jaxmec.core.naming import look_up

# For the index and for completion, which import no command.
ACTIONS_OF = {
    "trace": ("check", "import", "requests", "synth"),
    "fleet": ("check", "draw", "list", "show"),
}

Action = tuple[Callable[[Sequence[str]], int], str]  # what it runs, and a line about it


def run_action(command: str, actions: Mapping[str, Action], words: Sequence[str]) -> int:
    """Run the action that the first word names, with the other words.

    Raises:
        ValueError: there is no such action; suggests the nearest.
    """
    if not words or words[0].startswith("-"):
        print(f"usage: jaxmec {command} ACTION ...\n")
        print("\n".join(f"  {name:<10} {about}" for name, (_, about) in actions.items()))
        print(f"\njaxmec {command} ACTION --help says more.")
        return EXIT_OK if words and words[0] in ("-h", "--help") else EXIT_USAGE
    action, _ = look_up("action", words[0], actions)
    return action(words[1:])
