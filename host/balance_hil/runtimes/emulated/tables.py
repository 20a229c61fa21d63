"""Element-wise operators as tables: the output for each raw input, by each kernel's own arithmetic.

A table is int8 [256], indexed by ``q + 128``, or int16 [65536], indexed by ``q + 32768``. Computing an operator is then a
look-up, whatever the kernel does inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, Float32Array, QuantParams, RawArray
from balance_hil.runtimes.emulated import int16
from balance_hil.runtimes.emulated.kernel import unsupported
from balance_hil.runtimes.emulated.libm import expf, tanhf
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    gemmlowp_logistic,
    gemmlowp_tanh,
    multiply_double_rounding,
    multiply_ruy_x86,
    multiply_single_rounding,
    quantize_multiplier,
    round_half_away,
    rounding_divide_by_pot,
)
from balance_hil.runtimes.emulated.rules import Kernels, Rounding, Variant

_EVERY_INPUT = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)
_INPUT_INTEGER_BITS = 4  # of the fixed-point tanh and logistic


def unary_table(
    operator: str, source: QuantParams, target: QuantParams, variant: Variant, options: Mapping[str, Any]
) -> RawArray:
    """Table of an operator with one input, int8 [256] or int16 [65536].

    Raises:
        UnsupportedOperatorError: it is not emulated in int16.
    """
    if source.kind != target.kind:
        raise unsupported(f"{operator} from {source.kind.name} to {target.kind.name}")
    if source.kind != INT8 and operator in int16.FUNCTIONS:
        return int16.FUNCTIONS[operator](source, variant)
    if operator == "LEAKY_RELU":
        return _leaky_relu(source, target, variant, np.float32(options.get("alpha", np.nan)))
    return _FUNCTIONS[operator](source, target, variant)


def float_elu(x: NDArray[Any]) -> Float32Array:
    """ELU of floats, float32 [...]."""
    wide = x.astype(np.float64)
    return np.where(wide < 0, np.expm1(np.minimum(wide, 0)), wide).astype(np.float32)


def multiply(variant: Variant) -> Callable[[Int64Array, int, int], Int64Array]:
    """``MultiplyByQuantizedMultiplier`` of a variant's element-wise kernels."""
    single = variant.rounding is Rounding.SINGLE and variant.kernels is Kernels.TFLM
    return multiply_single_rounding if single else multiply_double_rounding


def fused_bounds(activation: str, quant: QuantParams, variant: Variant) -> tuple[int, int]:
    """Bounds of an operator's output in the arithmetic of ``variant``. Raises KeyError: no such activation."""
    return clamp_bounds("NONE" if variant.rounding is Rounding.TRUNCATED else activation, quant, variant.kernels)


def clamp_bounds(activation: str, quant: QuantParams, kernels: Kernels) -> tuple[int, int]:
    """Lowest and highest raw output that a fused activation lets through.

    Raises:
        KeyError: no such activation.
    """
    low, high = _ACTIVATION_RANGES[activation]
    return _bound(low, quant, kernels, quant.kind.low), _bound(high, quant, kernels, quant.kind.high)


_ACTIVATION_RANGES = {
    "NONE": (-math.inf, math.inf),
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


def _bound(value: float, quant: QuantParams, kernels: Kernels, unbounded: int) -> int:
    if math.isinf(value):
        return unbounded
    steps = np.array(np.float32(value) / np.float32(quant.scale))
    if kernels is Kernels.XNNPACK:
        quantized = float(np.rint(steps + np.float32(quant.zero_point)))
    else:
        quantized = quant.zero_point + float(round_half_away(steps))
    return int(min(max(quantized, quant.kind.low), quant.kind.high))


def _every_input(source: QuantParams) -> Int64Array:
    return np.arange(source.kind.low, source.kind.high + 1, dtype=np.int64)


def _saturated(values: NDArray[Any], target: QuantParams, low: int | None = None, high: int | None = None) -> RawArray:
    """Of the target's element type, within bounds."""
    kind = target.kind
    return np.clip(values, kind.low if low is None else low, kind.high if high is None else high).astype(kind.dtype)


def _int8(values: NDArray[Any], low: int = INT8_MIN, high: int = INT8_MAX) -> RawArray:
    return np.clip(values, low, high).astype(np.int8)


def _tanh(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
    if variant.kernels is Kernels.TFLM:
        outputs = rounding_divide_by_pot(gemmlowp_tanh(_in_q4(source, variant)), 24)
        return _saturated_outside_radius(outputs, source)
    return _float_table(source, target, variant, tanhf)


def _logistic(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
    if variant.kernels is Kernels.TFLM:
        outputs = rounding_divide_by_pot(gemmlowp_logistic(_in_q4(source, variant)), 23) + INT8_MIN
        return _saturated_outside_radius(outputs, source)
    if variant.kernels is Kernels.XNNPACK:
        return _float_table(source, target, variant, lambda x: (1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(np.float32))
    # The built-in kernels round exp, the sum and the quotient to float32 one by one.
    one = np.float32(1)
    return _float_table(source, target, variant, lambda x: one / (one + expf(-x)))


def _float_table(
    source: QuantParams, target: QuantParams, variant: Variant, function: Callable[[Float32Array], Float32Array]
) -> RawArray:
    x = np.float32(source.scale) * (_EVERY_INPUT - source.zero_point).astype(np.float32)
    steps = function(x) * (np.float32(1) / np.float32(target.scale))
    if variant.kernels is Kernels.XNNPACK:  # adds the zero point first, which may change the direction in which a tie is rounded
        return _int8(round_half_away(steps + np.float32(target.zero_point)))
    return _int8(round_half_away(steps) + target.zero_point)


def _in_q4(source: QuantParams, variant: Variant) -> Int64Array:
    mantissa, shift = _input_multiplier(source)
    return multiply(variant)(_EVERY_INPUT - source.zero_point, mantissa, shift)


def _input_multiplier(source: QuantParams) -> tuple[int, int]:
    fraction, shift = math.frexp(float(np.float32(source.scale)) * (1 << (31 - _INPUT_INTEGER_BITS)))
    return math.floor(fraction * (1 << 31) + 0.5), shift


def _saturated_outside_radius(outputs: Int64Array, source: QuantParams) -> RawArray:
    _, shift = _input_multiplier(source)
    largest = ((1 << _INPUT_INTEGER_BITS) - 1) << (31 - _INPUT_INTEGER_BITS)
    radius = math.floor(largest / (1 << shift)) if shift >= 0 else largest << -shift
    x = _EVERY_INPUT - source.zero_point
    return _int8(np.where(x <= -radius, INT8_MIN, np.where(x >= radius, INT8_MAX, outputs)))


def _requantize(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
    x = _every_input(source) - source.zero_point
    if variant.kernels is Kernels.XNNPACK:
        ratio = np.float32(source.scale) / np.float32(target.scale)
        return _saturated(((x * int(np.rint(np.float32(256) * ratio)) + 128) >> 8) + target.zero_point, target)
    mantissa, shift = quantize_multiplier(float(np.float32(source.scale)) / float(np.float32(target.scale)))
    return _saturated(multiply(variant)(x, mantissa, shift) + target.zero_point, target)


def vector_requantize_table(source: QuantParams, target: QuantParams) -> RawArray:
    """QUANTIZE of int8 as the optimized kernels' vector loop computes it: its second rounding takes ties up."""
    mantissa, shift = quantize_multiplier(float(np.float32(source.scale)) / float(np.float32(target.scale)))
    return _int8(multiply_ruy_x86(_EVERY_INPUT - source.zero_point, mantissa, shift) + target.zero_point)


def _relu_like(activation: str) -> Callable[[QuantParams, QuantParams, Variant], RawArray]:
    """RELU, RELU6, RELU_N1_TO_1 as operators of their own. XNNPACK leaves them in int8 to the built-in kernels."""

    def table(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
        if activation == "RELU6" and variant.kernels is Kernels.TFLM:  # clamps in the input's scale, never requantizes
            return _saturated(_every_input(source), target, *clamp_bounds(activation, source, Kernels.TFLM))
        ratio = float(np.float32(source.scale) / np.float32(target.scale))
        if variant.kernels is Kernels.TFLM and variant.float64_product:
            ratio = float(np.float32(source.scale)) / float(np.float32(target.scale))
        mantissa, shift = quantize_multiplier(ratio)
        x = multiply(variant)(_every_input(source) - source.zero_point, mantissa, shift) + target.zero_point
        return _saturated(x, target, *clamp_bounds(activation, target, Kernels.TFLM))

    return table


def _leaky_relu(source: QuantParams, target: QuantParams, variant: Variant, alpha: np.float32) -> RawArray:
    x = _every_input(source) - source.zero_point
    ratio = np.float32(source.scale) / np.float32(target.scale)
    slope = ratio * alpha
    bits = [int(np.rint(np.float32(256) * factor)) for factor in (ratio, slope)]
    # Bounds that XNNPACK checks; beyond them the built-in kernels compute.
    in_bounds = 1 / 256 <= ratio <= 128 and abs(slope) >= 1 / 256 and -127.99609375 <= slope <= 128
    if variant.kernels is Kernels.XNNPACK and in_bounds:
        return _saturated(((x * np.where(x >= 0, *bits) + 128) >> 8) + target.zero_point, target)
    above, below = float(ratio), float(np.float32(source.scale) * alpha / np.float32(target.scale))
    if variant.kernels is Kernels.TFLM:  # forms them in float64
        wide = float(np.float32(source.scale)), float(np.float32(target.scale))
        above, below = wide[0] / wide[1], wide[0] * float(alpha) / wide[1]
    positive, negative = quantize_multiplier(above), _signed_multiplier(below)
    scaled = multiply(variant)
    return _saturated(np.where(x >= 0, scaled(x, *positive), scaled(x, *negative)) + target.zero_point, target)


def _signed_multiplier(multiplier: float) -> tuple[int, int]:
    mantissa, shift = quantize_multiplier(abs(multiplier))
    return int(np.sign(multiplier)) * mantissa, shift


def _elu(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
    return _float_table(source, target, variant, float_elu)


def _hard_swish(source: QuantParams, target: QuantParams, variant: Variant) -> RawArray:
    """The one fixed-point HARD_SWISH that all kernels share (``reference/hard_swish.h``), in int16."""
    fine_scale = np.float32(1 / 128) * np.float32(source.scale)
    out_mantissa, out_shift = _int16_multiplier(fine_scale / np.float32(target.scale))
    relu_mantissa, relu_shift = _int16_multiplier(fine_scale / np.float32(3.0 / 32768.0))
    fine = (_EVERY_INPUT - source.zero_point) << 7
    relu = fine
    if relu_shift > 0:
        relu = _saturate_int16(relu << (relu_shift - 1))
    relu = _high_mul_int16(relu, relu_mantissa)
    if relu_shift > 0:
        relu = _saturate_int16(relu << 1)
    if relu_shift < 0:
        relu = rounding_divide_by_pot(relu, -relu_shift)
    relu = (relu + (1 << 15)) >> 1
    product = relu * _high_mul_int16(fine, out_mantissa)
    before_shift = np.sign(product) * (np.abs(product) >> 15)  # truncates, to cancel the bias of the two roundings before
    return _int8(rounding_divide_by_pot(before_shift, -out_shift) + target.zero_point)


def _int16_multiplier(multiplier: np.float32) -> tuple[int, int]:
    mantissa, shift = quantize_multiplier(float(multiplier))
    return min((mantissa + (1 << 15)) >> 16, (1 << 15) - 1), shift


def _saturate_int16(x: Int64Array) -> Int64Array:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _high_mul_int16(a: Int64Array, b: int) -> Int64Array:
    return (a * b + (1 << 14)) >> 15


_FUNCTIONS: dict[str, Callable[[QuantParams, QuantParams, Variant], RawArray]] = {
    "TANH": _tanh,
    "LOGISTIC": _logistic,
    "RELU": _relu_like("RELU"),
    "RELU6": _relu_like("RELU6"),
    "RELU_N1_TO_1": _relu_like("RELU_N1_TO_1"),
    "ELU": _elu,
    "HARD_SWISH": _hard_swish,
    "QUANTIZE": _requantize,
}
