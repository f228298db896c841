"""The signals that stop a run after the chunk that is under way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

# What stops a run, saved: a keyboard, a lost terminal, and what schedulers of clusters send
# before they end a job. Where there are none (Windows), there is nothing to heed.
STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
_INSISTENT = (signal.SIGINT, signal.SIGTERM)  # the second of these ends the run at once


class Signals:
    """Takes note of the first of the signals in ``STOPPING``; a second SIGINT or SIGTERM acts
    as it always does.

    Other signals come in pairs (a lost terminal), or before a SIGTERM (a scheduler's), so only
    who has asked with SIGINT or SIGTERM and asks again is in a hurry. A signal that is ignored
    at the start, as nohup does with SIGHUP, stays ignored; and one other than SIGINT and SIGTERM
    that the program handles itself stays its own.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # else Python forbids it
            for signum in STOPPING:
                handler = signal.getsignal(signum)  # None: of a library, not of Python
                own = signum not in _INSISTENT and handler != signal.SIG_DFL
                if handler is not None and handler != signal.SIG_IGN and not own:
                    self._previous[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        # Not through a stream, which the signal may have caught in the middle of a write.
        said = b"\nstopping after this chunk"
        if signum in _INSISTENT:
            self._restore(*_INSISTENT)
            said += b"; once more to stop at once, unsaved"
        with contextlib.suppress(OSError):
            os.write(2, said + b"\n")

    def _restore(self, *signums: int) -> None:
        for signum in signums:
            if signum in self._previous:
                signal.signal(signum, self._previous.pop(signum))

    def __exit__(self, *error: object) -> None:
        self._restore(*self._previous)
