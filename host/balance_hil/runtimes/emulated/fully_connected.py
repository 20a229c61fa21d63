"""FULLY_CONNECTED: exact integer sums from BLAS, then the variant's requantisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balance_hil.quantize import INT8_MIN
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.requantise import EXACT_IN_FLOAT32, Requantiser, Scales
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds
from balance_hil.runtimes.tflite_graph import Operator, TfliteGraph


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
    # BLAS multiplies no integers. Sums of products of int8 values are exact in float32 up to some depth, in float64 always.
    dtype = np.float32 if largest < EXACT_IN_FLOAT32 else np.float64
    matrix = np.concatenate([weights.data.astype(dtype), offset[:, np.newaxis].astype(dtype)], axis=1)  # times (x, 1)
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

    def run(inputs: Sequence[Values]) -> Values:
        rows = inputs[0].reshape(-1, depth)
        operand = np.ones((depth + 1, len(rows)), dtype)
        operand[:depth] = rows.T
        return requantise(matrix @ operand).T.reshape(-1, *target.shape)

    return Kernel(run, requantise.arithmetic)
