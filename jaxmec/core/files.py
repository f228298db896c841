"""Files and directories that are there whole or not at all, however the writer ends.

What is written goes beside its place, is brought to the disk, and takes the place by one
rename. A reader sees the old content or the new one, and so does whoever comes after a kill,
a full disk or a power cut.

A directory that is replaced is exchanged with the new one, in one step of the kernel. Where
the file system has no such step (NFS), it is moved aside and the new one takes its place:
between these two the old one is found where it was moved to, by readers (:func:`standing`)
and by the next writer.

This module needs Python's standard library alone, so that it runs at the edge.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

PathLike = str | os.PathLike[str]
Returned = TypeVar("Returned")

_ASIDE = ".replaced-"  # where an old directory waits while the new one takes its place
_WRITING = re.compile(r"\.writing-[0-9a-f]{16}")


def write_whole(path: PathLike, data: str | bytes) -> None:
    """Make ``data`` the content of the file at ``path``; text is written as UTF-8.

    Folders above it that are missing are made. Behind a symbolic link it is the file that
    is replaced, and not the link; a device or a pipe is written to as it is.

    Raises:
        OSError: the disk is full, permission is denied, ...; the error names ``path``, and
            what was there before is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    with writing_whole(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def writing_whole(path: PathLike) -> Iterator[Path]:
    """A file to write to, of the same suffix, that becomes ``path`` at the end of the block.

    For content that is not at hand as one string, or that a library writes by itself. If the
    block raises, nothing is left of it. Otherwise as :func:`write_whole`.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        with _naming(path):
            yield target
        return
    temporary = _beside(target, target.suffix)
    with _naming(path, temporary):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if target.exists():
                shutil.copymode(target, temporary)
            flush(temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        flush(target.parent)


def append(path: PathLike, text: str) -> None:
    """Add ``text`` to the end of a file, whole or not at all; the file is made if missing.

    Raises:
        OSError: as :func:`write_whole`; of what did not fit nothing is left.
    """
    data = text.encode()
    with _naming(path), open(path, "ab", buffering=0) as stream:
        end = os.fstat(stream.fileno()).st_size
        try:
            while data:
                data = data[stream.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(end)
            raise


@contextlib.contextmanager
def replacing_directory(path: PathLike) -> Iterator[Path]:
    """A new directory to write into, that takes the place of ``path`` at the end of the block.

    Folders above it that are missing are made; what a killed writer left there is removed. If
    the block raises, nothing is left of the new directory, and the old one is untouched.

    Raises:
        OSError: as :func:`write_whole`.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, new = _aside(target), _beside(target)
    if aside.is_dir() and not os.path.lexists(target):  # killed in between: it is the only one
        os.rename(aside, target)
    _remove_leftovers(target)
    new.mkdir()
    with _locked(new):
        try:
            yield new
            for folder, _, names in os.walk(new):
                for name in names:
                    flush(Path(folder, name))
                flush(Path(folder))
            if not os.path.lexists(target):
                os.rename(new, target)
            elif not _exchange(new, target):
                os.rename(target, aside)
                os.rename(new, target)
                with contextlib.suppress(OSError):
                    os.rename(aside, new)  # not removed as ``aside``: a part is no old version
            flush(target.parent)
        except BaseException:
            if aside.is_dir() and not os.path.lexists(target):
                os.rename(aside, target)
            raise
        finally:
            _remove(new)


def _remove(directory: Path) -> None:
    """Remove what is left of a directory, into which threads of a library may still write.

    What stays nevertheless is removed by the next write beside it.
    """
    for pause in (0.0, 0.05, 0.2, 0.5, 1.0):
        time.sleep(pause)
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            return


def remove_directory(path: PathLike) -> None:
    """Remove a directory; a kill half-way leaves no half of it at ``path``.

    Raises:
        OSError: permission is denied, ....
    """
    leaving = _beside(Path(path))
    os.rename(path, leaving)
    shutil.rmtree(leaving)


def standing(path: PathLike) -> Path:
    """Where the directory of ``path`` is to be read: aside, while another takes its place."""
    path = Path(path).absolute()
    aside = _aside(path)
    return aside if not os.path.lexists(path) and aside.is_dir() else path


def standing_in(directory: Path) -> list[Path]:
    """The directories in ``directory`` by the names that they go by, see :func:`standing`."""
    names = {entry.name.removeprefix(_ASIDE) for entry in directory.iterdir() if entry.is_dir()}
    return [directory / name for name in sorted(names)]


def read_settled(path: PathLike, read: Callable[[Path], Returned]) -> Returned:
    """``read(place)`` of a directory, from the start again if it was replaced meanwhile.

    So what comes of several files is of one directory, and what fails is no race.
    """
    attempts = 100  # somebody who replaces it faster than it can be read should be told
    while True:
        before = _identity(path)
        attempts -= 1
        try:
            result = read(standing(path))
        except Exception:
            if not attempts or _identity(path) == before:
                raise
        else:
            if not attempts or _identity(path) == before:
                return result


def flush(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    # Systems that cannot open a directory do without.
    if not path.is_dir() or hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: PathLike, temporary: Path | None = None) -> Iterator[None]:
    """Errors name ``path``: those of a stream name no file, and others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _beside(target: Path, suffix: str = "") -> Path:
    return target.with_name(f".writing-{secrets.token_hex(8)}{suffix}")


def _aside(target: Path) -> Path:
    return target.with_name(_ASIDE + target.name)


def _identity(path: PathLike) -> Any:
    """What differs when another directory is put at ``path``, or at one above it."""
    try:
        status = os.stat(standing(path))
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """While this is held, nobody takes the directory for what a killed writer left."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Of writers that were killed, in the folder of ``target``."""
    stale = [entry for entry in target.parent.iterdir() if _WRITING.fullmatch(entry.name)]
    if os.path.lexists(target):
        stale.append(_aside(target))
    for entry in stale:
        # An empty one may be so new that its writer has not locked it yet.
        with contextlib.suppress(OSError):
            if any(entry.iterdir()):
                with _locked(entry):
                    shutil.rmtree(entry)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, 2)  # RENAME_SWAP
        else:
            here = -100  # AT_FDCWD
            failed = libc.renameat2(here, names[0], here, names[1], 2)  # RENAME_EXCHANGE
    except AttributeError:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))
