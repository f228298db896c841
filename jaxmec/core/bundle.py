"""Bundles: what leaves for the edge, as a directory that says of itself what it is.

A bundle is a directory::

    manifest.json       JSON: the method, the network, the observation, the action, ..., and
                        every other file with its size and SHA-256
    policy/             the policy alone, an Orbax checkpoint, for `jaxmec.load_policy`
    policy.stablehlo    the preferences as a StableHLO program, for machines with JAX
    policy.onnx         the preferences as an ONNX graph, for machines without

It is written whole or not at all, and refused when a byte of it has changed. Nothing is
pickled or imported: the manifest is JSON, the checkpoint holds arrays, and the two programs are
graphs of arithmetic, or are refused by whoever runs them (docs/deployment.md). The hashes lie
beside what they protect, so they guard against damage, not against somebody who replaces the whole
bundle; against that, keep the digest that the export printed, and ask for it when opening.

This module needs Python's standard library alone, so that a small box can read a bundle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxmec.core import files
from jaxmec.core import manifest as manifests
from jaxmec.core.files import PathLike
from jaxmec.core.manifest import MANIFEST

FORMAT = "jaxmec bundle"
FORMAT_VERSION = 1

POLICY = "policy"
STABLEHLO = "policy.stablehlo"
ONNX = "policy.onnx"
MAX_SERVERS = 4096

_SERVERS = manifests.listing(manifests.real(above=0), 1, MAX_SERVERS)
_NAME = manifests.text(r"[^\x00-\x1f\x7f-\x9f]+", "a printable name", 200)
_SCHEMA = manifests.record(
    {
        "method": _NAME,
        "network": manifests.record(
            {
                "capacity": _SERVERS,  # [B] Gcycles/s
                "rate": _SERVERS,  # [B] Mbit/s
                "uplink_contention": manifests.flag,
                "max_wait": manifests.optional(manifests.real(least=0)),  # s
                "slot_length": manifests.real(above=0),  # s
            },
            {"deadline": manifests.optional(manifests.real(above=0))},  # s
        ),
        "observation": manifests.record(
            {
                "information": _NAME,
                "size": manifests.whole(1, 2**20),
                "features": manifests.listing(
                    manifests.record(
                        {
                            "name": _NAME,
                            "length": manifests.whole(1, 2**20),
                            "scale": manifests.real(above=0),
                        }
                    ),
                    most=256,
                ),
            },
            {
                "neighbours": manifests.optional(manifests.whole(1, MAX_SERVERS)),
                "flow": manifests.mapping(manifests.real(above=0), 256),
            },
        ),
        "action": manifests.record(
            {"mode": _NAME, "num_preferences": manifests.whole(1, 2**64)},  # of a set of sets
            {
                "k": manifests.optional(manifests.whole(1, MAX_SERVERS)),
                "score_scale": manifests.real(above=0),  # s
            },
        ),
        "allocation": manifests.record({"rule": _NAME, "information": _NAME}),
    }
)


def _is_ours(path: PurePosixPath) -> bool:
    return str(path) in (STABLEHLO, ONNX) or (len(path.parts) > 1 and path.parts[0] == POLICY)


_FORMAT = manifests.Format(
    name=FORMAT,
    noun="bundle",
    version=FORMAT_VERSION,
    max_bytes=4 * 2**20,
    max_file_bytes=manifests.MAX_POLICY_FILE,
    schema=_SCHEMA,
    is_ours=_is_ours,
)


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
        try:
            content = manifests.read_plain(file, size)
        except manifests.Unsound as error:
            raise _damaged(error.file, error.problem) from None
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
    document, listed, found = _read_manifest(path)
    if digest is not None and digest != found:
        raise BundleIncompatible(
            f"the bundle {path} has the digest {found}, and {digest} was asked for"
        )
    try:
        _FORMAT.verify(path, listed)
    except manifests.Unsound as error:
        raise _damaged(error.file, error.problem) from None
    return Bundle(path, document, listed, found)


def _read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]], str]:
    if not path.is_dir():
        raise BundleMissing(f"there is no bundle {path}")
    try:
        return _FORMAT.read(path)
    except FileNotFoundError:
        raise BundleMissing(
            f"{path} is not a bundle: it has no {MANIFEST}; `jaxmec export RUN --to DIR` makes one"
        ) from None
    except manifests.Foreign as error:
        raise BundleMissing(f"{path} is not a bundle: {error}") from None
    except manifests.TooNew as error:
        raise BundleIncompatible(str(error)) from None
    except manifests.Unsound as error:
        raise _damaged(error.file, error.problem) from None


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
            try:  # what could not be read back takes no place
                _read_manifest(new)
            except BundleError as error:
                raise BundleNotWritten(f"could not write the bundle {target}: {error}") from error
    except OSError as error:
        left = f"What was there before, {target}, is untouched" if target.exists() else "No trace"
        raise BundleNotWritten(f"could not write the bundle {target}: {error}. {left}") from error


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, with the hashes of all other files."""
    document: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}
    document["files"] = {
        name: manifests.fingerprint(directory / name) for name in manifests.list_files(directory)
    }
    # As it will be read back, so that both have the same digest; an error if not JSON.
    document = json.loads(json.dumps(document, allow_nan=False))
    document["sha256"] = manifests.digest_of(document)
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
