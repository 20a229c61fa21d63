"""The operators of an int8 graph in the arithmetic of one variant.

``compile_operator`` turns an operator into a function from input values to output values. Values of a tensor are an array
[n, *shape]: a batch of n rows of the whole tensor, whose own leading 1 stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams, dequantize
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.primitives import Int64Array, quantize_multiplier, round_half_away
from balance_hil.runtimes.emulated.requantise import Requantiser, Scales
from balance_hil.runtimes.emulated.rules import Kernels, Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds, multiply, unary_table
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
_ADD_LEFT_SHIFT = 20


def compile_operator(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """The operator as a function of its non-constant inputs, in the order of ``operator.inputs``.

    Raises:
        UnsupportedOperatorError: an operator, a type or a fused activation that is not emulated; the message names it.
    """
    compilers: dict[str, Callable[[TfliteGraph, Operator, Variant], Kernel]] = {
        "FULLY_CONNECTED": _fully_connected,
        "ADD": _add,
        "MUL": _mul,
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
        f"the emulator does not know {what}", f"it knows {', '.join(SUPPORTED_OPERATORS)} in int8; use a real runtime (--runtime tflm)"
    )


def _fully_connected(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, weights = graph.tensors[operator.inputs[0]], graph.tensors[operator.inputs[1]]
    bias = graph.tensors[operator.inputs[2]] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    target = graph.output_of(operator)
    if weights.data is None or weights.type != "INT8" or (bias is not None and bias.data is None):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights of type {weights.type} or computed ones")
    matrix = weights.data.astype(np.float64)  # [channels, depth]
    offset = -quant_of(source).zero_point * weights.data.astype(np.int64).sum(axis=1)
    if bias is not None and bias.data is not None:
        offset = offset + bias.data.astype(np.int64)
    low, high = clamp_bounds(operator.activation, quant_of(target), variant.kernels)
    requantise = Requantiser(
        scales=Scales(input=quant_of(source).scale, weights=weights.scales, output=quant_of(target).scale),
        zero_point=quant_of(target).zero_point,
        low=low,
        high=high,
        variant=variant,
    )
    transposed = np.ascontiguousarray(matrix.T)

    def run(inputs: Sequence[Values]) -> Values:
        # Sums of products of int8 values are exact in float64 (below 2^53), and BLAS multiplies no integers.
        rows = inputs[0].reshape(-1, matrix.shape[1]).astype(np.float64)
        accumulators = (rows @ transposed).astype(np.int64) + offset
        return requantise(accumulators).reshape(-1, *target.shape)

    return run


def _unary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    if operator.name == "QUANTIZE" and source.type == "FLOAT32":
        return _quantize(quant_of(target), variant)
    if operator.name not in SUPPORTED_OPERATORS:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    table = unary_table(operator.name, quant_of(source), quant_of(target), variant)
    if table is None:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    # bytes.translate is a table look-up in C, several times faster than numpy's indexing; it wants unsigned indices.
    by_byte = np.roll(table, INT8_MIN).tobytes()

    def run(inputs: Sequence[Values]) -> Values:
        return np.frombuffer(inputs[0].tobytes().translate(by_byte), np.int8).reshape(-1, *target.shape)

    return run


def _quantize(target: QuantParams, variant: Variant) -> Kernel:
    """Float to int8 inside a graph. Divide and round half away, or multiply by the reciprocal and round half to even."""
    reciprocal = variant.kernels in (Kernels.XNNPACK, Kernels.OPTIMISED)
    scale = np.float32(target.scale)

    def run(inputs: Sequence[Values]) -> Values:
        x = inputs[0].astype(np.float32)
        steps = np.rint(x * (np.float32(1) / scale)) if reciprocal else round_half_away(x / scale)
        return np.clip(steps + target.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)

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
    return _with_constants(sources, lambda inputs: np.concatenate(inputs, axis=axis))


def _add(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    a, b, target, bounds = _binary(graph, operator, variant)
    sources = [graph.tensors[i] for i in operator.inputs]
    ratios = [float(np.float32(q.scale) / np.float32(target.scale)) for q in (a, b)]
    if variant.kernels is Kernels.XNNPACK and all(1 / 1024 <= ratio < 256 for ratio in ratios):
        combine = _xnnpack_sum(a, b, target, ratios)
    else:
        combine = _scaled_sum(a, b, target, multiply(variant))
    return _elementwise(sources, graph.output_of(operator), combine, bounds)


def _scaled_sum(a: QuantParams, b: QuantParams, target: QuantParams, scaled: Callable[..., Int64Array]) -> Callable[..., Int64Array]:
    """Both inputs brought to twice the larger scale with 20 more bits, added, brought to the output's scale."""
    scale_a, scale_b, scale_out = (float(np.float32(q.scale)) for q in (a, b, target))
    twice_largest = 2.0 * max(scale_a, scale_b)
    multiplier_a, multiplier_b = quantize_multiplier(scale_a / twice_largest), quantize_multiplier(scale_b / twice_largest)
    multiplier_out = quantize_multiplier(twice_largest / ((1 << _ADD_LEFT_SHIFT) * scale_out))

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        left = scaled((x - a.zero_point) << _ADD_LEFT_SHIFT, *multiplier_a)
        right = scaled((y - b.zero_point) << _ADD_LEFT_SHIFT, *multiplier_b)
        return scaled(left + right, *multiplier_out) + target.zero_point

    return combine


def _xnnpack_sum(a: QuantParams, b: QuantParams, target: QuantParams, ratios: Sequence[float]) -> Callable[..., Int64Array]:
    """Both inputs times a 21-bit multiplier, added, shifted once with ties up."""
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    multiplier_a, multiplier_b = (int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        total = (x - a.zero_point) * multiplier_a + (y - b.zero_point) * multiplier_b
        return ((total + (1 << (shift - 1))) >> shift) + target.zero_point

    return combine


def _mul(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    a, b, target, bounds = _binary(graph, operator, variant)
    sources = [graph.tensors[i] for i in operator.inputs]
    scale_a, scale_b, scale_out = (np.float32(q.scale) for q in (a, b, target))
    ratio = scale_a * scale_b / scale_out  # in float32, as the desktop kernels form it
    if variant.kernels is Kernels.XNNPACK and 1 / 65536 <= float(ratio) < 256:

        def combine(x: Int64Array, y: Int64Array) -> Int64Array:
            steps = ((x - a.zero_point) * (y - b.zero_point)).astype(np.float32) * ratio
            return np.rint(steps).astype(np.int64) + target.zero_point

    else:
        wide = float(scale_a) * float(scale_b) / float(scale_out)
        mantissa, shift = quantize_multiplier(wide if variant.kernels is Kernels.TFLM else float(ratio))
        scaled = multiply(variant)

        def combine(x: Int64Array, y: Int64Array) -> Int64Array:
            return scaled((x - a.zero_point) * (y - b.zero_point), mantissa, shift) + target.zero_point

    return _elementwise(sources, graph.output_of(operator), combine, bounds)


def _binary(graph: TfliteGraph, operator: Operator, variant: Variant) -> tuple[QuantParams, QuantParams, QuantParams, tuple[int, int]]:
    a, b, target = (quant_of(graph.tensors[i]) for i in (*operator.inputs, operator.outputs[0]))
    return a, b, target, clamp_bounds(operator.activation, target, variant.kernels)


def _elementwise(
    sources: Sequence[Tensor], target: Tensor, combine: Callable[..., Int64Array], bounds: tuple[int, int]
) -> Kernel:
    def run(inputs: Sequence[Values]) -> Values:
        x, y = (_aligned(value, source, target).astype(np.int64) for value, source in zip(inputs, sources, strict=True))
        return np.clip(combine(x, y), *bounds).astype(np.int8).reshape(-1, *target.shape)

    return _with_constants(sources, run)


def _aligned(values: Values, source: Tensor, target: Tensor) -> Values:
    """Puts the dimensions that broadcasting adds behind the batch dimension, not before it."""
    missing = len(target.shape) - len(source.shape)
    return values.reshape(values.shape[0], *(1,) * missing, *source.shape)


def _with_constants(sources: Sequence[Tensor], run: Kernel) -> Kernel:
    """Fills the constant inputs in, so that the kernel is a function of the computed ones alone."""
    constants = [None if s.data is None else s.data.reshape(1, *s.shape) for s in sources]
    if all(constant is None for constant in constants):
        return run

    def filled(inputs: Sequence[Values]) -> Values:
        given = iter(inputs)
        whole = [next(given) if constant is None else constant for constant in constants]
        rows = max(len(values) for values in whole)
        return run([np.broadcast_to(values, (rows, *values.shape[1:])) for values in whole])

    return filled


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantisation of an int8 activation tensor.

    Raises:
        UnsupportedOperatorError: the tensor is not int8 with one scale.
    """
    if tensor.type != "INT8" or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise unsupported(f"the tensor {tensor.name!r} of type {tensor.type} with {len(tensor.scales)} scales as an activation")
    return QuantParams(tensor.scales[0], tensor.zero_points[0])
