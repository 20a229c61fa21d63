"""Writes the numbers of a rounding-invariant model into the flatbuffer of the ordinary int8 model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.exporting.rounding_invariant.layout import Grid, ProofModel, Step
from balance_hil.tflite.graph import TfliteGraph

_BUFFER_ALIGNMENT = 16  # schema.fbs asks for it; kernels on microcontrollers load whole words
_INITIAL_BYTES = 1 << 14


def write_flatbuffer(ordinary: bytes, graph: TfliteGraph, steps: tuple[Step, ...], model: ProofModel) -> bytes:
    """The ordinary model with other constants and scales; operators, names and shapes stay as they are.

    Raises:
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    require("ai_edge_litert", "int8")
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.ModelT.InitFromPackedBuf(ordinary, 0)
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
    builder = _aligned_builder()
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


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


def _aligned_builder() -> Any:
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803  # its names
            # The generated code asks for an alignment of 1 for the bytes of constants.
            return super().StartVector(elemSize, numElems, _BUFFER_ALIGNMENT if elemSize == 1 else alignment)

    return Builder(_INITIAL_BYTES)
