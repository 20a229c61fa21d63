"""Integer arithmetic of the TensorFlow Lite kernels, vectorised in int64.

Names follow gemmlowp and tflite (``common.h``, ``quantization_util.cc``). Every function takes and returns int64 arrays that hold
int32 values; ``>>`` on them is an arithmetic shift, as in the C++ code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def wrap_int32(x: Int64Array) -> Int64Array:
    """Keeps the low 32 bits with their sign, as an int32 in C++ on every relevant compiler."""
    return x.astype(np.int32).astype(np.int64)


def quantize_multiplier(multiplier: float) -> tuple[int, int]:
    """``(m, shift)`` with ``multiplier ~ m * 2^(shift - 31)`` and m in [2^30, 2^31), or (0, 0) when it is 0 or too small."""
    fraction, shift = math.frexp(multiplier)
    mantissa = math.floor(fraction * (1 << 31) + 0.5)  # exact: fraction has 53 bits, so the sum does not round
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    return (0, 0) if shift < -31 or multiplier == 0.0 else (mantissa, shift)


def saturating_rounding_doubling_high_mul(a: Int64Array, b: Int64Array | int) -> Int64Array:
    """``(a * b) / 2^31``, rounded to nearest with ties up; the one overflow, INT32_MIN squared, saturates."""
    return np.minimum((a * b + (1 << 30)) >> 31, INT32_MAX)


def rounding_divide_by_pot(x: Int64Array, exponent: Int64Array | int) -> Int64Array:
    """``x / 2^exponent``, rounded to nearest with ties away from zero."""
    mask = np.left_shift(np.int64(1), exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def multiply_double_rounding(x: Int64Array, mantissa: Int64Array | int, shift: Int64Array | int) -> Int64Array:
    """``MultiplyByQuantizedMultiplier`` as TFLM, CMSIS-NN, ESP-NN and the reference kernels build it by default."""
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(wrap_int32(x << left), mantissa), right)


def multiply_single_rounding(x: Int64Array, mantissa: Int64Array | int, shift: Int64Array | int) -> Int64Array:
    """``MultiplyByQuantizedMultiplier`` with TFLITE_SINGLE_ROUNDING: one rounding, ties up."""
    total: Int64Array = 31 - np.asarray(shift, dtype=np.int64)
    rounded: Int64Array = (x * mantissa + (np.int64(1) << (total - 1))) >> total
    return rounded


def multiply_reduced(x: Int64Array, mantissa: Int64Array | int, shift: Int64Array | int) -> Int64Array:
    """``MultiplyByQuantizedMultiplier`` of an int64: by the multiplier rounded to 16 bits, ties up."""
    upper = np.where(np.less(mantissa, 0x7FFF0000), (np.asarray(mantissa, np.int64) + (1 << 15)) >> 16, 0x7FFF)
    total: Int64Array = 15 - np.asarray(shift, dtype=np.int64)
    return wrap_int32((x * upper + (np.int64(1) << (total - 1))) >> total)


def multiply_ruy_x86(x: Int64Array, mantissa: Int64Array | int, shift: Int64Array | int) -> Int64Array:
    """What ruy's AVX2 and AVX-512 kernels make of an accumulator: two roundings, both with ties up."""
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    high = (wrap_int32(x << left) * mantissa + (1 << 30)) >> 31
    # The sum may exceed int32: ruy shifts it as an unsigned number.
    rounded: Int64Array = (high + (np.left_shift(np.int64(1), right) >> 1)) >> right
    return rounded


def multiply_floored(x: Int64Array, mantissa: Int64Array | int, shift: Int64Array | int) -> Int64Array:
    """Double rounding without the first one: ``VQDMULH`` in place of ``VQRDMULH``."""
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    return rounding_divide_by_pot((wrap_int32(x << left) * mantissa) >> 31, right)


def round_half_away(x: NDArray[Any]) -> NDArray[Any]:
    """C's ``round`` of float32 or float64 values, in their precision. ``floor(x + 0.5)`` would round 0.49999997 up."""
    whole = np.trunc(x)
    rounded: NDArray[Any] = whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), np.zeros_like(x))
    return rounded


# --- gemmlowp fixed point: int32 with 31 - i fractional bits, or int16 with 15 - i ("bits" 16) ---------------------------------

_EXP_MINUS_1_8 = 1895147668  # exp(-1/8) in Q0
_ONE_THIRD = 715827883  # in Q0
# (exponent of two, exp(-2^exponent) in Q0): the factors of the barrel shifter
_EXP_BARREL = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))
_48_OVER_17, _MINUS_32_OVER_17 = 1515870810, -1010580540  # in Q2, start of the Newton division


def _largest(bits: int) -> int:
    """1 in Q0, saturated."""
    return (1 << (bits - 1)) - 1


def _constant(raw: int, bits: int) -> int:
    """A constant of 32 bits in ``bits`` bits, rounded to nearest with ties away from zero."""
    return int(rounding_divide_by_pot(np.array(raw, np.int64), 32 - bits))


def _mul(a: Int64Array, b: Int64Array | int, bits: int) -> Int64Array:
    """``saturating_rounding_doubling_high_mul`` of numbers of ``bits`` bits."""
    return np.minimum((a * b + (1 << (bits - 2))) >> (bits - 1), _largest(bits))


def _saturating_shift_left(x: Int64Array, exponent: int, bits: int) -> Int64Array:
    return np.clip(x << exponent, -_largest(bits) - 1, _largest(bits))


def _rounding_half_sum(a: Int64Array, b: int) -> Int64Array:
    total = a + b
    # C++ division truncates: (sum + sign) / 2.
    halves: Int64Array = np.fix((total + np.where(total >= 0, 1, -1)) / 2).astype(np.int64)
    return halves


def _exp_between_negative_quarter_and_0(a: Int64Array, bits: int) -> Int64Array:
    """exp in Q0 for a in Q0: Taylor's series around -1/8."""
    x = a + (1 << (bits - 4))
    x2 = _mul(x, x, bits)
    x3 = _mul(x2, x, bits)
    x4_over_4 = rounding_divide_by_pot(_mul(x2, x2, bits), 2)
    tail = rounding_divide_by_pot(_mul(x4_over_4 + x3, _constant(_ONE_THIRD, bits), bits) + x2, 1)
    start = _constant(_EXP_MINUS_1_8, bits)
    return np.minimum(start + _mul(x + tail, start, bits), _largest(bits))


def exp_on_negative_values(a: Int64Array, integer_bits: int, bits: int = 32) -> Int64Array:
    """exp in Q0 for a <= 0 in Q(integer_bits)."""
    fraction_bits = bits - 1 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    modulo = (a & (quarter - 1)) - quarter
    remainder = modulo - a
    result = _exp_between_negative_quarter_and_0(_saturating_shift_left(modulo, integer_bits, bits), bits)
    for exponent, factor in _EXP_BARREL:
        if integer_bits > exponent:
            bit = 1 << (fraction_bits + exponent)
            result = np.where(remainder & bit, _mul(result, _constant(factor, bits), bits), result)
    if integer_bits > 5:
        result = np.where(a < -(1 << (fraction_bits + 5)), 0, result)
    return np.where(a == 0, _largest(bits), result)


def _newton_reciprocal(a: Int64Array, bits: int) -> Int64Array:
    """1 / ((1 + a) / 2) in Q2 for a in Q0, 0 <= a <= 1: three Newton-Raphson steps."""
    half_denominator = _rounding_half_sum(a, _largest(bits))
    x = _constant(_48_OVER_17, bits) + _mul(half_denominator, _constant(_MINUS_32_OVER_17, bits), bits)
    for _ in range(3):
        error = (1 << (bits - 3)) - _mul(half_denominator, x, bits)
        x = x + _saturating_shift_left(_mul(x, error, bits), 2, bits)
    return x


def one_over_one_plus(a: Int64Array, bits: int = 32) -> Int64Array:
    """1 / (1 + a) in Q0 for a in Q0, 0 <= a <= 1."""
    # 1 / (1 + a) is half of the reciprocal of (1 + a) / 2
    return _saturating_shift_left(_newton_reciprocal(a, bits), 1, bits)


def gemmlowp_tanh(a: Int64Array, integer_bits: int = 4, bits: int = 32) -> Int64Array:
    """tanh in Q0 for a in Q(integer_bits)."""
    e = exp_on_negative_values(-np.abs(a), integer_bits + 1, bits)  # one more integer bit, same raw value: exp(-2 |x|)
    # (1 - e) / (1 + e) = 2 / (1 + e) - 1
    ratio = _saturating_shift_left(_newton_reciprocal(e, bits) - (1 << (bits - 3)), 2, bits)
    return np.where(a == 0, 0, np.where(a < 0, -ratio, ratio))


def gemmlowp_logistic(a: Int64Array, integer_bits: int = 4, bits: int = 32) -> Int64Array:
    """The logistic function in Q0 for a in Q(integer_bits)."""
    e = exp_on_negative_values(-np.abs(a), integer_bits, bits)
    positive = one_over_one_plus(e, bits)
    return np.where(a == 0, 1 << (bits - 2), np.where(a > 0, positive, _largest(bits) - positive))
