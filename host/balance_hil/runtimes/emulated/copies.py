"""Operators that move values and compute none: the same in every runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from balance_hil.quantize import INT8_MAX, INT8_MIN, RawArray
from balance_hil.runtimes.emulated.chain import Table
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported, with_constants
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_SAME: RawArray = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8)  # identity table


def reshape(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """RESHAPE, SQUEEZE or EXPAND_DIMS."""
    target = graph.output_of(operator)
    stage = Table(_SAME, target.size) if target.type == "INT8" else None
    return Kernel(lambda inputs: inputs[0].reshape(-1, *target.shape), None, stage)


def shape_of(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """SHAPE, with which converters flatten images; of one row."""
    shape = np.array(graph.tensors[operator.inputs[0]].shape, np.int32)
    return Kernel(lambda inputs: np.tile(shape, (len(inputs[0]), 1)), None)


def pack(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """PACK of tensors with one scale, or of whole numbers. Raises UnsupportedOperatorError: several scales."""
    target = graph.output_of(operator)
    sources = [graph.tensors[i] for i in operator.inputs]
    _check_alike(operator, [*sources, target])
    axis = int(operator.options.get("axis", 0)) % max(1, len(target.shape)) + 1

    def run(inputs: Sequence[Values]) -> Values:
        rows = max(len(values) for values in inputs)
        return np.stack([np.broadcast_to(values, (rows, *values.shape[1:])) for values in inputs], axis=axis)

    return Kernel(with_constants(sources, run), None)


def _check_alike(operator: Operator, tensors: Sequence[Tensor]) -> None:
    """Raises UnsupportedOperatorError unless all are int8 of one scale, or whole numbers that make up a shape."""
    if any(tensor.type != "INT32" for tensor in tensors) and len({quant_of(tensor) for tensor in tensors}) > 1:
        raise unsupported(f"{operator.name} (number {operator.index}) of several scales")


def concatenation(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """CONCATENATION of tensors with one scale. Raises UnsupportedOperatorError: several."""
    target = graph.output_of(operator)
    sources = [graph.tensors[i] for i in operator.inputs]
    if operator.activation != "NONE" or any((s.scales, s.zero_points) != (target.scales, target.zero_points) for s in sources):
        raise unsupported(f"CONCATENATION (number {operator.index}) of tensors with several scales")
    axis = int(operator.options.get("axis", 0)) % len(target.shape) + 1

    def run(inputs: Sequence[Values]) -> Values:
        rows = max(len(values) for values in inputs)
        return np.concatenate([np.broadcast_to(values, (rows, *values.shape[1:])) for values in inputs], axis=axis)

    return Kernel(with_constants(sources, run), None)


def moved(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """PAD, TRANSPOSE, STRIDED_SLICE or SPLIT.

    Raises:
        UnsupportedOperatorError: several scales, or a shape that is computed.
    """
    place = 1 if operator.name == "SPLIT" else 0  # of the values among the inputs
    source = graph.tensors[operator.inputs[place]]
    targets = [graph.tensors[i] for i in operator.outputs]
    settings = [graph.tensors[i].data for i in (*operator.inputs[:place], *operator.inputs[place + 1 :])]
    _check_alike(operator, [source, *targets])
    if any(data is None for data in settings):
        raise unsupported(f"{operator.name} (number {operator.index}) with a shape that is computed")
    numbers = [[int(n) for n in np.ravel(data)] for data in settings if data is not None]
    rank = len(source.shape)
    runs: list[Callable[[Values], Values]]
    if operator.name == "PAD":
        zero_point = 0 if source.type == "INT32" else quant_of(source).zero_point
        width = [(0, 0), *((before, after) for before, after in np.reshape(numbers[0], (rank, 2)).tolist())]
        if min(min(pair) for pair in width) < 0 or any(
            n + sum(w) != t for n, w, t in zip(source.shape, width[1:], targets[0].shape, strict=True)
        ):
            raise ValueError(f"padding {width[1:]} of {list(source.shape)}")
        runs = [partial(np.pad, pad_width=width, constant_values=zero_point)]
    elif operator.name == "TRANSPOSE":
        runs = [partial(np.transpose, axes=[0, *(axis % rank + 1 for axis in numbers[0])])]
    elif operator.name == "STRIDED_SLICE":
        runs = [_sliced(operator, source.shape, *numbers)]
    else:
        axis, parts = numbers[0][0] % rank, len(targets)
        size = source.shape[axis] // parts
        runs = [partial(_between, axis=axis + 1, start=i * size, stop=(i + 1) * size) for i in range(parts)]
    shown = [_shaped(run, target.shape) for run, target in zip(runs, targets, strict=True)]
    return Kernel(shown[0], None, others=tuple(shown[1:]))


def _shaped(run: Callable[[Values], Values], shape: tuple[int, ...]) -> Callable[[Sequence[Values]], Values]:
    return lambda inputs: run(inputs[0]).reshape(len(inputs[0]), *shape)


def _between(values: Values, axis: int, start: int, stop: int) -> Values:
    return values[(*[slice(None)] * axis, slice(start, stop))]


def _sliced(
    operator: Operator, shape: tuple[int, ...], begin: list[int], end: list[int], strides: list[int]
) -> Callable[[Values], Values]:
    options = operator.options
    if options.get("ellipsisMask", 0) or options.get("newAxisMask", 0) or options.get("offset", 0):
        raise unsupported(f"STRIDED_SLICE (number {operator.index}) with an ellipsis, a new axis or an offset")
    if len(begin) > len(shape):
        raise ValueError(f"slices of {len(begin)} dimensions out of {len(shape)}")
    parts: list[slice] = [slice(None)]
    for axis, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << axis
        if options.get("shrinkAxisMask", 0) & bit:
            first = start % shape[axis]
            parts.append(slice(first, first + 1))
        else:
            parts.append(
                slice(
                    None if options.get("beginMask", 0) & bit else start, None if options.get("endMask", 0) & bit else stop, step
                )
            )
    return lambda values: values[tuple(parts)]
