"""The inner loop of the emulators, compiled by numba: a chain of dense layers and tables for a batch of rows.

A block of rows passes through all layers before the next one starts, so that what lies between two layers stays in the nearest
cache. Compilers do not find by themselves the instructions that make this fast (dot products of bytes, products of 32 by 32 bits,
tables in registers): see ``intrinsics``. What the processor has is known when the code is generated, on first use.

Importing this module loads numba: ``Chain`` does so when there is a batch worth it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated import intrinsics
from balance_hil.runtimes.emulated.intrinsics import CHANNELS, NUMBERS, ROWS
from balance_hil.runtimes.emulated.requantise import Rule

_UP, _AWAY, _FLOAT32 = Rule.UP.value, Rule.AWAY.value, Rule.FLOAT32.value
TABLE = -1  # the kind of a stage that looks its outputs up; a dense one's is the value of its rule
STAGE = np.dtype(
    [
        ("kind", np.int64),
        ("groups", np.int64),  # of CHANNELS inputs
        ("channels", np.int64),  # outputs
        ("weights", np.int64),  # where its weights begin, in words
        ("first", np.int64),  # its first channel among those of all dense stages, or its table
        ("low", np.int64),  # bounds of a dense stage's outputs, 128 added
        ("high", np.int64),
        ("target", np.int64),  # row of ``outputs`` at which its outputs begin, -1 where nobody wants them
    ]
)


def _chain(
    inputs: Int8Array,
    start: int,
    stop: int,
    stages: NDArray[Any],
    weights: NDArray[np.int32],
    numbers: NDArray[np.int64],
    tables: NDArray[np.uint8],
    outputs: Int8Array,
) -> None:
    """Rows ``start`` to ``stop`` of inputs, int8 [n, width], through all stages to columns of outputs, int8 [channels, n]."""
    width, words = inputs.shape[1], 0
    for stage in stages:
        words = max(words, ROWS * max(stage.groups, -(-stage.channels // CHANNELS)))
    space = np.zeros(4 * (2 * words + CHANNELS * ROWS) + 64, np.uint8)
    rest_in, rest_out = np.zeros((ROWS + CHANNELS, width), np.int8), np.empty((CHANNELS, ROWS), np.int8)
    for row in range(start, stop, ROWS):
        rows = min(ROWS, stop - row)
        values = space.ctypes.data + -space.ctypes.data % 64  # a vector is one line of the cache
        results, sums = values + 4 * words, values + 8 * words
        source = inputs.ctypes.data + row * width
        if row + ROWS + CHANNELS > len(inputs):  # whole words are read
            rest_in[:rows] = inputs[row : row + rows]
            source = rest_in.ctypes.data
        intrinsics.read_rows(source, width, stages[0].groups, values)
        for stage in stages:
            if stage.kind == TABLE:
                intrinsics.look_up(values, stage.groups, tables.ctypes.data + 256 * stage.first)
            else:
                _dense(stage, weights, numbers, values, sums, results)
                values, results = results, values
            if stage.target >= 0:
                _write(values, stage, row, rows, outputs, rest_out)


def _dense_stage(stage: Any, weights: NDArray[np.int32], numbers: NDArray[np.int64], values: int, sums: int, results: int) -> None:
    for group in range(-(-stage.channels // CHANNELS)):
        matrix = weights.ctypes.data + 4 * (stage.weights + group * stage.groups * CHANNELS)
        channel = numbers.ctypes.data + 8 * NUMBERS * (stage.first + CHANNELS * group)
        words = results + 4 * ROWS * group
        intrinsics.sums(matrix, weights.shape[1], stage.groups, values, channel, sums)
        if stage.kind == _UP:
            intrinsics.rounded_up(sums, channel, stage.low, stage.high, words)
        elif stage.kind == _AWAY:
            intrinsics.rounded_away(sums, channel, stage.low, stage.high, words)
        elif stage.kind == _FLOAT32:
            intrinsics.rounded_float32(sums, channel, stage.low, stage.high, words)
        else:
            intrinsics.rounded_float64(sums, channel, stage.low, stage.high, words)


def _write_outputs(values: int, stage: Any, row: int, rows: int, outputs: Int8Array, rest: Int8Array) -> None:
    n = outputs.shape[1]
    for first in range(0, stage.channels, CHANNELS):
        words, target = values + 4 * ROWS * (first // CHANNELS), stage.target + first
        if rows == ROWS and first + CHANNELS <= stage.channels:
            intrinsics.write_group(words, outputs.ctypes.data + target * n + row, n)
        else:
            intrinsics.write_group(words, rest.ctypes.data, ROWS)
            for channel in range(min(CHANNELS, stage.channels - first)):
                outputs[target + channel, row : row + rows] = rest[channel, :rows]


def _look_up(values: NDArray[np.uint8], table: Int8Array, outputs: Int8Array) -> None:
    for i in range(len(values)):
        outputs[i] = table[values[i]]


def _compiled(function: Callable[..., None]) -> Any:
    """``function`` in machine code that releases the GIL, kept on disk where there is a place that can be written to."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no place
        return numba.njit(nogil=True, error_model="numpy")(function)


_dense, _write = _compiled(_dense_stage), _compiled(_write_outputs)
run_chain: Callable[..., None] = _compiled(_chain)
look_up: Callable[[NDArray[np.uint8], Int8Array, Int8Array], None] = _compiled(_look_up)
