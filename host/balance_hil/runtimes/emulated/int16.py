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
# Entries of the kernels' table that are 1 above the nearest number.
_ROUNDED_UP = (
    *(4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39, 40, 41, 43, 44, 45, 46, 49, 50, 54),
    *(62, 63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135, 255),
)


@cache
def _sigmoids() -> Int64Array:
    """sigmoid(i / 24) in 16 fractional bits, [256]."""
    values: Int64Array = np.rint(65536 / (1 + np.exp(-np.arange(256) / 24))).astype(np.int64)
    values[list(_ROUNDED_UP)] += 1
    return values


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


def _tanh(source: QuantParams, variant: Variant) -> Int8Array:
    if variant.kernels is Kernels.OPTIMIZED and source.scale in (2.0**-12, 2.0**-11):
        raise unsupported(f"TANH of int16 with the scale {source.scale:g} in the optimized kernels")
    x = _argument(source, (0, 1))
    y = _interpolated(np.abs(x), 8, 0xFFFF << 8)
    return (np.where(x >= 0, y - (1 << 23) + (1 << 7), -y + (1 << 23) + (1 << 7) - 1) >> 8).astype(np.int16)


def _logistic(source: QuantParams, variant: Variant) -> Int8Array:
    if variant.kernels is Kernels.OPTIMIZED and source.scale == 2.0**-12:
        raise unsupported(f"LOGISTIC of int16 with the scale {source.scale:g} in the optimized kernels")
    x = _argument(source, (0,))
    y = _interpolated(np.abs(x), 9, 0x7FFF << 10)
    return (np.where(x >= 0, y + (1 << 9), (1 << 25) - y + (1 << 9) - 1) >> 10).astype(np.int16)


FUNCTIONS: dict[str, Callable[[QuantParams, Variant], Int8Array]] = {"TANH": _tanh, "LOGISTIC": _logistic}
