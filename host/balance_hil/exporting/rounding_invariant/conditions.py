"""Proves from the bytes of a model that every runtime must compute the same bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import ExportError
from balance_hil.exporting.rounding_invariant.layout import (
    BIAS_REMAINDER,
    CLAMPS,
    FIXED_OUTPUTS,
    MAX_ACCUMULATOR,
    MAX_SHIFT,
    MIN_SHIFT,
    TABLE_INPUTS,
    WEIGHT_STEP,
    Step,
    read_chain,
)
from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams
from balance_hil.tflite.graph import TfliteGraph, read_graph


@dataclass(frozen=True)
class Proof:
    """What the conditions leave as margins."""

    smallest_shift: int
    largest_shift: int
    largest_accumulator: int  # bound of its absolute value for any int8 input


def prove(model: bytes) -> Proof:
    """Checks every condition of ``docs/rounding-invariant.md`` on the bytes of an int8 ``.tflite``.

    Raises:
        ExportError: the first condition that does not hold; the message names operator and condition.
        ElementTypeError, BundleError: not an int8 model.
    """
    graph = read_graph(model)
    shifts: list[int] = []
    accumulators = [0]
    given, exponent = graph.input_quant, _exponent(graph.input_quant.scale, "the input")
    for step in read_chain(graph):
        name = f"operator {step.operator} ({step.kind})"
        tensor = graph.tensors[step.output]
        result = QuantParams(tensor.scales[0], tensor.zero_points[0])
        result_exponent = _exponent(result.scale, f"the output of {name}")
        if step.dense:
            found, bound = _prove_dense(graph, step, (given, exponent, result_exponent))
            shifts += found
            accumulators.append(bound)
        elif step.kind in CLAMPS and result != given:
            raise _broken(f"{name} changes the scale or the zero point")
        if step.kind in TABLE_INPUTS and exponent not in TABLE_INPUTS[step.kind]:
            allowed = TABLE_INPUTS[step.kind]
            raise _broken(f"{name} has an input scale of 2^{exponent}, not of 2^{allowed[0]} to 2^{allowed[-1]}")
        if step.kind in FIXED_OUTPUTS and (result_exponent, result.zero_point) != FIXED_OUTPUTS[step.kind]:
            raise _broken(f"{name} has an output grid that TensorFlow Lite does not allow")
        low, high = CLAMPS[step.clamp]
        if any(np.isfinite(limit) and not float(limit / result.scale).is_integer() for limit in (low, high)):
            raise _broken(f"{name} clamps between two codes")
        given, exponent = result, result_exponent
    return Proof(min(shifts), max(shifts), max(accumulators))


def _prove_dense(graph: TfliteGraph, step: Step, grid: tuple[QuantParams, int, int]) -> tuple[list[int], int]:
    name = f"operator {step.operator} ({step.kind})"
    given, given_exponent, result_exponent = grid
    tensor = graph.tensors[step.weight]
    exponents = [_exponent(scale, f"the weights of {name}") for scale in tensor.scales]
    weights, bias = _constant(graph, step.weight), _constant(graph, step.bias)
    shifts = [result_exponent - given_exponent - exponent for exponent in exponents]
    if min(shifts) < MIN_SHIFT or max(shifts) > MAX_SHIFT:
        raise _broken(f"{name} shifts by {min(shifts)} to {max(shifts)} bits, not by {MIN_SHIFT} to {MAX_SHIFT}")
    if any(tensor.zero_points):
        raise _broken(f"{name} has weights with a zero point")
    if np.any(weights % WEIGHT_STEP):
        raise _broken(f"{name} has a weight that is not a multiple of {WEIGHT_STEP}")
    if np.any(bias % WEIGHT_STEP != BIAS_REMAINDER):
        raise _broken(f"{name} has a bias that is not {BIAS_REMAINDER} modulo {WEIGHT_STEP}")
    widest = max(INT8_MAX - given.zero_point, given.zero_point - INT8_MIN)
    bound = int((np.abs(weights).sum(axis=1) * widest + np.abs(bias)).max())
    if bound >= MAX_ACCUMULATOR:
        raise _broken(f"{name} has accumulators of up to {bound}, float32 is exact below {MAX_ACCUMULATOR}")
    return shifts, bound


def _constant(graph: TfliteGraph, index: int) -> NDArray[np.int64]:
    data = graph.tensors[index].data
    if data is None:
        raise _broken(f"the constant {graph.tensors[index].name!r} is of type {graph.tensors[index].type}")
    return data.astype(np.int64)


def _exponent(scale: float, what: str) -> int:
    mantissa, exponent = np.frexp(scale)
    if mantissa != 0.5:
        raise _broken(f"the scale of {what}, {scale:.6g}, is not a power of two")
    return int(exponent) - 1


def _broken(condition: str) -> ExportError:
    return ExportError(f"this model is not rounding-invariant: {condition}", "export it again: hil export --rounding-invariant")
