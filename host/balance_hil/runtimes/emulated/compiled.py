"""The inner loops of the emulators, compiled by numba.

FULLY_CONNECTED: exact float32 sums of int8 products and their requantisation. A tile of 32 rows and 4 channels stays in vector
registers from the first product to the int8 result. Compilers do not find that by themselves, so the tile is written in LLVM's
vector types, which every processor has instructions for, wide or narrow ones.

Importing this module loads numba: the operators do so when there is a batch worth it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from balance_hil.runtimes.base import Float32Array, Int8Array

CHANNELS = 4  # of one tile
_LANES, _VECTORS = 16, 2
ROWS = _LANES * _VECTORS  # of one tile
# Adding and subtracting 1.5 * 2^52 (2^23 in float32) rounds to an integer, ties to even, in two plain additions.
_TO_INTEGER = {ir.FloatType(): 1.5 * 2.0**23, ir.DoubleType(): 1.5 * 2.0**52}
_I8, _I32, _F32, _F64 = ir.IntType(8), ir.IntType(32), ir.FloatType(), ir.DoubleType()
_ADDRESS = types.intp


def dense(
    values: Int8Array,
    weights: Float32Array,
    rounding: NDArray[np.float64],
    in_float32: bool,
    bounds: tuple[float, float, int],
) -> Int8Array:
    """Outputs, int8 [channels, n], of one dense layer. Releases the GIL.

    Args:
        values: inputs, int8 [depth, n], C-contiguous.
        weights: float32 [groups, depth + 1, CHANNELS], packed by ``packed``; the last row is the bias.
        rounding: float64 [channels, 3]: multiplier, what is added for sums of at least 0, and for those below.
        in_float32: whether multiplying and rounding is done in float32 (then nothing is added), or in float64.
        bounds: lowest and highest output before the zero point is added, and the zero point.
    """
    outputs = np.empty((len(rounding), values.shape[1]), np.int8)
    padded = np.zeros((len(weights) * CHANNELS, 3))
    padded[: len(rounding)] = rounding
    _compiled_dense(values, weights, padded, in_float32, float(bounds[0]), float(bounds[1]), bounds[2], outputs)
    return outputs


def look_up(values: NDArray[np.uint8], table: Int8Array, outputs: Int8Array) -> None:
    """``outputs = table[values]``, all of them one-dimensional. Releases the GIL."""
    _compiled_look_up(values, table, outputs)


def packed(matrix: Float32Array, bias: Float32Array) -> Float32Array:
    """Weights, float32 [channels, depth], and biases in the order in which a tile reads them."""
    channels, depth = matrix.shape
    groups = -(-channels // CHANNELS)
    rows = np.zeros((groups * CHANNELS, depth + 1), np.float32)
    rows[:channels, :depth], rows[:channels, depth] = matrix, bias
    return np.ascontiguousarray(rows.reshape(groups, CHANNELS, depth + 1).transpose(0, 2, 1))


def _dense_loop(
    values: Int8Array,
    weights: Float32Array,
    rounding: NDArray[np.float64],
    in_float32: bool,
    low: float,
    high: float,
    zero_point: int,
    outputs: Int8Array,
) -> None:
    depth, n = values.shape
    channels = len(outputs)
    tile = np.empty((depth, ROWS), np.float32)
    rest_in, rest_out = np.zeros((depth, ROWS), np.int8), np.empty((CHANNELS, ROWS), np.int8)
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        if rows == ROWS:
            _to_float(values.ctypes.data + start, n, depth, tile.ctypes.data)
        else:
            rest_in[:, :rows] = values[:, start:]
            _to_float(rest_in.ctypes.data, ROWS, depth, tile.ctypes.data)
        for group in range(len(weights)):
            first = group * CHANNELS
            whole = rows == ROWS and first + CHANNELS <= channels
            target = outputs.ctypes.data + first * n + start if whole else rest_out.ctypes.data
            stride = n if whole else ROWS
            numbers = rounding.ctypes.data + 24 * first
            if in_float32:
                _tile_float32(weights[group].ctypes.data, depth, tile.ctypes.data, numbers, low, high, zero_point, target, stride)
            else:
                _tile_float64(weights[group].ctypes.data, depth, tile.ctypes.data, numbers, low, high, zero_point, target, stride)
            if not whole:
                for channel in range(first, min(first + CHANNELS, channels)):
                    outputs[channel, start : start + rows] = rest_out[channel - first, :rows]


def _look_up_loop(values: NDArray[np.uint8], table: Int8Array, outputs: Int8Array) -> None:
    for i in range(len(values)):
        outputs[i] = table[values[i]]


@intrinsic  # type: ignore[untyped-decorator]
def _to_float(context: Any, source: Any, stride: Any, depth: Any, target: Any) -> Any:
    """Converts ROWS int8 values of each of ``depth`` rows, ``stride`` apart, to float32."""

    def generate(context: Any, build: Any, signature: Any, args: Any) -> Any:
        source, stride, depth, target = args
        with cgutils.for_range(build, depth) as loop:
            for v in range(_VECTORS):
                raw = _load(build, source, build.add(build.mul(loop.index, stride), _index(loop.index, v * _LANES)), _I8)
                at = build.add(build.mul(loop.index, _index(loop.index, ROWS)), _index(loop.index, v * _LANES))
                _store(build, target, at, build.sitofp(raw, ir.VectorType(_F32, _LANES)))
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS), generate


def _tile(number: Any) -> Any:
    """The intrinsic that computes one tile, its requantisation in the LLVM type ``number``."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        context, weights, depth, values, rounding, low, high, zero_point, target, stride
    ):
        def generate(context: Any, build: Any, signature: Any, args: Any) -> Any:
            weights, depth, values, rounding, low, high, zero_point, target, stride = args
            limits = [_splat(build, _as(build, limit, number)) for limit in (low, high)]
            offset = _splat(build, build.trunc(zero_point, _I32))
            for channel, sums in enumerate(_sums(build, weights, depth, values)):
                factors = [
                    _splat(build, _as(build, _load(build, rounding, _index(depth, 3 * channel + i), _F64, 1), number))
                    for i in range(3)
                ]
                for v, total in enumerate(sums):
                    steps = _requantised(build, build.load(total), factors, limits)
                    codes = build.trunc(build.add(steps, offset), ir.VectorType(_I8, _LANES))
                    at = build.add(build.mul(stride, _index(depth, channel)), _index(depth, v * _LANES))
                    _store(build, target, at, codes)
            return context.get_dummy_value()

        addresses = (_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS)
        return types.void(*addresses, types.float64, types.float64, _ADDRESS, _ADDRESS, _ADDRESS), generate

    return tile


def _sums(build: Any, weights: Any, depth: Any, values: Any) -> list[list[Any]]:
    """Code for the sums of a tile; registers by channel and vector."""
    sums = [[cgutils.alloca_once(build, ir.VectorType(_F32, _LANES)) for _ in range(_VECTORS)] for _ in range(CHANNELS)]

    def weight(row: Any, channel: int) -> Any:
        at = build.add(build.mul(row, _index(depth, CHANNELS)), _index(depth, channel))
        return _splat(build, _load(build, weights, at, _F32, 1))

    for channel, registers in enumerate(sums):
        for register in registers:
            build.store(weight(depth, channel), register)  # the bias
    with cgutils.for_range(build, depth) as loop:
        row = build.mul(loop.index, _index(depth, ROWS))
        inputs = [_load(build, values, build.add(row, _index(depth, v * _LANES)), _F32) for v in range(_VECTORS)]
        for channel, registers in enumerate(sums):
            factor = weight(loop.index, channel)
            for register, x in zip(registers, inputs, strict=True):
                # Everything is an exact integer below 2^24: fusing the two changes nothing but the time.
                product = build.fmul(factor, x, flags=("contract",))
                build.store(build.fadd(product, build.load(register), flags=("contract",)), register)
    return sums


def _requantised(build: Any, total: Any, factors: list[Any], limits: list[Any]) -> Any:
    """Code for multiplier times sum plus offset, clamped and rounded, int32."""
    multiplier, above, below = factors
    vector = multiplier.type
    if vector.element == _F64:
        total = build.fpext(total, vector)
        steps = build.fmul(total, multiplier)
        positive = build.fcmp_ordered(">=", total, ir.Constant(vector, [0.0] * _LANES))
        steps = build.fadd(steps, build.select(positive, above, below))
    else:
        steps = build.fmul(total, multiplier)
    low, high = limits
    steps = build.select(build.fcmp_ordered("<", steps, low), low, steps)
    steps = build.select(build.fcmp_ordered(">", steps, high), high, steps)
    large = ir.Constant(vector, [_TO_INTEGER[vector.element]] * _LANES)
    return build.fptosi(build.fsub(build.fadd(steps, large), large), ir.VectorType(_I32, _LANES))


def _as(build: Any, value: Any, number: Any) -> Any:
    return build.fptrunc(value, number) if number == _F32 else value


def _index(like: Any, value: int) -> Any:
    return ir.Constant(like.type, value)


def _splat(build: Any, value: Any) -> Any:
    empty = ir.Constant(ir.VectorType(value.type, _LANES), ir.Undefined)
    first = build.insert_element(empty, value, ir.Constant(_I32, 0))
    return build.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _pointer(build: Any, address: Any, index: Any, kind: Any, lanes: int) -> Any:
    element = build.gep(build.inttoptr(address, kind.as_pointer()), [index])
    return element if lanes == 1 else build.bitcast(element, ir.VectorType(kind, lanes).as_pointer())


def _load(build: Any, address: Any, index: Any, kind: Any, lanes: int = _LANES) -> Any:
    return build.load(_pointer(build, address, index, kind, lanes), align=1 if kind == _I8 else 4)


def _store(build: Any, address: Any, index: Any, value: Any) -> None:
    kind = value.type.element
    build.store(value, _pointer(build, address, index, kind, _LANES), align=1 if kind == _I8 else 4)


_tile_float32, _tile_float64 = _tile(_F32), _tile(_F64)
_compiled_dense = numba.njit(nogil=True, cache=True, error_model="numpy")(_dense_loop)
_compiled_look_up = numba.njit(nogil=True, cache=True, error_model="numpy")(_look_up_loop)
