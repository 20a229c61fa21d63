"""tanhf and expf of this machine's C library, which the desktop kernels fill their tables with.

They are not rounded correctly: one result in ten is an ulp away, and about one table in ten thousand has an entry that so small a
difference moves across a tie.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any

import numpy as np

from balance_hil.quantize import Float32Array


def tanhf(x: Float32Array) -> Float32Array:
    """float32 tanh, float32 [...]."""
    return _each("tanhf", np.tanh, x)


def expf(x: Float32Array) -> Float32Array:
    """float32 exp, float32 [...]; infinite where it overflows."""
    return _each("expf", np.exp, x)


def _each(name: str, fallback: np.ufunc, x: Float32Array) -> Float32Array:
    function = _function(name)
    with np.errstate(over="ignore"):
        if function is None:
            return np.asarray(fallback(x.astype(np.float64)), np.float64).astype(np.float32)
        values = [function(float(value)) for value in x.reshape(-1)]
    return np.array(values, np.float32).reshape(x.shape)


@cache
def _function(name: str) -> Any:
    """The C function, or None where there is no such library (then results are correctly rounded instead)."""
    library = ctypes.util.find_library("m")
    if library is None:
        return None
    function = getattr(ctypes.CDLL(library), name)
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function
