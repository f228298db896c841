"""Files that are there whole or not at all, however the writer ends.

What is written goes to a file beside its place, is brought to the disk, and takes the place
by one rename. A reader sees the old content or the new one, and so does whoever comes after
a kill, a full disk or a power cut.

This module needs Python's standard library alone, so that it runs at the edge.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

PathLike = str | os.PathLike[str]


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
    temporary = target.with_name(f".writing-{secrets.token_hex(8)}{target.suffix}")
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
