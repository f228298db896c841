"""Learning curves, delays and profiles of every method on `lad-ts`.

`python train/lad_ts.py --size short` on two CPU cores, without it on a GPU; a run that was
stopped goes on where it was. The flags are those of `jaxmec compare`.
"""

import sys

from jaxmec.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "lad-ts-methods", *sys.argv[1:]]))
