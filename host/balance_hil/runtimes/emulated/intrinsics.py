"""The pieces of the compiled loop: functions for numba code, written in LLVM's vector types.

A *word* holds a byte for each of CHANNELS neighbouring channels of one row: the int8 value with 128 added. The words of the ROWS
rows of a block follow each other, then those of the next group of channels. Every argument is an address or a count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from balance_hil.runtimes.emulated.vectors import (
    ADDRESS,
    BYTES,
    DOUBLES,
    F64,
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    LANES,
    LONGS,
    SHORTS,
    call,
    fixed,
    has,
    indices,
    load,
    number,
    splat,
    store,
)

ROWS, CHANNELS = 64, 4
NUMBERS = 5  # int64 ones of each channel of a dense layer:
START, MULTIPLIER, OFFSET, SHIFT, NEGATIVE = range(NUMBERS)
_SIGN_BITS = 0x80808080
_LESS_THAN_HALF = float(np.nextafter(0.5, 0.0))
_MAGIC = 1.5 * 2.0**23  # a float32 below 2^22 plus this has the nearest integer, ties to even, in its low bits
_MAGIC_BITS = 0x4B400000


@intrinsic  # type: ignore[untyped-decorator]
def read_rows(context: Any, rows: Any, width: Any, groups: Any, words: Any) -> Any:
    """Makes words of ROWS rows of int8, ``width`` apart. Reads up to 3 bytes behind the last one."""

    def generate(context: Any, build: Any, rows: Any, width: Any, groups: Any, words: Any) -> None:
        with cgutils.for_range(build, groups) as group, cgutils.for_range(build, number(ROWS)) as row:
            at = build.add(build.mul(row.index, width), build.mul(group.index, number(CHANNELS)))
            word = build.xor(load(build, build.add(rows, at), number(0), I32, align=1), I32(_SIGN_BITS))
            store(build, word, words, build.add(build.mul(group.index, number(ROWS)), row.index))

    return _void(generate, 4)


@intrinsic  # type: ignore[untyped-decorator]
def write_group(context: Any, words: Any, target: Any, stride: Any) -> Any:
    """Writes the words of one group as int8 values, ROWS for each channel; channels are ``stride`` apart."""

    def generate(context: Any, build: Any, words: Any, target: Any, stride: Any) -> None:
        by_channel = indices([CHANNELS * row + channel for channel in range(CHANNELS) for row in range(LANES)])
        for part in range(ROWS // LANES):
            values = build.xor(load(build, words, number(part * BYTES.count), BYTES), fixed(BYTES, -128))
            values = build.shuffle_vector(values, values, by_channel)
            for channel in range(CHANNELS):
                some = build.shuffle_vector(values, values, indices(range(channel * LANES, (channel + 1) * LANES)))
                store(build, some, target, build.add(build.mul(stride, number(channel)), number(part * LANES)))

    return _void(generate, 3)


@intrinsic  # type: ignore[untyped-decorator]
def sums(context: Any, weights: Any, plane: Any, groups: Any, words: Any, numbers: Any, target: Any) -> Any:
    """Sums of products of one group of channels, int32 [CHANNELS, ROWS].

    ``weights`` are words [groups, CHANNELS] as well: in the first plane of ``plane`` words four int8, in the second and the third
    two int16 each, of the even and of the odd ones.
    """

    def generate(context: Any, build: Any, weights: Any, plane: Any, groups: Any, words: Any, numbers: Any, target: Any) -> None:
        products = _products_of_bytes if has(context, "avx512vnni") else _products_of_pairs
        parts = 4 if has(context, "avx512f") else 1  # vectors of sums for each channel that there are registers for
        for start in range(0, ROWS, parts * LANES):
            some = build.add(words, number(4 * start))
            registers = [[cgutils.alloca_once(build, INTS) for _ in range(parts)] for _ in range(CHANNELS)]
            for channel, register in _each(registers):
                build.store(splat(build, _parameter(build, numbers, channel, START, I32), INTS), register)
            with cgutils.for_range(build, groups) as group:
                at = build.mul(group.index, number(ROWS))
                values = [load(build, some, build.add(at, number(part * LANES)), INTS) for part in range(parts)]
                at = build.mul(group.index, number(CHANNELS))
                products(build, weights, plane, at, values, registers)
            for i, (channel, register) in enumerate(_each(registers)):
                store(build, build.load(register), target, number(channel * ROWS + start + i % parts * LANES))

    return _void(generate, 6)


def _products_of_bytes(build: Any, weights: Any, plane: Any, at: Any, values: list[Any], registers: list[list[Any]]) -> None:
    """Adds four products in each lane with the one instruction there is for it."""
    for channel, sums in enumerate(registers):
        factors = splat(build, load(build, weights, build.add(at, number(channel)), I32), INTS)
        for register, some in zip(sums, values, strict=True):
            total = call(
                build,
                "llvm.x86.avx512.vpdpbusd.512",
                INTS,
                build.load(register),
                *(build.bitcast(v, BYTES) for v in (some, factors)),
            )
            build.store(total, register)


def _products_of_pairs(build: Any, weights: Any, plane: Any, at: Any, values: list[Any], registers: list[list[Any]]) -> None:
    """The same of int16: every vector unit has an instruction that LLVM chooses for sums of two neighbouring products."""
    low = fixed(INTS, 0x00FF00FF)
    pairs = [(build.and_(some, low), build.and_(build.lshr(some, fixed(INTS, 8)), low)) for some in values]
    for channel, sums in enumerate(registers):
        here = build.add(at, number(channel))
        factors = []
        for _ in range(2):
            here = build.add(here, plane)
            factors.append(splat(build, load(build, weights, here, I32), INTS))
        for register, some in zip(sums, pairs, strict=True):
            total = build.load(register)
            for x, w in zip(some, factors, strict=True):
                total = build.add(total, _sum_of_two_products(build, x, w))
            build.store(total, register)


def _sum_of_two_products(build: Any, x: Any, w: Any) -> Any:
    wide = type(INTS)(I32, 2 * LANES)
    products = build.mul(*(build.sext(build.bitcast(v, SHORTS), wide) for v in (x, w)))
    even, odd = (build.shuffle_vector(products, products, indices(range(i, 2 * LANES, 2))) for i in (0, 1))
    return build.add(even, odd)


def _rounding(steps: Callable[..., Any]) -> Any:
    """The function that turns sums of a group, int32 [CHANNELS, ROWS], into words.

    ``steps(build, sums, numbers, channel)`` generates outputs with 128 added, int32, from a vector of sums of one channel.
    """

    @intrinsic
    def rounded(context, sums, numbers, low, high, words):  # type: ignore[no-untyped-def]
        def generate(context: Any, build: Any, sums: Any, numbers: Any, low: Any, high: Any, words: Any) -> None:
            bounds = [splat(build, build.trunc(bound, I8), BYTES) for bound in (low, high)]
            pack = _packed_saturating if has(context, "avx512bw") else _packed
            with cgutils.for_range(build, number(ROWS // LANES)) as part:
                at = build.mul(part.index, number(LANES))
                outputs = []
                for channel in range(CHANNELS):
                    some = load(build, sums, build.add(at, number(channel * ROWS)), INTS)
                    outputs.append(steps(build, some, numbers, channel))
                packed = build.bitcast(pack(build, outputs), BYTES)
                for worse, bound in zip(("<", ">"), bounds, strict=True):
                    packed = build.select(build.icmp_unsigned(worse, packed, bound), bound, packed)
                store(build, packed, words, build.mul(at, number(CHANNELS)))

        return _void(generate, 5)

    return rounded


def _packed_saturating(build: Any, outputs: list[Any]) -> Any:
    """Words of four vectors, saturated to 0 … 255."""
    pairs = [call(build, "llvm.x86.avx512.packssdw.512", SHORTS, *outputs[i : i + 2]) for i in (0, 2)]
    quads = call(build, "llvm.x86.avx512.packuswb.512", BYTES, *pairs)
    # Each quarter of the register now has four rows of the first channel, four of the second, …
    order = [16 * quarter + 4 * channel + row for quarter in range(4) for row in range(4) for channel in range(4)]
    return build.shuffle_vector(quads, quads, indices(order))


def _packed(build: Any, outputs: list[Any]) -> Any:
    word = fixed(INTS, 0)
    for channel, values in enumerate(outputs):
        for worse, bound in (("<", fixed(INTS, 0)), (">", fixed(INTS, 255))):
            values = build.select(build.icmp_signed(worse, values, bound), bound, values)
        word = build.or_(word, build.shl(values, fixed(INTS, 8 * channel)))
    return word


def _scaled(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    """High halves of ``sums * multiplier + offset``, products of unsigned 32-bit numbers and sums of 64-bit ones."""
    low = fixed(LONGS, 0xFFFFFFFF)
    multiplier = splat(build, build.zext(_parameter(build, numbers, channel, MULTIPLIER, I32), I64), LONGS)
    offset = splat(build, _parameter(build, numbers, channel, OFFSET, I64), LONGS)
    pairs = build.bitcast(sums, LONGS)
    even, odd = (
        build.bitcast(build.add(build.mul(half, multiplier), offset), INTS)
        for half in (build.and_(pairs, low), build.lshr(pairs, fixed(LONGS, 32)))
    )
    return build.shuffle_vector(even, odd, indices([i + 1 if i % 2 == 0 else LANES + i for i in range(LANES)]))


def _up(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    shift = splat(build, _parameter(build, numbers, channel, SHIFT, I32), INTS)
    return build.ashr(_scaled(build, sums, numbers, channel), shift)


def _away(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    scaled = _scaled(build, sums, numbers, channel)
    shift, negative = (splat(build, _parameter(build, numbers, channel, column, I32), INTS) for column in (SHIFT, NEGATIVE))
    one = build.sext(build.icmp_signed("<", scaled, negative), INTS)
    return build.ashr(build.add(scaled, one), shift)


def _float32(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    multiplier = build.fptrunc(_parameter(build, numbers, channel, MULTIPLIER, F64), FLOATS.element)
    product = build.fmul(build.sitofp(sums, FLOATS), splat(build, multiplier, FLOATS))
    steps = build.sub(build.bitcast(build.fadd(product, fixed(FLOATS, _MAGIC)), INTS), fixed(INTS, _MAGIC_BITS))
    return build.add(steps, splat(build, _parameter(build, numbers, channel, OFFSET, I32), INTS))


def _float64(build: Any, sums: Any, numbers: Any, channel: int) -> Any:
    multiplier = splat(build, _parameter(build, numbers, channel, MULTIPLIER, F64), DOUBLES)
    product = build.fmul(build.sitofp(sums, DOUBLES), multiplier)
    half = call(build, f"llvm.copysign.v{LANES}f64", DOUBLES, fixed(DOUBLES, _LESS_THAN_HALF), product)
    steps = build.fptosi(build.fadd(product, half), INTS)  # towards 0
    return build.add(steps, splat(build, _parameter(build, numbers, channel, OFFSET, I32), INTS))


rounded_up, rounded_away, rounded_float32, rounded_float64 = (_rounding(s) for s in (_up, _away, _float32, _float64))


@intrinsic  # type: ignore[untyped-decorator]
def look_up(context: Any, words: Any, groups: Any, table: Any) -> Any:
    """Replaces every byte of the words of ``groups`` groups by its entry of ``table``, uint8 [256]."""

    def generate(context: Any, build: Any, words: Any, groups: Any, table: Any) -> None:
        count = build.mul(groups, number(CHANNELS * ROWS))
        if has(context, "avx512bw"):
            quarters = [load(build, table, number(i * SHORTS.count), SHORTS) for i in range(4)]
            with cgutils.for_range(build, build.udiv(count, number(BYTES.count))) as part:
                at = build.mul(part.index, number(SHORTS.count))
                store(build, _entries(build, load(build, words, at, SHORTS), quarters), words, at)
        else:
            with cgutils.for_range(build, count) as byte:
                entry = build.zext(load(build, words, byte.index, I8), I64)
                store(build, load(build, table, entry, I8), words, byte.index)

    return _void(generate, 3)


def _entries(build: Any, keys: Any, quarters: list[Any]) -> Any:
    """Two entries for the two bytes of each 16-bit lane, from a table in four registers: pairs of entries, 32 in each.

    An instruction picks pairs from two registers by six bits; the seventh bit chooses between two such picks, and the last one
    within the pair.
    """
    results = []
    for shift in (0, 8):
        key = build.lshr(keys, fixed(SHORTS, shift)) if shift else keys
        number_of_pair = build.lshr(key, fixed(SHORTS, 1))
        low, high = (
            call(build, "llvm.x86.avx512.vpermi2var.hi.512", SHORTS, quarters[i], number_of_pair, quarters[i + 1]) for i in (0, 2)
        )
        pair = build.select(_bit(build, key, 0x80), high, low)
        if shift == 0:
            results.append(build.select(_bit(build, key, 1), build.lshr(pair, fixed(SHORTS, 8)), pair))
        else:
            results.append(build.select(_bit(build, key, 1), pair, build.shl(pair, fixed(SHORTS, 8))))
    even, odd = results
    low, high = fixed(SHORTS, 0x00FF), fixed(SHORTS, 0xFF00)
    return build.or_(build.and_(even, low), build.and_(odd, high))


def _bit(build: Any, values: Any, bit: int) -> Any:
    return build.icmp_signed("!=", build.and_(values, fixed(SHORTS, bit)), fixed(SHORTS, 0))


def _parameter(build: Any, numbers: Any, channel: int, column: int, kind: Any) -> Any:
    """One of a channel's numbers: int64 or its low half, or the bits of a float64."""
    return load(build, build.add(numbers, number(8 * (NUMBERS * channel + column))), number(0), kind)


def _each(registers: list[list[Any]]) -> list[tuple[int, Any]]:
    return [(channel, register) for channel, some in enumerate(registers) for register in some]


def _void(generate: Callable[..., None], arguments: int) -> Any:
    """What an intrinsic returns: its signature and its generator."""

    def generator(context: Any, build: Any, signature: Any, values: Any) -> Any:
        generate(context, build, *values)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * arguments), generator
