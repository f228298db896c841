"""``python -m jaxmec`` is the command ``jaxmec``."""

import sys

from jaxmec.cli import main

if __name__ == "__main__":
    sys.exit(main())
