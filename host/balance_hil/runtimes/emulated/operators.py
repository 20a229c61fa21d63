"""The operators of an int8 graph in the arithmetic of one variant.

``compile_operator`` turns an operator into a function from input values to output values. Values of a tensor are an array
[n, *shape]: a batch of n rows of the whole tensor, whose own leading 1 stays. In memory the batch is the dimension that varies
fastest, so that what belongs to one channel (its scale, its bias) meets long runs of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from balance_hil.errors import require
from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams, dequantize
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated import binary
from balance_hil.runtimes.emulated.chain import WORTH_COMPILED_CODE as WORTH_A_CHAIN
from balance_hil.runtimes.emulated.chain import Chain, Dense, Table
from balance_hil.runtimes.emulated.kernel import SUPPORTED_OPERATORS, Kernel, Run, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.primitives import round_half_away
from balance_hil.runtimes.emulated.requantize import Requantizer, Scales
from balance_hil.runtimes.emulated.rules import Kernels, Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds, unary_table, vector_requantize_table
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_QUANTIZE_LANES = 16  # int8 values that the optimized QUANTIZE takes at a time; the rest goes through its portable loop
_FLOAT_LANES = 8  # the same for floats, in QUANTIZE and DEQUANTIZE
_WORTH_COMPILED_CODE = 1 << 15  # values
_SAME: Int8Array = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8)  # identity table
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


def _fully_connected(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles one FULLY_CONNECTED.

    Raises:
        UnsupportedOperatorError: weights that are computed, or not int8.
    """
    source, weights = graph.tensors[operator.inputs[0]], graph.tensors[operator.inputs[1]]
    bias = graph.tensors[operator.inputs[2]] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    target = graph.output_of(operator)
    if weights.data is None or weights.type != "INT8" or (bias is not None and bias.data is None):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights of type {weights.type} or computed ones")
    channels, depth = weights.shape
    if any(weights.zero_points):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights that have a zero point")
    if source.size % depth:
        raise ValueError(f"inputs of size {source.size}, weights for {depth}")
    offset = -quant_of(source).zero_point * weights.data.astype(np.int64).sum(axis=1)
    if bias is not None and bias.data is not None:
        offset = offset + bias.data.astype(np.int64).reshape(channels)  # its rank does not matter
    largest = int(np.max(np.abs(weights.data.astype(np.int64)).sum(axis=1) * -INT8_MIN + np.abs(offset)))
    low, high = clamp_bounds(operator.activation, quant_of(target), variant.kernels)
    scales = Scales(input=quant_of(source).scale, weights=weights.scales, output=quant_of(target).scale)
    requantize = Requantizer(
        multipliers=scales.multipliers(variant, channels),
        largest_accumulator=largest,
        rounding=variant.rounding,
        zero_point=quant_of(target).zero_point,
        low=low,
        high=high,
    )
    dense = Dense(weights.data, offset, requantize)
    stage = dense if requantize.form is not None else None
    # Created for large batches only: loading numba and its code takes a second.
    compiled = cache(lambda: None if stage is None else Chain([stage], [True]))

    def run(inputs: Sequence[Values]) -> Values:
        rows = inputs[0].reshape(-1, depth)
        chain = compiled() if len(rows) >= WORTH_A_CHAIN else None
        outputs = _by_rule(dense, rows.T).T if chain is None else chain.outputs(rows)[0]
        return outputs.reshape(-1, *target.shape)

    return Kernel(run, requantize.arithmetic, stage)


def _by_rule(layer: Dense, values: Int8Array) -> Int8Array:
    """Outputs, int8 [channels, n], for inputs, int8 [depth, n]."""
    # BLAS multiplies no integers. Sums of products of int8 values are exact in float64.
    sums = layer.weights.astype(np.float64) @ values.astype(np.float64)
    return layer.requantize(sums + layer.offsets[:, np.newaxis])


def _unary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    if operator.name == "QUANTIZE" and source.type == "FLOAT32":
        return _quantize(target, variant)
    if operator.name not in SUPPORTED_OPERATORS:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    variant = _computing_variant(variant, operator.name, [quant_of(source)], quant_of(target))
    table = unary_table(operator.name, quant_of(source), quant_of(target), variant)
    if table is None:
        raise unsupported(f"the operator {operator.name} (number {operator.index})")
    vector_table = None
    if operator.name == "QUANTIZE" and variant.kernels is Kernels.OPTIMIZED:
        vector_table = vector_requantize_table(quant_of(source), quant_of(target))

    look_up = _look_up(table)
    look_up_vector = look_up if vector_table is None else _look_up(vector_table)

    def run(inputs: Sequence[Values]) -> Values:
        if vector_table is None:
            return look_up(inputs[0]).reshape(-1, *target.shape)
        values = inputs[0].reshape(-1)
        body = len(values) // _QUANTIZE_LANES * _QUANTIZE_LANES
        return np.concatenate([look_up_vector(values[:body]), look_up(values[body:])]).reshape(-1, *target.shape)

    stage = Table(table, target.size) if vector_table is None else None
    return Kernel(run, (table.tobytes(), None if vector_table is None else vector_table.tobytes()), stage)


def _look_up(table: Int8Array) -> Callable[[Int8Array], Int8Array]:
    """``table[values + 128]``, for large arrays in compiled code, which releases the GIL."""
    by_byte = np.roll(table, INT8_MIN)

    def look_up(values: Int8Array) -> Int8Array:
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
        x = inputs[0].astype(np.float32).reshape(-1)
        body = 0 if lanes is None else len(x) // lanes * lanes
        # The optimized kernel's portable loop divides by the scale as a double.
        tail = round_half_away(x[body:] / scale if lanes is None else x[body:].astype(np.float64) / np.float64(scale))
        steps = np.concatenate([np.rint(x[:body] * (np.float32(1) / scale)), tail])
        outputs: Int8Array = np.clip(steps + params.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)
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
        values = inputs[0].reshape(-1)
        body = len(values) // _FLOAT_LANES * _FLOAT_LANES
        floats: Values = np.concatenate([values[:body].astype(np.float32) * scale + offset, dequantize(values[body:], params)])
        return floats.reshape(-1, *target.shape)

    return Kernel(run, Kernels.OPTIMIZED)


def _reshape(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    target = graph.output_of(operator)
    return Kernel(lambda inputs: inputs[0].reshape(-1, *target.shape), None, Table(_SAME, target.size))


def _concatenation(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    target = graph.output_of(operator)
    sources = [graph.tensors[i] for i in operator.inputs]
    if operator.activation != "NONE" or any((s.scales, s.zero_points) != (target.scales, target.zero_points) for s in sources):
        raise unsupported(f"CONCATENATION (number {operator.index}) of tensors with several scales")
    axis = operator.axis % len(target.shape) + 1

    def run(inputs: Sequence[Values]) -> Values:
        rows = max(len(values) for values in inputs)
        return np.concatenate([np.broadcast_to(values, (rows, *values.shape[1:])) for values in inputs], axis=axis)

    return Kernel(_with_constants(sources, run), None)


def _binary(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    sources, target = [graph.tensors[i] for i in operator.inputs], graph.output_of(operator)
    a, b, out = (quant_of(tensor) for tensor in (*sources, target))
    variant = _computing_variant(variant, operator.name, [a, b], out)
    bounds = clamp_bounds(operator.activation, out, variant.kernels)
    portable = (binary.add if operator.name == "ADD" else binary.mul)(a, b, out, variant)
    vectorised = binary.vectorised(operator.name, a, b, out) if variant.kernels is Kernels.OPTIMIZED else None

    def run(inputs: Sequence[Values]) -> Values:
        x, y = (_aligned(values, source, target).astype(np.int64) for values, source in zip(inputs, sources, strict=True))
        outputs = portable(x, y)
        lanes = binary.vector_mask(operator.name, outputs.shape, [x.shape, y.shape]) if vectorised else None
        if vectorised and lanes is not None:
            mask, one_number = lanes
            outputs = np.where(mask, vectorised[one_number](x, y), outputs)
        return np.clip(outputs, *bounds).astype(np.int8).reshape(-1, *target.shape)

    arithmetic = [
        np.clip(combine(*_EVERY_PAIR), *bounds).astype(np.int8).tobytes() for combine in (portable, *(vectorised or ()))
    ]
    return Kernel(_with_constants(sources, run), tuple(arithmetic))


def _aligned(values: Values, source: Tensor, target: Tensor) -> Values:
    """Puts the dimensions that broadcasting adds behind the batch dimension, not before it."""
    missing = len(target.shape) - len(source.shape)
    return values.reshape(values.shape[0], *(1,) * missing, *source.shape)


def _with_constants(sources: Sequence[Tensor], run: Run) -> Run:
    """Fills the constant inputs in, as one row each, so that the kernel is a function of the computed ones alone."""
    constants = [None if s.data is None else s.data.reshape(1, *s.shape) for s in sources]

    def filled(inputs: Sequence[Values]) -> Values:
        given = iter(inputs)
        return run([next(given) if constant is None else constant for constant in constants])

    return filled


def _computing_variant(variant: Variant, operator: str, sources: list[QuantParams], target: QuantParams) -> Variant:
    """``variant``, or its fallback to the optimized kernels for an int8 operator that XNNPACK does not take."""
    if variant.kernels is not Kernels.XNNPACK or _taken(
        operator, [np.float32(s.scale) for s in sources], np.float32(target.scale)
    ):
        return variant
    return replace(variant, kernels=Kernels.OPTIMIZED)


def _taken(operator: str, sources: list[np.float32], target: np.float32) -> bool:
    if operator == "ADD":
        return all(_ADD_RATIOS[0] <= float(s / target) < _ADD_RATIOS[1] for s in sources)
    if operator == "MUL":
        return _MUL_RATIOS[0] <= float(sources[0] * sources[1] / target) < _MUL_RATIOS[1]
    if operator == "QUANTIZE":
        return _QUANTIZE_RATIOS[0] <= float(sources[0] / target) <= _QUANTIZE_RATIOS[1]
    return operator not in ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH")
