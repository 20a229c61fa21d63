"""From an int32 accumulator to an int8 output: the step in which the kernels of FULLY_CONNECTED differ.

``Requantizer`` is the rule itself, in the integers or floats that the kernel uses. ``Requantizer.form`` is the same rule with its
constants arranged for vector units, for compiled code.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT8_MIN, ElementType, RawArray
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    multiply_double_rounding,
    multiply_floored,
    multiply_reduced,
    multiply_ruy_x86,
    multiply_single_rounding,
    quantize_multiplier,
    round_half_away,
)
from balance_hil.runtimes.emulated.rules import Rounding, Variant

_INTEGER_RULES = {  # TRUNCATED has none: no desktop runtime computes so
    Rounding.DOUBLE: multiply_double_rounding,
    Rounding.SINGLE: multiply_single_rounding,
    Rounding.RUY_X86: multiply_ruy_x86,
    Rounding.FLOORED: multiply_floored,
    Rounding.REDUCED: multiply_reduced,
}
_BIAS = 1 << 30  # accumulators of compiled code are below it
_LARGEST_RIGHT_SHIFT = 21  # 2^30 and an int8 value shifted to the left by so much still make an int32
_LARGEST_LOST = 1 << (_LARGEST_RIGHT_SHIFT - 1)  # accumulators below it are less than half a step behind a larger shift
_INTEGERS = 1.5 * 2.0**52  # float64 numbers about it are integers, and their lowest bits what they are more than it
_LARGEST_STEPS = 1 << 22  # float32 numbers below it have a fraction


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Scales of one FULLY_CONNECTED; float32 values. ``weights`` has one entry per channel, or one."""

    input: float
    weights: tuple[float, ...]
    output: float

    def multipliers(self, variant: Variant, channels: int) -> NDArray[np.float64]:
        """Input times weight scale over output scale, float64 [channels], as the variant's kernels form it."""
        source, target = np.float32(self.input), np.float32(self.output)
        weights = np.array(self.weights[:1] if variant.first_scale_only else self.weights, np.float32)
        narrow = len(weights) == 1 and not variant.float64_product and variant.rounding is not Rounding.FLOAT64
        if variant.rounding is Rounding.FLOAT32:
            multipliers = (source * weights / target).astype(np.float64)
        elif variant.rounding is Rounding.TRUNCATED:  # formed in float64, kept as float
            wide = np.float64(source) * weights.astype(np.float64) / np.float64(target)
            multipliers = wide.astype(np.float32).astype(np.float64)
        elif narrow:
            multipliers = (source * weights).astype(np.float64) / np.float64(target)
        else:
            multipliers = np.float64(source) * weights.astype(np.float64) / np.float64(target)
        return np.array(np.broadcast_to(multipliers, (channels,)))


class Rule(Enum):
    """How compiled code requantizes."""

    UP = "accumulator * multiplier + offset, shifted by 32 bits, then by shift"
    AWAY = "the same, with tie added before the last shift to what is less than zero"
    FLOAT32 = "accumulator * multiplier in float32, rounded to nearest with ties to even, + offset"
    FLOAT64 = "accumulator * multiplier in float64, rounded to nearest with ties away from zero, + offset"
    NEAREST = "the same where there is no tie; offset is a float64 that leaves the integer in its sum's lowest bits"


_RULES = {  # TRUNCATED has none: no desktop runtime computes so
    Rounding.DOUBLE: Rule.AWAY,
    Rounding.SINGLE: Rule.UP,
    Rounding.RUY_X86: Rule.UP,
    Rounding.FLOORED: Rule.AWAY,
    Rounding.FLOAT64: Rule.FLOAT64,
    Rounding.FLOAT32: Rule.FLOAT32,
}


@dataclass(frozen=True, kw_only=True)
class VectorForm:
    """A rule with the constants that compiled code needs. Its outputs are int8 values with 128 added."""

    rule: Rule
    bias: int  # added to every accumulator beforehand
    numbers: Int64Array  # [channels, 5]: multiplier (or the bits of a float), offset (modulo 2^64), shift, zero, tie
    low: int  # bounds of the outputs
    high: int


@dataclass(frozen=True, kw_only=True)
class Requantizer:
    """Maps accumulators [channels, n], integers in any numeric type, to outputs [channels, n] of an element type."""

    multipliers: NDArray[np.float64]  # [channels]
    largest_accumulator: int  # bound on their magnitude
    rounding: Rounding
    zero_point: int
    low: int  # bounds of the fused activation
    high: int
    kind: ElementType = INT8

    def __call__(self, accumulators: NDArray[Any]) -> RawArray:
        """Requantizes by the rule, adds the zero point and clamps."""
        return np.clip(self._steps(accumulators.astype(np.int64)) + self.zero_point, self.low, self.high).astype(self.kind.dtype)

    def rows(self, sums: NDArray[Any], first: int, outputs: RawArray) -> None:
        """The same in compiled code for sums, [rows, channels], of which this is for those from ``first`` on."""
        from balance_hil.runtimes.emulated import loops

        rule = getattr(loops, self.rounding.name)
        numbers = self._mantissas, self._shifts, self.multipliers.astype(np.float32)
        loops.requantize(sums, first, rule, *numbers, self.zero_point, self.low, self.high, outputs)

    @property
    def arithmetic(self) -> Hashable:
        """Equal for two requantizers that map every accumulator alike, as far as their parameters can tell."""
        if self.rounding in _INTEGER_RULES:
            numbers = self._mantissas.tobytes() + self._shifts.tobytes()
        else:
            numbers = self.multipliers.tobytes()
        return self.rounding, numbers, self.zero_point, self.low, self.high

    @cached_property
    def form(self) -> VectorForm | None:
        """The rule itself for compiled code, or None where accumulators or multipliers are beyond what that code can take."""
        if self.largest_accumulator >= _BIAS or self.rounding not in _RULES or self.kind != INT8:
            return None
        floats = self.rounding not in _INTEGER_RULES
        fits = self.largest_accumulator * np.max(self.multipliers) < _LARGEST_STEPS if floats else self._integers_fit()
        if not fits:
            return None
        return VectorForm(
            rule=Rule.NEAREST if self._nearest else _RULES[self.rounding],
            bias=0 if floats else _BIAS,
            numbers=self._float_numbers() if floats else self._integer_numbers(),
            low=self.low - INT8_MIN,
            high=self.high - INT8_MIN,
        )

    def _integers_fit(self) -> bool:
        """A left shift does not fit; a channel with a larger right shift fits if it never leaves 0."""
        fits = -self._shifts <= _LARGEST_RIGHT_SHIFT
        return bool(np.all(self._shifts <= 0)) and (bool(np.all(fits)) or self.largest_accumulator < _LARGEST_LOST)

    @cached_property
    def _nearest(self) -> bool:
        """Whether float64 products are rounded of which none lies halfway between two integers that an int8 may come from."""
        if self.rounding is not Rounding.FLOAT64:
            return False
        ties = np.arange(2 * INT8_MIN, -2 * INT8_MIN) + 0.5
        with np.errstate(divide="ignore"):
            nearest = np.clip(np.rint(ties / self.multipliers[:, np.newaxis]), -_BIAS, _BIAS)
        return not any(np.any((nearest + near) * self.multipliers[:, np.newaxis] == ties) for near in (-1, 0, 1))

    def _float_numbers(self) -> Int64Array:
        narrow = self.rounding is Rounding.FLOAT32
        bits = self.multipliers.astype(np.float32).view(np.int32) if narrow else self.multipliers.view(np.int64)
        zero_point = np.full(len(bits), self.zero_point - INT8_MIN)
        offset = (_INTEGERS + zero_point).view(np.int64) if self._nearest else zero_point
        return np.column_stack([bits, offset, *[np.zeros(len(bits), np.int64)] * 3])

    def _integer_numbers(self) -> Int64Array:
        """Constants of the two shifts of the integer rules, with the zero point in them.

        Twice the mantissa, so that the first shift is by 32 bits: its result is then the high half of a number. Accumulators
        are biased to be positive, because only products of unsigned numbers exist with 32 bits of a mantissa.
        """
        fits = -self._shifts <= _LARGEST_RIGHT_SHIFT
        right, mantissas = np.where(fits, -self._shifts, 0), np.where(fits, self._mantissas, 0)
        half = np.where(right > 0, np.left_shift(1, np.maximum(right - 1, 0)), 0)
        zero_point = np.left_shift(self.zero_point - INT8_MIN, right)
        multiplier = 2 * mantissas
        if self.rounding is Rounding.SINGLE:  # one rounding: half of the last step, in units of the first
            offset = np.left_shift(1, 31 + right) + np.left_shift(zero_point, 32)
        else:
            nudge = 0 if self.rounding is Rounding.FLOORED else 1 << 31
            offset = nudge + np.left_shift(half + zero_point, 32)
        tie = np.where(right > 0, -1, 0)
        return np.column_stack([multiplier, offset - _BIAS * multiplier, right, half + zero_point, tie])

    def _steps(self, accumulators: Int64Array) -> NDArray[Any]:
        """The rule: steps [channels, n] for accumulators [channels, n]."""
        if self.rounding is Rounding.FLOAT32:
            return np.asarray(np.rint(self._float32_products(accumulators)))
        if self.rounding is Rounding.TRUNCATED:
            return np.asarray(np.trunc(self._float32_products(accumulators)))
        if self.rounding is Rounding.FLOAT64:
            return round_half_away(accumulators.astype(np.float64) * self.multipliers[:, np.newaxis])
        rule = _INTEGER_RULES[self.rounding]
        return rule(accumulators, self._mantissas[:, np.newaxis], self._shifts[:, np.newaxis])

    def _float32_products(self, accumulators: Int64Array) -> NDArray[np.float32]:
        return accumulators.astype(np.float32) * self.multipliers.astype(np.float32)[:, np.newaxis]

    @cached_property
    def _mantissas(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[0] for m in self.multipliers], np.int64)

    @cached_property
    def _shifts(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[1] for m in self.multipliers], np.int64)
