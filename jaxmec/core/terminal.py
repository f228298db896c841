"""What a terminal is shown: nothing that it would obey, in characters that it can take."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

NARROWEST = 20  # columns; in fewer, help is never done with wrapping
# Where a stream takes no such character and neither its name nor its parts say another way.
ASCII = {
    "±": "+-",
    "…": "...",
    "×": "x",
    "·": ".",
    "−": "-",
    "–": "-",
    "—": "-",
    "°": " deg",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "←": "<-",
    "√": "sqrt ",
    "∞": "inf",
    "µ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "•": "*",
    "✓": "yes",
    "✗": "no",
    "∩": " and ",
    **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
}


def quoted(text: object) -> str:
    r"""A name or a message in one line, in which what does not print is written \x1b or \n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class Screen(Console):
    """A console that shows texts as they are: without markup, and quoted, each in one line."""

    def __init__(self, **options: Any) -> None:
        plain = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
        super().__init__(**plain | options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        return super().render_str(quoted(text), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for who called: rich would end the process


def prepare() -> None:
    """Make the process's streams and environment such that anything can be shown.

    A stream takes what its encoding has not in ASCII; what was closed is open, to nowhere, lest
    the next file gets its number; and a width that is none is not believed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not every stream can
            getattr(sys, name).reconfigure(errors="jaxmec")
    width = shutil.get_terminal_size().columns  # reads COLUMNS, unless it is no number or 0
    if os.environ.get("COLUMNS", str(width)) != str(width) or width < NARROWEST:
        os.environ["COLUMNS"] = str(max(width, NARROWEST))


def _in_ascii(character: str) -> str:
    if character in ASCII:
        return ASCII[character]
    if unicodedata.combining(character):  # a mark on the letter before it
        return ""
    name = unicodedata.name(character, "")
    if name.startswith("BOX "):
        return "+" if " AND " in name else "|" if name.endswith("VERTICAL") else "-"
    if name.startswith("GREEK ") and " LETTER " in name:
        letter = name.split(" LETTER ")[1].split(" ")[0]
        return letter.capitalize() if "CAPITAL" in name else letter.lower()
    parts = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return parts or character.encode("unicode_escape").decode()


def _encoded_in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


codecs.register_error("jaxmec", _encoded_in_ascii)
