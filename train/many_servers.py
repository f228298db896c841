"""Make-span with 20 servers at the load of 5, every station deciding among five neighbours.

`python train/many_servers.py --size short` on two CPU cores takes about half an hour; a run that
was stopped goes on where it was. The flags are those of `jaxmec compare`.
"""

import sys

from jaxmec.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "amcoedge-many-servers", *sys.argv[1:]]))
