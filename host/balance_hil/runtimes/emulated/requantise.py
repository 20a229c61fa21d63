"""From an int32 accumulator to an int8 output: the step in which the kernels of FULLY_CONNECTED differ.

All rules agree with plain rounding but near a tie. So a whole batch is rounded in float32, and only the values near a tie go
through the rule itself, in int64. ``Requantiser.exactly`` is the rule alone, for the tests and for what the quick way cannot do.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    multiply_double_rounding,
    multiply_ruy_x86,
    multiply_single_rounding,
    quantize_multiplier,
    round_half_away,
)
from balance_hil.runtimes.emulated.rules import Rounding, Variant

_INTEGER_RULES = {
    Rounding.DOUBLE: multiply_double_rounding,
    Rounding.SINGLE: multiply_single_rounding,
    Rounding.RUY_X86: multiply_ruy_x86,
}
EXACT_IN_FLOAT32 = 1 << 24  # integers below this are float32 values
# Outputs within int8's reach are at most 300 steps from 0, where one float32 product is wrong by less than 300 * 2^-23.
_FLOAT32_ERROR = 1e-4
# With wider bands about the ties more values would take the slow way than it pays for.
_WIDEST_BAND = 0.07
_INT16_ROOM = 32_000  # steps below this, and a zero point, fit in int16
_LARGEST_LEFT_SHIFT = 6  # accumulators below 2^24 shifted by so much do not overflow


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
        elif narrow:
            multipliers = (source * weights).astype(np.float64) / np.float64(target)
        else:
            multipliers = np.float64(source) * weights.astype(np.float64) / np.float64(target)
        return np.array(np.broadcast_to(multipliers, (channels,)))


@dataclass(frozen=True, kw_only=True)
class Requantiser:
    """Maps accumulators [channels, n], integers in any numeric type, to outputs, int8 [channels, n]."""

    multipliers: NDArray[np.float64]  # [channels]
    largest_accumulator: int  # bound on their magnitude
    rounding: Rounding
    zero_point: int
    low: int  # bounds of the fused activation
    high: int

    def __call__(self, accumulators: NDArray[Any]) -> Int8Array:
        """Requantises, adds the zero point and clamps."""
        return self.exactly(accumulators) if self._band is None else self._quickly(accumulators, self._band)

    def exactly(self, accumulators: NDArray[Any]) -> Int8Array:
        """The same by the rule alone."""
        columns = (self.multipliers[:, np.newaxis], self._mantissas[:, np.newaxis], self._shifts[:, np.newaxis])
        steps = self._steps(accumulators.astype(np.int64), *columns)
        return np.clip(steps + self.zero_point, self.low, self.high).astype(np.int8)

    @property
    def arithmetic(self) -> Hashable:
        """Equal for two requantisers that map every accumulator alike, as far as their parameters can tell."""
        if self.rounding in _INTEGER_RULES:
            numbers = self._mantissas.tobytes() + self._shifts.tobytes()
        else:
            numbers = self.multipliers.tobytes()
        return self.rounding, numbers, self.zero_point, self.low, self.high

    def _quickly(self, accumulators: NDArray[np.float32], band: NDArray[np.float32]) -> Int8Array:
        steps = accumulators * self._float32_multipliers
        rounded = np.rint(steps)
        if self.rounding is not Rounding.FLOAT32:
            np.subtract(steps, rounded, out=steps)
            np.abs(steps, out=steps)
            near_tie = np.flatnonzero(steps > band)
            channel = near_tie // accumulators.shape[1]
            exact = accumulators.reshape(-1)[near_tie].astype(np.int64)
            exact = self._steps(exact, self.multipliers[channel], self._mantissas[channel], self._shifts[channel])
            rounded.reshape(-1)[near_tie] = exact
        narrow: NDArray[np.int16] = rounded.astype(np.int16)
        narrow += np.int16(self.zero_point)
        np.clip(narrow, self.low, self.high, out=narrow)
        return narrow.astype(np.int8)

    def _steps(
        self, accumulators: Int64Array, multipliers: NDArray[np.float64], mantissas: Int64Array, shifts: Int64Array
    ) -> NDArray[Any]:
        if self.rounding is Rounding.FLOAT32:
            return np.asarray(np.rint(accumulators.astype(np.float32) * multipliers.astype(np.float32)))
        if self.rounding is Rounding.FLOAT64:
            return round_half_away(accumulators.astype(np.float64) * multipliers)
        return _INTEGER_RULES[self.rounding](accumulators, mantissas, shifts)

    @cached_property
    def _mantissas(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[0] for m in self.multipliers], np.int64)

    @cached_property
    def _shifts(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[1] for m in self.multipliers], np.int64)

    @cached_property
    def _float32_multipliers(self) -> NDArray[np.float32]:
        return self.multipliers.astype(np.float32)[:, np.newaxis]

    @cached_property
    def _band(self) -> NDArray[np.float32] | None:
        """Distance from the nearest integer above which a value may round otherwise, float32 [channels, 1]; None: any may."""
        width = np.full(len(self.multipliers), _FLOAT32_ERROR)
        if self.rounding in (Rounding.DOUBLE, Rounding.RUY_X86):
            right_shifts = np.maximum(-self._shifts, 0)
            # The first rounding moves a value by up to half of its own step, which is 2^-right_shift of the output's.
            width += np.where(right_shifts > 0, 2.0 ** -(right_shifts + 1.0), 0.0)
        fits = self.largest_accumulator < EXACT_IN_FLOAT32 and np.max(self._shifts) <= _LARGEST_LEFT_SHIFT
        fits = fits and self.largest_accumulator * np.max(self.multipliers) < _INT16_ROOM
        return (0.5 - width).astype(np.float32)[:, np.newaxis] if fits and np.max(width) < _WIDEST_BAND else None
