"""Whether a raw input is what an observation is normalized and quantized to, in a tenth of the time that quantizing takes.

Normalizing and quantizing are monotonic, so that an int8 value stands for an interval of observations. The intervals' ends are
found once, by bisection over all float32 numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, Float32Array, RawArray

_LARGEST = 0x7F7FFFFF  # bits of the largest float32


class InputCheck:
    """Checks raw inputs of one bundle's model. Those of other element types than int8 are quantized for it."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        if bundle.kind != INT8:
            return
        columns = bundle.spec.n_obs if bundle.normalization is not None else 1  # without one every element is quantized alike
        codes = np.arange(INT8_MIN, INT8_MAX + 1)[:, np.newaxis]
        below = np.full((len(codes), columns), -_LARGEST - 1, np.int64)  # the code does not occur there, or is not computed yet
        reached = np.full((len(codes), columns), _LARGEST + 1, np.int64)
        while np.any(reached - below > 1):
            middle = (below + reached) // 2
            reaches = bundle.quantized(_numbers(middle)) >= codes
            reached, below = np.where(reaches, middle, reached), np.where(reaches, below, middle)
        self._ends = np.full(
            (len(codes) + 1, columns), np.inf, np.float32
        )  # [257, columns]: row q to row q + 1 is a code's interval
        self._ends[:-1] = np.where(reached > _LARGEST, np.inf, _numbers(np.minimum(reached, _LARGEST)))
        self._columns = np.arange(columns)

    def __call__(self, observation: Float32Array, values: RawArray) -> bool:
        """Whether ``values``, raw [n_obs], are what a finite ``observation``, float32 [n_obs], is converted to."""
        if values.shape != observation.shape:
            return False
        if self._bundle.kind != INT8:
            return values.tobytes() == self._bundle.quantized(observation).tobytes()
        rows = values.astype(np.intp) - INT8_MIN
        ends, columns = self._ends, self._columns
        return bool((ends[rows, columns] <= observation).all() and (observation < ends[rows + 1, columns]).all())


def _numbers(keys: NDArray[np.int64]) -> Float32Array:
    """Float32 numbers by their place in the order of all of them; 0 is 0."""
    bits = np.abs(np.clip(keys, -_LARGEST, _LARGEST)).astype(np.uint32)
    return np.where(keys < 0, -bits.view(np.float32), bits.view(np.float32))
