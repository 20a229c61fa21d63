"""FULLY_CONNECTED, and the layers of weights that convolutions share with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, QuantParams, RawArray
from balance_hil.runtimes.emulated.chain import WORTH_COMPILED_CODE, Chain, Dense
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.requantize import Requantizer, Scales
from balance_hil.runtimes.emulated.rules import Kernels, Variant, of_int16
from balance_hil.runtimes.emulated.tables import fused_bounds
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

INT32 = 2  # TensorType of the schema


def fully_connected(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles one FULLY_CONNECTED.

    Raises:
        UnsupportedOperatorError: weights that are computed, not int8 or with a zero point.
    """
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    weights, bias = constants(graph, operator, 1, 2)
    channels, depth = weights.shape
    if source.size % depth:
        raise ValueError(f"inputs of size {source.size}, weights for {depth}")
    matrix = data_of(weights)
    if quant_of(source).kind != INT8:
        variant = of_int16(variant, _sums_are_wide(operator, bias, variant))
    bounds = fused_bounds(operator.activation, quant_of(target), variant)
    dense = layer(matrix, bias_of(bias, channels), weights.scales, quant_of(source), quant_of(target), bounds, variant)
    rows = DenseRows(dense)

    def run(inputs: Sequence[Values]) -> Values:
        return rows(inputs[0].reshape(-1, depth)).reshape(-1, *target.shape)

    return Kernel(run, dense.requantize.arithmetic, dense if dense.requantize.form is not None else None)


def _sums_are_wide(operator: Operator, bias: Tensor | None, variant: Variant) -> bool:
    """Whether a FULLY_CONNECTED of int16 sums in 64 bits: by its bias, or what the converter noted instead of one."""
    if bias is not None:
        return bias.type == "INT64"
    if variant.kernels in (Kernels.OPTIMIZED, Kernels.XNNPACK):  # go by the bias alone
        return False
    return bool(operator.options.get("quantizedBiasType", 0) != INT32)


def constants(graph: TfliteGraph, operator: Operator, weights: int, bias: int) -> tuple[Tensor, Tensor | None]:
    """Weights and bias of an operator, which are the inputs of those numbers.

    Raises:
        UnsupportedOperatorError: weights that are computed, not int8 or with a zero point.
    """
    matrix = graph.tensors[operator.inputs[weights]]
    given = operator.inputs[bias] if len(operator.inputs) > bias else -1
    offsets = graph.tensors[given] if given >= 0 else None
    what = f"{operator.name} (number {operator.index})"
    if matrix.data is None or matrix.type != "INT8" or (offsets is not None and offsets.data is None):
        raise unsupported(f"{what} with weights of type {matrix.type} or computed ones")
    if any(matrix.zero_points):
        raise unsupported(f"{what} with weights that have a zero point")
    return matrix, offsets


def data_of(tensor: Tensor) -> RawArray:
    """Values of the constant that ``constants`` has found."""
    assert tensor.data is not None
    return tensor.data


def bias_of(bias: Tensor | None, channels: int) -> NDArray[np.int64]:
    """int64 [channels]; its rank in the file does not matter. Raises ValueError."""
    return np.zeros(channels, np.int64) if bias is None else data_of(bias).astype(np.int64).reshape(channels)


def layer(
    matrix: RawArray,
    bias: NDArray[np.int64],
    scales: tuple[float, ...],
    source: QuantParams,
    target: QuantParams,
    bounds: tuple[int, int],
    variant: Variant,
) -> Dense:
    """Weights, int8 [channels, depth], with what belongs to each channel, in the arithmetic of ``variant``."""
    wide = matrix.astype(np.int64)
    offsets = bias - source.zero_point * wide.sum(axis=1)
    requantize = Requantizer(
        multipliers=Scales(input=source.scale, weights=scales, output=target.scale).multipliers(variant, len(matrix)),
        largest_accumulator=int(np.max(np.abs(wide).sum(axis=1) * -source.kind.low + np.abs(offsets))),
        rounding=variant.rounding,
        zero_point=target.zero_point,
        low=bounds[0],
        high=bounds[1],
        kind=target.kind,
    )
    return Dense(matrix, offsets, requantize)


class DenseRows:
    """A layer as a function of rows [n, depth] to rows [n, channels]; both int8, or both int16."""

    def __init__(self, dense: Dense) -> None:
        self._dense = dense

    def __call__(self, rows: RawArray) -> RawArray:
        """In compiled code, if it is worth loading that."""
        if len(rows) >= WORTH_COMPILED_CODE and self._chain is not None:
            return self._chain.outputs(rows)[0]
        # BLAS multiplies no integers. Sums of products of int8 and int16 values are exact in float64.
        sums = self._dense.weights.astype(np.float64) @ rows.T.astype(np.float64)
        return self._dense.requantize(sums + self._dense.offsets[:, np.newaxis]).T

    @cached_property
    def _chain(self) -> Chain | None:
        return None if self._dense.requantize.form is None else Chain([self._dense], [True])
