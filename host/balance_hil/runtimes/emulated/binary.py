"""ADD, SUB, MUL, MAXIMUM, MINIMUM and PRELU of two tensors, by each kernel's own arithmetic.

Not emulated: XNNPACK since 2025 turns MUL of a tensor with itself into a square, which rounds otherwise near ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, QuantParams
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    multiply_double_rounding,
    quantize_multiplier,
    round_half_away,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
    wrap_int32,
)
from balance_hil.runtimes.emulated.rules import Kernels, Rounding, Variant
from balance_hil.runtimes.emulated.tables import multiply

Combine = Callable[[Int64Array, Int64Array], Int64Array]  # raw int8 values in, unclamped outputs out

_ADD_LEFT_SHIFT = 20
_ADD_LEFT_SHIFT_INT16 = 15
_VECTOR_LANES = 16  # elements that the optimized kernels take at a time; what is left over goes through the portable loop
_ADD_NUMBER_LANES = 8  # the same for ADD where one operand is a single number


def add(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """ADD, without its fused activation."""
    if variant.rounding is Rounding.TRUNCATED:
        return _float_sum(a, b, target)
    return _xnnpack_sum(a, b, target, 1) if variant.kernels is Kernels.XNNPACK else _portable_sum(a, b, target, variant, 1)


def sub(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """SUB, without its fused activation."""
    return _xnnpack_sum(a, b, target, -1) if variant.kernels is Kernels.XNNPACK else _portable_sum(a, b, target, variant, -1)


def maximum(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """MAXIMUM of tensors with one scale."""
    return np.maximum


def minimum(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """MINIMUM of tensors with one scale."""
    return np.minimum


def prelu(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """PRELU with slopes ``b``."""
    real = np.float64 if variant.kernels is Kernels.TFLM else np.float32  # the product and the ratios are formed in
    source, slope, out = (real(np.float32(q.scale)) for q in (a, b, target))
    above, below = quantize_multiplier(float(source / out)), quantize_multiplier(float(source * slope / out))
    scaled = multiply(variant)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        steps = x - a.zero_point
        return np.where(steps >= 0, scaled(steps, *above), scaled(steps * (y - b.zero_point), *below)) + target.zero_point

    return combine


def mul(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant) -> Combine:
    """MUL, without its fused activation."""
    ratio = np.float32(a.scale) * np.float32(b.scale) / np.float32(target.scale)  # in float32: so the desktop kernels form it
    if variant.kernels is Kernels.XNNPACK:

        def combine(x: Int64Array, y: Int64Array) -> Int64Array:
            steps = ((x - a.zero_point) * (y - b.zero_point)).astype(np.float32) * ratio
            return np.asarray(np.rint(steps), np.int64) + target.zero_point

        return combine
    wide = float(np.float32(a.scale)) * float(np.float32(b.scale)) / float(np.float32(target.scale))
    mantissa, shift = quantize_multiplier(wide if variant.kernels is Kernels.TFLM else float(ratio))
    scaled = multiply(variant)
    return lambda x, y: scaled((x - a.zero_point) * (y - b.zero_point), mantissa, shift) + target.zero_point


def vectorised(name: str, a: QuantParams, b: QuantParams, target: QuantParams) -> tuple[Combine, Combine]:
    """ADD or MUL as the optimized kernels' vector loops compute them: ``(two tensors, first operand a single number)``.

    Those of int8 narrow to int16 without saturating twice. ADD folds the inputs' shifts into the left shift, in int16, too.
    """
    if name == "MUL":
        product = _vector_product(a, b, target)
        return product, product
    return _vector_sum(a, b, target), _vector_scalar_sum(a, b, target)


def vector_mask(
    name: str, shape: tuple[int, ...], operand_shapes: Sequence[tuple[int, ...]]
) -> tuple[NDArray[np.bool_], bool] | None:
    """Which outputs, bool [*shape], the optimized kernels compute in their vector loop, and whether an operand is one number.

    Shapes include the batch. None: a broadcast that goes through the portable loop altogether.
    """
    size = int(np.prod(shape))
    index = np.arange(size).reshape(shape)
    if all(s == shape for s in operand_shapes):
        return index < size // _VECTOR_LANES * _VECTOR_LANES, False
    smaller = min(operand_shapes, key=lambda s: int(np.prod(s)))
    inner = int(np.prod(smaller))
    if shape not in operand_shapes:
        return None
    if inner == 1:
        lanes = _ADD_NUMBER_LANES if name == "ADD" else _VECTOR_LANES
        return index < size // lanes * lanes, True
    stripped = tuple(d for i, d in enumerate(smaller) if any(e != 1 for e in smaller[:i]) or d != 1)
    if shape[len(shape) - len(stripped) :] != stripped:
        return None
    return index % inner < inner // _VECTOR_LANES * _VECTOR_LANES, False


def _float_sum(a: QuantParams, b: QuantParams, target: QuantParams) -> Combine:
    """TinyEngine's ADD: everything in float32, ties away from zero."""

    def real(x: Int64Array, quant: QuantParams) -> NDArray[np.float32]:
        return (x - quant.zero_point).astype(np.float32) * np.float32(quant.scale)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        steps = (real(x, a) + real(y, b)) / np.float32(target.scale) + np.float32(target.zero_point)
        return round_half_away(steps).astype(np.int64)

    return combine


def _portable_sum(a: QuantParams, b: QuantParams, target: QuantParams, variant: Variant, sign: int) -> Combine:
    """Both inputs brought to twice the larger scale with 20 more bits (int16: 15), combined, brought to the output's scale."""
    narrow = sign < 0 and variant.kernels is Kernels.TFLM
    multiplier_a, multiplier_b, multiplier_out = _sum_multipliers(a, b, target, narrow)
    scaled, shift = multiply(variant), _left_shift(target)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        left = scaled((x - a.zero_point) << shift, *multiplier_a)
        right = scaled((y - b.zero_point) << shift, *multiplier_b)
        return scaled(left + sign * right, *multiplier_out) + target.zero_point

    return combine


def _sum_multipliers(a: QuantParams, b: QuantParams, target: QuantParams, narrow: bool = False) -> tuple[tuple[int, int], ...]:
    real = np.float32 if narrow else np.float64
    scale_a, scale_b, scale_out = (real(np.float32(q.scale)) for q in (a, b, target))
    twice_largest = 2 * max(scale_a, scale_b)
    ratios = scale_a / twice_largest, scale_b / twice_largest, twice_largest / ((1 << _left_shift(target)) * scale_out)
    return tuple(quantize_multiplier(float(ratio)) for ratio in ratios)


def _left_shift(target: QuantParams) -> int:
    return _ADD_LEFT_SHIFT if target.kind == INT8 else _ADD_LEFT_SHIFT_INT16


def _xnnpack_sum(a: QuantParams, b: QuantParams, target: QuantParams, sign: int) -> Combine:
    """Both inputs times a 21-bit multiplier, added or subtracted, shifted once with ties up."""
    ratios = [float(np.float32(q.scale) / np.float32(target.scale)) for q in (a, b)]
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    multiplier_a, multiplier_b = (int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        total = (x - a.zero_point) * multiplier_a + sign * (y - b.zero_point) * multiplier_b
        return ((total + (1 << (shift - 1))) >> shift) + target.zero_point

    return combine


def _vector_sum(a: QuantParams, b: QuantParams, target: QuantParams) -> Combine:
    (mantissa_a, shift_a), (mantissa_b, shift_b), (mantissa_out, shift_out) = _sum_multipliers(a, b, target)
    shift = _left_shift(target)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        left = saturating_rounding_doubling_high_mul(_shifted(x - a.zero_point, shift + shift_a), mantissa_a)
        right = saturating_rounding_doubling_high_mul(_shifted(y - b.zero_point, shift + shift_b), mantissa_b)
        total = saturating_rounding_doubling_high_mul(left + right, mantissa_out)
        steps = rounding_divide_by_pot(total, -shift_out)
        return steps if target.kind != INT8 else _narrowed(steps, target.zero_point)

    return combine


def _vector_scalar_sum(a: QuantParams, b: QuantParams, target: QuantParams) -> Combine:
    """Here the inputs' right shifts come last, and truncate."""
    (mantissa_a, shift_a), (mantissa_b, shift_b), (mantissa_out, shift_out) = _sum_multipliers(a, b, target)

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        left = _shifted(saturating_rounding_doubling_high_mul((x - a.zero_point) << _ADD_LEFT_SHIFT, mantissa_a), shift_a)
        right = _shifted(saturating_rounding_doubling_high_mul((y - b.zero_point) << _ADD_LEFT_SHIFT, mantissa_b), shift_b)
        total = saturating_rounding_doubling_high_mul(left + right, mantissa_out)
        return _narrowed(rounding_divide_by_pot(total, -shift_out), target.zero_point)

    return combine


def _vector_product(a: QuantParams, b: QuantParams, target: QuantParams) -> Combine:
    ratio = np.float32(a.scale) * np.float32(b.scale) / np.float32(target.scale)
    mantissa, shift = quantize_multiplier(float(ratio))

    def combine(x: Int64Array, y: Int64Array) -> Int64Array:
        steps = multiply_double_rounding((x - a.zero_point) * (y - b.zero_point), mantissa, shift)
        return _narrowed(np.clip(steps, -(1 << 15), (1 << 15) - 1), target.zero_point)

    return combine


def _shifted(x: Int64Array, shift: int) -> Int64Array:
    return wrap_int32(x << shift) if shift >= 0 else x >> -shift


def _narrowed(steps: Int64Array, zero_point: int) -> Int64Array:
    """The zero point is added in int16, which wraps; then the sum saturates to int8."""
    return np.clip((steps + zero_point).astype(np.int16), INT8_MIN, INT8_MAX).astype(np.int64)


OPERATORS: dict[str, Callable[[QuantParams, QuantParams, QuantParams, Variant], Combine]] = {
    "ADD": add,
    "SUB": sub,
    "MUL": mul,
    "MAXIMUM": maximum,
    "MINIMUM": minimum,
    "PRELU": prelu,
}
