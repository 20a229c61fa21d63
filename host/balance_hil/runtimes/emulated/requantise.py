"""From an int32 accumulator to an int8 output: the step in which the kernels of FULLY_CONNECTED differ.

``Requantiser`` is the rule itself, in the integers or floats that the kernel uses. ``Requantiser.affine`` is the same function as
one multiplication, one addition and one rounding, which a vector unit does quickly; see there for why it is the same.
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
_LARGEST_LEFT_SHIFT = 6  # accumulators below 2^24 shifted by so much do not overflow
_AROUND = np.arange(-3, 4)  # integers about the estimate of a threshold among which it is looked for


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
class Affine:
    """Steps as ``rint(multiplier * accumulator + offset)``, clamped before it is rounded."""

    in_float32: bool  # computed in float32, otherwise in float64
    numbers: NDArray[np.float64]  # [channels, 3]: multiplier, offset for accumulators of at least 0, offset for those below
    low: int  # bounds of the steps
    high: int

    def steps(self, accumulators: NDArray[Any]) -> NDArray[np.float64]:
        """Integers, float64 [channels, n], for accumulators [channels, n]."""
        kind = np.float32 if self.in_float32 else np.float64
        multiplier, above, below = (column[:, np.newaxis] for column in self.numbers.astype(kind).T)
        values: NDArray[Any] = accumulators.astype(kind)
        return np.asarray(np.rint(np.clip(values * multiplier + np.where(values >= 0, above, below), self.low, self.high)))


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
        """Requantises by the rule, adds the zero point and clamps."""
        return np.clip(self._steps(accumulators.astype(np.int64)) + self.zero_point, self.low, self.high).astype(np.int8)

    @property
    def arithmetic(self) -> Hashable:
        """Equal for two requantisers that map every accumulator alike, as far as their parameters can tell."""
        if self.rounding in _INTEGER_RULES:
            numbers = self._mantissas.tobytes() + self._shifts.tobytes()
        else:
            numbers = self.multipliers.tobytes()
        return self.rounding, numbers, self.zero_point, self.low, self.high

    @cached_property
    def affine(self) -> Affine | None:
        """The same function of every accumulator in reach as an affine one, or None where there may be none.

        The rule of float32 is affine as it stands. The others are monotonic, as an affine function is; so the two are equal
        for every accumulator when they step from k - 1 to k at the same one, for every k between the bounds. That is
        checked here, threshold by threshold, for offsets in the middle of what the thresholds allow.
        """
        low, high = self.low - self.zero_point, self.high - self.zero_point
        fits = self.largest_accumulator < EXACT_IN_FLOAT32 and bool(np.all(self._real > 0))
        if not fits or np.max(self._shifts) > _LARGEST_LEFT_SHIFT:
            return None
        numbers = np.stack([self._real, np.zeros_like(self._real), np.zeros_like(self._real)], axis=1)
        if self.rounding is Rounding.FLOAT32:
            return Affine(in_float32=True, numbers=numbers, low=low, high=high)
        codes = np.arange(low + 1, high + 1)
        found = self._thresholds(codes)
        if found is None:
            return None
        numbers[:, 1:] = self._offsets(codes, found)
        affine = Affine(in_float32=False, numbers=numbers, low=low, high=high)
        reach = self.largest_accumulator
        # A threshold out of reach has one side only in it: that side is looked at.
        reaches = affine.steps(np.maximum(found, -reach)) >= codes
        reaches_before = affine.steps(np.minimum(found - 1, reach)) >= codes
        right = np.where(found > reach, ~reaches_before, np.where(found <= -reach, reaches, reaches & ~reaches_before))
        return affine if np.all(right) else None

    def _thresholds(self, codes: NDArray[np.int_]) -> Int64Array | None:
        """Smallest accumulator, int64 [channels, codes], that the rule maps to each code or above; None: not found.

        One that is out of reach is somewhere just out of reach.
        """
        reach = self.largest_accumulator
        estimates = np.clip(np.ceil((codes - 0.5) / self._real[:, np.newaxis]), -reach - 4, reach + 4).astype(np.int64)
        candidates = estimates[:, :, np.newaxis] + _AROUND
        reached = self._steps(candidates.reshape(len(candidates), -1)).reshape(candidates.shape) >= codes[:, np.newaxis]
        before = np.all(reached, axis=2)
        after = ~np.any(reached, axis=2)
        if np.any(before & (candidates[:, :, 0] >= -reach)) or np.any(after & (candidates[:, :, -1] <= reach)):
            return None
        first = np.take_along_axis(candidates, np.argmax(reached, axis=2)[:, :, np.newaxis], 2)[:, :, 0]
        return np.where(before, -reach - 1, np.where(after, reach + 1, first))

    def _offsets(self, codes: NDArray[np.int_], thresholds: Int64Array) -> NDArray[np.float64]:
        """Offsets for accumulators of at least 0 and below, float64 [channels, 2]."""
        real = self._real[:, np.newaxis]
        least = codes - 0.5 - real * thresholds  # an offset above it reaches the code at the threshold
        most = codes - 0.5 - real * (thresholds - 1)  # one below it does not reach the code before the threshold
        inside = np.abs(thresholds) <= self.largest_accumulator
        sides = []
        for at, before in ((thresholds >= 0, thresholds > 0), (thresholds < 0, thresholds <= 0)):
            bottom = np.max(least, axis=1, initial=-np.inf, where=at & inside)
            top = np.min(most, axis=1, initial=np.inf, where=before & inside)
            free = np.isinf(bottom) & np.isinf(top)
            bottom, top = (
                np.where(free, 0.0, np.where(np.isinf(bottom), top - self._real, bottom)),
                np.where(free, 0.0, np.where(np.isinf(top), bottom + self._real, top)),
            )
            sides.append((bottom + top) / 2)
        return np.stack(sides, axis=1)

    def _steps(self, accumulators: Int64Array) -> NDArray[Any]:
        """The rule: steps [channels, n] for accumulators [channels, n]."""
        if self.rounding is Rounding.FLOAT32:
            return np.asarray(np.rint(accumulators.astype(np.float32) * self.multipliers.astype(np.float32)[:, np.newaxis]))
        if self.rounding is Rounding.FLOAT64:
            return round_half_away(accumulators.astype(np.float64) * self.multipliers[:, np.newaxis])
        rule = _INTEGER_RULES[self.rounding]
        return rule(accumulators, self._mantissas[:, np.newaxis], self._shifts[:, np.newaxis])

    @cached_property
    def _real(self) -> NDArray[np.float64]:
        """The multipliers, as exactly as the rule has them."""
        if self.rounding in _INTEGER_RULES:
            return np.ldexp(self._mantissas.astype(np.float64), self._shifts - 31)
        return self.multipliers

    @cached_property
    def _mantissas(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[0] for m in self.multipliers], np.int64)

    @cached_property
    def _shifts(self) -> Int64Array:
        return np.array([quantize_multiplier(float(m))[1] for m in self.multipliers], np.int64)
