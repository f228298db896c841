"""Make-span and failure rate against the number of servers, at equal load.

`python train/servers.py --size short` on two CPU cores, without it on a GPU; a run that was
stopped goes on where it was. The flags are those of `jaxmec compare`.
"""

import sys

from jaxmec.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "amcoedge-servers", *sys.argv[1:]]))
