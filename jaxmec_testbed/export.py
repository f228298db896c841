"""The network of a variant as one ONNX graph, with its weights in half precision.

Who paints needs NumPy and ONNX Runtime alone (:mod:`jaxmec_testbed.onnx_painter`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax

from jaxmec.core import files
from jaxmec.deploy.graph import to_onnx
from jaxmec_testbed import network
from jaxmec_testbed.diffusion import SEEN
from jaxmec_testbed.onnx_painter import INDEX, PORTS
from jaxmec_testbed.robots import SIDE


def graph(variant: str, params: network.Params) -> bytes:
    """The network of `network.velocity` on rows of what is seen, and the time: [n, 32² · 7 + 1]."""

    def on_row(row: jax.Array) -> jax.Array:
        shown = row[:-1].reshape(SIDE, SIDE, SEEN)
        return network.velocity(variant, params, shown, row[-1]).reshape(-1)

    return to_onnx(on_row, SIDE * SIDE * SEEN + 1, *PORTS, half=True)


def write(folder: Path, variant: str, params: network.Params, made: Mapping[str, object]) -> Path:
    """Write the graph of a variant and an entry of the index; returns where the graph is.

    Args:
        folder: of all weights; what it has of other variants stays.
        variant: one of `network.SIZES`.
        params: its weights.
        made: what the index says of how they came about.
    """
    model = graph(variant, params)
    path, index = folder / f"{variant}.onnx", folder / INDEX
    files.write_whole(path, model)
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    entries[variant] = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "parameters": sum(array.size for array in jax.tree.leaves(params)),
        **made,
    }
    files.write_whole(index, json.dumps(entries, indent=2) + "\n")
    return path
