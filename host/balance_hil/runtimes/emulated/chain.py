"""Operators one after the other in compiled code: dense layers with their requantization, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.quantize import INT8_MIN, RawArray
from balance_hil.runtimes.emulated.primitives import Int64Array
from balance_hil.runtimes.emulated.requantize import Requantizer, Rule

WORTH_COMPILED_CODE = 1024  # rows; below that, loading the compiled code takes longer than it saves
_CHANNELS = 4  # of a word


@dataclass(frozen=True, eq=False)
class Dense:
    """A FULLY_CONNECTED: weights, int8 [channels, depth], and what is added to their sums, int64 [channels]."""

    weights: RawArray
    offsets: Int64Array
    requantize: Requantizer

    @property
    def width(self) -> int:
        """Number of inputs."""
        return self.weights.shape[1]

    @property
    def size(self) -> int:
        """Number of outputs."""
        return len(self.weights)


@dataclass(frozen=True, eq=False)
class Table:
    """An element-wise operator on ``size`` values: its outputs, int8 [256], for -128, -127, …"""

    values: RawArray
    size: int

    @property
    def width(self) -> int:
        """Number of inputs."""
        return self.size


class Chain:
    """Stages of which each takes the outputs of the one before.

    Args:
        stages: at least one; every ``Dense`` has a vector form of its requantization.
        kept: for each stage, whether its outputs are wanted; at least one is.
    """

    def __init__(self, stages: Sequence[Dense | Table], kept: Sequence[bool]) -> None:
        require("numba", "int8")
        from balance_hil.runtimes.emulated import compiled

        self._run = compiled.run_chain
        self._width = stages[0].width
        self._stages = np.zeros(len(stages), compiled.STAGE)
        weights, numbers, tables = (
            [np.zeros((3, 0), np.int32)],
            [np.zeros((0, compiled.NUMBERS), np.int64)],
            [np.zeros(256, np.uint8)],
        )
        self._sizes = [stage.size for stage, keep in zip(stages, kept, strict=True) if keep]
        target = 0
        for record, stage, keep in zip(self._stages, stages, kept, strict=True):
            record["groups"], record["channels"] = _groups(stage.width), stage.size
            record["target"] = target if keep else -1
            target += stage.size if keep else 0
            if isinstance(stage, Table):
                record["kind"], record["first"] = compiled.TABLE, len(tables)
                tables.append((stage.values.astype(np.int16) - INT8_MIN).astype(np.uint8))
                continue
            form = stage.requantize.form
            assert form is not None
            record["kind"], record["low"], record["high"] = getattr(compiled, form.rule.name), form.low, form.high
            record["weights"], record["first"] = sum(part.shape[1] for part in weights), sum(len(part) for part in numbers)
            weights.append(_words(stage.weights))
            starts = stage.offsets + INT8_MIN * stage.weights.astype(np.int64).sum(axis=1) + form.bias
            numbers.append(_padded(np.column_stack([starts, form.numbers])))
            if form.rule is Rule.FLOAT32:
                numbers[-1][:, compiled.OFFSET] -= compiled.MAGIC_BITS
        self._weights, self._numbers = np.concatenate(weights, axis=1), np.concatenate(numbers)
        self._tables = np.stack(tables)

    def outputs(self, inputs: RawArray, threads: int = 1) -> list[RawArray]:
        """The wanted outputs, int8 [n, size] each, for inputs, int8 [n, ...], computed by so many threads.

        Raises:
            ValueError: rows of another size than the first stage takes.
        """
        n = len(inputs)
        outputs = np.empty(sum(self._sizes) * n, np.int8)  # one allocation: faster for large arrays
        rows = np.ascontiguousarray(inputs, np.int8).reshape(n, self._width)
        job = [(rows, np.zeros(1, np.int64), outputs)]

        def work() -> None:
            for rows, claimed, outputs in job:
                self._run(rows, claimed, self._stages, self._weights, self._numbers, self._tables, outputs)

        helpers = [workers(threads).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()
        job.clear()  # which a canceled helper still holds
        parts = np.split(outputs, np.cumsum(self._sizes)[:-1] * n)
        return [part.reshape(n, size) for part, size in zip(parts, self._sizes, strict=True)]


@cache
def workers(threads: int) -> ThreadPoolExecutor:
    """Threads for compiled code and numpy, both of which release the GIL."""
    return ThreadPoolExecutor(max_workers=threads)


def _groups(channels: int) -> int:
    return -(-channels // _CHANNELS)


def _padded(numbers: Int64Array) -> Int64Array:
    return np.pad(numbers, ((0, -len(numbers) % _CHANNELS), (0, 0)))


def _words(weights: RawArray) -> NDArray[np.int32]:
    """Weights, int8 [channels, depth], in three planes of words, int32 [3, groups of channels × groups of depth × 4 channels].

    A word of the first plane has four weights; those of the other two have the even and the odd ones of these as int16.
    """
    channels, depth = weights.shape
    matrix = np.zeros((_groups(channels) * _CHANNELS, _groups(depth) * _CHANNELS), np.int8)
    matrix[:channels, :depth] = weights
    words = np.ascontiguousarray(matrix.reshape(_groups(channels), _CHANNELS, -1, _CHANNELS).transpose(0, 2, 1, 3))
    planes = [words, words[..., 0::2].astype(np.int16), words[..., 1::2].astype(np.int16)]
    return np.stack([plane.view(np.int32).reshape(-1) for plane in planes])
