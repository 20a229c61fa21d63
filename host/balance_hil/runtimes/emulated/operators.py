"""The operators of an int8 graph in the arithmetic of one variant.

``compile_operator`` turns an operator into a function from input values to output values. Values of a tensor are an array
[n, *shape]: a batch of n rows of the whole tensor, whose own leading 1 stays. In memory the batch is the dimension that varies
fastest, so that what belongs to one channel (its scale, its bias) meets long runs of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from balance_hil.errors import require
from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, INT16X8, QuantParams, RawArray, dequantize
from balance_hil.runtimes.emulated import binary, convolution, copies, recurrent, reductions
from balance_hil.runtimes.emulated.catalog import IN_INT16, OPERATORS
from balance_hil.runtimes.emulated.chain import Table
from balance_hil.runtimes.emulated.dense import fully_connected
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported, with_constants
from balance_hil.runtimes.emulated.primitives import round_half_away
from balance_hil.runtimes.emulated.rules import Kernels, Variant, of_int16
from balance_hil.runtimes.emulated.tables import float_elu, fused_bounds, multiply, unary_table, vector_requantize_table
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_QUANTIZE_LANES = 16  # int8 values that the optimized QUANTIZE takes at a time; the rest goes through its portable loop
_FLOAT_LANES = 8  # the same for floats, in QUANTIZE and DEQUANTIZE
_WORTH_COMPILED_CODE = 1 << 15  # values
_EVERY_PAIR = tuple(np.mgrid[INT8_MIN : INT8_MAX + 1, INT8_MIN : INT8_MAX + 1])  # of int8 values
# Bounds on the ratios of scales that xnnpack_delegate.cc checks; the upper ones are exclusive but for QUANTIZE.
_ADD_RATIOS = (1 / 1024, 256.0)
_MUL_RATIOS = (1 / 65536, 256.0)
_QUANTIZE_RATIOS = (1 / 256, 128.0)


def compile_operator(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """The operator as a function of its non-constant inputs.

    Raises:
        UnsupportedOperatorError: an operator, a type or a fused activation that is not emulated; the message names it.
    """
    if operator.name not in OPERATORS:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    if graph.input.type == INT16X8.tensor and operator.name not in IN_INT16:
        raise unsupported(f"{operator.name} (number {operator.index}) in int16")
    try:
        return _COMPILERS.get(operator.name, _unary)(graph, operator, variant)
    except KeyError as exc:
        raise unsupported(f"{operator.name} (number {operator.index}) with the fused activation {exc.args[0]}") from exc


def _unary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    if operator.name == "QUANTIZE" and source.type == "FLOAT32":
        return _quantize(target, variant)
    if operator.name == "ELU" and source.type == "FLOAT32":
        return Kernel(lambda inputs: float_elu(inputs[0]), None)
    variant = _computing_variant(variant, operator.name, [quant_of(source)], quant_of(target))
    table = unary_table(operator.name, quant_of(source), quant_of(target), variant, operator.options)
    vector_table = None
    in_int8 = quant_of(source).kind == INT8
    if operator.name == "QUANTIZE" and variant.kernels is Kernels.OPTIMIZED and in_int8:
        vector_table = vector_requantize_table(quant_of(source), quant_of(target))

    look_up = _look_up(table)
    look_up_vector = look_up if vector_table is None else _look_up(vector_table)

    def run(inputs: Sequence[Values]) -> Values:
        if vector_table is None:
            return look_up(inputs[0]).reshape(-1, *target.shape)
        return _in_lanes(inputs[0], _QUANTIZE_LANES, look_up_vector, look_up).reshape(-1, *target.shape)

    stage = Table(table, target.size) if vector_table is None and in_int8 else None
    return Kernel(run, (table.tobytes(), None if vector_table is None else vector_table.tobytes()), stage)


def _in_lanes(values: Values, lanes: int, in_vectors: Callable[[Values], Values], rest: Callable[[Values], Values]) -> Values:
    """Every row's values, [n, size]: the optimized kernels compute what is left over from their vector loop otherwise."""
    rows = values.reshape(len(values), -1)
    body = rows.shape[1] // lanes * lanes
    return np.concatenate([in_vectors(rows[:, :body]), rest(rows[:, body:])], axis=1)


def _look_up(table: RawArray) -> Callable[[RawArray], RawArray]:
    """``table[values + 128]``, for large arrays of int8 in compiled code, which releases the GIL."""
    by_byte = np.roll(table, len(table) // 2)
    unsigned = np.dtype(f"u{table.itemsize}")

    def look_up(values: RawArray) -> RawArray:
        if unsigned != np.uint8:
            return np.asarray(by_byte[values.view(unsigned)])
        if values.size < _WORTH_COMPILED_CODE or not (values.flags.c_contiguous or values.flags.f_contiguous):
            return by_byte[values.view(np.uint8)]
        require("numba", "int8")
        from balance_hil.runtimes.emulated.compiled import look_up as compiled_look_up

        outputs = np.empty_like(values)
        compiled_look_up(values.ravel(order="K").view(np.uint8), by_byte, outputs.ravel(order="K"))
        return outputs

    return look_up


def _quantize(target: Tensor, variant: Variant) -> Kernel:
    """Float to int8 inside a graph: divide and round half away, or multiply by the reciprocal and round half to even."""
    params = quant_of(target)
    scale = np.float32(params.scale)
    lanes = {Kernels.XNNPACK: 1, Kernels.OPTIMIZED: _FLOAT_LANES}.get(variant.kernels)

    def run(inputs: Sequence[Values]) -> Values:
        x = inputs[0].astype(np.float32)
        if lanes is None:
            steps = round_half_away(x / scale)
        else:  # the optimized kernel's portable loop divides by the scale as a double
            steps = _in_lanes(
                x,
                lanes,
                lambda v: np.rint(v * (np.float32(1) / scale)),
                lambda v: round_half_away(v.astype(np.float64) / np.float64(scale)),
            )
        kind = params.kind
        outputs: RawArray = np.clip(steps + params.zero_point, kind.low, kind.high).astype(kind.dtype)
        return outputs.reshape(-1, *target.shape)

    return Kernel(run, lanes)


def _dequantize(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    params = quant_of(graph.tensors[operator.inputs[0]])
    if variant.kernels is not Kernels.OPTIMIZED:
        return Kernel(lambda inputs: dequantize(inputs[0], params), None)
    scale, offset = np.float32(params.scale), np.float32(-params.zero_point * np.float64(params.scale))
    target = graph.output_of(operator)

    def run(inputs: Sequence[Values]) -> Values:
        """The vector loop multiplies and adds in float32; the portable one for the rest multiplies once."""
        floats = _in_lanes(
            inputs[0], _FLOAT_LANES, lambda v: v.astype(np.float32) * scale + offset, lambda v: dequantize(v, params)
        )
        return floats.reshape(-1, *target.shape)

    return Kernel(run, Kernels.OPTIMIZED)


def _binary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    sources, target = [graph.tensors[i] for i in operator.inputs], graph.output_of(operator)
    a, b, out = (quant_of(tensor) for tensor in (*sources, target))
    slopes = INT8 if operator.name == "PRELU" else a.kind
    if a.kind != out.kind or b.kind != slopes:
        raise unsupported(f"{operator.name} (number {operator.index}) of several element types")
    variant = _computing_variant(variant, operator.name, [a, b], out)
    shifts = out.kind != INT8 and variant.kernels is not Kernels.TFLM and operator.options.get("potScaleInt16")
    if shifts and all(math.frexp(q.scale)[0] == 0.5 for q in (a, b, out)):
        raise unsupported(f"{operator.name} (number {operator.index}) in int16 by shifts between powers of two")
    bounds = fused_bounds(operator.activation, out, variant)
    if operator.name in ("MAXIMUM", "MINIMUM") and not a == b == out:
        raise unsupported(f"{operator.name} (number {operator.index}) of several scales")
    portable = binary.OPERATORS[operator.name](a, b, out, variant)
    in_int8 = out.kind == INT8
    alike = all(s.shape == target.shape for s in sources)
    in_vectors = operator.name in ("ADD", "MUL") if in_int8 else operator.name == "ADD" and alike
    has_lanes = variant.kernels is Kernels.OPTIMIZED and in_vectors
    vectorised = binary.vectorised(operator.name, a, b, out) if has_lanes else None
    lanes = (
        binary.vector_mask(operator.name, (1, *target.shape), [(1, *_shape(s, target)) for s in sources]) if has_lanes else None
    )

    def run(inputs: Sequence[Values]) -> Values:
        x, y = (
            values.reshape(len(values), *_shape(source, target)).astype(np.int64)
            for values, source in zip(inputs, sources, strict=True)
        )
        outputs = portable(x, y)
        if vectorised and lanes is not None:
            mask, one_number = lanes
            outputs = np.where(mask, vectorised[one_number](x, y), outputs)
        return np.clip(outputs, *bounds).astype(out.kind.dtype).reshape(-1, *target.shape)

    if not in_int8:  # too many pairs: what the rule depends on
        return Kernel(with_constants(sources, run), (multiply(variant), variant.kernels is Kernels.TFLM, bounds, has_lanes))
    arithmetic = [
        np.clip(combine(*_EVERY_PAIR), *bounds).astype(np.int8).tobytes() for combine in (portable, *(vectorised or ()))
    ]
    return Kernel(with_constants(sources, run), tuple(arithmetic))


def _shape(source: Tensor, target: Tensor) -> tuple[int, ...]:
    """Of an operand, with the dimensions that broadcasting adds."""
    return (*(1,) * (len(target.shape) - len(source.shape)), *source.shape)


def _computing_variant(variant: Variant, operator: str, sources: list[QuantParams], target: QuantParams) -> Variant:
    """``variant``, or its fallback to the optimized kernels for an operator that XNNPACK does not take."""
    if target.kind != INT8:
        return of_int16(variant, wide=False)
    if variant.kernels is not Kernels.XNNPACK or _taken(
        operator, [np.float32(s.scale) for s in sources], np.float32(target.scale)
    ):
        return variant
    return replace(variant, kernels=Kernels.OPTIMIZED)


def _taken(operator: str, sources: list[np.float32], target: np.float32) -> bool:
    if operator in ("ADD", "SUB"):
        return all(_ADD_RATIOS[0] <= float(s / target) < _ADD_RATIOS[1] for s in sources)
    if operator == "MUL":
        return _MUL_RATIOS[0] <= float(sources[0] * sources[1] / target) < _MUL_RATIOS[1]
    if operator == "QUANTIZE":
        return _QUANTIZE_RATIOS[0] <= float(sources[0] / target) <= _QUANTIZE_RATIOS[1]
    return operator in ("TANH", "LOGISTIC", "ELU", "LEAKY_RELU")


_COMPILERS: dict[str, Callable[[TfliteGraph, Operator, Variant], Kernel]] = {
    "FULLY_CONNECTED": fully_connected,
    "CONV_2D": convolution.convolution,
    "DEPTHWISE_CONV_2D": convolution.convolution,
    "TRANSPOSE_CONV": convolution.transposed,
    "AVERAGE_POOL_2D": convolution.pool,
    "MAX_POOL_2D": convolution.pool,
    "MEAN": reductions.mean,
    "SOFTMAX": reductions.softmax,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": recurrent.lstm,
    "ADD": _binary,
    "SUB": _binary,
    "MUL": _binary,
    "MAXIMUM": _binary,
    "MINIMUM": _binary,
    "PRELU": _binary,
    "DEQUANTIZE": _dequantize,
    "SHAPE": copies.shape_of,
    "PACK": copies.pack,
    "RESHAPE": copies.reshape,
    "SQUEEZE": copies.reshape,
    "EXPAND_DIMS": copies.reshape,
    "CONCATENATION": copies.concatenation,
    "PAD": copies.moved,
    "TRANSPOSE": copies.moved,
    "STRIDED_SLICE": copies.moved,
    "SPLIT": copies.moved,
}  # and of one input value each: _unary
