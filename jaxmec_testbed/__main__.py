"""``python -m jaxmec_testbed`` is ``jaxmec testbed``."""

import sys

from jaxmec.cli.errors import guarded
from jaxmec_testbed.command import run

sys.exit(guarded(lambda: run(sys.argv[1:]), "testbed"))
