"""Small int8 ``.tflite`` models written operator by operator, without a converter.

Every quantization parameter is free, so that they reach operators, shapes and parameters that a converter seldom writes: what
an emulator is verified on, and what a test can make in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.quantize import INT8_MAX, INT8_MIN

# Lowest operator versions whose kernels take int8 (tensorflow/lite/tools/versioning/op_version.cc).
_VERSIONS = {
    "FULLY_CONNECTED": 4,
    "TANH": 2,
    "LOGISTIC": 2,
    "RELU": 2,
    "RELU6": 2,
    "ADD": 2,
    "MUL": 2,
    "QUANTIZE": 2,
    "DEQUANTIZE": 2,
    "CONCATENATION": 2,
}
_OPTIONS = {
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESHAPE": "ReshapeOptions",
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "HARD_SWISH": "HardSwishOptions",
}


class ModelBuilder:
    """Collects tensors and operators of one subgraph; ``bytes`` packs them.

    Raises:
        MissingExtraError: ``ai_edge_litert`` (which carries the flatbuffer schema) is not installed.
    """

    def __init__(self) -> None:
        require("ai_edge_litert", "int8")
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]
        self._codes: list[Any] = []

    def tensor(
        self,
        shape: Sequence[int],
        scale: float | Sequence[float] = (),
        zero_point: int = 0,
        *,
        data: NDArray[Any] | None = None,
        kind: str = "INT8",
    ) -> int:
        """Adds a tensor and returns its index. Several scales mean one per entry of dimension 0 (per channel)."""
        schema = self._schema
        tensor = schema.TensorT()
        tensor.name = f"t{len(self._graph.tensors)}"
        tensor.shape = list(shape)
        tensor.type = getattr(schema.TensorType, kind)
        tensor.buffer = 0
        scales = [scale] if isinstance(scale, int | float) else list(scale)
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(np.float32(s)) for s in scales]
            tensor.quantization.zeroPoint = [zero_point] * len(scales)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, *, activation: str = "NONE", axis: int = 0) -> int:
        """Adds an operator that computes tensor ``output``; returns ``output``."""
        schema = self._schema
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs, operator.outputs = list(inputs), [output]
        if name in _OPTIONS:
            options = getattr(schema, _OPTIONS[name] + "T")()
            if hasattr(options, "fusedActivationFunction"):
                options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
            if name == "CONCATENATION":
                options.axis = axis
            if name == "RESHAPE":
                options.newShape = list(self._graph.tensors[output].shape)
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[name])
            operator.builtinOptions = options
        self._graph.operators.append(operator)
        return output

    def bytes(self, input_tensor: int, output_tensor: int | Sequence[int]) -> bytes:
        """The finished model, of one output or several."""
        import flatbuffers

        outputs = [output_tensor] if isinstance(output_tensor, int) else list(output_tensor)
        self._graph.inputs, self._graph.outputs = [input_tensor], outputs
        self._graph.name = "main"
        model = self._schema.ModelT()
        model.version = 3
        model.description = "balance_hil synthetic"
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [self._graph], self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, name: str) -> int:
        number = getattr(self._schema.BuiltinOperator, name)
        for index, code in enumerate(self._codes):
            if code.builtinCode == number:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = _VERSIONS.get(name, 1)
        self._codes.append(code)
        return len(self._codes) - 1


def actor(
    sizes: Sequence[int], activation: str, *, per_channel: bool, seed: int, squash: str | None = "TANH", fused: str = "NONE"
) -> bytes:
    """An actor with random weights, quantized as the TensorFlow converter quantizes: int8 in and out.

    Args:
        sizes: lengths of input, hidden layers and output.
        activation: of the hidden layers: "TANH", "LOGISTIC", "HARD_SWISH" (operators of their own), "RELU", "RELU6",
            "RELU_N1_TO_1" (fused into FULLY_CONNECTED).
        per_channel: one weight scale per neuron.
        seed: of weights, biases and calibration inputs.
        squash: operator behind the last layer, None for none.
        fused: activation fused into the last layer.
    """
    rng = np.random.default_rng(seed)
    build = ModelBuilder()
    x = rng.normal(0.0, 1.0, (512, sizes[0])) * rng.uniform(0.3, 3.0)
    tensor, quant = _calibrated(build, x)
    first = tensor
    for layer, units in enumerate(sizes[1:], start=1):
        last = layer == len(sizes) - 1
        inline = fused if last else (activation if activation.startswith("RELU") else "NONE")
        after = squash if last else (None if activation.startswith("RELU") else activation)
        weights = rng.normal(0.0, 1.5 / np.sqrt(x.shape[1]), (units, x.shape[1])) * rng.uniform(0.2, 2.0, (units, 1))
        bias = rng.normal(0.0, 0.3, units)
        x = _apply(inline, x @ weights.T + bias)
        tensor, quant = _dense(build, tensor, quant, weights, bias, x, per_channel, inline)
        if after is not None:
            x = _apply(after, x)
            tensor, quant = _unary(build, after, tensor, x)
    return build.bytes(first, tensor)


def _dense(
    build: ModelBuilder,
    source: int,
    quant: tuple[float, int],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    outputs: NDArray[np.float64],
    per_channel: bool,
    fused: str,
) -> tuple[int, tuple[float, int]]:
    peak = np.max(np.abs(weights), axis=1) if per_channel else np.full(len(weights), np.max(np.abs(weights)))
    scales = (peak / INT8_MAX).astype(np.float32)
    bias_scales = np.float32(quant[0]) * scales
    kernel = build.tensor(
        weights.shape,
        scales.tolist() if per_channel else float(scales[0]),
        data=np.rint(weights / scales[:, np.newaxis]).astype(np.int8),
    )
    offset = build.tensor(
        bias.shape,
        bias_scales.tolist() if per_channel else float(bias_scales[0]),
        data=np.rint(bias / bias_scales).astype(np.int32),
        kind="INT32",
    )
    output, output_quant = _calibrated(build, outputs)
    build.operator("FULLY_CONNECTED", (source, kernel, offset), output, activation=fused)
    return output, output_quant


def _unary(build: ModelBuilder, name: str, source: int, outputs: NDArray[np.float64]) -> tuple[int, tuple[float, int]]:
    fixed = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, INT8_MIN)}  # the only parameters that kernels accept
    if name in fixed:
        quant = fixed[name]
        output = build.tensor((1, outputs.shape[1]), *quant)
    else:
        output, quant = _calibrated(build, outputs)
    build.operator(name, (source,), output)
    return output, quant


def _calibrated(build: ModelBuilder, values: NDArray[np.float64]) -> tuple[int, tuple[float, int]]:
    """A tensor [1, size] whose range covers ``values``, [n, size], and 0, as the converter's calibrator chooses it."""
    low, high = min(0.0, float(np.min(values))), max(1e-3, float(np.max(values)))
    scale = float(np.float32((high - low) / (INT8_MAX - INT8_MIN)))
    quant = (scale, int(np.rint(INT8_MIN - low / scale)))
    return build.tensor((1, values.shape[1]), *quant), quant


def _apply(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    functions: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
        "NONE": lambda v: v,
        "TANH": np.tanh,
        "LOGISTIC": lambda v: 1.0 / (1.0 + np.exp(-v)),
        "RELU": lambda v: np.maximum(v, 0.0),
        "RELU6": lambda v: np.clip(v, 0.0, 6.0),
        "RELU_N1_TO_1": lambda v: np.clip(v, -1.0, 1.0),
        "HARD_SWISH": lambda v: v * np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    }
    return functions[name](x)
