"""MEAN over dimensions, and SOFTMAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, QuantParams
from balance_hil.runtimes.emulated import int16
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.libm import expf
from balance_hil.runtimes.emulated.primitives import (
    INT32_MAX,
    Int64Array,
    exp_on_negative_values,
    multiply_double_rounding,
    multiply_ruy_x86,
    one_over_one_plus,
    quantize_multiplier,
    round_half_away,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)
from balance_hil.runtimes.emulated.rules import Kernels, Variant, of_int16
from balance_hil.runtimes.emulated.tables import multiply
from balance_hil.tflite.graph import Operator, TfliteGraph

_Steps = Callable[[Int64Array], NDArray[Any]]  # raw sums in, unclamped outputs out

_LANES = 16  # channels that the optimized MEAN takes at a time
_INTEGER_BITS = 5  # of the differences that the fixed-point softmax takes
_SUM_BITS = 12  # before the point of its sums


def mean(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles a MEAN. Raises UnsupportedOperatorError: its axes are computed."""
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    given = graph.tensors[operator.inputs[1]].data
    if given is None:
        raise unsupported(f"MEAN (number {operator.index}) over axes that are computed")
    rank = len(source.shape)
    axes = sorted({int(axis) % rank for axis in given.reshape(-1)})
    count = math.prod(source.shape[axis] for axis in axes)
    a, out = quant_of(source), quant_of(target)
    narrow = out.kind == INT8
    variant = variant if narrow else of_int16(variant, wide=False)
    if not 0 < count < 1 << 24:
        raise ValueError(f"a mean of {count} values")
    over_image = rank == 4 and axes == [1, 2] and bool(operator.options.get("keepDims"))
    channels = target.shape[-1] if target.shape else 1
    if variant.kernels is Kernels.XNNPACK:
        steps = _mean_in_float(a, out, count)
    elif variant.kernels is Kernels.OPTIMIZED and over_image and narrow:
        steps = _mean_of_raw(a, out, count, channels)
    else:
        steps = _mean_in_integers(a, out, count, variant)

    def run(inputs: Sequence[Values]) -> Values:
        sums = inputs[0].sum(axis=tuple(axis + 1 for axis in axes), dtype=np.int64).reshape(-1, *target.shape)
        return np.clip(steps(sums), out.kind.low, out.kind.high).astype(out.kind.dtype)

    kind = variant.kernels if variant.kernels is not Kernels.OPTIMIZED or (over_image and narrow) else Kernels.REFERENCE
    return Kernel(run, (Kernels.REFERENCE if kind is Kernels.TFLM else kind, multiply(variant)))


def _mean_in_integers(a: QuantParams, out: QuantParams, count: int, variant: Variant) -> _Steps:
    """The division is part of the multiplier, as far as its bits allow."""
    mantissa, shift = quantize_multiplier(_wide(a) / _wide(out))
    moved = min(count.bit_length() - 1, 32, 31 + shift)
    mantissa, shift = (mantissa << moved) // count, shift - moved
    scaled = multiply(variant)
    return lambda sums: scaled(sums - count * a.zero_point, mantissa, shift) + out.zero_point


def _mean_of_raw(a: QuantParams, out: QuantParams, count: int, channels: int) -> _Steps:
    """The zero point is rounded apart, and the last channels otherwise than those that fill vectors."""
    source, target = np.float32(a.scale), np.float32(out.scale)
    mantissa, shift = quantize_multiplier(float(source / (np.float32(count) * target)))
    offset = float(np.float32(a.zero_point) * source / target)
    bias = out.zero_point - int(np.trunc(np.float32(offset) + np.float32(0.5 if offset > 0 else -0.5)))
    in_vectors = np.arange(channels) < channels // _LANES * _LANES

    def steps(sums: Int64Array) -> Int64Array:
        up, away = (rule(sums, mantissa, shift) for rule in (multiply_ruy_x86, multiply_double_rounding))
        return np.where(in_vectors, up, away) + bias

    return steps


def _mean_in_float(a: QuantParams, out: QuantParams, count: int) -> _Steps:
    scale = np.float32(a.scale) / np.float32(out.scale) * (np.float32(1) / np.float32(count))
    offset = np.float32(out.zero_point) - np.float32(count * a.zero_point) * scale
    return lambda sums: round_half_away(sums.astype(np.float32) * scale + offset)


def softmax(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles a SOFTMAX over the last dimension. Raises UnsupportedOperatorError: its output is not in 1/256 (1/32768)."""
    source, target = quant_of(graph.tensors[operator.inputs[0]]), graph.output_of(operator)
    out = quant_of(target)
    beta = float(operator.options.get("beta", 0))
    only = (1 / 256, INT8_MIN) if source.kind == INT8 else (1 / 32768, 0)
    if (out.scale, out.zero_point) != only or source.kind != out.kind or not 0 < beta < math.inf:
        raise unsupported(
            f"SOFTMAX (number {operator.index}) with beta {beta:g} to scale {out.scale:g}, zero point {out.zero_point}"
        )
    if source.kind != INT8:
        variant = of_int16(variant, wide=False)
        wide = int16.Softmax(source, beta, multiply(variant), variant)

        def run_wide(inputs: Sequence[Values]) -> Values:
            return wide(inputs[0].reshape(-1, target.shape[-1])).astype(np.int16).reshape(-1, *target.shape)

        return Kernel(run_wide, wide.arithmetic)
    table: NDArray[Any]
    outputs: Callable[[NDArray[Any]], NDArray[Any]]
    if variant.kernels in (Kernels.TFLM, Kernels.REFERENCE):
        table, outputs = _exponentials(source, beta, variant), _shares
    else:
        table, outputs = (
            expf(np.float32(-np.float32(source.scale) * np.float32(beta)) * np.arange(256, dtype=np.float32)),
            _float_shares,
        )

    def run(inputs: Sequence[Values]) -> Values:
        rows = np.ascontiguousarray(inputs[0]).reshape(-1, target.shape[-1]).astype(np.int16)
        below = rows.max(axis=1, keepdims=True) - rows
        return np.clip(outputs(table[below]), INT8_MIN, INT8_MAX).astype(np.int8).reshape(-1, *target.shape)

    return Kernel(run, (outputs, table.tobytes()))


def _exponentials(source: QuantParams, beta: float, variant: Variant) -> Int64Array:
    """exp of minus 0, 1, … 255 steps in Q0, int64 [256]; -1 where the difference is not looked at."""
    largest = float((1 << 31) - 1)
    mantissa, shift = quantize_multiplier(min(beta * _wide(source) * (1 << (31 - _INTEGER_BITS)), largest))
    radius = math.floor(((1 << _INTEGER_BITS) - 1) * 2.0 ** (31 - _INTEGER_BITS - shift))
    steps = np.arange(256, dtype=np.int64)
    table = exp_on_negative_values(multiply(variant)(-steps, mantissa, shift), _INTEGER_BITS)
    return np.where(steps > radius, -1, table)


def _shares(exponentials: Int64Array) -> Int64Array:
    """Outputs [n, channels] of the fixed-point softmax."""
    seen = exponentials >= 0
    sums = np.where(seen, rounding_divide_by_pot(exponentials, _SUM_BITS), 0).sum(axis=1, keepdims=True)
    zeros = 31 - np.floor(np.log2(sums)).astype(np.int64)  # exact: sums are below 2^31
    reciprocal = one_over_one_plus((sums << zeros) - (1 << 31))
    shares = rounding_divide_by_pot(saturating_rounding_doubling_high_mul(reciprocal, exponentials), _SUM_BITS - zeros + 31 - 8)
    return np.where(seen, np.minimum(shares, INT32_MAX) + INT8_MIN, INT8_MIN)


def _float_shares(exponentials: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [n, channels] of the softmax by a table of float32, summed in the order of the channels."""
    sums = np.add.accumulate(exponentials, axis=1, dtype=np.float32)[:, -1:]
    inverse = np.float32(1) / (sums * np.float32(1 / 256))
    return np.asarray(round_half_away(exponentials * inverse) + np.float32(INT8_MIN))


def _wide(quant: QuantParams) -> float:
    return float(np.float32(quant.scale))
