"""The operators of an int8 graph in the arithmetic of one variant.

``compile_operator`` turns an operator into a function from input values to output values. Values of a tensor are an array
[n, *shape]: a batch of n rows of the whole tensor, whose own leading 1 stays. In memory the batch is the dimension that varies
fastest, so that what belongs to one channel (its scale, its bias) meets long runs of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams, dequantize
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated import binary
from balance_hil.runtimes.emulated.delegation import computing_variant
from balance_hil.runtimes.emulated.primitives import round_half_away
from balance_hil.runtimes.emulated.requantise import EXACT_IN_FLOAT32, Requantiser, Scales
from balance_hil.runtimes.emulated.rules import Kernels, Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds, unary_table, vector_requantise_table
from balance_hil.runtimes.tflite_graph import Operator, Tensor, TfliteGraph

Values = NDArray[Any]  # int8 or float32 [n, *shape]
Kernel = Callable[[Sequence[Values]], Values]

SUPPORTED_OPERATORS = (
    "FULLY_CONNECTED",
    "TANH",
    "LOGISTIC",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "HARD_SWISH",
    "ADD",
    "MUL",
    "QUANTIZE",
    "DEQUANTIZE",
    "RESHAPE",
    "CONCATENATION",
)
_QUANTIZE_LANES = 16  # int8 values that the optimised QUANTIZE takes at a time; the rest goes through its portable loop
_FLOAT_QUANTIZE_LANES = 8  # the same for floats


def compile_operator(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """The operator as a function of its non-constant inputs, in the order of ``operator.inputs``.

    Raises:
        UnsupportedOperatorError: an operator, a type or a fused activation that is not emulated; the message names it.
    """
    compilers: dict[str, Callable[[TfliteGraph, Operator, Variant], Kernel]] = {
        "FULLY_CONNECTED": _fully_connected,
        "ADD": _binary,
        "MUL": _binary,
        "DEQUANTIZE": _dequantize,
        "RESHAPE": _reshape,
        "CONCATENATION": _concatenation,
    }
    try:
        return compilers.get(operator.name, _unary)(graph, operator, variant)
    except KeyError as exc:
        raise unsupported(f"{operator.name} (number {operator.index}) with the fused activation {exc.args[0]}") from exc


def unsupported(what: str) -> UnsupportedOperatorError:
    """The error for something that the emulator does not know."""
    return UnsupportedOperatorError(
        f"the emulator does not know {what}",
        f"it knows {', '.join(SUPPORTED_OPERATORS)} in int8; use a real runtime (--runtime tflm)",
    )


def _fully_connected(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, weights = graph.tensors[operator.inputs[0]], graph.tensors[operator.inputs[1]]
    bias = graph.tensors[operator.inputs[2]] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    target = graph.output_of(operator)
    if weights.data is None or weights.type != "INT8" or (bias is not None and bias.data is None):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights of type {weights.type} or computed ones")
    channels, depth = weights.shape
    offset = -quant_of(source).zero_point * weights.data.astype(np.int64).sum(axis=1)
    if bias is not None and bias.data is not None:
        offset = offset + bias.data.astype(np.int64)
    largest = np.max(np.abs(weights.data.astype(np.int64)).sum(axis=1) * -INT8_MIN + np.abs(offset))
    # BLAS multiplies no integers. Sums of products of int8 values are exact in float32 up to some depth, in float64 always.
    dtype = np.float32 if largest < EXACT_IN_FLOAT32 else np.float64
    matrix = np.concatenate([weights.data.astype(dtype), offset[:, np.newaxis].astype(dtype)], axis=1)  # times (x, 1)
    low, high = clamp_bounds(operator.activation, quant_of(target), variant.kernels)
    scales = Scales(input=quant_of(source).scale, weights=weights.scales, output=quant_of(target).scale)
    requantise = Requantiser(
        multipliers=scales.multipliers(variant, channels),
        largest_accumulator=int(largest),
        rounding=variant.rounding,
        zero_point=quant_of(target).zero_point,
        low=low,
        high=high,
    )

    def run(inputs: Sequence[Values]) -> Values:
        rows = inputs[0].reshape(-1, depth)
        operand = np.ones((depth + 1, len(rows)), dtype)
        operand[:depth] = rows.T
        return requantise(matrix @ operand).T.reshape(-1, *target.shape)

    return run


def _unary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    if operator.name == "QUANTIZE" and source.type == "FLOAT32":
        return _quantize(target, variant)
    if operator.name not in SUPPORTED_OPERATORS:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    variant = computing_variant(variant, operator.name, [quant_of(source)], quant_of(target))
    table = unary_table(operator.name, quant_of(source), quant_of(target), variant)
    if table is None:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    vector_table = None
    if operator.name == "QUANTIZE" and variant.kernels is Kernels.OPTIMISED:
        vector_table = vector_requantise_table(quant_of(source), quant_of(target))

    look_up = _look_up(table)
    look_up_vector = look_up if vector_table is None else _look_up(vector_table)

    def run(inputs: Sequence[Values]) -> Values:
        if vector_table is None:
            return look_up(inputs[0]).reshape(-1, *target.shape)
        values = inputs[0].reshape(-1)
        body = len(values) // _QUANTIZE_LANES * _QUANTIZE_LANES
        return np.concatenate([look_up_vector(values[:body]), look_up(values[body:])]).reshape(-1, *target.shape)

    return run


def _look_up(table: Int8Array) -> Callable[[Int8Array], Int8Array]:
    """``table[values + 128]``. ``bytes.translate`` does it in C, several times faster than numpy; it wants unsigned indices."""
    by_byte = np.roll(table, INT8_MIN).tobytes()

    def look_up(values: Int8Array) -> Int8Array:
        order: Literal["C", "F"] = "F" if values.flags.f_contiguous else "C"
        return np.frombuffer(values.tobytes(order).translate(by_byte), np.int8).reshape(values.shape, order=order)

    return look_up


def _quantize(target: Tensor, variant: Variant) -> Kernel:
    """Float to int8 inside a graph: divide and round half away, or multiply by the reciprocal and round half to even."""
    params = quant_of(target)
    scale = np.float32(params.scale)
    lanes = {Kernels.XNNPACK: 1, Kernels.OPTIMISED: _FLOAT_QUANTIZE_LANES}.get(variant.kernels)

    def run(inputs: Sequence[Values]) -> Values:
        x = inputs[0].astype(np.float32).reshape(-1)
        body = 0 if lanes is None else len(x) // lanes * lanes
        # The optimised kernel's portable loop divides by the scale as a double.
        tail = round_half_away(x[body:] / scale if lanes is None else x[body:] / np.float64(scale))
        steps = np.concatenate([np.rint(x[:body] * (np.float32(1) / scale)), tail])
        outputs: Int8Array = np.clip(steps + params.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)
        return outputs.reshape(-1, *target.shape)

    return run


def _dequantize(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    params = quant_of(graph.tensors[operator.inputs[0]])
    return lambda inputs: dequantize(inputs[0], params)


def _reshape(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    shape = graph.output_of(operator).shape
    return lambda inputs: inputs[0].reshape(-1, *shape)


def _concatenation(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    target = graph.output_of(operator)
    sources = [graph.tensors[i] for i in operator.inputs]
    if operator.activation != "NONE" or any((s.scales, s.zero_points) != (target.scales, target.zero_points) for s in sources):
        raise unsupported(f"CONCATENATION (number {operator.index}) of tensors with several scales")
    axis = operator.axis % len(target.shape) + 1

    def run(inputs: Sequence[Values]) -> Values:
        rows = max(len(values) for values in inputs)
        return np.concatenate([np.broadcast_to(values, (rows, *values.shape[1:])) for values in inputs], axis=axis)

    return _with_constants(sources, run)


def _binary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    sources, target = [graph.tensors[i] for i in operator.inputs], graph.output_of(operator)
    a, b, out = (quant_of(tensor) for tensor in (*sources, target))
    variant = computing_variant(variant, operator.name, [a, b], out)
    bounds = clamp_bounds(operator.activation, out, variant.kernels)
    portable = (binary.add if operator.name == "ADD" else binary.mul)(a, b, out, variant)
    vectorised = binary.vectorised(operator.name, a, b, out) if variant.kernels is Kernels.OPTIMISED else None

    def run(inputs: Sequence[Values]) -> Values:
        x, y = (_aligned(values, source, target).astype(np.int64) for values, source in zip(inputs, sources, strict=True))
        outputs = portable(x, y)
        lanes = binary.vector_mask(operator.name, outputs.shape, [x.shape, y.shape]) if vectorised else None
        if vectorised and lanes is not None:
            mask, one_number = lanes
            outputs = np.where(mask, vectorised[one_number](x, y), outputs)
        return np.clip(outputs, *bounds).astype(np.int8).reshape(-1, *target.shape)

    return _with_constants(sources, run)


def _aligned(values: Values, source: Tensor, target: Tensor) -> Values:
    """Puts the dimensions that broadcasting adds behind the batch dimension, not before it."""
    missing = len(target.shape) - len(source.shape)
    return values.reshape(values.shape[0], *(1,) * missing, *source.shape)


def _with_constants(sources: Sequence[Tensor], run: Kernel) -> Kernel:
    """Fills the constant inputs in, as one row each, so that the kernel is a function of the computed ones alone."""
    constants = [None if s.data is None else s.data.reshape(1, *s.shape) for s in sources]

    def filled(inputs: Sequence[Values]) -> Values:
        given = iter(inputs)
        return run([next(given) if constant is None else constant for constant in constants])

    return filled


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantisation of an int8 activation tensor.

    Raises:
        UnsupportedOperatorError: the tensor is not int8 with one scale.
    """
    if tensor.type != "INT8" or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise unsupported(f"the tensor {tensor.name!r} of type {tensor.type} with {len(tensor.scales)} scales as an activation")
    return QuantParams(tensor.scales[0], tensor.zero_points[0])
