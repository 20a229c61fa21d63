"""FULLY_CONNECTED: exact integer sums, then the variant's requantization."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from balance_hil.quantize import INT8_MIN
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated.chain import WORTH_COMPILED_CODE, Chain, Dense
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.requantize import Requantizer, Scales
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.runtimes.emulated.tables import clamp_bounds
from balance_hil.tflite.graph import Operator, TfliteGraph


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
    if any(weights.zero_points):
        raise unsupported(f"FULLY_CONNECTED (number {operator.index}) with weights that have a zero point")
    if source.size % depth:
        raise ValueError(f"inputs of size {source.size}, weights for {depth}")
    offset = -quant_of(source).zero_point * weights.data.astype(np.int64).sum(axis=1)
    if bias is not None and bias.data is not None:
        offset = offset + bias.data.astype(np.int64).reshape(channels)  # its rank does not matter
    largest = int(np.max(np.abs(weights.data.astype(np.int64)).sum(axis=1) * -INT8_MIN + np.abs(offset)))
    low, high = clamp_bounds(operator.activation, quant_of(target), variant.kernels)
    scales = Scales(input=quant_of(source).scale, weights=weights.scales, output=quant_of(target).scale)
    requantize = Requantizer(
        multipliers=scales.multipliers(variant, channels),
        largest_accumulator=largest,
        rounding=variant.rounding,
        zero_point=quant_of(target).zero_point,
        low=low,
        high=high,
    )
    dense = Dense(weights.data, offset, requantize)
    stage = dense if requantize.form is not None else None
    # Created for large batches only: loading numba and its code takes a second.
    compiled = cache(lambda: None if stage is None else Chain([stage], [True]))

    def run(inputs: Sequence[Values]) -> Values:
        rows = inputs[0].reshape(-1, depth)
        chain = compiled() if len(rows) >= WORTH_COMPILED_CODE else None
        outputs = _by_rule(dense, rows.T).T if chain is None else chain.outputs(rows)[0]
        return outputs.reshape(-1, *target.shape)

    return Kernel(run, requantize.arithmetic, stage)


def _by_rule(layer: Dense, values: Int8Array) -> Int8Array:
    """Outputs, int8 [channels, n], for inputs, int8 [depth, n]."""
    # BLAS multiplies no integers. Sums of products of int8 values are exact in float64.
    sums = layer.weights.astype(np.float64) @ values.astype(np.float64)
    return layer.requantize(sums + layer.offsets[:, np.newaxis])
