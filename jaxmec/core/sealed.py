"""Sealed directories: a manifest says what lies beside it, and all is checked before use.

    manifest.json       JSON: what the directory is, and every other file with its size and SHA-256
    ...                 the files

Bundles, policies and training states are sealed alike: written whole or not at all, and refused
when a byte has changed. What is opened is a plain file of bounded size, names no key twice, and
has the types and sizes that its schema asks for. The hashes lie beside what they protect: they
guard against damage, not against somebody who replaces the whole.

This module needs Python's standard library alone, so that it runs at the edge.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from jaxmec.core import checks, files
from jaxmec.core.checks import Check, shown
from jaxmec.core.types import Document

MANIFEST = "manifest.json"
MAX_FILES = 100_000
MAX_POLICY_FILE = 2**28  # bytes, of a file of a policy or a bundle: 64 million parameters
_SHA256 = checks.text("[0-9a-f]{64}", "a SHA-256", 64)


class Unsound(Exception):
    """A file is not what it should be."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class Errors(NamedTuple):
    """What a kind of sealed directory raises."""

    missing: type[Exception]  # nothing is there, or something else
    damaged: type[Exception]  # a file is missing, changed, or one too many
    incompatible: type[Exception]  # sound, but of a version that is not known here
    not_written: type[Exception]  # writing failed; what was there is untouched


class Listed(NamedTuple):
    """A file as a manifest lists it."""

    size: int  # bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class Seal:
    """What a manifest says."""

    document: Document  # less format, files and hashes
    files: dict[str, Listed]  # by path within the directory, with "/"
    digest: str  # SHA-256 of the manifest and, through it, of every file


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of sealed directory; every method raises the errors of that kind."""

    name: str
    noun: str  # what the directory is called
    version: int  # the newest that is known
    max_bytes: int  # of the manifest
    max_file_bytes: int | None  # of a file beside it; None: no bound
    schema: Check  # of the document less format, format_version, files and sha256
    is_ours: Callable[[PurePosixPath], bool]  # whether a file of this name belongs there
    errors: Errors
    made_by: str = ""  # what to say where there is no manifest
    only_finite: bool = True  # whether the manifest may hold neither NaN nor infinities
    replaces_unmarked: bool = False  # whether files of ours that lack their manifest are replaced

    def read(self, directory: Path) -> Seal:
        """The manifest, itself checked; other files are not looked at."""
        if not directory.is_dir():
            raise self.errors.missing(f"there is no {self.noun} {directory}")
        file = directory / MANIFEST
        with self.translating():
            try:
                document = parse(file, read_plain(file, most=self.max_bytes))
            except FileNotFoundError:
                raise self.errors.missing(
                    f"{directory} is not a {self.noun}: it has no {MANIFEST}{self.made_by}"
                ) from None
            if not isinstance(document, dict) or document.get("format") != self.name:
                what = document.get("format") if isinstance(document, dict) else document
                raise self.errors.missing(
                    f"{directory} is not a {self.noun}: {file}: format must be {self.name!r}, "
                    f"got {shown(what)}"
                )
            return self._checked(file, document)

    def _checked(self, file: Path, document: Document) -> Seal:
        version: Any = document.get("format_version")
        check(file, version, checks.whole(1), "format_version")
        if version > self.version:
            raise self.errors.incompatible(
                f"{file}: it has format version {version}, and this jaxmec reads up to "
                f"{self.version}: install a newer jaxmec"
            )
        expected, found = document.pop("sha256", None), digest_of(document)
        if expected != found:
            raise Unsound(file, f"expected SHA-256 {shown(expected)} of its content, found {found}")
        listed = document.pop("files", None)
        check(file, listed, checks.mapping(checks.anything, most=MAX_FILES), "files")
        for name in listed:
            if not _is_plain_name(name) or not self.is_ours(PurePosixPath(name)):
                raise Unsound(file, f"files names {shown(name)}, which is no file of a {self.noun}")
        largest = 2**50 if self.max_file_bytes is None else self.max_file_bytes
        entry = checks.record({"size": checks.whole(0, largest), "sha256": _SHA256})
        check(file, listed, checks.mapping(entry, most=MAX_FILES), "files")
        check(file, document, self.schema)
        files = {name: Listed(e["size"], e["sha256"]) for name, e in listed.items()}
        return Seal(document, files, found)

    def verify(self, directory: Path, listed: Mapping[str, Listed]) -> None:
        """Compare the files in ``directory`` with those listed: names and sizes, then hashes."""
        with self.translating():
            most = len(listed) + checks.SHOWN + 1
            found = set(itertools.islice(list_files(directory), most)) - {MANIFEST}
            for name in sorted(found - listed.keys()):
                raise Unsound(directory / name, f"the file is not one of the {self.noun}'s")
            for name, (size, _) in sorted(listed.items()):
                open_plain(directory / name, size).close()
            for name, (size, sha256) in sorted(listed.items()):
                with open_plain(directory / name, size) as stream:
                    _compare(directory / name, _sha256(stream), sha256)

    def content(self, directory: Path, name: str, listed: Listed) -> bytes:
        """The content of one file, checked as it is read: what is returned is what was hashed."""
        file = directory / name
        with self.translating():
            content = read_plain(file, listed.size)
            _compare(file, hashlib.sha256(content).hexdigest(), listed.sha256)
        return content

    @contextlib.contextmanager
    def writing(self, target: Path, document: Mapping[str, object]) -> Iterator[Path]:
        """A directory to write files into; at the end of the block it is sealed, as ``target``.

        ``document`` is JSON data and may be filled until then. What is at ``target`` is replaced
        in one step, if it is of this kind: a reader sees the old one or the new one.

        Raises:
            OSError: the disk is full, permission is denied, ...; what was there is untouched.
        """
        with files.replacing_directory(target) as new:
            self._refuse_to_replace_other_things(target)
            yield new
            self._seal(new, document)
            try:  # what cannot be read back is not put there
                self.read(new)
            except (self.errors.missing, self.errors.damaged, self.errors.incompatible) as error:
                raise self.not_written(target, str(error)) from error

    def _seal(self, directory: Path, document: Mapping[str, object]) -> None:
        """Write the manifest, with the hashes of all other files."""
        complete: Document = {"format": self.name, "format_version": self.version, **document}
        complete["files"] = {name: fingerprint(directory / name) for name in list_files(directory)}
        # As it will be read back, so that both have the same digest; an error if not JSON.
        complete = json.loads(json.dumps(complete, allow_nan=not self.only_finite))
        complete["sha256"] = digest_of(complete)
        text = json.dumps(complete, indent=1, sort_keys=True)
        (directory / MANIFEST).write_text(text, encoding="utf-8")

    def _refuse_to_replace_other_things(self, target: Path) -> None:
        """Somebody's own files must not be taken for an older directory of this kind."""
        if not os.path.lexists(target):
            return
        inside = [entry.name for entry in target.iterdir()] if target.is_dir() else ["a file"]
        own = all(name == MANIFEST or self._holds(name) for name in inside)
        if own and not target.is_symlink():
            try:
                self.read(target)
            except self.errors.missing:
                own = not inside or (self.replaces_unmarked and MANIFEST not in inside)
            except (self.errors.damaged, self.errors.incompatible):
                pass  # a sound one may replace it
        if not own or target.is_symlink():
            raise self.not_written(
                target,
                f"something else is there ({', '.join(sorted(inside)[:3])}); choose another path",
            )

    def _holds(self, name: str) -> bool:
        """Whether a file or a folder of this name lies directly in such a directory."""
        return self.is_ours(PurePosixPath(name)) or self.is_ours(PurePosixPath(name, "file"))

    def not_written(self, target: Path, problem: str) -> Exception:
        """The error of a write that failed."""
        return self.errors.not_written(f"could not save the {self.noun} {target}: {problem}")

    def damaged(self, file: Path, problem: str) -> Exception:
        """The error of a file that is not what it should be."""
        return self.errors.damaged(f"damaged {self.noun}: {file}: {problem}")

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Raises what is unsound as damage of this kind."""
        try:
            yield
        except Unsound as error:
            raise self.damaged(error.file, error.problem) from None


def _is_plain_name(name: str) -> bool:
    """A relative path of parts that every file system takes."""
    path = PurePosixPath(name)
    # isprintable first: a lone surrogate has no bytes.
    named = name.isprintable() and all(len(part.encode()) <= 255 for part in path.parts)
    plain = path.as_posix() == name and ".." not in path.parts and "\\" not in name
    return named and plain and len(name) <= 1000


def _compare(file: Path, found: str, expected: str) -> None:
    if found != expected:
        raise Unsound(file, f"expected SHA-256 {expected}, found {found}")


def _sha256(stream: BinaryIO) -> str:
    sha = hashlib.sha256()
    while block := stream.read(2**18):
        sha.update(block)
    return sha.hexdigest()


def fingerprint(file: Path) -> Document:
    """Size and SHA-256 of a file, as a manifest lists them."""
    with file.open("rb") as stream:
        return {"size": os.fstat(stream.fileno()).st_size, "sha256": _sha256(stream)}


def list_files(directory: Path) -> Iterator[str]:
    """Every entry below ``directory`` that is not a directory, links included."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            yield (Path(folder) / name).relative_to(directory).as_posix()


def digest_of(document: Mapping[str, object]) -> str:
    """SHA-256 of JSON data, however it is laid out."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check(file: Path, value: object, schema: Check, name: str = "") -> None:
    """Raise :class:`Unsound` with the first problems, if there are any."""
    if found := checks.problems(value, schema, name):
        raise Unsound(file, found)


def open_plain(file: Path, size: int | None = None) -> BinaryIO:
    """Open a plain file of ``size`` bytes; links, pipes and devices are refused unread.

    Raises:
        Unsound: it is not a plain file, or of another size.
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
    """The content of a plain file of ``size`` bytes, or of at ``most`` so many.

    Raises as :func:`open_plain` does.
    """
    limit = most if size is None else size
    with open_plain(file, size) as stream:
        content = stream.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise Unsound(file, f"expected at most {limit} bytes, found more")
    return content


def parse(file: Path, content: str | bytes) -> Any:
    """JSON data in which no key occurs twice.

    Raises:
        Unsound: it is not JSON, or a key occurs twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> Document:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise Unsound(file, f"the key {shown(twice)} is there twice")
        return values

    try:
        return json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Unsound(file, f"not JSON (found {len(content)} bytes; {error})") from None
