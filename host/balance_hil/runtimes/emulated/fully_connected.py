"""FULLY_CONNECTED: exact integer sums, then the variant's requantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from balance_hil.errors import require
from balance_hil.quantize import INT8_MIN
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.primitives import Int64Array
from balance_hil.runtimes.emulated.requantise import Requantiser, Scales
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds
from balance_hil.runtimes.tflite_graph import Operator, TfliteGraph

_WORTH_COMPILED_CODE = 1024  # rows; for fewer it does not pay to prove and load it


def fully_connected(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles one FULLY_CONNECTED.

    Raises:
        UnsupportedOperatorError: weights that are computed, or not int8.
    """
    source, weights = graph.tensors[operator.inputs[0]], graph.tensors[operator.inputs[1]]
    bias = graph.tensors[operator.inputs[2]] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    target = graph.output_of(operator)
    if weights.data is None or weights.type != "INT8" or (bias is not None and bias.data is None):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights of type {weights.type} or computed ones")
    channels, depth = weights.shape
    offset = -quant_of(source).zero_point * weights.data.astype(np.int64).sum(axis=1)
    if bias is not None and bias.data is not None:
        offset = offset + bias.data.astype(np.int64)
    largest = int(np.max(np.abs(weights.data.astype(np.int64)).sum(axis=1) * -INT8_MIN + np.abs(offset)))
    low, high = clamp_bounds(operator.activation, quant_of(target), variant.kernels)
    scales = Scales(input=quant_of(source).scale, weights=weights.scales, output=quant_of(target).scale)
    requantise = Requantiser(
        multipliers=scales.multipliers(variant, channels),
        largest_accumulator=largest,
        rounding=variant.rounding,
        zero_point=quant_of(target).zero_point,
        low=low,
        high=high,
    )
    layer = _Layer(weights.data, offset, requantise)

    def run(inputs: Sequence[Values]) -> Values:
        return layer(inputs[0].reshape(-1, depth).T).T.reshape(-1, *target.shape)

    return Kernel(run, requantise.arithmetic)


class _Layer:
    """Weights, int8 [channels, depth], offsets, int64 [channels], and requantisation."""

    def __init__(self, weights: Int8Array, offsets: Int64Array, requantise: Requantiser) -> None:
        self._weights, self._offsets, self._requantise = weights, offsets, requantise

    def __call__(self, values: Int8Array) -> Int8Array:
        """Outputs, int8 [channels, n], for inputs, int8 [depth, n]."""
        quick = self._quick if values.shape[1] >= _WORTH_COMPILED_CODE else None
        return self._exactly(values) if quick is None else quick(np.ascontiguousarray(values))

    def _exactly(self, values: Int8Array) -> Int8Array:
        # BLAS multiplies no integers. Sums of products of int8 values are exact in float64.
        sums = self._weights.astype(np.float64) @ values.astype(np.float64)
        return self._requantise(sums + self._offsets[:, np.newaxis])

    @cached_property
    def _quick(self) -> Callable[[Int8Array], Int8Array] | None:
        """The same in compiled code, where its float32 sums and its affine rounding are known to be exact."""
        affine = self._requantise.affine
        if affine is None:
            return None
        require("numba", "int8")
        from balance_hil.runtimes.emulated.compiled import dense, packed

        weights = packed(self._weights.astype(np.float32), self._offsets.astype(np.float32))
        bounds = affine.low, affine.high, self._requantise.zero_point
        return lambda values: dense(values, weights, affine.numbers, affine.in_float32, bounds)
