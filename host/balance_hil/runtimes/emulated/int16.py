"""TANH, LOGISTIC and SOFTMAX of int16, in fixed point by tables with interpolation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT16X8, QuantParams, RawArray
from balance_hil.runtimes.emulated.libm import expf
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    gemmlowp_logistic,
    gemmlowp_tanh,
    quantize_multiplier,
    round_half_away,
)
from balance_hil.runtimes.emulated.rules import Kernels, Variant

_PER_UNIT = 3 * 4096  # steps of the kernels' argument
_LARGEST_MULTIPLIER = 32767
_INTEGER_BITS = 3  # of the argument of gemmlowp's functions
_SLOPES = 512  # between the entries of a table of softmax
_Function = Callable[[NDArray[Any]], NDArray[Any]]


@cache
def _sigmoids() -> Int64Array:
    """sigmoid(i / 24) in 1/65536, [256], raised by half of what a straight line between two of them lacks in the middle."""
    s = 1 / (1 + np.exp(-np.arange(256) / 24))
    bend = s * (1 - s) * (2 * s - 1) / 24**2  # minus the second derivative, times the square of the distance
    return np.append(np.rint(65536 * (s + bend / 16))[:-1], 65535).astype(np.int64)


def _every(source: QuantParams) -> Int64Array:
    return np.arange(source.kind.low, source.kind.high + 1, dtype=np.int64)


def _argument(source: QuantParams, powers: tuple[int, ...]) -> Int64Array:
    """Every input in steps of 1/12288; ``powers``: scales, 2^(n - 12), that kernels multiply by shifting."""
    every = _every(source)
    multiplier, shift = float(np.float32(source.scale)) * _PER_UNIT, 0
    power = _power(source)
    if power in powers:
        return every * (3 << power)
    while multiplier <= _LARGEST_MULTIPLIER / 2 and shift <= 30:
        multiplier, shift = multiplier * 2, shift + 1
    return (every * int(multiplier) + ((1 << shift) >> 1)) >> shift


def _interpolated(magnitude: Int64Array, bits: int, saturated: int) -> Int64Array:
    """Sigmoid of a magnitude in steps of 1 / 2^bits of an entry, with ``bits`` more fractional bits."""
    index = magnitude >> bits
    inside = np.minimum(index, 254)
    table = _sigmoids()
    values = (table[inside] << bits) + (magnitude & ((1 << bits) - 1)) * (table[inside + 1] - table[inside])
    return np.where(index >= 255, saturated, values)


def interpolated_tanh(x: Int64Array) -> Int64Array:
    """tanh in 1/32768 of an argument in steps of 1/12288; also of an LSTM's gates in TensorFlow Lite Micro."""
    y = _interpolated(np.abs(x), 8, 0xFFFF << 8)
    return np.where(x >= 0, y - (1 << 23) + (1 << 7), -y + (1 << 23) + (1 << 7) - 1) >> 8


def interpolated_logistic(x: Int64Array) -> Int64Array:
    """The logistic function, likewise."""
    y = _interpolated(np.abs(x), 9, 0x7FFF << 10)
    return np.where(x >= 0, y + (1 << 9), (1 << 25) - y + (1 << 9) - 1) >> 10


def _power(source: QuantParams) -> int:
    """n where kernels take a scale for 2^(n - 12), -1 elsewhere: it need not be one exactly."""
    power = np.log2(np.float32(source.scale)) + 12
    return int(round_half_away(power)) if abs(power - round_half_away(power)) < 1e-3 else -1


def _tanh(source: QuantParams, variant: Variant) -> RawArray:
    if variant.kernels is Kernels.OPTIMIZED and _power(source) in (0, 1):
        steps = np.clip(_every(source) << _power(source), INT16X8.low, INT16X8.high)
        return gemmlowp_tanh(steps, _INTEGER_BITS, 16).astype(np.int16)
    return interpolated_tanh(_argument(source, (0, 1))).astype(np.int16)


def _logistic(source: QuantParams, variant: Variant) -> RawArray:
    if variant.kernels is Kernels.OPTIMIZED and _power(source) == 0:
        return gemmlowp_logistic(_every(source), _INTEGER_BITS, 16).astype(np.int16)
    return interpolated_logistic(_argument(source, (0,))).astype(np.int16)


class Softmax:
    """SOFTMAX over the channels of rows."""

    def __init__(
        self, source: QuantParams, beta: float, scaled: Callable[[Int64Array, int, int], Int64Array], variant: Variant
    ) -> None:
        scale, of_ten = np.float32(source.scale), 10.0 / 65535.0  # inputs in steps of which 65535 make up the table's range
        in_micro = variant.kernels is Kernels.TFLM
        product = float(scale) * beta if in_micro else float(scale * np.float32(beta))
        self._multiplier = quantize_multiplier(product / of_ten)
        self._scaled = scaled
        real = np.float32 if in_micro else np.float64
        self._exponentials = _table(expf if in_micro else np.exp, real, 10, INT16X8.high)
        self._reciprocals = _table(lambda x: real(1) / (real(1) + x), real, 1, INT16X8.low)
        self.arithmetic = in_micro, self._multiplier, scaled  # what its outputs depend on

    def __call__(self, rows: RawArray) -> Int64Array:
        """Outputs, int64 [n, channels], for inputs, [n, channels]."""
        wide = rows.astype(np.int64)
        below = self._scaled(wide - wide.max(axis=1, keepdims=True), *self._multiplier) + INT16X8.high
        exponentials = _between(self._exponentials, below)
        sums = exponentials.sum(axis=1, keepdims=True)
        bits = np.floor(np.log2(sums)).astype(np.int64) + 1  # exact: sums are below 2^31
        rest = (((sums << (31 - bits)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16)
        reciprocals = _between(self._reciprocals, rest)
        shares: Int64Array = (exponentials * reciprocals + (np.int64(1) << (bits - 2))) >> (bits - 1)
        return np.minimum(shares, INT16X8.high)


def _table(function: _Function, real: type, width: int, zero_point: int) -> Int64Array:
    """``function`` at 513 places in a range of ``width``, in 1/32768, less half of what a line between two is too high."""
    step, out = real(width) / real(65535), real(2) / real(65535)
    low, high = (step * real(end - zero_point) for end in (INT16X8.low, INT16X8.high))
    inverse = real(65536) / (out * real(INT16X8.high) - out * real(INT16X8.low))
    apart = (high - low) / real(_SLOPES)
    places = low + np.arange(_SLOPES + 1, dtype=real) * apart
    values = function(places) * inverse
    rounded = round_half_away(values[:-1])
    too_high = round_half_away((values[1:] + rounded) / real(2)) - round_half_away(
        function(places[:-1] + apart / real(2)) * inverse
    )
    last = round_half_away(function(np.array([high], real)) * inverse)
    entries = np.append(rounded - round_half_away(too_high / real(2)), last)
    return np.clip(entries, INT16X8.low, INT16X8.high).astype(np.int64)


def _between(table: Int64Array, places: Int64Array) -> Int64Array:
    """Entries of a table, with interpolation, for int16 that saturate."""
    inside = np.clip(places, INT16X8.low, INT16X8.high)
    index = (inside >> 7) + _SLOPES // 2
    entries: Int64Array = table[index] + (((table[index + 1] - table[index]) * (inside & 127) + 64) >> 7)
    return entries


FUNCTIONS: dict[str, Callable[[QuantParams, Variant], RawArray]] = {"TANH": _tanh, "LOGISTIC": _logistic}
