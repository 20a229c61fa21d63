"""Affine int8 quantization with the rounding of TensorFlow Lite Micro.

    q = clip(round_half_away(float32(x / float32(scale))) + zero_point, -128, 127)
    x = float32(float64(scale) * (q - zero_point))

Source: ``AffineQuantize`` and ``Dequantize`` of tflite-micro (kernels/internal/quantization_util and quantize.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance_hil.errors import NonFiniteInputError

INT8_MIN = -128
INT8_MAX = 127


@dataclass(frozen=True)
class QuantParams:
    """Per-tensor affine parameters. ``scale`` is a float32 value > 0, ``zero_point`` an int8 value."""

    scale: float
    zero_point: int


def quantize(values: ArrayLike, params: QuantParams) -> NDArray[np.int8]:
    """Converts physical values, float [...], to int8 [...].

    Raises:
        NonFiniteInputError: a value is NaN or infinite. The firmware refuses those as well.
    """
    x = np.asarray(values, dtype=np.float32)
    if not np.all(np.isfinite(x)):
        raise NonFiniteInputError("cannot quantize a NaN or an infinity", "check the observation that produced it")
    # A huge finite value divided by a small scale is infinite and saturates below, like in the C++ code.
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = x / np.float32(params.scale)
        # Halves away from zero: numpy's rint rounds them to even, and trunc(r + 0.5) would round 0.49999997 up in float32.
        whole = np.trunc(ratio)
        rounded = whole + np.where(np.abs(ratio - whole) >= 0.5, np.sign(ratio), np.float32(0.0))
    clipped = np.clip(rounded.astype(np.float64) + params.zero_point, INT8_MIN, INT8_MAX)
    return np.asarray(clipped, dtype=np.int8)


def dequantize(values: ArrayLike, params: QuantParams) -> NDArray[np.float32]:
    """Converts int8 [...] to float32 [...] physical values."""
    q = np.asarray(values, dtype=np.int8)
    return np.asarray(np.float64(np.float32(params.scale)) * (q.astype(np.int64) - params.zero_point), dtype=np.float32)
