"""Checkpoints: a pytree of arrays, saved whole or not at all, and refused when damaged.

A checkpoint is a directory::

    step_000005000/
      manifest.json     what is inside: leaves, files with their SHA-256, versions, metadata
      arrays/           the leaves, by Orbax; any Orbax of this major version reads them

Everything is written beside its final place under a hidden name and takes that place in one
step, so a name that can be seen is a complete checkpoint. Leaves are brought to the
host first and come back as the reader asks: what eight devices or a GPU saved opens on a
CPU-only machine. PRNG keys are stored as their data, with the name of their
implementation. Nothing is pickled, and nothing that is read is ever executed.

This is the only module that calls Orbax for training states and policies: its interface
is moving to v1, and one file is what that move should cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxmec.core import checks, files, sealed
from jaxmec.core.files import PathLike
from jaxmec.core.sealed import MANIFEST, Listed
from jaxmec.core.types import Document, PyTree
from jaxmec.training import devices

CHECKPOINT_FORMAT = "jaxmec checkpoint"
CHECKPOINT_VERSION = 1

ARRAYS = "arrays"
_STEP = re.compile(r"step_(\d{9,})")
# A change of one of these may change the last bit of a resumed run.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "gymnax", "orbax-checkpoint", "numpy", "jaxmec")

_LEAF = checks.record(
    {
        "path": checks.listing(checks.text(), 1, 256),
        "shape": checks.listing(checks.whole(0, 2**48), 0, 32),
        "dtype": checks.text(r"\w+|key<\w+>", "a dtype", 64),
        "key_impl": checks.optional(checks.text(r"\w+", "a name", 64)),
    }
)
AS_STORED: Any = object()
"""In a template: whatever was saved here, as nested dictionaries of NumPy arrays."""


class CheckpointError(Exception):
    """Something is wrong with a checkpoint; the message says what, where, and what to do."""


class CheckpointMissing(CheckpointError):
    """There is no checkpoint at this place."""


class CheckpointCorrupt(CheckpointError):
    """A file is missing, truncated, changed, or does not belong to the checkpoint."""


class CheckpointIncompatible(CheckpointError):
    """The checkpoint is sound, but is not of the state (or the version) asked for."""


class CheckpointNotSaved(CheckpointError):
    """Saving failed; what had been saved before is untouched."""


_CHECKPOINT = sealed.Format(
    name=CHECKPOINT_FORMAT,
    noun="checkpoint",
    version=CHECKPOINT_VERSION,
    max_bytes=32 * 2**20,  # metadata too: all that a run depends on
    max_file_bytes=None,  # a replay buffer may be large
    schema=checks.record(
        {
            "kind": checks.text("state|policy", "'state' or 'policy'"),
            "step": checks.optional(checks.whole(0, 2**62)),
            "metric": checks.optional(checks.number()),
            "metadata": checks.mapping(checks.anything),
            "versions": checks.mapping(checks.text()),
            "device": checks.text(),
            "leaves": checks.listing(_LEAF, most=100_000),
        }
    ),
    is_ours=lambda path: len(path.parts) > 1 and path.parts[0] == ARRAYS,
    errors=sealed.Errors(
        CheckpointMissing, CheckpointCorrupt, CheckpointIncompatible, CheckpointNotSaved
    ),
    only_finite=False,
    replaces_unmarked=True,
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the tree."""

    path: tuple[str, ...]  # field names, dictionary keys and positions, from the root
    shape: tuple[int, ...]  # logical: a PRNG key has the shape of the key, not of its data
    dtype: str
    key_impl: str | None  # the implementation of a PRNG key; None for a plain array

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    kind: str  # "state" or "policy"
    step: int | None  # environment steps; None where the saver named none
    metric: float | None  # what "best" goes by, larger is better
    metadata: Document  # the saver's own, JSON
    versions: dict[str, str]  # of the libraries and of Python
    device: str  # the kind of device that the saver ran on
    leaves: tuple[Leaf, ...]
    files: dict[str, Listed]  # (bytes, SHA-256) by path within the checkpoint, with "/"


# Saving


def save(
    directory: PathLike,
    tree: PyTree,
    *,
    step: int,
    metric: float | None = None,
    metadata: Mapping[str, object] | None = None,
    keep: int = 3,
) -> Path:
    """Save ``tree`` as ``directory/step_…`` and return that path.

    Of the checkpoints then in ``directory``, the ``keep`` newest and the best by
    ``metric`` (larger is better; not a number counts as none) stay. Leaves may be arrays
    on any devices of this process (``devices.gather`` brings those of others), NumPy
    arrays, Python numbers and PRNG keys.

    Raises:
        CheckpointNotSaved: the disk is full, permission is denied, ...; older
            checkpoints are as they were.
        TypeError: a leaf is not an array.
    """
    step, keep = checks.integer("step", step, 0), checks.integer("keep", keep)
    if metric is not None and not math.isfinite(metric):
        metric = None
    target = Path(directory).absolute() / f"step_{step:09d}"
    _write_files(target, tree, "state", step, metric, metadata or {}, leftovers="step_*")
    _remove_old(target, keep)
    return target


def save_policy(path: PathLike, params: PyTree, manifest: Mapping[str, object]) -> Path:
    """Save the parameters of a policy, alone, at ``path``; a policy there is replaced.

    ``manifest`` is JSON data of the caller's: what is needed to rebuild the policy.

    Raises:
        CheckpointNotSaved: see :func:`save`; also where ``path`` holds something else.
    """
    target = Path(path).absolute()
    _write_files(target, params, "policy", None, None, manifest, leftovers=glob.escape(target.name))
    return target


def _write_files(
    target: Path,
    tree: PyTree,
    kind: str,
    step: int | None,
    metric: float | None,
    metadata: Mapping[str, object],
    leftovers: str,
) -> None:
    leaves, values = _to_host(tree)
    document = {
        "kind": kind,
        "step": step,
        "metric": metric,
        "metadata": dict(metadata),
        "versions": _installed_versions(),
        "device": _device_kind(),
        "leaves": [dataclasses.asdict(leaf) for leaf in leaves],
    }
    json.dumps(document)  # TypeError if not JSON, before anything is written
    try:
        with _CHECKPOINT.writing(target, document) as new:
            stored = {
                _kept_apart(leaf.path): value
                for leaf, value in zip(leaves, values, strict=True)
                if value.size  # Orbax stores no empty arrays; the manifest has their shapes
            }
            if stored:
                _write_arrays(new / ARRAYS, stored)
    # Orbax and TensorStore report a full disk as they like (ValueError, among others).
    except Exception as error:
        if isinstance(error, CheckpointError):
            raise
        raise _CHECKPOINT.not_written(target, f"{_why(error)}. {_what_is_left(target)}") from error
    # Only now: an older version moved the one that it replaced to such a name.
    for hidden in (".saving-", ".removing-"):
        for leftover in target.parent.glob(hidden + leftovers):
            shutil.rmtree(leftover, ignore_errors=True)


def _what_is_left(target: Path) -> str:
    others = [path for path in checkpoints(target.parent) if path != target]
    if target.exists():
        return f"What was there before, {target}, is untouched"
    return f"The checkpoint before it, {others[-1]}, is untouched" if others else "Nothing was kept"


def _remove_old(newest: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest and the best; a failure here is only a warning."""
    everything = checkpoints(newest.parent)
    staying = {newest, *everything[-keep:]}
    top = best(newest.parent) if len(everything) > len(staying) else None
    for path in everything:
        if path in staying or path == top:
            continue
        try:
            files.remove_directory(path)
        except OSError as error:
            warnings.warn(f"could not remove the old checkpoint {path}: {error}", stacklevel=3)


def _to_host(tree: PyTree) -> tuple[list[Leaf], list[np.ndarray]]:
    """The leaves' descriptions and their values as NumPy arrays; keys become their data."""
    leaves, values = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = _names(path)
        if isinstance(value, bool | int | float | complex):
            value = jnp.asarray(value)
        if not names or not hasattr(value, "dtype") or getattr(value.dtype, "hasobject", False):
            raise TypeError(
                "a checkpoint holds a tree of arrays, and its leaf "
                f"{'/'.join(names) or '(the root)'} is a {type(value).__name__}"
            )
        impl = str(jax.random.key_impl(value)) if _is_key(value.dtype) else None
        leaves.append(Leaf(names, tuple(value.shape), str(value.dtype), impl))
        values.append(jax.random.key_data(value) if impl else value)
    return leaves, [np.asarray(value) for value in jax.device_get(values)]


# Restoring


def restore(path: PathLike, template: PyTree, *, sharding: Any = None) -> tuple[PyTree, Manifest]:
    """Read a checkpoint into the structure of ``template``; returns it and the manifest.

    Args:
        path: a checkpoint, or a directory of them, of which the newest is taken.
        template: arrays or ``jax.ShapeDtypeStruct`` (from ``jax.eval_shape``) in the
            structure wanted; a subtree :data:`AS_STORED` takes what there is.
        sharding: a device, a sharding, or a tree of them over ``template``, for
            ``jax.device_put``; the default device if None. What the saver had is never
            asked for. Leaves under :data:`AS_STORED` stay NumPy arrays on the host.

    Raises:
        CheckpointMissing: nothing is there.
        CheckpointCorrupt: a file does not have the size or the hash that the manifest
            says; the message names it, and the newest good checkpoint before it.
        CheckpointIncompatible: a leaf is missing, is not expected, or has another shape
            or dtype; or the checkpoint was written by a newer version.

    Warns when a training state was saved with other library versions or another device.
    """
    path = find(path)
    flat, structure = jax.tree_util.tree_flatten_with_path(template)
    wanted = [(_names(place), value) for place, value in flat]

    def read(place: Path) -> tuple[Manifest, dict[tuple[str, ...], np.ndarray]]:
        manifest = _verify(place)
        _check_leaves(place, {leaf.path: leaf for leaf in manifest.leaves}, wanted)
        return manifest, _read_arrays(place, manifest)

    with _offering_another(path):
        manifest, arrays = files.read_settled(path, read)
    _warn_of_differences(path, manifest)
    stored = {leaf.path: leaf for leaf in manifest.leaves}
    results: list[Any] = []
    for names, value in wanted:
        if value is AS_STORED:
            below = [leaf for leaf in manifest.leaves if leaf.path[: len(names)] == names]
            results.append(_nested({leaf.path[len(names) :]: arrays[leaf.path] for leaf in below}))
        elif impl := stored[names].key_impl:
            try:
                key = jax.random.wrap_key_data(jnp.asarray(arrays[names]), impl=impl)
            except (TypeError, ValueError) as error:
                problem = f"{'/'.join(names)} is no key: {error}"
                raise _CHECKPOINT.damaged(path / ARRAYS, problem) from None
            results.append(key)
        else:
            results.append(arrays[names])
    moving = [i for i, (_, value) in enumerate(wanted) if value is not AS_STORED]
    places = None
    if sharding is not None:
        places = jax.tree.leaves(jax.tree.broadcast(sharding, template))
        places = [places[i] for i in moving]
    if places is not None and not all(map(_is_here, places)):
        moved = [devices.put(results[i], place) for i, place in zip(moving, places, strict=True)]
    else:
        # Without may_alias=False a CPU array may lie on NumPy's memory, and a state is donated.
        moved = jax.device_put([results[i] for i in moving], places, may_alias=False)
    for i, value in zip(moving, moved, strict=True):
        results[i] = value
    return jax.tree.unflatten(structure, results), manifest


def load_policy_arrays(path: PathLike) -> tuple[PyTree, Manifest]:
    """The parameters at ``path`` as nested dictionaries of NumPy arrays, and the manifest.

    No template, no device and no agent are needed. A list or tuple that was saved comes
    back as a dictionary of "0", "1", .... Raises as :func:`restore` does.
    """
    path = Path(path).absolute()

    def read(place: Path) -> tuple[PyTree, Manifest]:
        manifest = _verify(place)
        if manifest.kind != "policy":
            raise CheckpointIncompatible(
                f"{path} holds a training {manifest.kind}, not a policy: export the policy first"
            )
        return _nested(_read_arrays(place, manifest)), manifest

    with _offering_another(path):
        return files.read_settled(path, read)


def verify(path: PathLike) -> Manifest:
    """Check every file of the checkpoint at ``path`` against its manifest, and return that.

    Raises as :func:`restore` does.
    """
    path = Path(path).absolute()
    with _offering_another(path):
        return files.read_settled(path, _verify)


def read_manifest(path: PathLike) -> Manifest:
    """The manifest of the checkpoint at ``path``, itself checked; arrays are not looked at.

    Raises as :func:`restore` does.
    """
    path = Path(path).absolute()
    with _offering_another(path):
        return files.read_settled(path, _read_manifest)


def _verify(path: Path) -> Manifest:
    manifest = _read_manifest(path)
    _CHECKPOINT.verify(path, manifest.files)
    return manifest


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        seal = _CHECKPOINT.read(path)
    except CheckpointMissing as error:
        if path.is_dir() and _STEP.fullmatch(path.name):
            problem = str(error) if file.exists() else "the file is missing"
            raise _CHECKPOINT.damaged(file, problem) from None
        beside = "" if path.is_dir() else ", ".join(p.name for p in checkpoints(path.parent))
        raise CheckpointMissing(f"{error}; beside it: {beside}" if beside else str(error)) from None
    document = seal.document
    leaves = tuple(
        Leaf(tuple(leaf["path"]), tuple(leaf["shape"]), leaf["dtype"], leaf["key_impl"])
        for leaf in document["leaves"]
    )
    if len({leaf.path for leaf in leaves}) < len(leaves):
        raise _CHECKPOINT.damaged(file, "leaves names one path twice")
    for name, (size, _) in seal.files.items():
        if document["kind"] == "policy" and size > sealed.MAX_POLICY_FILE:
            most = sealed.MAX_POLICY_FILE
            raise _CHECKPOINT.damaged(file, f"files.{name}.size must be at most {most}, got {size}")
    return Manifest(
        document["kind"],
        document["step"],
        document["metric"],
        document["metadata"],
        document["versions"],
        document["device"],
        leaves,
        seal.files,
    )


def check_metadata(path: PathLike, metadata: object, schema: checks.Check) -> None:
    """Check what the saver said, by the reader's schema.

    Raises:
        CheckpointCorrupt: with the first problems.
    """
    with _CHECKPOINT.translating():
        sealed.check(Path(path) / MANIFEST, metadata, schema, "metadata")


@contextlib.contextmanager
def _offering_another(path: Path) -> Iterator[None]:
    """Adds to a report of damage which other checkpoint beside ``path`` is whole."""
    try:
        yield
    except CheckpointCorrupt as error:
        for other in reversed(checkpoints(path.parent)):
            with contextlib.suppress(CheckpointError, OSError):
                if other != path and _verify(other):
                    offer = (
                        f"the newest good checkpoint beside it is {other}: move the damaged "
                        "one away to go on from there"
                    )
                    break
        else:
            offer = "there is no other good checkpoint beside it"
        raise CheckpointCorrupt(f"{error}; {offer}") from None


# Finding


def checkpoints(directory: PathLike) -> list[Path]:
    """The checkpoints in ``directory``, oldest first, unchecked; [] if there is none."""
    directory = Path(directory).absolute()
    if not directory.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in files.standing_in(directory)
        if (match := _STEP.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def find(path: PathLike) -> Path:
    """``path`` if it is a checkpoint, else the newest in it; CheckpointMissing if none."""
    path = Path(path).absolute()
    if (files.standing(path) / MANIFEST).exists() or _STEP.fullmatch(path.name):
        return path
    inside = checkpoints(path)
    if not inside:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointMissing(f"{path} {what}")
    return inside[-1]


def best(directory: PathLike) -> Path | None:
    """The checkpoint with the largest metric, the newest of equals; None if none has one."""
    scored = []
    for path in checkpoints(directory):
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue  # a damaged checkpoint is not the best one
        if manifest.metric is not None:
            scored.append((manifest.metric, manifest.step or 0, path))
    return max(scored)[-1] if scored else None


# The pieces


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """Orbax for this process alone: it would wait for all, and here one may write or read.

    What it warns of is an error here. What it logs, traceback upon traceback, of an error that
    it then raises is not: whoever catches the error says it once.
    """
    said: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return record.levelno < logging.WARNING

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(take)
    before, sys.unraisablehook = sys.unraisablehook, _unless_closed(sys.unraisablehook)
    try:
        with _alone() as checkpointer:
            yield checkpointer
        sys.unraisablehook = before  # after a failure it stays: what was under way comes late
    finally:
        for logger in loggers:
            logger.removeFilter(take)
    if skipped := [line for line in said if "Skipping merge" in line]:
        raise OSError(skipped[0])
    for line in said:
        warnings.warn(f"Orbax: {line}", stacklevel=4)


def _unless_closed(before: Any) -> Any:
    """Of writes that were under way when another failed: they report to a loop that is gone."""

    def hook(found: Any) -> None:
        if not (type(found.exc_value) is RuntimeError and "loop is closed" in str(found.exc_value)):
            before(found)

    return hook


def _why(error: BaseException) -> str:
    """What an error of TensorStore's says, less the whole specification that it adds."""
    return re.sub(r"\s*\[tensorstore_spec=.*\]", "", str(error), flags=re.DOTALL)


def _alone() -> Any:
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _under_a_plain_name(path: Path) -> Iterator[Path]:
    """``path`` by a name that Orbax takes as it is.

    It looks for its own parts with a glob, and TensorStore takes a backslash for a slash; of
    such a path they would write one thing and read another. They get a link to it instead.
    """
    name = os.fspath(path)
    if glob.escape(name) == name and "\\" not in name and _is_unicode(name):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxmec-") as folder:
        link = Path(folder, "folder")
        link.symlink_to(path.parent)
        yield link / path.name


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_arrays(path: Path, arrays: Mapping[tuple[str, ...], np.ndarray]) -> None:
    """Write the arrays, and read one of them back.

    Orbax only warns where it joins its parts to nothing, and what it has then written cannot be
    read at all; where it does join them, it looks that no array is missing.
    """
    smallest = min(arrays, key=lambda name: arrays[name].nbytes)
    with _under_a_plain_name(path) as plain, _checkpointer() as checkpointer:
        checkpointer.save(plain, _nested(arrays))
        found = checkpointer.restore(
            plain,
            args=ocp.args.PyTreeRestore(
                item=_nested({smallest: 0}),
                restore_args=_nested({smallest: ocp.RestoreArgs(restore_type=np.ndarray)}),
                partial_restore=True,
            ),
        )
    for name in smallest:
        found = found[name]
    if found.tobytes() != arrays[smallest].tobytes():
        raise CheckpointNotSaved(f"{path} holds another {'/'.join(smallest)} than was saved")


def _read_arrays(path: Path, manifest: Manifest) -> dict[tuple[str, ...], np.ndarray]:
    """The stored values by path, as NumPy arrays; the files have been verified."""
    try:
        return _arrays_of(path, manifest)
    except CheckpointError:
        raise
    except Exception as error:  # whatever Orbax and NumPy make of foreign bytes and names
        problem = (_why(error).splitlines() or [""])[0][:300]
        raise _CHECKPOINT.damaged(path / ARRAYS, f"it cannot be read: {problem}") from error


def _arrays_of(path: Path, manifest: Manifest) -> dict[tuple[str, ...], np.ndarray]:
    arrays = {
        leaf.path: np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
        for leaf in manifest.leaves
        if 0 in leaf.shape
    }
    on_disk = [leaf for leaf in manifest.leaves if leaf.path not in arrays]
    # Said for every leaf: of what is left open, Orbax asks for the saver's kind and devices.
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    found: Any = {}
    if on_disk:
        with _under_a_plain_name(path / ARRAYS) as plain, _checkpointer() as checkpointer:
            found = checkpointer.restore(
                plain,
                restore_args=_nested({_kept_apart(leaf.path): as_numpy for leaf in on_disk}),
            )
    for leaf in on_disk:
        value = found
        for name in _kept_apart(leaf.path):
            value = value[name]
        if leaf.key_impl is None and (value.shape, str(value.dtype)) != (leaf.shape, leaf.dtype):
            raise _CHECKPOINT.damaged(
                path / ARRAYS,
                f"the leaf {leaf.name} is {value.dtype}{list(value.shape)}, and "
                f"{leaf.dtype}{list(leaf.shape)} by the manifest",
            )
        arrays[leaf.path] = value
    return {leaf.path: arrays[leaf.path] for leaf in manifest.leaves}


def _check_leaves(
    path: Path,
    stored: Mapping[tuple[str, ...], Leaf],
    wanted: Sequence[tuple[tuple[str, ...], PyTree]],
) -> None:
    problems = []
    unexpected = dict(stored)
    for names, value in wanted:
        if value is AS_STORED:
            for other in [other for other in unexpected if other[: len(names)] == names]:
                del unexpected[other]
            continue
        leaf = unexpected.pop(names, None)
        aval = jax.typeof(value) if isinstance(value, bool | int | float | complex) else value
        shape, dtype = tuple(aval.shape), str(aval.dtype)
        if leaf is None:
            problems.append(f"it has no leaf {'/'.join(names)} ({dtype}{list(shape)} expected)")
        elif (leaf.shape, leaf.dtype) != (shape, dtype):
            problems.append(
                f"the leaf {leaf.name} is {leaf.dtype}{list(leaf.shape)} in the checkpoint, "
                f"and {dtype}{list(shape)} was expected"
            )
    problems += [
        f"its leaf {leaf.name} ({leaf.dtype}{list(leaf.shape)}) was not expected"
        for leaf in unexpected.values()
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointIncompatible(
            f"the checkpoint {path} does not fit: {'; '.join(problems[:3])}{more}"
        )


def _warn_of_differences(path: Path, manifest: Manifest) -> None:
    """A policy does not mind; a training state goes on to the bit only where it was saved."""
    here = {**_installed_versions(), "device": _device_kind()}
    saved = {**manifest.versions, "device": manifest.device}
    different = [
        f"{name} {saved[name]} (here {here[name]})"
        for name in (*_LIBRARIES, "device")
        if saved.get(name, here[name]) != here[name]
    ]
    if different and manifest.kind == "state":
        warnings.warn(
            f"{path} was saved with {', '.join(different)}: it opens, but a resumed run may "
            "differ in the last bits from one never stopped",
            stacklevel=4,
        )


def _installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _device_kind() -> str:
    return str(jax.devices()[0].device_kind)


def _is_here(place: object) -> bool:
    """Whether a device or a sharding is of this process alone."""
    return not isinstance(place, jax.sharding.Sharding) or place.is_fully_addressable


def _is_key(dtype: Any) -> bool:
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _names(path: Iterable[object]) -> tuple[str, ...]:
    """A JAX key path as plain names: field, dictionary key, or position."""
    names = []
    for entry in path:
        for attribute in ("name", "key", "idx"):
            if hasattr(entry, attribute):
                names.append(str(getattr(entry, attribute)))
                break
    return tuple(names)


def _kept_apart(path: tuple[str, ...]) -> tuple[str, ...]:
    """A path that Orbax keeps apart from others: it joins the names with dots."""
    return tuple(urllib.parse.quote(name, safe="").replace(".", "%2E") for name in path)


def _nested(values: Mapping[tuple[str, ...], Any]) -> PyTree:
    """Nested dictionaries of what is given by path."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree
