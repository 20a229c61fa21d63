"""Smaller models cut out of a model: a run of its operators, and some channels or pixels of one operator.

Each returns a model, and the row that goes with it; None where the operator does not allow the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT16X8, RawArray
from balance_hil.tflite.codec import pack, schema, unpack
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph, read_graph

Cut = tuple[bytes, RawArray]

_UNARY = {"TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "ELU", "HARD_SWISH", "QUANTIZE", "DEQUANTIZE"}
_ELEMENTWISE = _UNARY | {"ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU"}
_POOLS = {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
_WINDOWED = _POOLS | {"CONV_2D", "DEPTHWISE_CONV_2D"}
_SUMS = {"FULLY_CONNECTED": (0, 2), "CONV_2D": (0, 2), "DEPTHWISE_CONV_2D": (3, 2), "TRANSPOSE_CONV": (0, 3)}  # channels, bias
_SAME = 0


def window(model: bytes, first: int, last: int, source: int, frozen: Mapping[int, NDArray[Any]]) -> bytes:
    """The operators ``first`` to ``last``, with the tensor ``source`` as input and the last one's output as output.

    Args:
        model: bytes of a ``.tflite``.
        first: index of the first operator.
        last: index of the last one.
        source: number of a tensor.
        frozen: values of the other tensors that they read and do not compute; they become constants.
    """
    parsed = unpack(model)
    graph = parsed.subgraphs[0]
    for index, values in frozen.items():
        _set(parsed, index, values)
    graph.operators = graph.operators[first : last + 1]
    graph.inputs, graph.outputs = [source], [int(graph.operators[-1].outputs[0])]
    return _packed(parsed)


def keep_outputs(model: bytes, row: RawArray, wanted: Sequence[int]) -> Cut | None:
    """Some channels of the output, and what they need of the input, of a model of one operator or of element-wise ones."""
    graph = read_graph(model)
    channels = list(wanted)
    operator = graph.operators[0]
    alone = len(graph.operators) == 1
    if _is_elementwise(graph) or (alone and (operator.name in _POOLS or _is_mean_of_pixels(graph, operator))):
        return _same_channels(model, graph, row, channels)
    if not alone or operator.name not in _SUMS:
        return None
    axis, place = _SUMS[operator.name]
    weights = graph.tensors[operator.inputs[1]]
    bias = graph.tensors[operator.inputs[place]] if len(operator.inputs) > place and operator.inputs[place] >= 0 else None
    if weights.data is None or (bias is not None and bias.data is None):
        return None
    depth = graph.input.shape[-1] if graph.input.shape else 1
    groups = depth if axis == 3 else depth // weights.shape[3] if operator.name == "CONV_2D" else 1
    columns = None
    if groups > 1:
        belongs = [channel * groups // weights.shape[axis] for channel in channels]
        if len(set(belongs)) > 1 and belongs != channels:  # of several groups: depthwise without a multiplier only
            return None
        size = depth // groups
        columns = [group * size + i for group in dict.fromkeys(belongs) for i in range(size)]

    def change(parsed: Any) -> None:
        _take(parsed, weights, axis, channels)
        if bias is not None:
            _take(parsed, bias, 0, channels)
        _reshape(parsed, graph.output, -1, len(channels))
        if operator.name == "TRANSPOSE_CONV":
            _set(parsed, operator.inputs[0], np.array([*graph.output.shape[:-1], len(channels)], np.int32))
        if columns is not None:
            _reshape(parsed, graph.input, -1, len(columns))
        if axis == 3:
            sources = depth if columns is None else len(columns)
            parsed.subgraphs[0].operators[0].builtinOptions.depthMultiplier = len(channels) // sources

    kept = row if columns is None else row.reshape(-1, *graph.input.shape)[..., columns].reshape(len(row), -1)
    return _changed(model, change), kept


def keep_inputs(model: bytes, row: RawArray, wanted: Sequence[int], *, fold: bool) -> Cut | None:
    """Some channels of the input of one FULLY_CONNECTED or CONV_2D.

    Args:
        model: bytes of a ``.tflite``.
        row: raw values [1, n_obs].
        wanted: numbers of channels.
        fold: what the others add to a sum goes into the bias, so that the sums stay what they are for this row.
    """
    graph = read_graph(model)
    operator = graph.operators[0]
    if len(graph.operators) != 1 or operator.name not in ("FULLY_CONNECTED", "CONV_2D"):
        return None
    weights, data = _weights(graph, operator)
    shape = graph.input.shape
    if data is None or not shape or weights.shape[-1] != shape[-1]:
        return None
    if operator.name == "FULLY_CONNECTED" and graph.input.size != shape[-1]:
        return None
    bias = graph.tensors[operator.inputs[2]].data if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    kept, gone = list(wanted), sorted(set(range(shape[-1])) - set(wanted))
    sums = None
    if fold:
        taps = _taps(graph, operator, row) if bias is not None and len(row) == 1 else None
        if bias is None or taps is None:
            return None
        by_channel = taps * data.astype(np.int64)  # [out, ..., in]
        sums = bias.astype(np.int64) + by_channel[..., gone].reshape(len(data), -1).sum(axis=1)
        limits = np.iinfo(bias.dtype)
        if sums.min() < limits.min or sums.max() > limits.max:
            return None

    def change(parsed: Any) -> None:
        _take(parsed, weights, len(weights.shape) - 1, kept)
        _reshape(parsed, graph.input, -1, len(kept))
        if sums is not None and bias is not None:
            _set(parsed, operator.inputs[2], sums.astype(bias.dtype))

    return _changed(model, change), row.reshape(-1, *shape)[..., kept].reshape(len(row), -1)


def crop(model: bytes, row: RawArray, axis: int, start: int, stop: int) -> Cut | None:
    """Entries ``start`` to ``stop`` of height (axis 1) or width (axis 2) of the input, and the output that goes with them."""
    graph = read_graph(model)
    shape = graph.input.shape
    operator = graph.operators[0]
    if len(shape) != 4:
        return None
    size = stop - start
    if _is_elementwise(graph):
        if any(t.constant and t.size > 1 and len(t.shape) > 2 and t.shape[axis - 4] > 1 for t in graph.tensors):
            return None
        computed = [tensor for tensor in graph.tensors if not tensor.constant]
        sizes = {tensor.index: size for tensor in computed}
    elif len(graph.operators) == 1 and operator.name in _WINDOWED:
        taps, stride, dilation = _geometry(graph, operator, axis)
        reach = (taps - 1) * dilation + 1
        outside = -(-size // stride) if operator.options["padding"] == _SAME else -(-(size - reach + 1) // stride)
        if outside < 1:
            return None
        sizes = {graph.input.index: size, graph.output.index: outside}
    else:
        return None

    def change(parsed: Any) -> None:
        for index, length in sizes.items():
            _reshape(parsed, graph.tensors[index], axis, length)

    return _changed(model, change), np.take(row.reshape(-1, *shape), range(start, stop), axis + 1).reshape(len(row), -1)


# --- parts ----------------------------------------------------------------------------------------------------------------


def _is_elementwise(graph: TfliteGraph) -> bool:
    alike = all(tensor.shape == graph.input.shape for tensor in graph.tensors if not tensor.constant)
    return alike and all(operator.name in _ELEMENTWISE for operator in graph.operators)


def _is_mean_of_pixels(graph: TfliteGraph, operator: Operator) -> bool:
    """Whether it is a MEAN that keeps the channels apart."""
    axes = graph.tensors[operator.inputs[1]].data if operator.name == "MEAN" else None
    last = len(graph.input.shape) - 1
    return axes is not None and last not in {int(axis) % (last + 1) for axis in np.ravel(axes)}


def _same_channels(model: bytes, graph: TfliteGraph, row: RawArray, channels: list[int]) -> Cut | None:
    depth = graph.input.shape[-1] if graph.input.shape else 0
    used = {index for operator in graph.operators for index in operator.inputs if index >= 0}
    wide = [t for t in (graph.tensors[i] for i in used) if t.constant and t.size > 1 and t.type in ("INT8", "INT16")]
    if not depth or any(tensor.data is None or not tensor.shape or tensor.shape[-1] != depth for tensor in wide):
        return None

    def change(parsed: Any) -> None:
        for tensor in wide:
            _take(parsed, tensor, len(tensor.shape) - 1, channels)
        for tensor in graph.tensors:
            if not tensor.constant:
                _reshape(parsed, tensor, -1, len(channels))

    return _changed(model, change), row.reshape(-1, *graph.input.shape)[..., channels].reshape(len(row), -1)


def _weights(graph: TfliteGraph, operator: Operator) -> tuple[Tensor, NDArray[Any] | None]:
    tensor = graph.tensors[operator.inputs[1]]
    return tensor, tensor.data


def _geometry(graph: TfliteGraph, operator: Operator, axis: int) -> tuple[int, int, int]:
    """Taps, stride and dilation along height (1) or width (2)."""
    side, long = ("H", "Height") if axis == 1 else ("W", "Width")
    if operator.name in _POOLS:
        return int(operator.options[f"filter{long}"]), int(operator.options[f"stride{side}"]), 1
    taps = graph.tensors[operator.inputs[1]].shape[axis]
    return taps, int(operator.options[f"stride{side}"]), int(operator.options[f"dilation{side}Factor"])


def _taps(graph: TfliteGraph, operator: Operator, row: RawArray) -> NDArray[np.int64] | None:
    """What each weight of an output channel is multiplied with, where there is one pixel of output: int64, as one channel."""
    inside = row.reshape(graph.input.shape).astype(np.int64) - graph.input_quant.zero_point
    if operator.name == "FULLY_CONNECTED":
        return np.asarray(inside.reshape(-1))
    if graph.output.shape[1:3] != (1, 1):
        return None
    height, width = (_geometry(graph, operator, axis) for axis in (1, 2))
    found = np.zeros((height[0], width[0], graph.input.shape[-1]), np.int64)
    before = [
        max(0, (taps - 1) * dilation + 1 - size) // 2 if operator.options["padding"] == _SAME else 0
        for (taps, _, dilation), size in zip((height, width), graph.input.shape[1:3], strict=True)
    ]
    for y in range(height[0]):
        for x in range(width[0]):
            at = y * height[2] - before[0], x * width[2] - before[1]
            if all(0 <= position < size for position, size in zip(at, graph.input.shape[1:3], strict=True)):
                found[y, x] = inside[0, at[0], at[1]]
    return found


def _changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    parsed = unpack(model)
    change(parsed)
    return _packed(parsed)


def _reshape(parsed: Any, tensor: Tensor, axis: int, size: int) -> None:
    shape = list(tensor.shape)
    shape[axis] = size
    parsed.subgraphs[0].tensors[tensor.index].shape = shape
    parsed.subgraphs[0].tensors[tensor.index].shapeSignature = None


def _take(parsed: Any, tensor: Tensor, axis: int, wanted: Sequence[int]) -> None:
    """Some entries of a constant along an axis, and their scales."""
    assert tensor.data is not None
    _set(parsed, tensor.index, np.take(tensor.data, wanted, axis))
    quant = parsed.subgraphs[0].tensors[tensor.index].quantization
    if quant is not None and len(tensor.scales) > 1 and quant.quantizedDimension == axis:
        quant.scale = [tensor.scales[i] for i in wanted]
        quant.zeroPoint = [tensor.zero_points[i] for i in wanted]
        quant.min = quant.max = None


def _set(parsed: Any, index: int, values: NDArray[Any]) -> None:
    """Makes a tensor a constant."""
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    tensor = parsed.subgraphs[0].tensors[index]
    tensor.buffer, tensor.shape, tensor.shapeSignature = len(parsed.buffers), list(values.shape), None
    parsed.buffers.append(buffer)


def _packed(parsed: Any) -> bytes:
    """The file without tensors, constants, operator codes and metadata that nothing uses."""
    graph = parsed.subgraphs[0]
    used = {int(i) for operator in graph.operators for ends in _ends(operator) for i in ends if i >= 0}
    tensors = sorted(used | {int(i) for i in (*graph.inputs, *graph.outputs)})
    numbers = {old: new for new, old in enumerate(tensors)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in tensors]
    for operator in graph.operators:
        operator.inputs, operator.outputs, operator.intermediates = ([numbers[int(i)] for i in ends] for ends in _ends(operator))
    graph.inputs, graph.outputs = ([numbers[int(i)] for i in ends] for ends in (graph.inputs, graph.outputs))
    buffers = sorted({0, *(tensor.buffer for tensor in graph.tensors)})
    places = {old: new for new, old in enumerate(buffers)}
    for tensor in graph.tensors:
        tensor.buffer = places[tensor.buffer]
    parsed.buffers = [parsed.buffers[i] for i in buffers]
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    parsed.operatorCodes = [parsed.operatorCodes[i] for i in codes]
    parsed.subgraphs = [graph]
    parsed.signatureDefs, parsed.metadata, parsed.metadataBuffer = [], [], None
    return pack(parsed)


def _ends(operator: Any) -> tuple[Any, Any, Any]:
    """Tensors that it reads, those that it computes, and those of which it needs the scale."""
    return operator.inputs, operator.outputs, () if operator.intermediates is None else operator.intermediates


def is_end(tensor: Tensor) -> bool:
    """Whether a tensor can be the input or output of a model: int8 or int16 with one scale."""
    one = tensor.type in (INT8.tensor, INT16X8.tensor) and len(tensor.scales) == len(tensor.zero_points) == 1
    low, high = (INT8.low, INT8.high) if tensor.type == INT8.tensor else (0, 0)
    return one and tensor.scales[0] > 0 and low <= tensor.zero_points[0] <= high and tensor.size > 0
