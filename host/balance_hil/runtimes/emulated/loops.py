"""Plain loops over images, compiled by numba on first use: windows of convolutions and pooling, and requantization of their sums.

Images are int8 or int16 [n, height, width, channels], contiguous; sums of int16 may have 64 bits. ``shape`` is an int64 array:
filter height and width, strides, dilations, and the padding at the top and the left. Importing this loads numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import RawArray

DOUBLE, SINGLE, RUY_X86, FLOAT32, FLOORED, TRUNCATED, REDUCED = range(7)  # rules of ``requantize``


def compiled(function: Callable[..., None]) -> Any:
    """``function`` in machine code that releases the GIL, kept on disk where there is a place that can be written to."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no place
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def patches(images: RawArray, shape: NDArray[np.int64], zero_point: int, rows: RawArray) -> None:
    """Inputs of every output, [n, height, width, filter height, filter width, channels]; padding is ``zero_point``."""
    height, width = images.shape[1], images.shape[2]
    for n in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            for j in range(rows.shape[2]):
                for ky in range(rows.shape[3]):
                    y = i * shape[2] + ky * shape[4] - shape[6]
                    for kx in range(rows.shape[4]):
                        x = j * shape[3] + kx * shape[5] - shape[7]
                        if 0 <= y < height and 0 <= x < width:
                            for c in range(rows.shape[5]):
                                rows[n, i, j, ky, kx, c] = images[n, y, x, c]
                        else:
                            for c in range(rows.shape[5]):
                                rows[n, i, j, ky, kx, c] = zero_point


@compiled
def depthwise(
    images: RawArray,
    shape: NDArray[np.int64],
    zero_point: int,
    weights: NDArray[np.int32],
    start: NDArray[Any],
    sums: NDArray[Any],
) -> None:
    """Sums, [n, height, width, channels × multiplier], for weights [filter height, filter width, channels × multiplier]."""
    height, width, channels = images.shape[1], images.shape[2], images.shape[3]
    multiplier = sums.shape[3] // channels
    for n in range(sums.shape[0]):
        for i in range(sums.shape[1]):
            for j in range(sums.shape[2]):
                for c in range(sums.shape[3]):
                    sums[n, i, j, c] = start[c]
                for ky in range(weights.shape[0]):
                    y = i * shape[2] + ky * shape[4] - shape[6]
                    for kx in range(weights.shape[1]):
                        x = j * shape[3] + kx * shape[5] - shape[7]
                        if not (0 <= y < height and 0 <= x < width):
                            continue
                        if multiplier == 1:
                            for c in range(channels):
                                sums[n, i, j, c] += np.int32(images[n, y, x, c] - zero_point) * weights[ky, kx, c]
                        else:
                            for c in range(channels):
                                value = np.int32(images[n, y, x, c] - zero_point)
                                for m in range(multiplier):
                                    sums[n, i, j, c * multiplier + m] += value * weights[ky, kx, c * multiplier + m]


@compiled
def transposed(
    images: RawArray,
    shape: NDArray[np.int64],
    zero_point: int,
    weights: NDArray[np.int32],
    start: NDArray[Any],
    sums: NDArray[Any],
) -> None:
    """Sums of a transposed convolution, [n, height, width, outputs], for weights [height, width, channels, outputs]."""
    for n in range(sums.shape[0]):
        for y in range(sums.shape[1]):
            for x in range(sums.shape[2]):
                for c in range(sums.shape[3]):
                    sums[n, y, x, c] = start[c]
        for i in range(images.shape[1]):
            for j in range(images.shape[2]):
                for ky in range(weights.shape[0]):
                    y = i * shape[2] + ky - shape[6]
                    for kx in range(weights.shape[1]):
                        x = j * shape[3] + kx - shape[7]
                        if not (0 <= y < sums.shape[1] and 0 <= x < sums.shape[2]):
                            continue
                        for d in range(images.shape[3]):
                            value = np.int32(images[n, i, j, d] - zero_point)
                            for c in range(sums.shape[3]):
                                sums[n, y, x, c] += value * weights[ky, kx, d, c]


@compiled
def pool(images: RawArray, shape: NDArray[np.int64], average: bool, low: int, high: int, outputs: RawArray) -> None:
    """AVERAGE_POOL_2D, whose mean of raw values rounds half away from zero, or MAX_POOL_2D; [n, height, width, channels]."""
    height, width = images.shape[1], images.shape[2]
    for n in range(outputs.shape[0]):
        for i in range(outputs.shape[1]):
            for j in range(outputs.shape[2]):
                top, left = i * shape[2] - shape[6], j * shape[3] - shape[7]
                y0, y1 = max(0, top), min(height, top + shape[0])
                x0, x1 = max(0, left), min(width, left + shape[1])
                count = (y1 - y0) * (x1 - x0)
                for c in range(outputs.shape[3]):
                    total, largest = np.int64(0), np.int64(-32768)
                    for y in range(y0, y1):
                        for x in range(x0, x1):
                            value = np.int64(images[n, y, x, c])
                            total += value
                            largest = max(largest, value)
                    if average:  # C divides toward zero
                        largest = (total + count // 2) // count if total > 0 else -((count // 2 - total) // count)
                    outputs[n, i, j, c] = min(max(largest, low), high)


@compiled
def requantize(
    sums: NDArray[Any], first: int, rule: int, mantissas: NDArray[np.int64], shifts: NDArray[np.int64],
    multipliers: NDArray[np.float32], zero_point: int, low: int, high: int, outputs: RawArray,
) -> None:  # fmt: skip
    """Outputs, [rows, channels], of the channels from ``first`` on, so many as there are multipliers, by one rule."""
    one = np.int64(1)
    lefts, rights = np.maximum(shifts, 0), np.maximum(-shifts, 0)
    for row in range(sums.shape[0]):
        for c in range(len(multipliers)):
            value = sums[row, first + c]
            if rule == FLOAT32:
                result = np.int64(np.rint(np.float32(value) * multipliers[c]))
            elif rule == TRUNCATED:
                result = np.int64(np.float32(value) * multipliers[c])
            elif rule == REDUCED:
                upper = (mantissas[c] + (one << 15)) >> 16 if mantissas[c] < 0x7FFF0000 else np.int64(0x7FFF)
                total = 15 - shifts[c]
                result = np.int64(np.int32((np.int64(value) * upper + (one << (total - one))) >> total))
            elif rule == SINGLE:
                total = 31 - shifts[c]
                result = (np.int64(value) * mantissas[c] + (one << (total - one))) >> total
            else:
                nudge = np.int64(0) if rule == FLOORED else one << 30
                wide = (np.int64(np.int32(np.int64(value) << lefts[c])) * mantissas[c] + nudge) >> 31
                if rule != RUY_X86:
                    mask = (one << rights[c]) - one
                    result = (wide >> rights[c]) + ((wide & mask) > (mask >> one) + (wide < 0))
                else:
                    result = (wide + ((one << rights[c]) >> one)) >> rights[c]
            outputs[row, first + c] = min(max(result + zero_point, low), high)
