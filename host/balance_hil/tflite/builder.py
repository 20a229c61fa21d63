"""Builds ``.tflite`` files by hand, in milliseconds and without TensorFlow: models to measure and to test engines with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

TANH_QUANT = (1 / 128, 0)
LOGISTIC_QUANT = (1 / 256, -128)
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")


@dataclass
class ModelBuilder:
    """Collects tensors and operators; ``build`` gives the bytes."""

    tensors: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])

    def tensor(
        self,
        shape: tuple[int, ...],
        kind: str = "INT8",
        scales: float | list[float] | None = None,
        zero_points: int | list[int] = 0,
        data: NDArray[Any] | None = None,
        dimension: int = 0,
    ) -> int:
        """Adds a tensor and gives its number; ``data`` makes it a constant."""
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        tensor.type = getattr(schema.TensorType, kind)
        tensor.name = f"t{len(self.tensors)}"
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        if scales is not None:
            quant = schema.QuantizationParametersT()
            quant.scale = np.atleast_1d(np.asarray(scales, np.float32))
            quant.zeroPoint = np.broadcast_to(np.asarray(zero_points, np.int64), quant.scale.shape).copy()
            quant.quantizedDimension = dimension
            tensor.quantization = quant
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: list[int], outputs: list[int], options: Any = None, options_name: str = "") -> Any:
        """Adds an operator behind the others."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_name)
        self.operators.append(operator)
        return operator

    def dense(
        self,
        source: int,
        weights: NDArray[np.int8],
        weight_scales: float | list[float],
        output: tuple[float, int],
        bias: NDArray[np.int32] | None = None,
        activation: str = "NONE",
    ) -> int:
        """FULLY_CONNECTED; ``weights`` is int8 [rows, columns], ``output`` scale and zero point. Gives the output's number."""
        rows = weights.shape[0]
        w = self.tensor(weights.shape, scales=weight_scales, data=weights)
        inputs = [source, w]
        if bias is not None:
            input_scale = np.float32(self.tensors[source].quantization.scale[0])
            bias_scales = [float(input_scale * np.float32(scale)) for scale in np.atleast_1d(weight_scales)]
            inputs.append(self.tensor((rows,), "INT32", bias_scales, 0, bias.astype(np.int32)))
        out = self.tensor((1, rows), scales=output[0], zero_points=output[1])
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
        self.operator("FULLY_CONNECTED", inputs, [out], options, "FullyConnectedOptions")
        return out

    def elementwise(self, name: str, source: int, output: tuple[float, int] | None, kind: str = "INT8") -> int:
        """An operator with one input and an output of the same shape; gives the output's number."""
        scale, zero_point = output if output is not None else (None, 0)
        out = self.tensor(tuple(self.tensors[source].shape), kind, scale, zero_point)
        self.operator(name, [source], [out])
        return out

    def build(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file."""
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version = 3
        model.subgraphs, model.operatorCodes, model.buffers = [subgraph], self.codes, self.buffers
        packer = flatbuffers.Builder(1024)
        packer.Finish(model.Pack(packer), b"TFL3")
        return bytes(packer.Output())


def random_dense(
    builder: ModelBuilder,
    rng: np.random.Generator,
    source: int,
    rows: int,
    *,
    per_channel: bool,
    activation: str = "NONE",
    bias: bool = True,
    zero_point: int | None = None,
) -> int:
    """A dense layer with random weights whose outputs fill the int8 range, saturating now and then.

    Args:
        builder: of the model.
        rng: source of weights, bias and scales.
        source: number of the input tensor.
        rows: outputs.
        per_channel: a weight scale for each row, and not one for all.
        activation: fused.
        bias: whether there is one.
        zero_point: of the output; None chooses one.

    Returns:
        Number of the output tensor.
    """
    columns = int(builder.tensors[source].shape[-1])
    input_scale = float(builder.tensors[source].quantization.scale[0])
    weights = rng.integers(-127, 128, (rows, columns), dtype=np.int8)
    if per_channel:
        scales = [float(np.float32(scale)) for scale in 10 ** rng.uniform(-4, -1) * rng.uniform(0.1, 1, rows)]
    else:
        scales = [float(np.float32(10 ** rng.uniform(-4, -1)))]
    sum_scale = input_scale * max(scales) * 73 * 73 * np.sqrt(columns)  # of a typical sum
    scale = float(np.float32(sum_scale / 127 * 10 ** rng.uniform(-0.5, 1)))
    if zero_point is None:
        zero_point = -128 if activation in ("RELU", "RELU6") and rng.random() < 0.5 else int(rng.integers(-128, 128))
    values = np.asarray(rng.normal(0, rng.choice([1e1, 1e3, 1e5]), rows), np.int32) if bias else None
    return builder.dense(source, weights, scales if per_channel else scales[0], (scale, zero_point), values, activation)


def typical_policy(activation: str, seed: int = 7) -> bytes:
    """A 6-64-64-2 policy with a weight scale for each row, as exporters make them; ``activation`` is "TANH" or "RELU" (fused)."""
    rng = np.random.default_rng(seed)
    builder = ModelBuilder()
    source = current = builder.tensor((1, 6), scales=0.01, zero_points=3)
    for _ in range(2):
        if activation == "RELU":
            current = random_dense(builder, rng, current, 64, per_channel=True, activation="RELU", zero_point=-128)
        else:
            current = random_dense(builder, rng, current, 64, per_channel=True)
            current = builder.elementwise("TANH", current, TANH_QUANT)
    return builder.build([source], [random_dense(builder, rng, current, 2, per_channel=True)])
