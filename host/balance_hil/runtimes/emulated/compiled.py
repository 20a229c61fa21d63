"""The inner loop of the emulators, compiled by numba: a chain of dense layers and tables for a batch of rows.

A block of ROWS rows passes through all layers before the next one starts, so that what lies between two layers stays in the
nearest cache. There a *word* holds a byte for each of CHANNELS neighboring channels of one row: the int8 value with 128 added.
The words of the rows of a block follow each other, then those of the next group of channels.

Compilers do not generate the instructions that make this fast (dot products of bytes, products of 32 by 32 bits, tables
in registers). So these pieces are written in LLVM's vector types, 512 bits wide, for which a processor with narrower registers
gets several of its own instructions. Code is generated for the features of the processor, on first use.

Numba keeps machine code on disk until the file of the function changes: whatever makes machine code is in this file.
Importing it loads numba: ``Chain`` does so when there is a batch worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from balance_hil.quantize import RawArray

ROWS, CHANNELS = 64, 4
CLAIM = 8 * ROWS  # rows that a thread takes at a time
NUMBERS = 6  # int64 ones of each channel of a dense layer:
_START, _MULTIPLIER, OFFSET, _SHIFT, _ZERO, _TIE = range(NUMBERS)
_SIGN_BITS = 0x80808080
_LESS_THAN_HALF = float(np.nextafter(0.5, 0.0))
_MAGIC = 1.5 * 2.0**23  # a float32 below 2^22 plus this has the nearest integer, ties to even, in its low bits
MAGIC_BITS = 0x4B400000  # of that number: to be taken off

UP, AWAY, FLOAT32, FLOAT64, NEAREST, TABLE = range(
    6
)  # kinds of stages: dense ones by the rule of their requantization, and tables
STAGE = np.dtype(
    [
        ("kind", np.int64),
        ("groups", np.int64),  # of CHANNELS inputs
        ("channels", np.int64),  # outputs
        ("weights", np.int64),  # where its weights begin, in words
        ("first", np.int64),  # its first channel among those of all dense stages, or its table
        ("low", np.int64),  # bounds of a dense stage's outputs, 128 added
        ("high", np.int64),
        ("target", np.int64),  # wanted channels of the stages before, -1 where its own are not wanted
    ]
)

_LANES = 16  # 32-bit numbers of a vector
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_BYTES = ir.VectorType(_I8, 4 * _LANES)
_SHORTS = ir.VectorType(_I16, 2 * _LANES)
_INTS = ir.VectorType(_I32, _LANES)
_LONGS = ir.VectorType(_I64, _LANES // 2)
_FLOATS = ir.VectorType(_F32, _LANES)
_DOUBLES = ir.VectorType(_F64, _LANES)  # two registers

_ADDRESS = types.intp  # of memory, as a number: ``array.ctypes.data``
_Has = Callable[[str], bool]
_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic  # numba has no annotations
_ALIGNMENT = {_I8: 1, _I16: 2, _I32: 4, _I64: 8, _F32: 4, _F64: 8}


# --- The loops ----------------------------------------------------------------------------------------------------------------


def _chain(
    inputs: RawArray,
    claimed: NDArray[np.int64],
    stages: NDArray[Any],
    weights: NDArray[np.int32],
    numbers: NDArray[np.int64],
    tables: NDArray[np.uint8],
    outputs: RawArray,
) -> None:
    """Takes rows of inputs, int8 [n, width], through all stages, CLAIM at a time, until all are claimed.

    Threads may share the work: ``claimed``, int64 [1], counts the rows that one of them has begun or done. ``outputs``, int8, is
    one array [n, channels] behind the other, for each stage whose outputs are wanted.
    """
    words = 0
    for stage in stages:
        words = max(words, ROWS * max(stage.groups, -(-stage.channels // CHANNELS)))
    space = np.zeros(4 * (2 * words + CHANNELS * ROWS) + 64, np.uint8)
    rest_in, rest_out = np.zeros((ROWS + CHANNELS) * inputs.shape[1], np.int8), np.empty((words + 1) * CHANNELS, np.int8)
    start = _claim(claimed.ctypes.data, CLAIM)
    while start < len(inputs):
        stop = min(start + CLAIM, len(inputs))
        for row in range(start, stop, ROWS):
            values = space.ctypes.data + -space.ctypes.data % 64  # a vector is one line of the cache
            results, sums = values + 4 * words, values + 8 * words
            _read(inputs, row, stages[0], rest_in, values)
            for stage in stages:
                if stage.kind == TABLE:
                    _look_up(values, stage.groups, tables.ctypes.data + 256 * stage.first)
                else:
                    _dense(stage, weights, numbers, values, sums, results)
                    values, results = results, values
                if stage.target >= 0:
                    _write(values, stage, row, stop, len(inputs), outputs, rest_out)
        start = _claim(claimed.ctypes.data, CLAIM)


def _read_inputs(inputs: RawArray, row: int, stage: Any, rest: RawArray, values: int) -> None:
    n, width = inputs.shape
    if row + ROWS + CHANNELS <= n:
        _read_rows(inputs.ctypes.data + row * width, width, stage.groups, values)
        return
    for i in range(min(ROWS, n - row)):  # whole words are read: not behind the end
        for j in range(width):
            rest[i * width + j] = inputs[row + i, j]
    _read_rows(rest.ctypes.data, width, stage.groups, values)


def _dense_stage(
    stage: Any, weights: NDArray[np.int32], numbers: NDArray[np.int64], values: int, sums: int, results: int
) -> None:
    for group in range(-(-stage.channels // CHANNELS)):
        matrix = weights.ctypes.data + 4 * (stage.weights + group * stage.groups * CHANNELS)
        channel = numbers.ctypes.data + 8 * NUMBERS * (stage.first + CHANNELS * group)
        words = results + 4 * ROWS * group
        _sums(matrix, weights.shape[1], stage.groups, values, channel, sums)
        if stage.kind == UP:
            _rounded_up(sums, channel, stage.low, stage.high, words)
        elif stage.kind == AWAY:
            _rounded_away(sums, channel, stage.low, stage.high, words)
        elif stage.kind == FLOAT32:
            _rounded_float32(sums, channel, stage.low, stage.high, words)
        elif stage.kind == FLOAT64:
            _rounded_float64(sums, channel, stage.low, stage.high, words)
        else:
            _rounded_nearest(sums, channel, stage.low, stage.high, words)


def _write_outputs(values: int, stage: Any, row: int, stop: int, n: int, outputs: RawArray, rest: RawArray) -> None:
    start, groups = stage.target * n + row * stage.channels, -(-stage.channels // CHANNELS)
    end = start + min(ROWS, stop - row) * stage.channels
    if stage.channels % (4 * CHANNELS) == 0 and row + ROWS <= stop:
        _write_wide_rows(values, groups, stage.channels, outputs.ctypes.data + start)
    elif row + ROWS < stop:  # what is written behind the last row is written again
        _write_rows(values, groups, stage.channels, outputs.ctypes.data + start)
    else:
        _write_rows(values, groups, stage.channels, rest.ctypes.data)
        for i in range(end - start):
            outputs[start + i] = rest[i]


def _look_up_loop(values: NDArray[np.uint8], table: RawArray, outputs: RawArray) -> None:
    for i in range(len(values)):
        outputs[i] = table[values[i]]


# --- Their pieces; every argument is an address or a count ------------------------------------------------------------


@_intrinsic
def _claim(context: Any, counter: Any, rows: Any) -> Any:
    """Adds ``rows`` to an int64 that other threads do the same with; what it was before."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        counter, rows = values
        return build.atomic_rmw("add", build.inttoptr(counter, _I64.as_pointer()), rows, "monotonic")

    return types.int64(_ADDRESS, _ADDRESS), generate


@_intrinsic
def _read_rows(context: Any, rows: Any, width: Any, groups: Any, words: Any) -> Any:
    """Makes words of ROWS rows of int8, ``width`` apart. Reads up to 3 bytes behind the last one."""

    def generate(context: Any, build: Any, rows: Any, width: Any, groups: Any, words: Any) -> None:
        with cgutils.for_range(build, groups) as group, cgutils.for_range(build, _number(ROWS)) as row:
            at = build.add(build.mul(row.index, width), build.mul(group.index, _number(CHANNELS)))
            word = build.xor(_load(build, build.add(rows, at), _number(0), _I32, align=1), _I32(_SIGN_BITS))
            _store(build, word, words, build.add(build.mul(group.index, _number(ROWS)), row.index))

    return _void(generate, 4)


@_intrinsic
def _write_rows(context: Any, words: Any, groups: Any, width: Any, rows: Any) -> Any:
    """The reverse, for ``width`` values in each row. Writes up to 3 bytes behind the last one."""

    def generate(context: Any, build: Any, words: Any, groups: Any, width: Any, rows: Any) -> None:
        with cgutils.for_range(build, _number(ROWS)) as row:
            target = build.add(rows, build.mul(row.index, width))
            with cgutils.for_range(build, groups) as group:
                at = build.add(build.mul(group.index, _number(ROWS)), row.index)
                word = build.xor(_load(build, words, at, _I32), _I32(_SIGN_BITS))
                _store(build, word, target, group.index, align=1)

    return _void(generate, 4)


@_intrinsic
def _write_wide_rows(context: Any, words: Any, groups: Any, width: Any, rows: Any) -> Any:
    """The same where ``groups`` is a multiple of 4: four words at a time, and nothing behind the last one."""

    def generate(context: Any, build: Any, words: Any, groups: Any, width: Any, rows: Any) -> None:
        with (
            cgutils.for_range(build, build.udiv(groups, _number(4))) as four,
            cgutils.for_range(build, _number(ROWS // _LANES)) as part,
        ):
            start = build.mul(part.index, _number(_LANES))
            first = build.add(build.mul(four.index, _number(4 * ROWS)), start)
            some = [_load(build, words, build.add(first, _number(ROWS * group)), _INTS) for group in range(4)]
            some = [build.xor(values, _fixed(_INTS, _SIGN_BITS)) for values in some]
            alternating = _indices([lane + half for lane in range(_LANES) for half in (0, _LANES)])
            pairs = [build.shuffle_vector(*some[i : i + 2], alternating) for i in (0, 2)]
            for row in range(_LANES):
                values = build.shuffle_vector(
                    *pairs, _indices([2 * row, 2 * row + 1, 2 * _LANES + 2 * row, 2 * _LANES + 2 * row + 1])
                )
                at = build.add(build.mul(build.add(start, _number(row)), width), build.mul(four.index, _number(4 * CHANNELS)))
                _store(build, values, build.add(rows, at), _number(0), align=1)

    return _void(generate, 4)


@_intrinsic
def _sums(context: Any, weights: Any, plane: Any, groups: Any, words: Any, numbers: Any, target: Any) -> Any:
    """Sums of products of one group of channels, int32 [CHANNELS, ROWS].

    ``weights`` are words [groups, CHANNELS] as well: in the first plane of ``plane`` words four int8, in the second and the third
    two int16 each, of the even and of the odd ones.
    """

    def generate(context: Any, build: Any, weights: Any, plane: Any, groups: Any, words: Any, numbers: Any, target: Any) -> None:
        has = _features(context)
        products = _products_of_bytes if has("avx512vnni") else _products_of_pairs
        parts = 4 if has("avx512f") else 1  # vectors of sums for each channel that there are registers for
        for start in range(0, ROWS, parts * _LANES):
            some = build.add(words, _number(4 * start))
            registers = [[cgutils.alloca_once(build, _INTS) for _ in range(parts)] for _ in range(CHANNELS)]
            for channel, register in _each(registers):
                build.store(_splat(build, _parameter(build, numbers, channel, _START, _I32), _INTS), register)
            with cgutils.for_range(build, groups) as group:
                at = build.mul(group.index, _number(ROWS))
                values = [_load(build, some, build.add(at, _number(part * _LANES)), _INTS) for part in range(parts)]
                at = build.mul(group.index, _number(CHANNELS))
                products(build, weights, plane, at, values, registers)
            for i, (channel, register) in enumerate(_each(registers)):
                _store(build, build.load(register), target, _number(channel * ROWS + start + i % parts * _LANES))

    return _void(generate, 6)


def _products_of_bytes(build: Any, weights: Any, plane: Any, at: Any, values: list[Any], registers: list[list[Any]]) -> None:
    """Adds four products in each lane with the one instruction there is for it."""
    for channel, sums in enumerate(registers):
        factors = _splat(build, _load(build, weights, build.add(at, _number(channel)), _I32), _INTS)
        for register, some in zip(sums, values, strict=True):
            total = _call(build, "llvm.x86.avx512.vpdpbusd.512", _INTS, build.load(register), some, factors)
            build.store(total, register)


def _products_of_pairs(build: Any, weights: Any, plane: Any, at: Any, values: list[Any], registers: list[list[Any]]) -> None:
    """The same of int16: every vector unit has an instruction that LLVM chooses for sums of two neighboring products."""
    low = _fixed(_INTS, 0x00FF00FF)
    pairs = [(build.and_(some, low), build.and_(build.lshr(some, _fixed(_INTS, 8)), low)) for some in values]
    for channel, sums in enumerate(registers):
        here = build.add(at, _number(channel))
        factors = []
        for _ in range(2):
            here = build.add(here, plane)
            factors.append(_splat(build, _load(build, weights, here, _I32), _INTS))
        for register, some in zip(sums, pairs, strict=True):
            total = build.load(register)
            for x, w in zip(some, factors, strict=True):
                total = build.add(total, _sum_of_two_products(build, x, w))
            build.store(total, register)


def _sum_of_two_products(build: Any, x: Any, w: Any) -> Any:
    wide = ir.VectorType(_I32, 2 * _LANES)
    products = build.mul(*(build.sext(build.bitcast(v, _SHORTS), wide) for v in (x, w)))
    even, odd = (build.shuffle_vector(products, products, _indices(range(i, 2 * _LANES, 2))) for i in (0, 1))
    return build.add(even, odd)


def _rounding(steps: Callable[..., Any]) -> Any:
    """The function that turns sums of a group, int32 [CHANNELS, ROWS], into words.

    ``steps(build, has, sums, numbers, channel)`` generates outputs with 128 added, int32, from a vector of sums of one channel.
    """

    @_intrinsic
    def rounded(context: Any, sums: Any, numbers: Any, low: Any, high: Any, words: Any) -> Any:
        def generate(context: Any, build: Any, sums: Any, numbers: Any, low: Any, high: Any, words: Any) -> None:
            bounds = [_splat(build, build.trunc(bound, _I8), _BYTES) for bound in (low, high)]
            has = _features(context)
            pack = _packed_saturating if has("avx512bw") else _packed
            with cgutils.for_range(build, _number(ROWS // _LANES)) as part:
                at = build.mul(part.index, _number(_LANES))
                outputs = []
                for channel in range(CHANNELS):
                    some = _load(build, sums, build.add(at, _number(channel * ROWS)), _INTS)
                    outputs.append(steps(build, has, some, numbers, channel))
                packed = build.bitcast(pack(build, outputs), _BYTES)
                for worse, bound in zip(("<", ">"), bounds, strict=True):
                    packed = build.select(build.icmp_unsigned(worse, packed, bound), bound, packed)
                _store(build, packed, words, build.mul(at, _number(CHANNELS)))

        return _void(generate, 5)

    return rounded


def _packed_saturating(build: Any, outputs: list[Any]) -> Any:
    """Words of four vectors, saturated to 0 … 255."""
    pairs = [_call(build, "llvm.x86.avx512.packssdw.512", _SHORTS, *outputs[i : i + 2]) for i in (0, 2)]
    quads = _call(build, "llvm.x86.avx512.packuswb.512", _BYTES, *pairs)
    # Each quarter of the register now has four rows of the first channel, four of the second, …
    order = [16 * quarter + 4 * channel + row for quarter in range(4) for row in range(4) for channel in range(4)]
    return build.shuffle_vector(quads, quads, _indices(order))


def _packed(build: Any, outputs: list[Any]) -> Any:
    word = _fixed(_INTS, 0)
    for channel, values in enumerate(outputs):
        for worse, bound in (("<", _fixed(_INTS, 0)), (">", _fixed(_INTS, 255))):
            values = build.select(build.icmp_signed(worse, values, bound), bound, values)
        word = build.or_(word, build.shl(values, _fixed(_INTS, 8 * channel)))
    return word


def _scaled(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    """High halves of ``sums * multiplier + offset``, products of unsigned 32-bit numbers and sums of 64-bit ones."""
    low = _fixed(_LONGS, 0xFFFFFFFF)
    multiplier = _splat(build, build.zext(_parameter(build, numbers, channel, _MULTIPLIER, _I32), _I64), _LONGS)
    offset = _splat(build, _parameter(build, numbers, channel, OFFSET, _I64), _LONGS)
    pairs = build.bitcast(sums, _LONGS)
    even, odd = (
        build.bitcast(build.add(build.mul(half, multiplier), offset), _INTS)
        for half in (build.and_(pairs, low), build.lshr(pairs, _fixed(_LONGS, 32)))
    )
    return build.shuffle_vector(even, odd, _indices([i + 1 if i % 2 == 0 else _LANES + i for i in range(_LANES)]))


def _up(build: Any, has: _Has, sums: Any, numbers: Any, channel: int) -> Any:
    return _shifted(build, has, _scaled(build, sums, numbers, channel), numbers, channel)


def _away(build: Any, has: _Has, sums: Any, numbers: Any, channel: int) -> Any:
    scaled = _scaled(build, sums, numbers, channel)
    zero, tie = (_splat(build, _parameter(build, numbers, channel, column, _I32), _INTS) for column in (_ZERO, _TIE))
    values = build.select(build.icmp_signed("<", scaled, zero), build.add(scaled, tie), scaled)
    return _shifted(build, has, values, numbers, channel)


def _shifted(build: Any, has: _Has, values: Any, numbers: Any, channel: int) -> Any:
    shift = _splat(build, _parameter(build, numbers, channel, _SHIFT, _I32), _INTS)
    if has("avx512f"):  # LLVM would choose the slower shift by one number
        return _call(build, "llvm.x86.avx512.psrav.d.512", _INTS, values, shift)
    return build.ashr(values, shift)


def _float32(build: Any, has: _Has, sums: Any, numbers: Any, channel: int) -> Any:
    """Its offset has MAGIC_BITS taken off."""
    multiplier = _splat(build, _parameter(build, numbers, channel, _MULTIPLIER, _F32), _FLOATS)
    product = build.fmul(build.sitofp(sums, _FLOATS), multiplier)
    steps = build.bitcast(build.fadd(product, _fixed(_FLOATS, _MAGIC)), _INTS)
    return build.add(steps, _splat(build, _parameter(build, numbers, channel, OFFSET, _I32), _INTS))


def _float64(build: Any, has: _Has, sums: Any, numbers: Any, channel: int) -> Any:
    multiplier = _splat(build, _parameter(build, numbers, channel, _MULTIPLIER, _F64), _DOUBLES)
    product = build.fmul(build.sitofp(sums, _DOUBLES), multiplier)
    half = _call(build, f"llvm.copysign.v{_LANES}f64", _DOUBLES, _fixed(_DOUBLES, _LESS_THAN_HALF), product)
    steps = _toward_zero(build, has, build.fadd(product, half))
    return build.add(steps, _splat(build, _parameter(build, numbers, channel, OFFSET, _I32), _INTS))


def _toward_zero(build: Any, has: _Has, values: Any) -> Any:
    """int32 of float64."""
    if not has("avx512dq"):
        return build.fptosi(values, _INTS)
    return _low_halves(build, has, build.fptosi(values, ir.VectorType(_I64, _LANES)))  # half as many instructions


def _nearest(build: Any, has: _Has, sums: Any, numbers: Any, channel: int) -> Any:
    """Its offset is a float64 that leaves the nearest integer in the low half of a sum."""
    multiplier, offset = (
        _splat(build, _parameter(build, numbers, channel, column, _F64), _DOUBLES) for column in (_MULTIPLIER, OFFSET)
    )
    product = build.fmul(
        build.sitofp(sums, _DOUBLES), multiplier, flags=("contract",)
    )  # no tie: rounded once or twice is the same
    values = build.fadd(product, offset, flags=("contract",))
    return _low_halves(build, has, build.bitcast(values, ir.VectorType(_I64, _LANES)))


def _low_halves(build: Any, has: _Has, wide: Any) -> Any:
    """int32 of int64, 16 lanes."""
    if not has("avx512f"):
        return build.trunc(wide, _INTS)
    half = _LONGS.count  # one instruction where LLVM would take five
    low, high = (build.bitcast(build.shuffle_vector(wide, wide, _indices(range(i, i + half))), _INTS) for i in (0, half))
    return _call(build, "llvm.x86.avx512.vpermi2var.d.512", _INTS, low, _indices(range(0, 2 * _LANES, 2)), high)


_rounded_up, _rounded_away, _rounded_float32, _rounded_float64, _rounded_nearest = (
    _rounding(steps) for steps in (_up, _away, _float32, _float64, _nearest)
)


@_intrinsic
def _look_up(context: Any, words: Any, groups: Any, table: Any) -> Any:
    """Replaces every byte of the words of ``groups`` groups by its entry of ``table``, uint8 [256]."""

    def generate(context: Any, build: Any, words: Any, groups: Any, table: Any) -> None:
        count = build.mul(groups, _number(CHANNELS * ROWS))
        if _features(context)("avx512bw"):
            quarters = [_quarter(build, table, i) for i in range(4)]
            with cgutils.for_range(build, build.udiv(count, _number(_BYTES.count))) as part:
                at = build.mul(part.index, _number(_SHORTS.count))
                _store(build, _entries(build, _load(build, words, at, _SHORTS), quarters), words, at)
        else:
            with cgutils.for_range(build, count) as byte:
                entry = build.zext(_load(build, words, byte.index, _I8), _I64)
                _store(build, _load(build, table, entry, _I8), words, byte.index)

    return _void(generate, 3)


def _quarter(build: Any, table: Any, number: int) -> Any:
    """32 entries of the first half of a table, each with the one 128 behind it."""
    count = _SHORTS.count
    near, far = (_load(build, table, _number(at + number * count), ir.VectorType(_I8, count)) for at in (0, 4 * count))
    wide = [build.zext(entries, _SHORTS) for entries in (near, far)]
    return build.or_(wide[0], build.shl(wide[1], _fixed(_SHORTS, 8)))


def _entries(build: Any, keys: Any, quarters: list[Any]) -> Any:
    """Entries for 64 bytes, two in each 16-bit lane, from a table in four registers.

    A lane of these has an entry and the one 128 behind it. An instruction picks lanes from two registers by the low six bits of a
    byte; the seventh bit chooses between two such picks, the last one between the two entries of a lane.
    """
    eight = _fixed(_SHORTS, 8)
    picks = []
    for key, bit in ((keys, 1 << 6), (build.lshr(keys, eight), 1 << 14)):
        low, high = (
            _call(build, "llvm.x86.avx512.vpermi2var.hi.512", _SHORTS, quarters[i], key, quarters[i + 1]) for i in (0, 2)
        )
        second = build.icmp_signed("!=", build.and_(keys, _fixed(_SHORTS, bit)), _fixed(_SHORTS, 0))
        picks.append(build.select(second, high, low))
    even, odd = picks
    evens, zero = _indices([i if i % 2 == 0 else _BYTES.count + i for i in range(_BYTES.count)]), _fixed(_BYTES, 0)
    near, far = (
        build.shuffle_vector(build.bitcast(a, _BYTES), build.bitcast(b, _BYTES), evens)
        for a, b in ((even, build.shl(odd, eight)), (build.lshr(even, eight), odd))
    )
    return build.bitcast(build.select(build.icmp_signed("<", build.bitcast(keys, _BYTES), zero), far, near), _SHORTS)


def _parameter(build: Any, numbers: Any, channel: int, column: int, kind: Any) -> Any:
    """One of a channel's numbers: an int64, its low half, or the bits of a float."""
    return _load(build, build.add(numbers, _number(8 * (NUMBERS * channel + column))), _number(0), kind)


def _each(registers: list[list[Any]]) -> list[tuple[int, Any]]:
    return [(channel, register) for channel, some in enumerate(registers) for register in some]


def _void(generate: Callable[..., None], arguments: int) -> Any:
    """What an intrinsic returns: its signature and its generator."""

    def generator(context: Any, build: Any, signature: Any, values: Any) -> Any:
        generate(context, build, *values)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * arguments), generator


# --- LLVM vectors ----------------------------------------------------------------------------------------------------


def _fixed(kind: Any, value: float) -> Any:
    """The vector of type ``kind`` with ``value`` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def _indices(numbers: Sequence[int]) -> Any:
    """Which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(_I32, len(numbers)), list(numbers))


def _number(value: int) -> Any:
    """A constant offset or count."""
    return ir.Constant(_I64, value)


def _splat(build: Any, value: Any, kind: Any) -> Any:
    """The vector of type ``kind`` with the scalar ``value`` in every lane."""
    empty = ir.Constant(kind, ir.Undefined)
    return build.shuffle_vector(build.insert_element(empty, value, _I32(0)), empty, _indices([0] * kind.count))


def _load(build: Any, address: Any, offset: Any, kind: Any, align: int | None = None) -> Any:
    """The scalar or vector of type ``kind`` at ``offset`` elements from ``address``; aligned as an element is, unless given."""
    return build.load(_pointer(build, address, offset, kind), align=_ALIGNMENT[_element(kind)] if align is None else align)


def _store(build: Any, value: Any, address: Any, offset: Any, align: int | None = None) -> None:
    """Writes a scalar or vector ``offset`` elements from ``address``; aligned as an element is, unless given."""
    kind = _element(value.type)
    build.store(value, _pointer(build, address, offset, value.type), align=_ALIGNMENT[kind] if align is None else align)


def _call(build: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """The result, of type ``kind``, of an LLVM intrinsic."""
    function = build.module.globals.get(name)
    if function is None:
        function = ir.Function(build.module, ir.FunctionType(kind, [a.type for a in arguments]), name)
    return build.call(function, arguments)


def _features(context: Any) -> _Has:
    """Whether code is generated for a processor with a feature, by LLVM's name: "avx512vnni"."""
    features = context.codegen().magic_tuple()[-1].split(",")
    return lambda feature: f"+{feature}" in features


def _pointer(build: Any, address: Any, offset: Any, kind: Any) -> Any:
    element = build.gep(build.inttoptr(address, _element(kind).as_pointer()), [offset])
    return build.bitcast(element, kind.as_pointer()) if isinstance(kind, ir.VectorType) else element


def _element(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def _compiled(function: Callable[..., None]) -> Any:
    """``function`` in machine code that releases the GIL, kept on disk where there is a place that can be written to."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no place
        return numba.njit(nogil=True, error_model="numpy")(function)


_read, _dense, _write = (_compiled(function) for function in (_read_inputs, _dense_stage, _write_outputs))
run_chain: Callable[..., None] = _compiled(_chain)
look_up: Callable[[NDArray[np.uint8], RawArray, RawArray], None] = _compiled(_look_up_loop)
