"""A JAX function of one vector as an ONNX graph of a batch of them.

The function is traced for one example and its program is walked once. What does not depend on
the input (weights, step embeddings, the noise of judged chains) is computed here and becomes a
constant; what does becomes ONNX nodes on a tensor with one leading axis, the batch, whose size
stays open. A value keeps the shape that it was made with until somebody needs the rest:
``broadcast_in_dim`` only inserts axes of length 1, and elementwise nodes broadcast by
themselves. A primitive without a translation is an error that names it.

The opset is 18 and the IR version 10, which ONNX Runtime reads from 1.18 on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxmec.core.types import Keywords
from jaxmec.deploy import jaxpr
from jaxmec.deploy.jaxpr import Atom, Equation, Shape

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise ImportError(
        f"exporting a policy needs ONNX ({error}): pip install 'jaxmec[onnx]'", name=error.name
    ) from error

Values = Sequence["Value"]
Shapes = Sequence[Shape]

OPSET = 18
IR_VERSION = 10
HALVED = 256  # numbers; fewer are not worth a node

# Primitives that one ONNX operator computes elementwise.
ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
LOGICAL = {"and": "And", "not": "Not", "or": "Or", "xor": "Xor"}
REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
}
# Nodes that can keep an axis of length 1 where they reduce one.
KEEPING = (*REDUCTIONS.values(), "ReduceMean", "ArgMax", "ArgMin")
# Calls whose body is translated in place.
CALLS = (
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
)
PASSED_ON = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")


class NotTranslatable(Exception):
    """The function uses a primitive, or a form of one, that has no translation to ONNX."""


@dataclasses.dataclass(frozen=True)
class Value:
    """What a variable of the jaxpr is: a constant, or a tensor of the graph.

    ``shape`` is the example's, without the batch, and may have 1 where the variable is longer:
    the value is then the same along that axis.
    """

    shape: Shape
    constant: np.ndarray | None = None
    name: str = ""


def to_onnx(
    function: Callable[[jax.Array], jax.Array],
    size: int,
    input_name: str,
    output_name: str,
    *,
    half: bool = False,
) -> bytes:
    """The ONNX model of ``function``, from [n, size] float32 to [n, A] float32, n open.

    Args:
        function: from one vector [size] to one vector [A]; pure, traced once.
        size: length of the input vector.
        input_name, output_name: of the graph's ports.
        half: keep constants of HALVED numbers and more in half precision, which halves the file;
            what is computed with them is computed in single precision all the same.

    Raises:
        NotTranslatable: the function uses a primitive that has no translation; the message
            names it.
    """
    program = jaxpr.trace(function, jax.ShapeDtypeStruct((size,), np.float32))
    (shape,) = jaxpr.shapes(program.outputs)
    translation = _Translation(half)
    (result,) = translation.run(program, [Value((size,), name=input_name)])
    result = translation.whole(result, shape)
    if result.constant is not None:  # it does not depend on the input: give it the batch axis
        zeros = translation.node("Mul", [Value((size,), name=input_name), _constant(0)], (size,))
        zero = translation.reduced("ReduceSum", zeros, (0,), False)
        zero = translation.reshaped(zero, (1,) * len(shape))
        result = translation.node("Add", [zero, result], shape)
    translation.nodes.append(helper.make_node("Identity", [result.name], [output_name]))
    nodes, initializers = translation.needed(output_name)
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["n", *shape])],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxmec",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _constant(value: ArrayLike, dtype: DTypeLike = np.float32) -> Value:
    array = np.asarray(value, dtype)
    return Value(array.shape, constant=array)


class _Translation:
    """The nodes made so far."""

    def __init__(self, half: bool = False) -> None:
        self._half = half
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: dict[tuple[object, ...], str] = {}
        self._made: dict[tuple[object, ...], list[Value]] = {}
        self._sources: dict[str, tuple[str, tuple[Value, ...], Keywords]] = {}
        self._count = 0

    # Walking the jaxpr.

    def run(self, program: jaxpr.Program, inputs: Values) -> list[Value]:
        """The outputs of a program."""
        values: dict[Atom, Value] = {}
        for variable, constant in program.constants:
            array = np.asarray(constant)
            values[variable] = Value(array.shape, constant=array)
        values.update(zip(program.inputs, inputs, strict=True))

        def read(atom: Atom) -> Value:
            array = jaxpr.literal(atom)
            return values[atom] if array is None else Value(array.shape, constant=array)

        for equation in program.equations:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in program.outputs]

    def _equation(self, equation: Equation, inputs: Values) -> list[Value]:
        name = equation.primitive.name
        if name in CALLS:
            return self.run(jaxpr.called(equation), inputs)
        if all(value.constant is not None for value in inputs):
            return self._compute(equation, inputs)
        if name in PASSED_ON:
            return list(inputs)
        shapes = jaxpr.shapes(equation.outvars)
        if name in ELEMENTWISE:
            return [self._elementwise(ELEMENTWISE[name], inputs, shapes[0])]
        method = getattr(self, f"_{name}", None)
        if name in REDUCTIONS:
            method = self._reduction
        if method is None:
            raise NotTranslatable(
                f"the policy uses the JAX primitive {name!r}, which has no translation to ONNX; "
                f"the equation is: {equation}"
            )
        whole = jaxpr.shapes(equation.invars)
        result = method(equation, inputs, whole, shapes)
        return result if isinstance(result, list) else [result]

    def _compute(self, equation: Equation, inputs: Values) -> list[Value]:
        """Evaluate what does not depend on the input, now and here."""
        arrays = []
        for value, atom in zip(inputs, equation.invars, strict=True):
            array: Any = value.constant
            keys = jax.dtypes.issubdtype(jaxpr.dtype(atom), jax.dtypes.extended)
            (shape,) = jaxpr.shapes([atom])
            arrays.append(array if keys else np.broadcast_to(array, shape))
        results: Any = equation.primitive.bind(*arrays, **equation.params)
        if not equation.primitive.multiple_results:
            results = [results]
        return [
            # A PRNG key is no array of numbers; it stays JAX's own until its bits are drawn.
            Value(result.shape, constant=result)
            if jax.dtypes.issubdtype(result.dtype, jax.dtypes.extended)
            else Value(result.shape, constant=np.asarray(result))
            for result in results
        ]

    # Making nodes.

    def node(self, operator: str, inputs: Values, shape: Shape, **attributes: Any) -> Value:
        """One node of one output."""
        return self.nodes_of(operator, inputs, [shape], **attributes)[0]

    def nodes_of(
        self, operator: str, inputs: Values, shapes: Shapes, **attributes: Any
    ) -> list[Value]:
        """The outputs of one node; the same node twice is made once."""
        names = [self._name(value) for value in inputs]
        key = (operator, *names, *sorted(attributes.items()))
        if key not in self._made:
            outputs = [f"v{self._count + i}" for i in range(1, len(shapes) + 1)]
            self._count += len(outputs)
            self.nodes.append(helper.make_node(operator, names, outputs, **attributes))
            self._made[key] = [
                Value(tuple(shape), name=name) for name, shape in zip(outputs, shapes, strict=True)
            ]
            if len(outputs) == 1:
                self._sources[outputs[0]] = (operator, tuple(inputs), attributes)
        return self._made[key]

    def _name(self, value: Value) -> str:
        if value.constant is None:
            return value.name
        array = np.ascontiguousarray(value.constant)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, value.constant.shape, array.tobytes())
        if key not in self._names:
            name = self._names[key] = f"c{len(self._names)}"
            halved = self._half and array.dtype == np.float32 and array.size >= HALVED
            kept = f"{name}_half" if halved else name
            array = array.reshape(value.constant.shape).astype(
                np.float16 if halved else array.dtype
            )
            self.initializers.append(numpy_helper.from_array(array, kept))
            if halved:
                self.nodes.append(helper.make_node("Cast", [kept], [name], to=TensorProto.FLOAT))
        return self._names[key]

    def needed(self, output: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes and constants that the output depends on, in their order."""
        wanted, nodes = {output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                nodes.append(node)
        return nodes[::-1], [tensor for tensor in self.initializers if tensor.name in wanted]

    def reduced(self, operator: str, value: Value, axes: Sequence[int], keep: bool) -> Value:
        shape = tuple(n for i, n in enumerate(value.shape) if keep or i not in axes)
        where = _constant([axis + 1 for axis in axes], np.int64)
        return self.node(operator, [value, where], shape, keepdims=int(keep))

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """The same entries in another shape; 0 copies the batch's length."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if value.constant is not None:
            return Value(shape, constant=value.constant.reshape(shape))
        source, operands, attributes = self._sources.get(value.name, ("", (), {}))
        if source == "Reshape":  # of a reshaped value only the last shape matters
            return self.reshaped(operands[0], shape)
        if source == "Cast":
            return self.node("Cast", [self.reshaped(operands[0], shape)], shape, **attributes)
        if (
            source in KEEPING
            and not attributes["keepdims"]
            and shape == (1,) * len(operands[0].shape)
        ):
            return self.node(source, operands, shape, **{**attributes, "keepdims": 1})
        return self.node("Reshape", [value, _constant([0, *shape], np.int64)], shape)

    def whole(self, value: Value, shape: Sequence[int]) -> Value:
        """The value with every axis as long as the variable's."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if value.constant is not None:
            return Value(shape, constant=np.broadcast_to(value.constant, shape))
        return self.node("Expand", [value, _constant([1, *shape], np.int64)], shape)

    def _elementwise(self, operator: str, inputs: Values, shape: Shape) -> Value:
        """One operator on operands of one rank, which broadcast where they are short."""
        # A number may stand beside an array; the batch's axis must still be the first of both.
        inputs = [
            value if value.shape or value.constant is not None
            else self.reshaped(value, (1,) * len(shape))
            for value in inputs
        ]  # fmt: skip
        simpler = _neutral(operator, inputs, shape) or self._shorter(operator, inputs, shape)
        if simpler is not None:
            return simpler
        longest = np.broadcast_shapes(*(value.shape for value in inputs))
        return self.node(operator, inputs, longest)

    def _shorter(self, operator: str, inputs: Values, shape: Shape) -> Value | None:
        """max(x, 0), x · (1/√y), Σx/n and mish as the few nodes that ONNX has for each.

        At a batch of one, the number of nodes is what a decision costs.
        """
        if operator == "Max":
            for kept, other in (inputs, inputs[::-1]):
                full = kept.constant is None and len(kept.shape) == len(shape)
                if full and other.constant is not None and not np.any(other.constant):
                    return self.node("Relu", [kept], kept.shape)
        elif operator == "Mul":
            for kept, other in (inputs, inputs[::-1]):
                source, operands, _ = self._sources.get(other.name, ("", (), {}))
                if source == "Reciprocal":
                    return self._elementwise("Div", [kept, operands[0]], shape)
        elif operator == "Div" and (grown := self._tangent_of(*inputs)) is not None:
            return self.node("Tanh", [self.node("Softplus", [grown], grown.shape)], grown.shape)
        elif operator == "Div" and inputs[1].constant is not None:
            source, operands, attributes = self._sources.get(inputs[0].name, ("", (), {}))
            if source == "ReduceSum" and (axes := operands[1].constant) is not None:
                summed = [operands[0].shape[axis - 1] for axis in axes]
                if np.all(inputs[1].constant == math.prod(summed)):
                    return self.node("ReduceMean", operands, inputs[0].shape, **attributes)
        return None

    def _tangent_of(self, above: Value, below: Value) -> Value | None:
        """x where n/(n + 2) with n = e (e + 2) and e = exp(min(x, 20)) is tanh(log(1 + eˣ))."""
        made = self._sources.get

        def plus_two(value: Value) -> str | None:
            source, operands, _ = made(value.name, ("", (), {}))
            if source != "Add" or operands[1].constant is None:
                return None
            return operands[0].name if np.all(operands[1].constant == 2) else None

        source, factors, _ = made(above.name, ("", (), {}))
        if source != "Mul" or plus_two(below) != above.name:
            return None
        if plus_two(factors[1]) != factors[0].name:
            return None
        source, operands, _ = made(factors[0].name, ("", (), {}))
        if source != "Exp":
            return None
        source, operands, _ = made(operands[0].name, ("", (), {}))
        if source != "Min" or operands[1].constant is None or np.any(operands[1].constant != 20):
            return None
        return operands[0]

    # Primitives one by one: (equation, inputs, whole shapes of the inputs, of the outputs).

    def _broadcast_in_dim(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        """Axes of length 1 are inserted; making them longer waits until it matters."""
        inserted = [1] * len(shapes[0])
        for axis, target in enumerate(equation.params["broadcast_dimensions"]):
            inserted[target] = inputs[0].shape[axis]
        return self.reshaped(inputs[0], inserted)

    def _reshape(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        if equation.params.get("dimensions") is not None:
            raise NotTranslatable("a reshape with an order of dimensions has no translation")
        return self.reshaped(self.whole(inputs[0], whole[0]), shapes[0])

    def _squeeze(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        kept = [n for i, n in enumerate(inputs[0].shape) if i not in equation.params["dimensions"]]
        return self.reshaped(inputs[0], kept)

    def _expand_dims(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        return self.reshaped(self.whole(inputs[0], whole[0]), shapes[0])

    def _transpose(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        return self._moved(inputs[0], equation.params["permutation"])

    def _moved(self, value: Value, order: Sequence[int]) -> Value:
        if tuple(order) == tuple(range(len(order))):
            return value
        shape = tuple(value.shape[i] for i in order)
        if value.constant is not None:
            return Value(shape, constant=value.constant.transpose(order))
        return self.node("Transpose", [value], shape, perm=(0, *(i + 1 for i in order)))

    def _concatenate(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        parts = [self.whole(value, shape) for value, shape in zip(inputs, whole, strict=True)]
        return self._joined(parts, equation.params["dimension"], shapes[0])

    def _stack(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        axis, parts = equation.params["axis"], []
        for value, shape in zip(inputs, whole, strict=True):
            longer = (*shape[:axis], 1, *shape[axis:])
            parts.append(self.reshaped(self.whole(value, shape), longer))
        return self._joined(parts, axis, shapes[0])

    def _joined(self, parts: Sequence[Value], axis: int, shape: Sequence[int]) -> Value:
        """Whole values one after the other along an axis; at least one depends on the input."""
        reference = next(part for part in parts if part.constant is None)
        tensors = [self._batched(part, reference) for part in parts if 0 not in part.shape]
        if len(tensors) == 1:
            return tensors[0]
        return self.node("Concat", tensors, tuple(shape), axis=axis + 1)

    def _batched(self, value: Value, reference: Value) -> Value:
        """The value, with the batch's axis at its length if it is a constant."""
        if value.constant is None:
            return value
        size = self.node("Shape", [reference], (), start=0, end=1)
        length = self.node("Concat", [size, _constant(value.shape, np.int64)], (), axis=0)
        return self.node("Expand", [value, length], value.shape)

    def _slice(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        params = equation.params
        strides = params["strides"] or (1,) * len(shapes[0])
        return self._cut(
            inputs[0], whole[0], params["start_indices"], params["limit_indices"], strides
        )

    def _cut(
        self, value: Value, whole: Shape, starts: Shape, limits: Shape, strides: Shape
    ) -> Value:
        """A slice; along an axis on which the value is the same nothing need be done."""
        axes = [
            axis
            for axis, length in enumerate(value.shape)
            if length > 1 and (starts[axis], limits[axis], strides[axis]) != (0, whole[axis], 1)
        ]
        empty = any(start >= limit for start, limit in zip(starts, limits, strict=True))
        if not axes and not empty:
            return value
        if empty:  # nothing of it will be used: no graph has an axis of length 0
            return _constant(np.zeros([max(e - s, 0) for s, e in zip(starts, limits, strict=True)]))
        shape = list(value.shape)
        for axis in axes:
            shape[axis] = math.ceil((limits[axis] - starts[axis]) / strides[axis])
        if value.constant is not None:
            cuts = [slice(None)] * len(shape)
            for axis in axes:
                cuts[axis] = slice(starts[axis], limits[axis], strides[axis])
            return Value(tuple(shape), constant=value.constant[tuple(cuts)])
        numbers = [_constant([row[axis] for axis in axes], np.int64) for row in (starts, limits)]
        numbers.append(_constant([axis + 1 for axis in axes], np.int64))
        numbers.append(_constant([strides[axis] for axis in axes], np.int64))
        return self.node("Slice", [value, *numbers], tuple(shape))

    def _dynamic_slice(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        """A slice at a known place, or one row of a table at a place that is computed."""
        table, *places = inputs
        sizes = equation.params["slice_sizes"]
        rows, full = whole[0][0], sizes[1:] == whole[0][1:]
        known = [place.constant for place in places if place.constant is not None]
        if len(known) == len(places):
            limits = [length - size for length, size in zip(whole[0], sizes, strict=True)]
            starts = [
                int(np.clip(place, 0, most)) for place, most in zip(known, limits, strict=True)
            ]
            ends = [start + size for start, size in zip(starts, sizes, strict=True)]
            return self._cut(table, whole[0], starts, ends, [1] * len(sizes))
        if sizes[0] != 1 or not full:
            raise NotTranslatable(f"this dynamic_slice has no translation: {equation}")
        if table.shape[0] == 1:  # all rows are the same
            return table
        index, dtype = places[0], jaxpr.dtype(equation.invars[1])
        if not self._is_place(index, rows):
            index = self.node("Max", [index, _constant(0, dtype)], ())
            index = self.node("Min", [index, _constant(rows - 1, dtype)], ())
        if table.constant is None:
            if len(sizes) > 1:
                raise NotTranslatable(f"this dynamic_slice has no translation: {equation}")
            return self._entries(self.whole(table, whole[0]), self.reshaped(index, (1,)))
        row = self.node("Gather", [self.whole(table, whole[0]), index], sizes[1:], axis=0)
        return self.reshaped(row, sizes)

    def _is_place(self, index: Value, most: int | None = None) -> bool:
        """Whether a number is the place of an extreme: not negative, and below ``most``."""
        source, operands, attributes = self._sources.get(index.name, ("", (), {}))
        if source == "Cast":
            return self._is_place(operands[0], most)
        if source not in ("ArgMax", "ArgMin"):
            return False
        return most is None or operands[0].shape[attributes["axis"] - 1] <= most

    def _lt(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        left, right = inputs
        if right.constant is not None and not right.constant.any() and self._is_place(left):
            return Value(shapes[0], constant=np.zeros(shapes[0], bool))  # none lies below 0
        return self._elementwise("Less", inputs, shapes[0])

    def _entries(self, vector: Value, places: Value) -> Value:
        """[m] the entries of a vector at places [m], which have to be inside it."""
        if places.constant is not None or vector.constant is not None:
            raise NotTranslatable("taking entries of a constant, or at known places, has none")
        return self.node("GatherElements", [vector, places], places.shape, axis=1)

    def _gather(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        """``x[places]`` of a vector: with a place outside it the graph fails when it runs."""
        numbers = equation.params["dimension_numbers"]
        if (
            len(whole[0]) != 1
            or tuple(numbers.collapsed_slice_dims) != (0,)
            or numbers.offset_dims
            or len(shapes[0]) > 1
        ):
            raise NotTranslatable(f"this gather has no translation: {equation}")
        vector = self.whole(inputs[0], whole[0])
        places = self.reshaped(self.whole(inputs[1], whole[1]), (math.prod(shapes[0]),))
        return self.reshaped(self._entries(vector, places), shapes[0])

    def _top_k(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> list[Value]:
        count = _constant([equation.params["k"]], np.int64)
        value = self.whole(inputs[0], whole[0])
        values, places = self.nodes_of("TopK", [value, count], shapes, axis=-1)
        return [values, self._cast(places, jaxpr.dtype(equation.outvars[1]))]

    def _shift_right_arithmetic(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        """floor(x / 2ⁿ) for known n: ONNX shifts no signed numbers."""
        value, by = inputs
        if by.constant is None:
            raise NotTranslatable(f"a shift by what is computed has no translation: {equation}")
        dtype = jaxpr.dtype(equation.outvars[0])
        power = Value(by.shape, constant=np.left_shift(np.ones((), dtype), by.constant))
        rest = self._elementwise("Mod", [value, power], shapes[0])
        whole_part = self._elementwise("Sub", [value, rest], shapes[0])
        return self._elementwise("Div", [whole_part, power], shapes[0])

    def _bitwise(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        operator = LOGICAL[equation.primitive.name]
        prefix = "" if jaxpr.dtype(equation.outvars[0]) == np.bool_ else "Bitwise"
        return self._elementwise(prefix + operator, inputs, shapes[0])

    _and = _or = _not = _xor = _bitwise

    def _reduce_or(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        return self._reduced_bool("ReduceMax", equation, inputs[0])

    def _reduce_and(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        return self._reduced_bool("ReduceMin", equation, inputs[0])

    def _reduced_bool(self, operator: str, equation: Equation, value: Value) -> Value:
        numbers = self._cast(value, np.float32)
        reduced = self.reduced(operator, numbers, equation.params["axes"], False)
        return self._cast(reduced, np.bool_)

    def _scatter(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        """``x.at[..., i, ...].set(y)`` with i known: one slice of x replaced by y."""
        operand, place, update = inputs
        numbers = equation.params["dimension_numbers"]
        if place.constant is None and len(whole[0]) == 1 and not numbers.update_window_dims:
            return self._scattered(operand, place, update, whole)
        axes = tuple(int(axis) for axis in numbers.inserted_window_dims)
        if (
            place.constant is None
            or place.constant.size != 1
            or len(axes) != 1
            or tuple(numbers.scatter_dims_to_operand_dims) != axes
            or len(numbers.update_window_dims) != len(whole[0]) - 1
        ):
            raise NotTranslatable(f"this scatter has no translation: {equation}")
        (axis,) = axes
        row = int(place.constant.reshape(()))
        if not 0 <= row < whole[0][axis]:
            return operand
        before, after = list(whole[0]), [0] * len(whole[0])
        before[axis], after[axis] = row, row + 1
        operand, ones = self.whole(operand, whole[0]), [1] * len(whole[0])
        update = self.whole(update, whole[2])
        parts = [
            self._cut(operand, whole[0], [0] * len(whole[0]), before, ones),
            self.reshaped(update, (*whole[2][:axis], 1, *whole[2][axis:])),
            self._cut(operand, whole[0], after, whole[0], ones),
        ]
        return self._joined(parts, axis, shapes[0])

    def _scattered(self, operand: Value, place: Value, update: Value, whole: Shapes) -> Value:
        """``x.at[places].set(y)`` of a vector, with places [m] inside it and all different."""
        count = math.prod(whole[2])
        places = self.reshaped(self.whole(place, whole[1]), (count,))
        operand, update = (
            self._batched(self.whole(value, shape), places)
            for value, shape in ((operand, whole[0]), (update, (count,)))
        )
        return self.node("ScatterElements", [operand, places, update], whole[0], axis=1)

    def _rem(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        return self.node("Mod", inputs, shape, fmod=1)

    def _split(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> list[Value]:
        value, axis = self.whole(inputs[0], whole[0]), equation.params["axis"]
        sizes = _constant(equation.params["sizes"], np.int64)
        return self.nodes_of("Split", [value, sizes], shapes, axis=axis + 1)

    def _tile(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        repeats = _constant([1, *equation.params["reps"]], np.int64)
        return self.node("Tile", [self.whole(inputs[0], whole[0]), repeats], shapes[0])

    def _rev(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        value = inputs[0]
        axes = [axis for axis in equation.params["dimensions"] if value.shape[axis] > 1]
        numbers = [
            _constant([number] * len(axes), np.int64) for number in (-1, np.iinfo(np.int64).min)
        ]
        numbers.append(_constant([axis + 1 for axis in axes], np.int64))
        numbers.append(_constant([-1] * len(axes), np.int64))
        return self.node("Slice", [value, *numbers], value.shape) if axes else value

    def _dot_general(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        """A product as MatMul on [batch, free, summed] · [batch, summed, free]."""
        (sum_left, sum_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
        left, right = inputs
        if right.constant is None and left.constant is not None:
            # The weights to the right: (a·b) with the operands changed, and the axes of the
            # result changed back.
            free_left = len(whole[0]) - len(sum_left) - len(batch_left)
            free_right = len(whole[1]) - len(sum_right) - len(batch_right)
            result = self._product(
                right, left, (whole[1], whole[0]), (sum_right, sum_left), (batch_right, batch_left)
            )
            b = len(batch_left)
            order = [
                *range(b),
                *range(b + free_right, b + free_right + free_left),
                *range(b, b + free_right),
            ]
            return self._moved(result, order)
        return self._product(left, right, whole, (sum_left, sum_right), (batch_left, batch_right))

    def _product(
        self, left: Value, right: Value, whole: Shapes, summed: Shapes, batch: Shapes
    ) -> Value:
        # An axis that is summed must have its length; others may stay short.
        left = self.whole(left, [
            full if axis in summed[0] else short
            for axis, (short, full) in enumerate(zip(left.shape, whole[0], strict=True))
        ])  # fmt: skip
        right = self.whole(right, [
            full if axis in summed[1] else short
            for axis, (short, full) in enumerate(zip(right.shape, whole[1], strict=True))
        ])  # fmt: skip
        free = [
            [axis for axis in range(len(shape)) if axis not in (*s, *b)]
            for shape, s, b in zip(whole, summed, batch, strict=True)
        ]
        left = self._moved(left, [*batch[0], *free[0], *summed[0]])
        right = self._moved(right, [*batch[1], *summed[1], *free[1]])
        b = len(batch[0])
        lengths = np.broadcast_shapes(left.shape[:b], right.shape[:b])
        left_free = left.shape[b : b + len(free[0])]
        right_free = right.shape[b + len(summed[1]) :]
        result = (*lengths, *left_free, *right_free)
        total = math.prod(left.shape[b + len(free[0]) :])
        if not batch[0] and len(free[0]) <= 1 and right.constant is not None:
            # Vectors or rows times weights: MatMul needs no more than the weights as a matrix.
            left = self.reshaped(left, (*left_free, total))
            matrix = self.reshaped(right, (total, math.prod(right_free)))
            product = self.node("MatMul", [left, matrix], (*left_free, math.prod(right_free)))
            return self.reshaped(product, result)
        left = self.reshaped(left, (*left.shape[:b], math.prod(left_free), total))
        right = self.reshaped(right, (*right.shape[:b], total, math.prod(right_free)))
        product = self.node(
            "MatMul", [left, right], (*lengths, math.prod(left_free), math.prod(right_free))
        )
        return self.reshaped(product, result)

    def _reduction(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        axes, name = equation.params["axes"], equation.primitive.name
        value = inputs[0]
        if name not in ("reduce_max", "reduce_min"):  # those of equal entries are the entry
            value = self.whole(value, [
                whole[0][axis] if axis in axes else length
                for axis, length in enumerate(value.shape)
            ])  # fmt: skip
        return self.reduced(REDUCTIONS[name], value, axes, False) if axes else value

    def _argmax(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        return self._extreme("ArgMax", equation, inputs, whole, shapes)

    def _argmin(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        return self._extreme("ArgMin", equation, inputs, whole, shapes)

    def _extreme(
        self, operator: str, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        (axis,) = equation.params["axes"]
        value = self.whole(inputs[0], whole[0])
        index = self.node(operator, [value], shapes[0], axis=axis + 1, keepdims=0)
        return self._cast(index, equation.params["index_dtype"])

    def _cast(self, value: Value, dtype: DTypeLike) -> Value:
        dtype = np.dtype(dtype)
        dtype = np.dtype(np.float32) if dtype == np.float64 else dtype
        return self.node("Cast", [value], value.shape, to=helper.np_dtype_to_tensor_dtype(dtype))

    def _convert_element_type(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        new, old = equation.params["new_dtype"], jaxpr.dtype(equation.invars[0])
        floats = (np.float32, np.float64)
        if new == old or (new in floats and old in floats):
            return inputs[0]
        return self._cast(inputs[0], new)

    def _integer_pow(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        power, value = equation.params["y"], inputs[0]
        if power == 2:
            return self.node("Mul", [value, value], value.shape)
        return self.node("Pow", [value, _constant(power)], value.shape)

    def _square(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        return self.node("Mul", [inputs[0], inputs[0]], inputs[0].shape)

    def _rsqrt(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        root = self.node("Sqrt", inputs, inputs[0].shape)
        return self.node("Reciprocal", [root], root.shape)

    def _ne(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        equal = self._elementwise("Equal", inputs, shapes[0])
        return self.node("Not", [equal], equal.shape)

    def _erfc(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        inner = self.node("Erf", inputs, inputs[0].shape)
        return self.node("Sub", [_constant(1), inner], inner.shape)

    def _exp2(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        return self.node("Pow", [_constant(2), inputs[0]], inputs[0].shape)

    def _expm1(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        # 2 tanh(x/2) / (1 − tanh(x/2)): as exact near 0 as tanh is. Above, eˣ − 1 is.
        half = self.node("Mul", [inputs[0], _constant(0.5)], inputs[0].shape)
        tangent = self.node("Tanh", [half], half.shape)
        near = self.node(
            "Div",
            [
                self.node("Mul", [tangent, _constant(2)], half.shape),
                self.node("Sub", [_constant(1), tangent], half.shape),
            ],
            half.shape,
        )
        far = self.node("Sub", [self.node("Exp", inputs, half.shape), _constant(1)], half.shape)
        small = self.node("Less", [inputs[0], _constant(1)], half.shape)
        return self.node("Where", [small, near, far], half.shape)

    def _log1p(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        # x · log(u)/(u − 1) with u = 1 + x as it was rounded (Kahan); x itself where u is 1.
        x = inputs[0]
        u = self.node("Add", [x, _constant(1)], x.shape)
        difference = self.node("Sub", [u, _constant(1)], x.shape)
        tiny = self.node("Equal", [difference, _constant(0)], x.shape)
        safe = self.node("Where", [tiny, _constant(1), difference], x.shape)
        ratio = self.node("Div", [self.node("Log", [u], x.shape), safe], x.shape)
        return self.node("Where", [tiny, x, self.node("Mul", [x, ratio], x.shape)], x.shape)

    def _is_finite(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> Value:
        shape = inputs[0].shape
        bad = [self.node(name, [inputs[0]], shape) for name in ("IsNaN", "IsInf")]
        return self.node("Not", [self.node("Or", bad, shape)], shape)

    def _clamp(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        low, value, high = inputs
        raised = self._elementwise("Max", [value, low], shapes[0])
        return self._elementwise("Min", [raised, high], shapes[0])

    def _select_n(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        which, *cases = inputs
        if len(cases) != 2 or jaxpr.dtype(equation.invars[0]) != np.bool_:
            raise NotTranslatable("a selection among more than two cases has no translation")
        otherwise, then = cases
        if which.constant is not None and not which.constant.any():
            return otherwise
        if jaxpr.dtype(equation.outvars[0]) == np.bool_:  # which ONNX Runtime does not choose among
            unless = self._elementwise("Not", [which], jaxpr.shapes(equation.invars)[0])
            chosen = self._elementwise("And", [which, then], shapes[0])
            left = self._elementwise("And", [unless, otherwise], shapes[0])
            return self._elementwise("Or", [chosen, left], shapes[0])
        return self._elementwise("Where", [which, then, otherwise], shapes[0])

    def _cumsum(self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes) -> Value:
        axis = _constant(equation.params["axis"] + 1, np.int64)
        reverse = int(equation.params["reverse"])
        value = self.whole(inputs[0], whole[0])
        return self.node("CumSum", [value, axis], shapes[0], reverse=reverse)

    def _scan(
        self, equation: Equation, inputs: Values, whole: Shapes, shapes: Shapes
    ) -> list[Value]:
        """A loop of known length, unrolled."""
        loop = jaxpr.scan(equation)
        fixed, carried = loop.constants, loop.carried
        if loop.reverse:
            raise NotTranslatable("a scan in reverse has no translation")
        constants, carry = inputs[:fixed], list(inputs[fixed : fixed + carried])
        carry_shapes = shapes[:carried]
        rows: list[list[Value]] = []
        for i in range(loop.length):
            taken = []
            for value, shape in zip(
                inputs[fixed + carried :], whole[fixed + carried :], strict=True
            ):
                starts, limits = [i] + [0] * (len(shape) - 1), [i + 1, *shape[1:]]
                cut = self._cut(value, shape, starts, limits, [1] * len(shape))
                taken.append(self.reshaped(cut, cut.shape[1:]))
            results = self.run(loop.body, [*constants, *carry, *taken])
            carry = results[:carried]
            rows.append(results[carried:])
        outputs = [self.whole(v, s) for v, s in zip(carry, carry_shapes, strict=True)]
        for column, shape in zip(zip(*rows, strict=True), shapes[carried:], strict=True):
            parts = [
                self.reshaped(self.whole(value, shape[1:]), (1, *shape[1:])) for value in column
            ]
            if any(part.constant is not None for part in parts):
                raise NotTranslatable("a scan that stacks constants has no translation")
            outputs.append(self.node("Concat", parts, tuple(shape), axis=1))
        return outputs


def _neutral(operator: str, inputs: Values, shape: Shape) -> Value | None:
    """The operand that x + 0, 0 + x, x − 0, x · 1, 1 · x and x/1 come to, if it is one of them.

    The chain without noise adds many zeros.
    """
    if operator not in ("Add", "Sub", "Mul", "Div"):
        return None
    neutral = 0 if operator in ("Add", "Sub") else 1
    left, right = inputs
    pairs = [(left, right)] + ([(right, left)] if operator in ("Add", "Mul") else [])
    for kept, dropped in pairs:
        if dropped.constant is None or not np.all(dropped.constant == neutral):
            continue
        if len(kept.shape) == len(shape):
            return kept
    return None
