"""Digests of three short trainings: whether a change of the code changed what is learned.

    python tools/digests.py              # print them
    python tools/digests.py kept.json    # write them there, or compare with what is there

A digest is of the parameters that act and of the history, to the bit, so it holds for one machine
and one version of JAX: write the file before a change and compare after it, in one sitting.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmec

TRAININGS: dict[str, dict[str, Any]] = {
    # Off-policy, the diffusion actor; through the simulator, after cloning; an actor a station.
    "dsac": {"steps": 6_000, "seeds": 2, "eval_every": 2_000},
    "ddrl-amsa-taught": {"steps": 60_000, "seeds": 2},
    "lad-ts": {"steps": 14_000, "seeds": 2, "eval_every": 4_000, "eval_episodes": 1},
}


def digest(tree: Any) -> str:
    """SHA-256 of all leaves, in order, whatever they are called: names may change."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def digests() -> dict[str, dict[str, str]]:
    """By method, what it learned and what it showed."""
    found = {}
    for name, options in TRAININGS.items():
        result = jaxmec.train(name, progress=False, **options)
        history = result.history
        found[name] = {
            "actor": digest([policy.learner for policy in result.policies]),
            "history": digest([history.env_steps, *(x[k] for x in history[1:] for k in sorted(x))]),
        }
        print(name, *(value[:16] for value in found[name].values()), flush=True)
    return found


def main() -> None:
    found = digests()
    for file in map(Path, sys.argv[1:]):
        if not file.exists():
            file.write_text(json.dumps(found, indent=1) + "\n")
        elif json.loads(file.read_text()) != found:
            sys.exit(f"not as in {file}")
        else:
            print(f"as in {file}")


if __name__ == "__main__":
    main()
