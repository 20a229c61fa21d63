"""Chooses the exponents: for each tensor the power of two that loses least on recorded observations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import ExportError
from balance_hil.exporting.rounding_invariant.layout import (
    CLAMPS,
    FIXED_OUTPUTS,
    MAX_ACCUMULATOR,
    MAX_SHIFT,
    MIN_SHIFT,
    TABLE_INPUTS,
    WEIGHT_LEVELS,
    WEIGHT_STEP,
    Grid,
    Step,
)
from balance_hil.quantize import INT8_MAX, INT8_MIN

FloatArray = NDArray[np.float64]
_EXPONENTS = range(-14, 1)  # scales of activations: 2^0 with an int8 range of 256 is more than any actor needs
_FUNCTIONS: dict[str, Callable[[FloatArray], FloatArray]] = {"TANH": np.tanh, "LOGISTIC": lambda x: 1.0 / (1.0 + np.exp(-x))}


def choose_grids(
    steps: tuple[Step, ...], weights: list[FloatArray], biases: list[FloatArray], observations: FloatArray
) -> tuple[Grid, tuple[Grid, ...]]:
    """Grids of the input and of every step's output, from the float network's activations on ``observations`` [n, n_obs]."""
    given = best_grid(observations)
    values, grid = observations, given
    grids, dense = [], 0
    followers = [*(step.kind for step in steps[1:]), ""]
    for step, follower in zip(steps, followers, strict=True):
        if step.dense:
            values = values @ weights[dense].T + biases[dense]
            dense += 1
        elif step.kind in _FUNCTIONS:
            values = _FUNCTIONS[step.kind](values)
        values = np.clip(values, *CLAMPS[step.clamp])
        if step.kind in FIXED_OUTPUTS:
            grid = Grid(*FIXED_OUTPUTS[step.kind])
        elif step.dense:
            exponents = TABLE_INPUTS.get(follower, _EXPONENTS)
            grid = best_grid(values, exponents, from_zero=CLAMPS[step.clamp][0] == 0.0)
        # A RELU that stands alone keeps its input's grid: then it only clamps, on every runtime.
        grids.append(grid)
    return given, tuple(grids)


def best_grid(values: FloatArray, exponents: Iterable[int] = _EXPONENTS, *, from_zero: bool = False) -> Grid:
    """The grid with the least mean square error on ``values``; its range is centered on theirs, or begins at zero."""
    low, high = float(values.min()), float(values.max())

    def grid(exponent: int) -> Grid:
        if from_zero:
            return Grid(exponent, INT8_MIN)
        center = (low + high) / 2 / 2.0**exponent
        return Grid(exponent, int(np.clip(np.rint(-0.5 - center), INT8_MIN, INT8_MAX)))

    def error(candidate: Grid) -> float:
        codes = np.clip(np.rint(values / candidate.scale) + candidate.zero_point, INT8_MIN, INT8_MAX)
        return float(np.mean(((codes - candidate.zero_point) * candidate.scale - values) ** 2))

    return min((grid(exponent) for exponent in exponents), key=error)


def choose_weight_exponents(
    weights: FloatArray, bias: FloatArray, given: Grid, result: Grid, *, per_channel: bool
) -> NDArray[np.int64]:
    """Exponents of the weight scales, [outputs]; all alike unless ``per_channel``.

    Raises:
        ExportError: no exponent gives a right shift of 3..24 and an accumulator that float32 holds.
    """
    groups = [slice(i, i + 1) for i in range(len(weights))] if per_channel else [slice(None)]
    exponents = np.empty(len(weights), np.int64)
    for group in groups:
        exponents[group] = _best_exponent(weights[group], bias[group], given, result)
    return exponents


def _best_exponent(weights: FloatArray, bias: FloatArray, given: Grid, result: Grid) -> int:
    difference = result.exponent - given.exponent
    widest = max(INT8_MAX - given.zero_point, given.zero_point - INT8_MIN)
    errors = {}
    for exponent in range(difference - MAX_SHIFT, difference - MIN_SHIFT + 1):
        step = WEIGHT_STEP * 2.0**exponent
        codes = np.clip(np.rint(weights / step), -WEIGHT_LEVELS, WEIGHT_LEVELS)
        offset = np.abs(bias) / 2.0 ** (given.exponent + exponent) + WEIGHT_STEP
        if np.all(WEIGHT_STEP * WEIGHT_LEVELS * weights.shape[1] * widest + offset < MAX_ACCUMULATOR):
            errors[exponent] = float(np.sum((codes * step - weights) ** 2))
    if not errors:
        raise ExportError(
            "this model cannot be made rounding-invariant: an accumulator would not fit into float32's 24 bits",
            "train a narrower network, or export it without --rounding-invariant",
        )
    return min(errors, key=lambda exponent: errors[exponent])
