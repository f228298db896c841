"""DSAC on CartPole-v1 against its own parts.

`python train/cartpole_ablation.py --size short` on two CPU cores, without it on a GPU; a run
that was stopped goes on where it was. The flags are those of `jaxmec compare`.
"""

import sys

from jaxmec.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "cartpole-ablation", *sys.argv[1:]]))
