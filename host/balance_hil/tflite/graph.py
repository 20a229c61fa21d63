"""Contents of a ``.tflite`` file: operators, tensors, shapes and quantization parameters.

A graph returned by ``read_graph`` is valid: tensor indices are in range, every tensor is computed before it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import BundleError, ElementTypeError, MissingExtraError
from balance_hil.quantize import ELEMENT_TYPES, FLOAT32, INT8, INT16X8, ElementType, QuantParams
from balance_hil.tflite.codec import schema, unpack

_LARGEST_TENSOR = 1 << 24  # elements of one that is computed


@dataclass(frozen=True)
class Tensor:
    """One tensor. ``scales`` has one entry per tensor, one per channel, or none (float)."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: str  # "INT8", "INT32", "FLOAT32", ...
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    constant: bool  # weights and biases, as opposed to what an operator computes
    variable: bool = False  # state that operators keep from one inference to the next
    data: NDArray[Any] | None = field(default=None, compare=False, repr=False)  # of a constant, in its shape and type

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """One operator in execution order; ``inputs`` and ``outputs`` index ``TfliteGraph.tensors`` (-1: absent)."""

    index: int
    name: str  # "FULLY_CONNECTED", ...
    activation: str  # fused: "NONE", "RELU", "RELU_N1_TO_1", ...
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # numbers, by the schema's names
    intermediates: tuple[int, ...] = ()  # tensors that have a scale only: of an LSTM


@dataclass(frozen=True)
class TfliteGraph:
    """A model with one subgraph, one input [1, n_obs] and one output [1, n_act]."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: Tensor
    output: Tensor

    @property
    def n_obs(self) -> int:
        """Length of the input vector."""
        return self.input.size

    @property
    def n_act(self) -> int:
        """Length of the output vector."""
        return self.output.size

    @cached_property
    def kind(self) -> ElementType:
        """Type of the input, the output and what is computed in between. Raises ElementTypeError: none that is supported."""
        kind = next((kind for kind in ELEMENT_TYPES.values() if kind.tensor == self.input.type), INT8)
        return FLOAT32 if kind == FLOAT32 and self._is_float else INT8 if kind == FLOAT32 else kind

    @property
    def _is_float(self) -> bool:
        """Whether nothing is quantized: weights in int8 or float16 are for runtimes that convert them as they go."""
        return all(tensor.type in ("FLOAT32", "INT32", "INT64", "BOOL") for tensor in self.tensors)

    @cached_property
    def input_quant(self) -> QuantParams:
        """Quantization of the input. Raises ElementTypeError: not of a supported type, or with several scales."""
        return _quant(self.input, "input", self.kind)

    @cached_property
    def output_quant(self) -> QuantParams:
        """Quantization of the output. Raises ElementTypeError: not of the input's type, or with several scales."""
        return _quant(self.output, "output", self.kind)

    def shows(self, operator: Operator) -> bool:
        """Whether the output of an operator is of the model's element type: runtimes and boards show no other."""
        return self.output_of(operator).type == self.input.type

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether operators keep a state, which every runtime sets to zero before an inference."""
        return any(self.tensors[i].variable for operator in self.operators for i in operator.inputs if i >= 0)

    def output_of(self, operator: Operator) -> Tensor:
        """First output tensor of an operator."""
        return self.tensors[operator.outputs[0]]

    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, in order of first use."""
        counts: dict[str, int] = {}
        for operator in self.operators:
            counts[operator.name] = counts.get(operator.name, 0) + 1
        return counts


def read_graph(model: bytes) -> TfliteGraph:
    """Parses the bytes of a ``.tflite`` file.

    Raises:
        BundleError: not a TensorFlow Lite model, or not one with a single input and a single output.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    parsed = unpack(model)
    graph = parsed.subgraphs[0]
    try:
        tensors = tuple(_tensor(i, tensor, parsed.buffers) for i, tensor in enumerate(graph.tensors))
        operators = tuple(_operator(i, op, parsed.operatorCodes, len(tensors)) for i, op in enumerate(graph.operators or ()))
        inputs, outputs = (_indices(ends, 0, len(tensors)) for ends in (graph.inputs, graph.outputs))
        _check_order(tensors, operators, inputs, outputs)
        if not all(tensors[i].size for i in (*inputs, *outputs)):
            raise ValueError("an input or output without elements")
    except Exception as exc:  # invalid numbers in any table raise different exceptions
        raise BundleError(f"this TensorFlow Lite model is garbled ({exc})", "export it again: hil export") from exc
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(
            f"a policy has one input and one output, this model has {len(inputs)} and {len(outputs)}",
            "export the deterministic actor alone: hil export; of several outputs --output chooses one",
        )
    return TfliteGraph(tensors, operators, tensors[inputs[0]], tensors[outputs[0]])


def tensor_name(tensor: Any, index: int) -> str:
    """Name of a ``TensorT``, or its number where names have been stripped."""
    return str(tensor.name.decode(errors="replace")) if tensor.name else f"tensor {index}"


def builtin_name(code: int) -> str:
    """Name of a builtin operator, "EXP" for 47; "operator code 47" where no package with the schema is installed."""
    try:
        return _name_of(schema().BuiltinOperator, code)
    except MissingExtraError:
        return f"operator code {code}"


def _tensor(index: int, tensor: Any, buffers: list[Any]) -> Tensor:
    quant = tensor.quantization
    scales = () if quant is None or quant.scale is None else tuple(float(s) for s in quant.scale)
    zero_points = () if quant is None or quant.zeroPoint is None else tuple(int(z) for z in quant.zeroPoint)
    shape = tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
    name, kind = tensor_name(tensor, index), _name_of(schema().TensorType, tensor.type)
    data = buffers[_within(tensor.buffer, 0, len(buffers))].data
    constant = data is not None and len(data) > 0
    if any(n < 0 for n in shape) or (not constant and math.prod(shape) > _LARGEST_TENSOR):
        raise ValueError(f"the tensor {name} has the shape {list(shape)}")
    return Tensor(
        index=index,
        name=name,
        shape=shape,
        type=kind,
        scales=scales,
        zero_points=zero_points,
        constant=constant,
        variable=bool(tensor.isVariable),
        data=_constant(data, kind, shape) if constant else None,
    )


def _constant(data: Any, kind: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A buffer as an array; None for a type that numpy lacks (STRING, INT4, ...) or a packed layout."""
    dtype = getattr(np, kind.lower(), None)
    raw = np.asarray(data, np.uint8)
    if not isinstance(dtype, type) or raw.nbytes != np.dtype(dtype).itemsize * math.prod(shape):
        return None
    return raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _operator(index: int, operator: Any, codes: list[Any], tensors: int) -> Operator:
    code = codes[_within(operator.opcodeIndex, 0, len(codes))]
    # Old files keep the code in an int8 field, new ones in an int32 field; the larger one is right (schema.fbs).
    name = _name_of(schema().BuiltinOperator, max(code.builtinCode, code.deprecatedBuiltinCode))
    if name == "CUSTOM":
        name = (code.customCode or b"CUSTOM").decode(errors="replace")
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    outputs = _indices(operator.outputs, 0, tensors)
    if not outputs:
        raise ValueError(f"operator {index} ({name}) has no output")
    return Operator(
        index=index,
        name=name,
        activation=_name_of(schema().ActivationFunctionType, fused),
        inputs=_indices(operator.inputs, -1, tensors),
        outputs=outputs,
        options={
            key: value
            for key, value in getattr(operator.builtinOptions, "__dict__", {}).items()
            if isinstance(value, int | float)
        },
        intermediates=_indices(operator.intermediates, 0, tensors),
    )


def _indices(values: Any, low: int, count: int) -> tuple[int, ...]:
    return tuple(_within(int(value), low, count) for value in (() if values is None else values))


def _within(value: int, low: int, count: int) -> int:
    """``value``, which python would count from the end if it were negative."""
    if not low <= value < count:
        raise ValueError(f"number {value} of {count}")
    return value


def _check_order(
    tensors: tuple[Tensor, ...], operators: tuple[Operator, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    """Checks that every tensor is computed once, and before an operator reads it."""
    known = {-1, *inputs, *(tensor.index for tensor in tensors if tensor.constant or tensor.variable)}
    for operator in operators:
        if not known.issuperset(operator.inputs):
            raise ValueError(f"operator {operator.index} ({operator.name}) reads what nothing before it computes")
        if not known.isdisjoint(operator.outputs):
            raise ValueError(f"operator {operator.index} ({operator.name}) writes a tensor that is there already")
        known.update(operator.outputs)
    if not known.issuperset(outputs):
        raise ValueError("nothing computes the output")


def _name_of(enum: Any, value: int) -> str:
    for name, number in vars(enum).items():
        if number == value and not name.startswith("_"):
            return str(name)
    return f"#{value}"


def _quant(tensor: Tensor, role: str, kind: ElementType) -> QuantParams:
    if kind == FLOAT32 and tensor.type == FLOAT32.tensor:
        return QuantParams(1.0, 0, FLOAT32)
    one = tensor.type == kind.tensor and len(tensor.scales) == len(tensor.zero_points) == 1
    low, high = (0, 0) if kind == INT16X8 else (kind.low, kind.high)  # kernels have no zero points in int16
    if not one or not 0 < tensor.scales[0] < math.inf or not low <= tensor.zero_points[0] <= high:
        what = f"{tensor.type} with scales {list(tensor.scales[:3])} and zero points {list(tensor.zero_points[:3])}"
        raise ElementTypeError(
            f"the model's {role} {tensor.name!r} is {what}, not {kind.name} with one scale",
            "export a model of one element type: hil export FOLDER (it writes policy_int8.tflite)",
        )
    return QuantParams(tensor.scales[0], tensor.zero_points[0], kind)
