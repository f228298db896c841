"""Manifests: JSON files that say what lies beside them, checked whole before they are believed.

Bundles, policies, checkpoints and runs are read through this one module: what is opened is a
plain file of bounded size, names no key twice, and has everywhere the type and size that its
schema says; the files that it names have the sizes and the hashes that it names. A schema is a
tree of checks, each a function from a value and its key to the problems with it.

This module needs Python's standard library alone, so that it runs at the edge.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

Problems = Iterator[str]
Check = Callable[[Any, str], Problems]  # of a value and its key

MANIFEST = "manifest.json"
MAX_FILES = 100_000
MAX_POLICY_FILE = 2**28  # bytes, of a file of a policy or a bundle: 64 million parameters
MAX_NUMBER = 1e300  # a whole number may be too large for a float
SHOWN = 3  # problems that an error tells of


class Unsound(Exception):
    """A file is not what it should be."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class Foreign(Unsound):
    """It is sound JSON, but of another format."""


class TooNew(Unsound):
    """It is of a version of the format that is not known here."""


@dataclasses.dataclass(frozen=True)
class Format:
    """What a manifest of one kind has to be."""

    name: str
    noun: str  # what the directory is called
    version: int  # the newest that is known
    max_bytes: int  # of the manifest
    max_file_bytes: int | None  # of a file beside it; None: no bound
    schema: Check  # of the document less format, format_version, files and sha256
    is_ours: Callable[[PurePosixPath], bool]  # whether a file of this name belongs there

    def read(self, directory: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]], str]:
        """The document, the files that it names with size and SHA-256, and its digest.

        Raises:
            Unsound: see there, and the kinds of it.
            FileNotFoundError: there is no manifest.
        """
        file = directory / MANIFEST
        document = parse(file, read_plain(file, most=self.max_bytes))
        if not isinstance(document, dict) or document.get("format") != self.name:
            what = document.get("format") if isinstance(document, dict) else document
            raise Foreign(file, f"format must be {self.name!r}, got {shown(what)}")
        version = document.get("format_version")
        if type(version) is not int or version < 1:
            raise Unsound(file, f"format_version must be a positive integer, got {shown(version)}")
        if version > self.version:
            raise TooNew(
                file,
                f"it has format version {version}, and this jaxmec reads up to {self.version}: "
                "install a newer jaxmec",
            )
        expected, found = document.pop("sha256", None), digest_of(document)
        if expected != found:
            raise Unsound(file, f"expected SHA-256 {shown(expected)} of its content, found {found}")
        files = document.pop("files", None)
        check(file, files, mapping(anything, most=MAX_FILES), "files")
        for name in files:
            path = PurePosixPath(name)
            # isprintable first: a lone surrogate has no bytes.
            named = name.isprintable() and all(len(part.encode()) <= 255 for part in path.parts)
            plain = path.as_posix() == name and ".." not in path.parts and "\\" not in name
            plain = named and plain and len(name) <= 1000
            if not plain or not self.is_ours(path):
                raise Unsound(file, f"files names {shown(name)}, which is no file of a {self.noun}")
        largest = 2**50 if self.max_file_bytes is None else self.max_file_bytes
        sha256 = text("[0-9a-f]{64}", "a SHA-256", 64)
        entry = record({"size": whole(0, largest), "sha256": sha256})
        check(file, files, mapping(entry, most=MAX_FILES), "files")
        check(file, document, self.schema)
        return document, {name: (e["size"], e["sha256"]) for name, e in files.items()}, found

    def verify(self, directory: Path, files: Mapping[str, tuple[int, str]]) -> None:
        """Compare the files in ``directory`` with those listed: names and sizes first, then hashes.

        Raises:
            Unsound: a file is missing, is one too many, or differs.
        """
        found = set(itertools.islice(list_files(directory), len(files) + SHOWN + 1)) - {MANIFEST}
        for name in sorted(found - files.keys()):
            raise Unsound(directory / name, f"the file is not one of the {self.noun}'s")
        for name, (size, _) in sorted(files.items()):
            open_plain(directory / name, size).close()
        for name, (size, sha256) in sorted(files.items()):
            with open_plain(directory / name, size) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            if digest != sha256:
                raise Unsound(directory / name, f"expected SHA-256 {sha256}, found {digest}")


def fingerprint(file: Path) -> dict[str, Any]:
    """What a manifest says of a file: size (bytes) and sha256."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"size": os.fstat(stream.fileno()).st_size, "sha256": digest}


def list_files(directory: Path) -> Iterator[str]:
    """Every entry below ``directory`` that is not a directory, links included."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            yield (Path(folder) / name).relative_to(directory).as_posix()


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of JSON data, however it is laid out."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# Reading


def open_plain(file: Path, size: int | None = None) -> BinaryIO:
    """Open a plain file, of that size; links, pipes and devices are refused unread.

    Raises:
        Unsound: it is none, or of another size.
        FileNotFoundError: with ``size`` None, it is not there.
    """
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):  # to open a device may set it off
            raise Unsound(file, "the file is not a plain file")
        # Not blocked, nor led elsewhere, by what takes its place meanwhile.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        if size is None:
            raise
        raise Unsound(file, "the file is missing") from None
    stream = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(found.st_mode):
        problem = "the file is not a plain file"
    elif size is not None and found.st_size != size:
        problem = f"expected {size} bytes, found {found.st_size}"
    if problem:
        stream.close()
        raise Unsound(file, problem)
    return stream


def read_plain(file: Path, size: int | None = None, most: int | None = None) -> bytes:
    """The content of a plain file, of that ``size`` or of at ``most`` so many bytes.

    Raises as :func:`open_plain` does.
    """
    limit = most if size is None else size
    with open_plain(file, size) as stream:
        content = stream.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise Unsound(file, f"expected at most {limit} bytes, found more")
    return content


def parse(file: Path, content: str | bytes) -> Any:
    """JSON data in which no key is there twice.

    Raises:
        Unsound: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise Unsound(file, f"the key {shown(twice)} is there twice")
        return values

    try:
        return json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Unsound(file, f"not JSON (found {len(content)} bytes; {error})") from None


# Schemas


def check(file: Path, value: Any, schema: Check, key: str = "") -> None:
    """Raise :class:`Unsound` with the first problems, if there are any."""
    problems = list(itertools.islice(schema(value, key), SHOWN))
    if problems:
        raise Unsound(file, "; ".join(problems))


def shown(value: Any) -> str:
    """A value as an error tells it: escaped, on one line, and short."""
    if isinstance(value, list | dict):  # not written out whole only to be cut
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(key: str, what: str, value: Any) -> str:
    return f"{key or 'it'} must be {what}, got {shown(value)}"


def real(least: float = -math.inf, above: float = -math.inf) -> Check:
    """A finite number, at ``least`` or ``above`` a bound."""
    what = "a finite number"
    if least > -math.inf:
        what += f" of at least {least:g}"
    if above > -math.inf:
        what += f" above {above:g}"

    def problems(value: Any, key: str) -> Problems:
        sound = type(value) in (int, float) and abs(value) <= MAX_NUMBER
        if not sound or value < least or value <= above:
            yield _expected(key, what, value)

    return problems


def whole(least: int, most: int) -> Check:
    """A whole number, ``least`` to ``most``."""

    def problems(value: Any, key: str) -> Problems:
        if type(value) is not int or not least <= value <= most:
            yield _expected(key, f"a whole number of {least} to {most}", value)

    return problems


def text(pattern: str = r"(?s).*", what: str = "a string", most: int = 4096) -> Check:
    """A string, of a pattern."""
    of = re.compile(pattern)

    def problems(value: Any, key: str) -> Problems:
        if not isinstance(value, str) or len(value) > most or not of.fullmatch(value):
            yield _expected(key, f"{what} of at most {most} characters", value)

    return problems


def flag(value: Any, key: str) -> Problems:
    """True or false."""
    if type(value) is not bool:
        yield _expected(key, "true or false", value)


def anything(value: Any, key: str) -> Problems:
    """JSON data that its reader checks itself."""
    del value, key
    yield from ()


def optional(inner: Check) -> Check:
    """Null, or what ``inner`` takes."""

    def problems(value: Any, key: str) -> Problems:
        if value is not None:
            for problem in inner(value, key):
                yield problem.replace(" must be ", " must be null or ", 1)

    return problems


def listing(inner: Check, least: int = 0, most: int = 2**16) -> Check:
    """A list; how long it is is looked at before what it holds."""

    def problems(value: Any, key: str) -> Problems:
        if not isinstance(value, list) or not least <= len(value) <= most:
            yield _expected(key, f"a list of {least} to at most {most}", value)
        else:
            for place, entry in enumerate(value):
                yield from inner(entry, f"{key}[{place}]")

    return problems


def pair(first: Check, second: Check) -> Check:
    """A list of two."""

    def problems(value: Any, key: str) -> Problems:
        if not isinstance(value, list) or len(value) != 2:
            yield _expected(key, "a list of 2", value)
        else:
            yield from first(value[0], f"{key}[0]")
            yield from second(value[1], f"{key}[1]")

    return problems


def mapping(inner: Check, most: int = 4096) -> Check:
    """An object of any keys, all of whose values are alike."""

    def problems(value: Any, key: str) -> Problems:
        if not isinstance(value, dict):
            yield _expected(key, "an object", value)
        elif len(value) > most:
            yield _expected(key, f"an object of at most {most} entries", value)
        else:
            for name, entry in value.items():
                yield from inner(entry, f"{key}.{name[:200]}".lstrip("."))

    return problems


def record(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object that has the ``required`` keys, and ``others`` maybe; more are let be."""

    def problems(value: Any, key: str) -> Problems:
        if not isinstance(value, dict):
            yield _expected(key, "an object", value)
            return
        for name, inner in {**required, **(others or {})}.items():
            place = f"{key}.{name}".lstrip(".")
            if name in value:
                yield from inner(value[name], place)
            elif name in required:
                yield f"{place} is missing"

    return problems
