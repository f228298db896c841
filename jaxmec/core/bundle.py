"""Bundles: what leaves for the edge, as a directory that says of itself what it is.

A bundle is a directory::

    manifest.json       JSON: the method, the network, the observation, the action, ...
    policy/             the policy alone, an Orbax checkpoint, for `jaxmec.load_policy`
    policy.stablehlo    the decision as a StableHLO program, for machines with JAX
    policy.onnx         the decision as an ONNX graph, for machines without

It is a sealed directory (:mod:`jaxmec.core.sealed`). Nothing is pickled or imported: the
manifest is JSON, the checkpoint holds arrays, and the two programs are graphs of arithmetic, or
are refused by whoever runs them (docs/deployment.md). Against somebody who replaces the whole
bundle, keep the digest that the export printed, and ask for it when opening.

This module needs Python's standard library alone, so that a small box can read a bundle.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from jaxmec.core import checks, files, sealed
from jaxmec.core.files import PathLike
from jaxmec.core.sealed import MANIFEST, Listed
from jaxmec.core.types import Document

FORMAT = "jaxmec bundle"
FORMAT_VERSION = 2  # 1: the programs gave preferences, and the manifest has no decision

POLICY = "policy"
STABLEHLO = "policy.stablehlo"
ONNX = "policy.onnx"
MAX_SERVERS = 4096

_SERVERS = checks.listing(checks.number(above=0), 1, MAX_SERVERS)
_NAME = checks.text(r"[^\x00-\x1f\x7f-\x9f]+", "a printable name", 200)
_SCHEMA = checks.record(
    {
        "method": _NAME,
        "network": checks.record(
            {
                "capacity": _SERVERS,  # [B] Gcycles/s
                "rate": _SERVERS,  # [B] Mbit/s
                "uplink_contention": checks.flag,
                "max_wait": checks.optional(checks.number(0)),  # s
                "slot_length": checks.number(above=0),  # s
            },
            {"deadline": checks.optional(checks.number(above=0))},  # s
        ),
        "observation": checks.record(
            {
                "information": _NAME,
                "size": checks.whole(1, 2**20),
                "features": checks.listing(
                    checks.record(
                        {
                            "name": _NAME,
                            "length": checks.whole(1, 2**20),
                            "scale": checks.number(above=0),
                        }
                    ),
                    most=256,
                ),
            },
            {
                "neighbours": checks.optional(checks.whole(1, MAX_SERVERS)),
                "flow": checks.mapping(checks.number(above=0), 256),
            },
        ),
        "action": checks.record(
            {"mode": _NAME, "num_preferences": checks.whole(1, 2**64)},  # of a set of sets
            {
                "k": checks.optional(checks.whole(1, MAX_SERVERS)),
                "score_scale": checks.number(above=0),  # s
            },
        ),
        "allocation": checks.record({"rule": _NAME, "information": _NAME}),
    },
    {
        "decision": checks.record(
            {
                "columns": checks.listing(
                    checks.record(
                        {
                            "name": _NAME,
                            "length": checks.whole(1, MAX_SERVERS),
                            "optional": checks.flag,
                        }
                    ),
                    most=64,
                )
            }
        )
    },
)


def _is_ours(path: PurePosixPath) -> bool:
    return str(path) in (STABLEHLO, ONNX) or (len(path.parts) > 1 and path.parts[0] == POLICY)


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


_BUNDLE = sealed.Format(
    name=FORMAT,
    noun="bundle",
    version=FORMAT_VERSION,
    max_bytes=4 * 2**20,
    max_file_bytes=sealed.MAX_POLICY_FILE,
    schema=_SCHEMA,
    is_ours=_is_ours,
    errors=sealed.Errors(BundleMissing, BundleDamaged, BundleIncompatible, BundleNotWritten),
    made_by="; `jaxmec export RUN --to DIR` makes one",
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found to be what its manifest says."""

    path: Path
    manifest: Document  # what it says of itself, less the hashes
    files: dict[str, Listed]  # (bytes, SHA-256) by path within the bundle
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
        return _BUNDLE.content(self.path, name, self.files[name])

    def section(self, name: str) -> Document:
        """One object of the manifest; BundleDamaged if it is not there."""
        value = self.manifest.get(name)
        if not isinstance(value, dict):
            raise _BUNDLE.damaged(self.path / MANIFEST, f"{name} must be an object, got {value!r}")
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
    seal = _BUNDLE.read(path)
    if digest is not None and digest != seal.digest:
        raise BundleIncompatible(
            f"the bundle {path} has the digest {seal.digest}, and {digest} was asked for"
        )
    _BUNDLE.verify(path, seal.files)
    return Bundle(path, seal.document, seal.files, seal.digest)


@contextlib.contextmanager
def writing(path: PathLike, manifest: Mapping[str, object]) -> Iterator[Path]:
    """A directory to put a bundle's files into; at the end of the block it becomes ``path``.

    ``manifest`` is JSON data and may be filled until then. A bundle that is at ``path`` is
    replaced in one step, so a reader sees the old one or the new one.

    Raises:
        BundleNotWritten: the disk is full, permission is denied, or something that is not a
            bundle is at ``path``. What was there is untouched.
    """
    target = Path(path).absolute()
    try:
        with _BUNDLE.writing(target, manifest) as new:
            yield new
    except OSError as error:
        left = f"What was there before, {target}, is untouched" if target.exists() else "No trace"
        raise _BUNDLE.not_written(target, f"{error}. {left}") from error
