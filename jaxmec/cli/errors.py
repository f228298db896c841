"""How a command ends: its exit codes, and which errors are one message without a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from jaxmec.core.terminal import Screen, prepare

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141


class UsageError(Exception):
    """The command line is wrong; the message says how."""


def guarded(work: Callable[[], int | None], what: str = "it") -> int:
    """Do some work, where an error that a person can mend is one message, without a traceback.

    For the command line, and for scripts that are run like it. ``what`` stands for the work
    where it needs more than is installed. Returns the exit code.
    """
    prepare()
    try:
        code = work() or EXIT_OK
        sys.stdout.flush()  # a reader that has left is noticed here, not as Python ends
        return code
    except SystemExit as exit_:  # tyro has printed its message
        return exit_.code if isinstance(exit_.code, int) else EXIT_USAGE
    except (UsageError, ValueError, TypeError) as error:
        _complain(error)
        return EXIT_USAGE
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted", style=None)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as `| head` leaves behind: the reader has read enough
        with contextlib.suppress(OSError, ValueError):  # Python flushes once more as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:
        return _failed(error, what)


def _complain(text: object, style: str | None = "red") -> None:
    with contextlib.suppress(OSError):  # where nobody reads it any more
        Screen(stderr=True).print(f"jaxmec: {text}", style=style)


def _failed(error: Exception, what: str) -> int:
    """Say what failed, and return the exit code; what only a developer can mend is raised."""
    from jaxmec.core.bundle import BundleError

    if isinstance(error, ImportError) and str(error.name).startswith("jaxmec."):
        error = ImportError(
            f"{what} needs the whole of jaxmec; this is jaxmec-edge, for `jaxmec serve`"
        )
    if isinstance(error, OSError) and error.strerror:  # without the number of C's errno
        named = "" if error.filename is None else f"{error.filename}: "
        error = OSError(f"{named}{error.strerror}")
    if isinstance(error, BundleError | ImportError | OSError):
        _complain(error)
        return EXIT_FAILED
    from jaxmec.serving import FleetError
    from jaxmec.traces import TraceError
    from jaxmec.training.checkpoint import CheckpointError
    from jaxmec.training.runner import Diverged, Interrupted

    if isinstance(error, Interrupted):
        _complain(error, style=None)
        return error.exit_code
    if isinstance(error, CheckpointError | FleetError | TraceError | Diverged | RuntimeError):
        _complain(error)
        return EXIT_FAILED
    raise error


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Says which extra brings what cannot be imported."""
    try:
        yield
    except ImportError as error:
        if str(error.name).startswith("jaxmec."):  # a part of jaxmec, which no extra brings
            raise
        raise ImportError(f"{error}: pip install 'jaxmec[{name}]'") from error
