"""Small int8 ``.tflite`` models written operator by operator, in milliseconds and without a converter.

Every quantization parameter is free, so that the models cover operators, shapes and parameters that converters seldom write.
They serve to verify the emulators, and as test fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, INT16X8, ElementType
from balance_hil.tflite.codec import pack, schema

TANH_QUANT = (1 / 128, 0)  # the only parameters that kernels accept for these outputs
LOGISTIC_QUANT = (1 / 256, INT8_MIN)
INT16_QUANT = (1 / 32768, 0)  # the same in int16, for both
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")  # that FULLY_CONNECTED fuses

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
    "SOFTMAX": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "TRANSPOSE_CONV": 3,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "PAD": 2,
    "LEAKY_RELU": 2,
    "SUB": 3,
    "MAXIMUM": 2,
    "MINIMUM": 2,
    "TRANSPOSE": 2,
    "STRIDED_SLICE": 2,
    "SPLIT": 2,
    "PACK": 2,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
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
    "SOFTMAX": "SoftmaxOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "PAD": "PadOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "SUB": "SubOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "TRANSPOSE": "TransposeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SPLIT": "SplitOptions",
    "SHAPE": "ShapeOptions",
    "PACK": "PackOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}


class ModelBuilder:
    """Collects tensors and operators of one subgraph, int8 or of another element type; ``build`` packs them.

    ``tensors`` and ``operators`` are the schema's objects, for tests that corrupt them.

    Raises:
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """

    def __init__(self, element: ElementType = INT8) -> None:
        self.element = element  # of what is computed
        self.schema = schema()
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self._codes: list[Any] = []
        self._buffers: list[Any] = [self.schema.BufferT()]

    def tensor(
        self,
        shape: Sequence[int],
        scale: float | Sequence[float] = (),
        zero_point: int = 0,
        *,
        data: NDArray[Any] | None = None,
        kind: str = "",
        variable: bool = False,
    ) -> int:
        """Adds a tensor and returns its number. Several scales mean one per entry of dimension 0 (per channel).

        Without a ``kind`` constants are int8, others of the builder's element type.
        """
        kind = kind or (self.element if data is None else INT8).tensor
        tensor = self.schema.TensorT()
        tensor.isVariable = variable
        tensor.name = f"t{len(self.tensors)}"
        tensor.shape = list(shape)
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.buffer = 0
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        if scales.size:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = scales.tolist()
            tensor.quantization.zeroPoint = [zero_point] * len(scales)
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        *,
        activation: str = "NONE",
        others: Sequence[int] = (),
        intermediates: Sequence[int] = (),
        **settings: Any,
    ) -> int:
        """Adds an operator that computes tensor ``output``, and ``others`` behind it; returns ``output``.

        ``settings`` are fields of its options, by the schema's names: ``strideH=2``.
        """
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs, operator.outputs, operator.intermediates = list(inputs), [output, *others], list(intermediates)
        if name in _OPTIONS:
            options = getattr(self.schema, _OPTIONS[name] + "T")()
            if hasattr(options, "fusedActivationFunction"):
                options.fusedActivationFunction = getattr(self.schema.ActivationFunctionType, activation)
            if name == "RESHAPE":
                options.newShape = list(self.tensors[output].shape)
            if name == "SOFTMAX":
                options.beta = 1.0
            for key, value in settings.items():
                setattr(options, key, value)
            if (
                name in ("ADD", "SUB") and self.element == INT16X8
            ):  # as converters write it: shifts alone are for LSTM cells of old
                options.potScaleInt16 = False
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, _OPTIONS[name])
            operator.builtinOptions = options
        self.operators.append(operator)
        return output

    def dense(
        self,
        source: int,
        weights: NDArray[np.int8],
        weight_scales: float | Sequence[float],
        output: tuple[float, int],
        bias: NDArray[Any] | None = None,
        activation: str = "NONE",
    ) -> int:
        """FULLY_CONNECTED; ``weights`` is int8 [rows, columns], ``output`` scale and zero point. Returns the output's number."""
        inputs = [source, self.tensor(weights.shape, weight_scales, data=weights)]
        if bias is not None:
            inputs.append(self.bias(source, weight_scales, bias))
        return self.operator("FULLY_CONNECTED", inputs, self.tensor((1, len(weights)), *output), activation=activation)

    def bias(self, source: int, weight_scales: float | Sequence[float], values: NDArray[Any]) -> int:
        """A bias for weights of these scales that meet the tensor ``source``."""
        scales = np.float32(self.tensors[source].quantization.scale[0]) * np.atleast_1d(np.asarray(weight_scales, np.float32))
        kind = "INT32" if self.element == INT8 else "INT64"
        return self.tensor(values.shape, scales.tolist(), data=values.astype(kind.lower()), kind=kind)

    def narrow(self, bias: int) -> None:
        """Makes 32 bits of a bias of 64."""
        tensor = self.tensors[bias]
        tensor.type = self.schema.TensorType.INT32
        data = self._buffers[tensor.buffer].data.view(np.int64).astype(np.int32)
        self._buffers[tensor.buffer].data = np.frombuffer(data.tobytes(), np.uint8)

    def flatten(self, source: int) -> int:
        """Operators that make one row of a tensor, as converters write Keras's Flatten: RESHAPE with a shape that is computed."""
        shape = [int(n) for n in self.tensors[source].shape]
        size = int(np.prod(shape[1:]))
        int32 = self.schema.TensorType.INT32
        sizes = self.operator("SHAPE", (source,), self.tensor((len(shape),), kind="INT32"), outType=int32)
        ends = (self.numbers([0]), self.numbers([1]), self.numbers([1]))
        rows = self.operator("STRIDED_SLICE", (sizes, *ends), self.tensor((), kind="INT32"), shrinkAxisMask=1)
        to = self.operator("PACK", (rows, self.numbers(size)), self.tensor((2,), kind="INT32"), valuesCount=2)
        flat = self.operator("RESHAPE", (source, to), self.tensor((1, size), *self.quant(source)))
        self.operators[-1].builtinOptionsType, self.operators[-1].builtinOptions = 0, None
        return flat

    def numbers(self, values: ArrayLike) -> int:
        """A constant of int32: axes, a shape, paddings."""
        data = np.asarray(values, np.int32)
        return self.tensor(data.shape, data=data, kind="INT32")

    def quant(self, tensor: int) -> tuple[float, int]:
        """Scale and zero point of a tensor."""
        params = self.tensors[tensor].quantization
        return float(params.scale[0]), int(params.zeroPoint[0])

    def elementwise(self, name: str, source: int, output: tuple[float, int] | None = None, kind: str = "") -> int:
        """An operator with one input and an output of the same shape, without scale if None; returns the output's number."""
        return self.operator(name, (source,), self.tensor(self.tensors[source].shape, *(output or ()), kind=kind))

    def build(self, inputs: int | Sequence[int], outputs: int | Sequence[int]) -> bytes:
        """The finished model."""
        graph = self.schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs, graph.outputs = ([ends] if isinstance(ends, int) else list(ends) for ends in (inputs, outputs))
        model = self.schema.ModelT()
        model.version = 3
        model.description = "balance_hil synthetic"
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [graph], self._buffers
        return pack(model)

    def _code(self, name: str) -> int:
        number = getattr(self.schema.BuiltinOperator, name)
        for index, code in enumerate(self._codes):
            if code.builtinCode == number:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = _VERSIONS.get(name, 1)
        self._codes.append(code)
        return len(self._codes) - 1


def actor(
    sizes: Sequence[int],
    activation: str,
    *,
    per_channel: bool,
    seed: int,
    squash: str | None = "TANH",
    fused: str = "NONE",
    element: ElementType = INT8,
) -> bytes:
    """An actor with random weights, quantized as the TensorFlow converter quantizes: int8 or int16 in and out.

    Args:
        sizes: lengths of input, hidden layers and output.
        activation: of the hidden layers: "TANH", "LOGISTIC", "HARD_SWISH" (operators of their own), "RELU", "RELU6",
            "RELU_N1_TO_1" (fused into FULLY_CONNECTED).
        per_channel: one weight scale per neuron.
        seed: of weights, biases and calibration inputs.
        squash: operator behind the last layer, None for none.
        fused: activation fused into the last layer.
        element: INT8, or INT16X8, whose biases have 64 bits.
    """
    rng = np.random.default_rng(seed)
    build = ModelBuilder(element)
    x = rng.normal(0.0, 1.0, (512, sizes[0])) * rng.uniform(0.3, 3.0)
    quant = _range(x, element)
    first = tensor = build.tensor((1, sizes[0]), *quant)
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
    return build.build(first, tensor)


def linear(gains: ArrayLike, limit: float, output_limit: float = 1.0) -> bytes:
    """The int8 form of ``outputs = gains @ observation``, gains [n_act, n_obs]; inputs within ``limit``, outputs saturate."""
    matrix = np.atleast_2d(np.asarray(gains, np.float64))
    build = ModelBuilder()
    source = build.tensor((1, matrix.shape[1]), limit / INT8_MAX)
    scales = (np.maximum(np.max(np.abs(matrix), axis=1), 1e-6) / INT8_MAX).astype(np.float32)
    weights = np.rint(matrix / scales[:, np.newaxis]).astype(np.int8)
    return build.build(source, build.dense(source, weights, scales.tolist(), (output_limit / INT8_MAX, 0)))


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
    codes = np.rint(weights / scales[:, np.newaxis]).astype(np.int8)
    output = _range(outputs, build.element)
    given = scales.tolist() if per_channel else float(scales[0])
    return build.dense(source, codes, given, output, np.rint(bias / (np.float32(quant[0]) * scales)), fused), output


def _unary(build: ModelBuilder, name: str, source: int, outputs: NDArray[np.float64]) -> tuple[int, tuple[float, int]]:
    fixed = (
        {"TANH": TANH_QUANT, "LOGISTIC": LOGISTIC_QUANT}
        if build.element == INT8
        else dict.fromkeys(("TANH", "LOGISTIC"), INT16_QUANT)
    )
    quant = fixed.get(name) or _range(outputs, build.element)
    return build.elementwise(name, source, quant), quant


def _range(values: NDArray[np.float64], element: ElementType = INT8) -> tuple[float, int]:
    """Scale and zero point whose range covers ``values`` and 0, as the converter's calibrator chooses them."""
    if element == INT16X8:
        return float(np.float32(max(1e-3, float(np.max(np.abs(values)))) / INT16X8.high)), 0
    low, high = min(0.0, float(np.min(values))), max(1e-3, float(np.max(values)))
    scale = float(np.float32((high - low) / (INT8_MAX - INT8_MIN)))
    return scale, int(np.rint(INT8_MIN - low / scale))


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


def random_dense(
    builder: ModelBuilder,
    rng: np.random.Generator,
    source: int,
    rows: int,
    *,
    per_channel: bool,
    activation: str = "NONE",
    bias: bool = True,
) -> int:
    """A dense layer with random weights and scales whose outputs fill their range, saturating now and then.

    Args:
        builder: of the model.
        rng: source of weights, bias and scales.
        source: number of the input tensor.
        rows: outputs.
        per_channel: a weight scale for each row, and not one for all.
        activation: fused.
        bias: whether there is one.

    Returns:
        Number of the output tensor.
    """
    columns = int(builder.tensors[source].shape[-1])
    input_scale = float(builder.tensors[source].quantization.scale[0])
    weights = rng.integers(-127, 128, (rows, columns), dtype=np.int8)
    scales = 10 ** rng.uniform(-4, -1) * (rng.uniform(0.1, 1, rows) if per_channel else np.ones(1))
    sum_scale = input_scale * float(np.max(scales)) * 73 * 73 * np.sqrt(columns)  # of a typical sum
    scale = sum_scale / 127 * 10 ** rng.uniform(-0.5, 1)
    rectified = activation in ("RELU", "RELU6") and rng.random() < 0.5
    zero_point = INT8_MIN if rectified else int(rng.integers(INT8_MIN, INT8_MAX + 1))
    if builder.element == INT16X8:
        zero_point = 0
    values = rng.normal(0, rng.choice([1e1, 1e3, 1e5]), rows) if bias else None
    return builder.dense(source, weights, scales.tolist(), (scale, zero_point), values, activation)


def random_policy(seed: int) -> bytes:
    """A feed-forward model that no converter would write, of operators that the compact engine and TFLM have."""
    rng = np.random.default_rng(seed)
    build = ModelBuilder()
    first = build.tensor((1, int(rng.integers(1, 40))), 10 ** rng.uniform(-4, 0), int(rng.integers(INT8_MIN, INT8_MAX + 1)))
    current = first
    for _ in range(int(rng.integers(1, 4))):
        fused, bias, per_channel = str(rng.choice(ACTIVATIONS)), bool(rng.random() < 0.9), bool(rng.random() < 0.7)
        rows = int(rng.integers(1, 70))
        current = random_dense(build, rng, current, rows, per_channel=per_channel, activation=fused, bias=bias)
        current = _random_activation(build, rng, current)
    return build.build(first, current)


def _random_activation(build: ModelBuilder, rng: np.random.Generator, source: int) -> int:
    shape, params = build.tensors[source].shape, build.tensors[source].quantization
    quant = float(params.scale[0]), int(params.zeroPoint[0])
    other = quant[0] * 10 ** rng.uniform(-0.5, 0.5), int(rng.integers(INT8_MIN, INT8_MAX + 1))
    kind = str(rng.choice(["NONE", "TANH", "TANH", "LOGISTIC", "RELU", "RELU6", "QUANTIZE", "RESHAPE", "FLOAT"]))
    if kind == "NONE":
        return source
    if kind == "FLOAT":
        return build.elementwise("QUANTIZE", build.elementwise("DEQUANTIZE", source, kind="FLOAT32"), other)
    if kind == "RESHAPE":  # and back
        for form in (shape[::-1], shape):
            to = build.tensor((2,), data=np.asarray(form, np.int32), kind="INT32")
            source = build.operator("RESHAPE", (source, to), build.tensor(form, *quant))
        return source
    return build.elementwise(kind, source, {"TANH": TANH_QUANT, "LOGISTIC": LOGISTIC_QUANT, "RELU6": quant}.get(kind, other))
