"""From an int32 accumulator to an int8 output: the step in which the kernels of FULLY_CONNECTED differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.primitives import (
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


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Scales of one FULLY_CONNECTED; float32 values. ``weights`` has one entry per channel, or one."""

    input: float
    weights: tuple[float, ...]
    output: float

    def multipliers(self, variant: Variant) -> NDArray[np.float64]:
        """Input times weight scale over output scale, float64 [channels] or [1], as the variant's kernels form it."""
        source, target = np.float32(self.input), np.float32(self.output)
        weights = np.array(self.weights[:1] if variant.first_scale_only else self.weights, np.float32)
        if variant.rounding is Rounding.FLOAT32:
            return (source * weights / target).astype(np.float64)
        narrow = len(weights) == 1 and not variant.float64_product and variant.rounding is not Rounding.FLOAT64
        product_ = (source * weights).astype(np.float64) if narrow else np.float64(source) * weights.astype(np.float64)
        return np.asarray(product_ / np.float64(target), np.float64)


@dataclass(frozen=True, kw_only=True)
class Requantiser:
    """Maps accumulators, int64 [n, channels], to outputs, int8 [n, channels]."""

    scales: Scales
    zero_point: int
    low: int  # bounds of the fused activation
    high: int
    variant: Variant

    def __call__(self, accumulators: NDArray[np.int64]) -> Int8Array:
        """Requantises, adds the zero point and clamps."""
        multipliers = self.scales.multipliers(self.variant)
        rounding = self.variant.rounding
        if rounding is Rounding.FLOAT32:
            steps = accumulators.astype(np.float32) * multipliers.astype(np.float32)
            steps = np.rint(np.minimum(steps, np.float32(self.high - self.zero_point)))
            return np.clip(steps + self.zero_point, self.low, self.high).astype(np.int8)
        if rounding is Rounding.FLOAT64:
            steps = round_half_away(accumulators.astype(np.float64) * multipliers)
            return np.clip(steps + self.zero_point, self.low, self.high).astype(np.int8)
        parts = [quantize_multiplier(float(m)) for m in multipliers]
        mantissas, shifts = (np.array(column, np.int64) for column in zip(*parts, strict=True))
        steps = _INTEGER_RULES[rounding](accumulators, mantissas, shifts)
        return np.clip(steps + self.zero_point, self.low, self.high).astype(np.int8)
