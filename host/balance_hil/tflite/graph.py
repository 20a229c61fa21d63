"""What is inside a ``.tflite`` file: operators, tensors, shapes and quantization parameters.

Reads the flatbuffer with the schema that ships with ``ai_edge_litert``; nothing is typed by hand anywhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import BundleError, ModelNotInt8Error, require
from balance_hil.quantize import QuantParams


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
    axis: int = 0  # of CONCATENATION


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
    def input_quant(self) -> QuantParams:
        """Quantization of the input. Raises ModelNotInt8Error for a float model."""
        return _quant(self.input, "input")

    @cached_property
    def output_quant(self) -> QuantParams:
        """Quantization of the output. Raises ModelNotInt8Error for a float model."""
        return _quant(self.output, "output")

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
    require("ai_edge_litert", "int8")
    from ai_edge_litert import schema_py_generated as schema

    if len(model) < 8 or model[4:8] != b"TFL3":
        raise BundleError("this is not a TensorFlow Lite model", "point at a .tflite file, or export one: hil export models/ppo")
    try:
        parsed = schema.ModelT.InitFromPackedBuf(model, 0)
        subgraph = parsed.subgraphs[0]
        tensors = tuple(_tensor(i, t, parsed.buffers, schema) for i, t in enumerate(subgraph.tensors))
        operators = tuple(_operator(i, op, parsed.operatorCodes, schema) for i, op in enumerate(subgraph.operators))
        inputs, outputs = list(subgraph.inputs), list(subgraph.outputs)
    except Exception as exc:  # flatbuffers raises struct.error, TypeError, IndexError, ... on a cut or garbled file
        raise BundleError(f"this TensorFlow Lite model is cut off or garbled ({exc})", "export it again: hil export") from exc
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(
            f"a policy has one input and one output, this model has {len(inputs)} and {len(outputs)}",
            "export the deterministic actor alone: hil export",
        )
    return TfliteGraph(tensors, operators, tensors[inputs[0]], tensors[outputs[0]])


def builtin_name(code: int) -> str:
    """Name of a builtin operator, "EXP" for 47; "operator code 47" where nothing that knows it is installed."""
    try:
        from ai_edge_litert.schema_py_generated import BuiltinOperator
    except ImportError:
        return f"operator code {code}"
    return _name_of(BuiltinOperator, code)


def _tensor(index: int, tensor: Any, buffers: list[Any], schema: Any) -> Tensor:
    quant = tensor.quantization
    scales = () if quant is None or quant.scale is None else tuple(float(s) for s in quant.scale)
    zero_points = () if quant is None or quant.zeroPoint is None else tuple(int(z) for z in quant.zeroPoint)
    shape = tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
    kind = _name_of(schema.TensorType, tensor.type)
    data = buffers[tensor.buffer].data
    constant = data is not None and len(data) > 0
    return Tensor(
        index=index,
        name=tensor.name.decode(),
        shape=shape,
        type=kind,
        scales=scales,
        zero_points=zero_points,
        constant=constant,
        data=_constant(data, kind, shape) if constant else None,
    )


def _constant(data: Any, kind: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A buffer as an array; None for a type that numpy has not (STRING, INT4, ...) or a packed layout."""
    dtype = getattr(np, kind.lower(), None)
    raw = np.asarray(data, np.uint8)
    if not isinstance(dtype, type) or raw.nbytes != np.dtype(dtype).itemsize * math.prod(shape):
        return None
    return raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _operator(index: int, operator: Any, codes: list[Any], schema: Any) -> Operator:
    code = codes[operator.opcodeIndex]
    # Old files keep the code in an int8 field, new ones in an int32 field; the larger one is right (schema.fbs).
    name = _name_of(schema.BuiltinOperator, max(code.builtinCode, code.deprecatedBuiltinCode))
    if name == "CUSTOM":
        name = (code.customCode or b"CUSTOM").decode()
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    return Operator(
        index=index,
        name=name,
        activation=_name_of(schema.ActivationFunctionType, fused),
        inputs=tuple(int(i) for i in operator.inputs),
        outputs=tuple(int(i) for i in operator.outputs),
        axis=int(getattr(operator.builtinOptions, "axis", 0)),
    )


def _name_of(enum: Any, value: int) -> str:
    for name, number in vars(enum).items():
        if number == value and not name.startswith("_"):
            return str(name)
    return f"#{value}"


def _quant(tensor: Tensor, role: str) -> QuantParams:
    if tensor.type != "INT8" or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise ModelNotInt8Error(
            f"the model's {role} {tensor.name!r} is {tensor.type}, not int8 with one scale",
            "export an int8 model: hil export models/ppo (it writes policy_int8.tflite)",
        )
    return QuantParams(tensor.scales[0], tensor.zero_points[0])
