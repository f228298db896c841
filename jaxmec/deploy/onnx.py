"""A bundle opened with NumPy and ONNX Runtime alone: no JAX, for small boxes.

scheduler = jaxmec.deploy.onnx.load("bundle")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmec.core import files
from jaxmec.core.bundle import ONNX, Bundle, BundleDamaged, PathLike, open_bundle
from jaxmec.deploy.runtime import Scheduler, refuse_old

INPUT, OUTPUT = "told", "decision"

# What a graph may consist of: ONNX's own operators of arithmetic on tensors. Neither those of
# other domains, nor loops, strings, sequences or random numbers.
OPERATORS = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot "
    "BitwiseOr BitwiseXor Cast Ceil Celu Clip Concat Constant ConstantOfShape Cos Cosh CumSum Div "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu "
    "Gemm Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity IsInf IsNaN "
    "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod "
    "Mul Neg NonZero Not OneHot Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "Reshape Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax "
    "Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze "
    "Where Xor".split()
)
MAX_NESTING = 8  # of graphs in nodes


def load(path: PathLike, *, threads: int = 1, digest: str | None = None) -> Scheduler:
    """The scheduler of the bundle at ``path``, by its ONNX graph.

    Args:
        path: the bundle.
        threads: of ONNX Runtime for one call; networks this small gain nothing by more.
        digest: what the bundle's digest has to be, as the export printed it.

    Raises:
        jaxmec.core.bundle.BundleError: nothing there, damaged, of a newer version, or a graph that
            ONNX Runtime does not accept; the message says which.
        ImportError: ONNX Runtime is not installed.
    """

    def read(place: Path) -> tuple[Bundle, bytes]:
        bundle = open_bundle(place, digest=digest)
        return bundle, bundle.read(ONNX)

    bundle, model = files.read_settled(path, read)
    refuse_old(bundle)
    try:
        run = session(model, threads).run
    except ValueError as error:
        raise BundleDamaged(f"damaged bundle: {bundle.path / ONNX}: {error}") from error
    outputs = [OUTPUT]

    def decide(rows: np.ndarray) -> np.ndarray:
        result: np.ndarray = run(outputs, {INPUT: rows})[0]
        return result

    return Scheduler(bundle, decide, "onnx").checked()


def session(
    model: bytes,
    threads: int = 1,
    *,
    ports: tuple[str, str] = (INPUT, OUTPUT),
    reuse_memory: bool = False,
) -> Any:
    """An ONNX Runtime session of a serialised model, on the CPU.

    Args:
        model: made by :mod:`jaxmec.deploy.graph`.
        threads: for one call.
        ports: names of the graph's input and output.
        reuse_memory: for large tensors; where they are small, new ones are sooner made than
            free ones are found.

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
    options.enable_mem_reuse = reuse_memory
    options.log_severity_level = 4  # errors are raised, and reported by whoever catches them
    options.add_session_config_entry("session.load_model_format", "ONNX")  # no other is looked at
    # A graph may name files outside itself as the home of its weights; ours never does.
    if b"location" in model:
        raise ValueError("the graph refers to other files")
    if strange := _strange(model):
        raise ValueError(f"not arithmetic alone: the graph has {', '.join(strange)}")
    try:
        result = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ValueError(f"ONNX Runtime does not accept it: {error}") from error
    names = [port.name for port in (*result.get_inputs(), *result.get_outputs())]
    if names != list(ports):
        raise ValueError(
            f"expected the graph's input {ports[0]} and output {ports[1]}, found {', '.join(names)}"
        )
    return result


# A graph's operators, read from its bytes: the onnx package is not needed to run one, and ONNX
# Runtime does not tell. The numbers are those of onnx.proto's fields.
_GRAPH, _FUNCTIONS, _NODE, _OPERATOR, _ATTRIBUTE, _DOMAIN = 7, 25, 1, 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11


def _strange(model: bytes) -> list[str]:
    """What a model has that is not ONNX's own arithmetic; raises ValueError if it is no model."""
    found = set()
    for field, content in _protobuf_fields(memoryview(model)):
        if field == _FUNCTIONS:
            found.add("functions of its own")
        elif field == _GRAPH:
            found |= _operators(content, MAX_NESTING) - OPERATORS
    return sorted(found)[:10]


def _operators(graph: memoryview, depth: int) -> set[str]:
    """The operators of a graph and of those inside its nodes, with their domains."""
    if not depth:
        raise ValueError("its graphs are nested too deep")
    found = set()
    for field, node in _protobuf_fields(graph):
        if field != _NODE:
            continue
        operator = domain = ""
        for part, content in _protobuf_fields(node):
            if part == _OPERATOR:
                operator = bytes(content).decode("utf-8", "replace")[:80]
            elif part == _DOMAIN:
                domain = bytes(content).decode("utf-8", "replace")[:80]
            elif part == _ATTRIBUTE:
                for inside, graph_ in _protobuf_fields(content):
                    if inside in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        found |= _operators(graph_, depth - 1)
        found.add(operator if domain in ("", "ai.onnx") else f"{domain}.{operator}")
    return found


def _protobuf_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and content of each field of a protocol buffer that has a length."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(message) or shift > 63:
                raise ValueError("it is no ONNX model")
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(message):
        tag = number()
        kind = tag & 7
        if kind == 0:
            number()
        elif kind == 2:
            length = number()
            start, place = place, place + length
            if place > len(message):
                raise ValueError("it is no ONNX model")
            yield tag >> 3, message[start:place]
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError("it is no ONNX model")
