"""A bundle opened with NumPy and ONNX Runtime alone: no JAX, for small boxes.

scheduler = jaxmec.deploy.onnx.load("bundle")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxmec import files
from jaxmec.bundle import ONNX, Bundle, BundleDamaged, PathLike, open_bundle
from jaxmec.deploy.runtime import Scheduler

INPUT, OUTPUT = "observation", "preferences"


def load(path: PathLike, *, threads: int = 1, digest: str | None = None) -> Scheduler:
    """The scheduler of the bundle at ``path``, by its ONNX graph.

    Args:
        path: the bundle.
        threads: of ONNX Runtime for one call; networks this small gain nothing by more.
        digest: what the bundle's digest has to be, as the export printed it.

    Raises:
        jaxmec.bundle.BundleError: nothing there, damaged, of a newer version, or a graph that
            ONNX Runtime does not accept; the message says which.
        ImportError: ONNX Runtime is not installed.
    """

    def read(place: Path) -> tuple[Bundle, bytes]:
        bundle = open_bundle(place, digest=digest)
        return bundle, bundle.read(ONNX)

    bundle, model = files.read_settled(path, read)
    try:
        run = session(model, threads).run
    except ValueError as error:
        raise BundleDamaged(f"damaged bundle: {bundle.path / ONNX}: {error}") from error
    outputs = [OUTPUT]

    def preferences(observation: np.ndarray) -> np.ndarray:
        result: Any = run(outputs, {INPUT: observation})[0]
        return result

    return Scheduler(bundle, preferences, "onnx").checked()


def session(model: bytes, threads: int = 1) -> Any:
    """An ONNX Runtime session of a serialised model, on the CPU.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: ONNX Runtime does not accept the model, or it is not one of ours.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "a bundle's ONNX form needs ONNX Runtime: pip install 'jaxmec[edge]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and reported by whoever catches them
    # A graph may name files outside itself as the home of its weights; ours never does.
    if b"location" in model:
        raise ValueError("the graph refers to other files")
    try:
        result = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ValueError(f"ONNX Runtime does not accept it: {error}") from error
    names = [port.name for port in (*result.get_inputs(), *result.get_outputs())]
    if names != [INPUT, OUTPUT]:
        raise ValueError(
            f"expected the graph's input {INPUT} and output {OUTPUT}, found {', '.join(names)}"
        )
    return result
