"""Bundles: what leaves for the edge, as a directory that says of itself what it is.

A bundle is a directory::

    manifest.json       JSON: the method, the network, the observation, the action, ..., and
                        every other file with its size and SHA-256
    policy/             the policy alone, an Orbax checkpoint, for `jaxmec.load_policy`
    policy.stablehlo    the preferences as a StableHLO program, for machines with JAX
    policy.onnx         the preferences as an ONNX graph, for machines without

It is written whole or not at all, and refused when a byte of it has changed. Nothing is
pickled, and nothing that is read is ever executed: the manifest is JSON, the checkpoint holds
arrays, and the two programs are graphs of arithmetic. The hashes lie beside what they protect,
so they guard against damage, not against somebody who replaces the whole bundle; against that,
keep the digest that the export printed, and ask for it when opening.

This module needs Python's standard library alone, so that a small box can read a bundle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxmec import files
from jaxmec.files import PathLike

FORMAT = "jaxmec bundle"
FORMAT_VERSION = 1

MANIFEST = "manifest.json"
POLICY = "policy"
STABLEHLO = "policy.stablehlo"
ONNX = "policy.onnx"
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_FILE_BYTES = 2**30


class BundleError(Exception):
    """Something is wrong with a bundle; the message says what, where, and what was expected."""


class BundleMissing(BundleError):
    """There is no bundle at this place."""


class BundleDamaged(BundleError):
    """A file is missing, changed, or does not belong to the bundle."""


class BundleIncompatible(BundleError):
    """The bundle is sound, but of a version or a kind that is not known here."""


class BundleNotWritten(BundleError):
    """Writing failed; a bundle that was there before is untouched."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found to be what its manifest says."""

    path: Path
    manifest: dict[str, Any]  # what it says of itself, less the hashes
    files: dict[str, tuple[int, str]]  # (bytes, SHA-256) by path within the bundle
    digest: str  # SHA-256 of the manifest and, through it, of every file

    def read(self, name: str) -> bytes:
        """The content of one file, checked as it is read: what is returned is what was hashed.

        Raises:
            BundleIncompatible: the bundle has no such file.
            BundleDamaged: the file is not what the manifest says.
        """
        if name not in self.files:
            raise BundleIncompatible(
                f"the bundle {self.path} has no {name}; it has {', '.join(sorted(self.files))}"
            )
        size, sha256 = self.files[name]
        file = self.path / name
        if file.is_symlink() or not file.is_file():
            raise _damaged(file, "the file is missing or is not a plain file")
        with file.open("rb") as stream:
            content = stream.read(size + 1)
        if len(content) != size:
            raise _damaged(file, f"expected {size} bytes, found {file.stat().st_size}")
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise _damaged(file, f"expected SHA-256 {sha256}, found {found}")
        return content

    def section(self, name: str) -> dict[str, Any]:
        """One object of the manifest; BundleDamaged if it is not there."""
        value = self.manifest.get(name)
        if not isinstance(value, dict):
            raise _damaged(self.path / MANIFEST, f"{name} must be an object, got {value!r}")
        return value


def is_bundle(path: PathLike) -> bool:
    """Whether the directory at ``path`` says that it is a bundle, sound or not."""
    path = files.standing(path)
    return (path / POLICY).is_dir() and (path / MANIFEST).exists()


def open_bundle(path: PathLike, *, digest: str | None = None) -> Bundle:
    """Check every file of the bundle at ``path`` against its manifest.

    A bundle that is replaced meanwhile is the old one or the new one, never a mixture.

    Args:
        path: the directory.
        digest: what :attr:`Bundle.digest` has to be: that which the export printed.

    Raises:
        BundleMissing: nothing is there, or something that is no bundle.
        BundleDamaged: a file is missing, is not listed, or has another size or hash.
        BundleIncompatible: the bundle was written by a newer version, or is another one
            than ``digest`` asks for.
    """
    # Resolved, so that a link turned to a newer bundle meanwhile does not mix the two.
    return files.read_settled(path, lambda place: _open(place.resolve(), digest))


def _open(path: Path, digest: str | None) -> Bundle:
    document, found_digest = _read_manifest(path)
    if digest is not None and digest != found_digest:
        raise BundleIncompatible(
            f"the bundle {path} has the digest {found_digest}, and {digest} was asked for"
        )
    bundle = Bundle(path, document, _listed(path, document.pop("files", None)), found_digest)
    present = set(_list_files(path)) - {MANIFEST}
    for name in sorted(bundle.files.keys() | present):
        if name not in bundle.files:
            raise _damaged(path / name, "the file is not one of the bundle's")
        bundle.read(name)
    return bundle


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    file = path / MANIFEST
    if not path.is_dir():
        raise BundleMissing(f"there is no bundle {path}")
    if not file.exists():
        raise BundleMissing(
            f"{path} is not a bundle: it has no {MANIFEST}; `jaxmec export RUN --to DIR` makes one"
        )
    if file.is_symlink() or not file.is_file():
        raise _damaged(file, "the file is not a plain file")
    with file.open("rb") as stream:
        content = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise _damaged(file, f"expected at most {MAX_MANIFEST_BYTES} bytes, found more")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"not JSON (found {len(content)} bytes; {error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        what = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise BundleMissing(f"{path} is not a bundle: its {MANIFEST} is of the format {what!r}")
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _damaged(file, f"format_version must be a positive integer, got {version!r}")
    if version > FORMAT_VERSION:
        raise BundleIncompatible(
            f"{path} has format version {version}, and this jaxmec reads up to "
            f"{FORMAT_VERSION}: install a newer jaxmec"
        )
    expected, found = document.pop("sha256", None), _digest_of(document)
    if expected != found:
        raise _damaged(file, f"expected SHA-256 {expected} of its content, found {found}")
    return document, found


def _listed(path: Path, files: Any) -> dict[str, tuple[int, str]]:
    """The files that a manifest names; a name that leads out of the bundle is refused."""
    file = path / MANIFEST
    if not isinstance(files, dict):
        raise _damaged(file, f"files must be an object, got {files!r}")
    listed = {}
    for name, entry in files.items():
        parts = PurePosixPath(name).parts
        ours = name in (STABLEHLO, ONNX) or (len(parts) > 1 and parts[0] == POLICY)
        if not ours or ".." in parts or "\\" in name or PurePosixPath(*parts).as_posix() != name:
            raise _damaged(file, f"files names {name!r}, which is no file of a bundle")
        size, sha256 = (entry.get(key) if isinstance(entry, dict) else None
                        for key in ("size", "sha256"))  # fmt: skip
        if not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
            raise _damaged(file, f"files.{name}.size must be 0 to {MAX_FILE_BYTES}, got {size!r}")
        if not isinstance(sha256, str):
            raise _damaged(file, f"files.{name}.sha256 must be a string, got {sha256!r}")
        listed[name] = (size, sha256)
    return listed


@contextlib.contextmanager
def writing(path: PathLike, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """A directory to put a bundle's files into; at the end of the block it becomes ``path``.

    ``manifest`` is JSON data and may be filled until then. A bundle that is at ``path`` is
    replaced in one step, so a reader sees the old one or the new one.

    Raises:
        BundleNotWritten: the disk is full, permission is denied, or something that is no
            bundle is at ``path``. What was there is untouched.
    """
    target = Path(path).absolute()
    try:
        with files.replacing_directory(target) as new:
            _refuse_to_replace_other_things(target)
            yield new
            _write_manifest(new, manifest)
    except OSError as error:
        left = f"What was there before, {target}, is untouched" if target.exists() else "No trace"
        raise BundleNotWritten(f"could not write the bundle {target}: {error}. {left}") from error


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, with the hashes of all other files."""
    document: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}
    document["files"] = {}
    for name in _list_files(directory):
        content = (directory / name).read_bytes()
        document["files"][name] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    # As it will be read back, so that both have the same digest; an error if not JSON.
    document = json.loads(json.dumps(document, allow_nan=False))
    document["sha256"] = _digest_of(document)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def _refuse_to_replace_other_things(target: Path) -> None:
    """A directory of somebody's own files must not be taken for an older bundle."""
    if not target.exists() and not target.is_symlink():
        return
    try:
        if target.is_symlink():
            raise BundleMissing("a symbolic link")
        _read_manifest(target)
    except BundleMissing:
        if not (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
            raise BundleNotWritten(
                f"could not write the bundle {target}: something else is there; choose another path"
            ) from None
    except BundleError:
        pass  # a damaged bundle may be replaced by a sound one


def _damaged(file: Path, problem: str) -> BundleDamaged:
    return BundleDamaged(f"damaged bundle: {file}: {problem}")


def _list_files(directory: Path) -> list[str]:
    """Every entry below ``directory`` that is not a directory, links included."""
    names = []
    for folder, folders, inside in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*inside, *links]:
            names.append((Path(folder) / name).relative_to(directory).as_posix())
    return sorted(names)


def _digest_of(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
