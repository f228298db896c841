"""What a kill would leave: a check at every step that changes something on the disk."""

import os

from jaxmec.core import files

STEPS = ("open", "mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "symlink")


class AtEveryChange:
    """While patched in, ``check()`` runs before each step of the writer's, and after exchanges."""

    def __init__(self, monkeypatch, check, exchange):
        """``exchange`` is False to do as a system does that cannot exchange directories."""
        self.count, self._check, self._busy = 0, check, False
        for name in STEPS:
            monkeypatch.setattr(os, name, self._checked(getattr(os, name)))
        can = files._exchange if exchange else lambda *_: False
        monkeypatch.setattr(files, "_exchange", self._checked(can, after=True))

    def _checked(self, function, after=False):
        def step(*arguments, **options):
            self.look()
            result = function(*arguments, **options)
            if after:
                self.look()
            return result

        return step

    def look(self):
        if not self._busy:
            self._busy = True
            self._check()
            self.count += 1
            self._busy = False
