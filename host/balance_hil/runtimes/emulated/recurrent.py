"""UNIDIRECTIONAL_SEQUENCE_LSTM of int8 values with an int16 cell state, which is zero when an inference starts.

TensorFlow Lite Micro looks sigmoid and tanh up in one table with interpolation; every desktop runtime computes them in fixed
point of 16 bits, and scales products of gates by one rounding shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams
from balance_hil.runtimes.emulated.dense import bias_of, constants, data_of
from balance_hil.runtimes.emulated.int16 import interpolated_logistic, interpolated_tanh
from balance_hil.runtimes.emulated.kernel import Kernel, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.primitives import (
    Int64Array,
    gemmlowp_logistic,
    gemmlowp_tanh,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from balance_hil.runtimes.emulated.rules import Kernels, Variant
from balance_hil.runtimes.emulated.tables import multiply
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_INPUT_WEIGHTS, _RECURRENT_WEIGHTS, _BIASES = 1, 5, 12  # of the input gate; those of the other three follow
_ABSENT = 9  # an input that a plain LSTM lacks
_OUTPUT_STATE, _CELL_STATE, _ALL_INPUTS = 18, 19, 24
_HIDDEN = 4  # among the intermediate tensors: before a projection
_PLAIN = {*range(9), *range(12, 16), _OUTPUT_STATE, _CELL_STATE}  # inputs of an LSTM without peephole, projection and norm
_GATE_SCALE = 2.0**-12  # of a gate before its sigmoid or tanh
_INT16 = -(1 << 15), (1 << 15) - 1
_LARGEST_INTEGER_BITS = 6  # of a cell state of which the desktop's tanh exists

Function = Callable[[Int64Array], Int64Array]
_Gate = tuple[NDArray[np.float64], Int64Array, tuple[int, int]]  # weights [inputs, cells], offsets [cells], multiplier


def lstm(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles one LSTM.

    Raises:
        UnsupportedOperatorError: coupled gates, peepholes, a projection, layer normalization, or an activation other than tanh.
    """
    what = f"UNIDIRECTIONAL_SEQUENCE_LSTM (number {operator.index})"
    given = {place for place, index in enumerate(operator.inputs) if index >= 0}
    if len(operator.inputs) != _ALL_INPUTS or given != _PLAIN or operator.activation != "TANH":
        raise unsupported(f"{what} with coupled gates, peepholes, a projection, layer normalization, or without tanh")
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    hidden, cell = (graph.tensors[operator.inputs[place]] for place in (_OUTPUT_STATE, _CELL_STATE))
    state, integer_bits = quant_of(hidden), _integer_bits(what, cell)
    if len(source.shape) != 3 or quant_of(target) != state:
        raise unsupported(f"{what} of rank {len(source.shape)}, or with a state of other scales than its output")
    desktop = variant.kernels is not Kernels.TFLM
    gates = [
        (
            _gate(graph, operator, _INPUT_WEIGHTS + i, _BIASES + i, quant_of(source), variant),
            _gate(graph, operator, _RECURRENT_WEIGHTS + i, _ABSENT, state, variant),
        )
        for i in range(4)
    ]
    scaled, time = multiply(variant), 1 if operator.options.get("timeMajor") else 2
    products = [quantize_multiplier(2.0**-15), quantize_multiplier(2.0 ** (-15 - integer_bits))]
    output_product = quantize_multiplier(_output_scale(graph, operator, state, desktop))
    clip = _clip(operator, cell, desktop)
    logistic: Function = (lambda x: gemmlowp_logistic(x, 3, 16)) if desktop else _table_logistic
    tanh: Callable[[Int64Array, int], Int64Array] = (lambda x, bits: gemmlowp_tanh(x, bits, 16)) if desktop else _table_tanh

    def product(x: Int64Array, y: Int64Array, place: int) -> Int64Array:
        """Of two gates, or of a gate and the cell state, in the cell state's scale."""
        if desktop:
            return rounding_divide_by_pot(x * y, (15, 15 + integer_bits)[place])
        return np.clip(scaled(x * y, *products[place]), *_INT16)

    def sums(x: Int64Array, h: Int64Array, gate: tuple[_Gate, _Gate]) -> Int64Array:
        """A gate before its sigmoid or tanh, [n, cells], of inputs [n, inputs] and the state [n, cells]."""
        first, second = (
            scaled((values @ weights).astype(np.int64) + offsets, *multiplier)
            for values, (weights, offsets, multiplier) in zip((x, h), gate, strict=True)
        )
        # The desktop adds the second one as it is; TFLM has made an int16 of it.
        return np.clip(np.clip(first, *_INT16) + (second if desktop else np.clip(second, *_INT16)), *_INT16)

    def step(x: Int64Array, h: Int64Array, c: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The next state and cell state [n, cells]."""
        take, forget, update, show = (sums(x, h, gate) for gate in gates)
        c = np.clip(product(logistic(forget), c, 0) + product(logistic(take), tanh(update, 3), 1), *_INT16)
        c = np.clip(c, -clip, clip) if clip > 0 else c
        h = scaled(tanh(c, integer_bits) * logistic(show), *output_product) + state.zero_point
        return np.clip(h, INT8_MIN, INT8_MAX), c

    def run(inputs: Sequence[Values]) -> Values:
        """Rows [n, *shape]; what the file calls a batch is 1 mostly."""
        steps = np.moveaxis(inputs[0], time, 0).astype(np.int64)  # [time, n, batch, inputs]
        h = np.full((*steps.shape[1:3], target.shape[-1]), state.zero_point)
        c = np.zeros_like(h)
        outputs = np.empty((len(steps), *h.shape), np.int8)
        for i, x in enumerate(steps):
            h, c = step(x, h, c)
            outputs[i] = h
        return np.moveaxis(outputs, 0, time)

    parameters = [(offsets.tobytes(), *multiplier) for gate in gates for _, offsets, multiplier in gate]
    return Kernel(run, (desktop, scaled, tuple(parameters), output_product, clip))


def _gate(graph: TfliteGraph, operator: Operator, weights: int, bias: int, source: QuantParams, variant: Variant) -> _Gate:
    matrix, offsets = constants(graph, operator, weights, bias)
    wide = data_of(matrix).astype(np.int64)
    real = np.float64 if variant.float64_product and variant.kernels is Kernels.TFLM else np.float32
    multiplier = float(real(np.float32(source.scale)) * real(np.float32(matrix.scales[0]))) / _GATE_SCALE
    added = bias_of(offsets, len(wide)) - source.zero_point * wide.sum(axis=1)
    # BLAS multiplies no integers. Sums of products of int8 values are exact in float64.
    return wide.T.astype(np.float64), added, quantize_multiplier(multiplier)


def _integer_bits(what: str, cell: Tensor) -> int:
    """Of the cell state in fixed point of 16 bits. Raises UnsupportedOperatorError."""
    mantissa, exponent = math.frexp(cell.scales[0]) if cell.type == "INT16" and len(cell.scales) == 1 else (0.0, 0)
    bits = exponent + 14
    if mantissa != 0.5 or not 0 <= bits <= _LARGEST_INTEGER_BITS:
        raise unsupported(f"{what} with a cell state of type {cell.type} and scales {list(cell.scales)}")
    return bits


def _output_scale(graph: TfliteGraph, operator: Operator, state: QuantParams, desktop: bool) -> float:
    """Of the product of the output gate and tanh, in steps of the output."""
    if not desktop:
        return 2.0**-30 / float(np.float32(state.scale))
    hidden = quant_of(graph.tensors[operator.intermediates[_HIDDEN]])
    if hidden != state:
        raise unsupported(f"{operator.name} (number {operator.index}) with a hidden scale of its own")
    return float(np.float32(2.0**-15 / float(np.float32(state.scale)) * 2.0**-15))


def _clip(operator: Operator, cell: Tensor, desktop: bool) -> int:
    """Largest cell state, 0 for none; TFLM divides as double, the desktop as float."""
    limit, scale = np.float32(operator.options.get("cellClip", 0.0)), np.float32(cell.scales[0])
    steps = float(limit / scale) if desktop else float(limit) / float(scale)
    return int(min(max(steps, _INT16[0]), _INT16[1]))


def _table_logistic(x: Int64Array) -> Int64Array:
    """In Q0 of 16 bits for Q3."""
    return interpolated_logistic(3 * x)


def _table_tanh(x: Int64Array, integer_bits: int) -> Int64Array:
    """In Q0 of 16 bits for Q(integer_bits)."""
    shift = integer_bits - 3
    return interpolated_tanh((3 * x) << shift if shift >= 0 else (3 * x + (1 << (-shift - 1))) >> -shift)
