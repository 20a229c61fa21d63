"""Writes the numbers of a rounding-invariant model into the flatbuffer of the ordinary int8 model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.exporting.rounding_invariant.layout import Grid, ProofModel, Step
from balance_hil.tflite.codec import pack, unpack
from balance_hil.tflite.graph import TfliteGraph


def write_flatbuffer(ordinary: bytes, graph: TfliteGraph, steps: tuple[Step, ...], model: ProofModel) -> bytes:
    """The ordinary model with other constants and scales; operators, names and shapes stay as they are.

    Raises:
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    parsed = unpack(ordinary)
    tensors = parsed.subgraphs[0].tensors
    _set_grid(tensors[graph.input.index], model.input)
    layers, given = iter(model.layers), model.input
    for step, grid in zip(steps, model.grids, strict=True):
        _set_grid(tensors[step.output], grid)
        if step.dense:
            layer = next(layers)
            scales = np.ldexp(1.0, layer.exponents)
            kept = slice(None) if step.per_channel else slice(1)
            _set_constant(parsed, tensors[step.weight], layer.weights, scales[kept])
            _set_constant(parsed, tensors[step.bias], layer.bias, (scales * given.scale)[kept])
        given = grid
    return pack(parsed)


def _set_grid(tensor: Any, grid: Grid) -> None:
    _set_scales(tensor, np.array([grid.scale]))
    tensor.quantization.zeroPoint = np.array([grid.zero_point], np.int64)


def _set_constant(parsed: Any, tensor: Any, values: NDArray[Any], scales: NDArray[np.float64]) -> None:
    _set_scales(tensor, scales)
    buffer = type(parsed.buffers[0])()  # a new one: the converter lets equal constants share theirs
    buffer.data = np.frombuffer(values.astype(values.dtype.newbyteorder("<")).tobytes(), np.uint8)
    used = [t.buffer for t in parsed.subgraphs[0].tensors]
    if used.count(tensor.buffer) == 1:
        parsed.buffers[tensor.buffer] = buffer
    else:
        tensor.buffer = len(parsed.buffers)
        parsed.buffers.append(buffer)


def _set_scales(tensor: Any, scales: NDArray[np.float64]) -> None:
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.min = tensor.quantization.max = None  # of the ordinary model; nothing reads them
