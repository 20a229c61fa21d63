"""TANH and LOGISTIC of int16: one fixed-point arithmetic in all kernels, which interpolate in a table of 256 sigmoids."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from balance_hil.quantize import INT16X8, QuantParams
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.kernel import unsupported
from balance_hil.runtimes.emulated.primitives import Int64Array
from balance_hil.runtimes.emulated.rules import Kernels, Variant

_PER_UNIT = 3 * 4096  # steps of the kernels' argument
_LARGEST_MULTIPLIER = 32767


@cache
def _sigmoids() -> Int64Array:
    """sigmoid(i / 24) in 1/65536, [256], raised by half of what a straight line between two of them lacks in the middle."""
    s = 1 / (1 + np.exp(-np.arange(256) / 24))
    bend = s * (1 - s) * (2 * s - 1) / 24**2  # minus the second derivative, times the square of the distance
    return np.append(np.rint(65536 * (s + bend / 16))[:-1], 65535).astype(np.int64)


def _argument(source: QuantParams, powers: tuple[int, ...]) -> Int64Array:
    """Every input in steps of 1/12288; ``powers``: scales, 2^(n - 12), that kernels multiply by shifting."""
    every = np.arange(INT16X8.low, INT16X8.high + 1, dtype=np.int64)
    multiplier, shift = float(np.float32(source.scale)) * _PER_UNIT, 0
    fraction, exponent = math.frexp(source.scale)
    if fraction == 0.5 and exponent - 1 + 12 in powers:
        return every * (3 << (exponent - 1 + 12))
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


def _tanh(source: QuantParams, variant: Variant) -> Int8Array:
    if variant.kernels is Kernels.OPTIMIZED and source.scale in (2.0**-12, 2.0**-11):
        raise unsupported(f"TANH of int16 with the scale {source.scale:g} in the optimized kernels")
    return interpolated_tanh(_argument(source, (0, 1))).astype(np.int16)


def _logistic(source: QuantParams, variant: Variant) -> Int8Array:
    if variant.kernels is Kernels.OPTIMIZED and source.scale == 2.0**-12:
        raise unsupported(f"LOGISTIC of int16 with the scale {source.scale:g} in the optimized kernels")
    return interpolated_logistic(_argument(source, (0,))).astype(np.int16)


FUNCTIONS: dict[str, Callable[[QuantParams, Variant], Int8Array]] = {"TANH": _tanh, "LOGISTIC": _logistic}
