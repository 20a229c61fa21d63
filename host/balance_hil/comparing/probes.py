"""Observations chosen so that every way of quantizing wrongly shows, not only the frequent ones.

Random observations meet a tie about once in a million and never saturate on purpose; these do both in every row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams
from balance_hil.runtimes.base import Float32Array

_FAR_STEPS = (200.0, 333.0, 700.0, 5_000.0)  # beyond saturation on either side, each another value modulo 256
_RANDOM_ROWS = 64


def probe_observations(quant: QuantParams, n_obs: int, *, seed: int = 0) -> Float32Array:
    """Observations, float32 [n, n_obs] with n about 700, that tell the known input faults apart.

    They hold, for each element: every tie (k + 1/2) · s in int8's range with its float32 neighbors on both sides, every point
    k · s, values far beyond saturation, and random ones. The elements of a row differ from each other and rows from their
    predecessors, so that permuted, repeated and stale inputs show as well.
    """
    scale = np.float32(quant.scale)
    steps = np.arange(INT8_MIN - quant.zero_point - 2, INT8_MAX - quant.zero_point + 3)
    rng = np.random.default_rng(seed)
    spread = rng.uniform(steps[0] - 40.0, steps[-1] + 40.0, _RANDOM_ROWS * 4)
    values = np.concatenate(
        [_around_ties(scale, steps), scale * steps.astype(np.float32), _far(scale), scale * spread.astype(np.float32)]
    )
    columns = [rng.permutation(values) for _ in range(n_obs)]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float32)


def _around_ties(scale: np.float32, steps: NDArray[np.int_]) -> Float32Array:
    """float32 values whose float32 quotient by ``scale`` is a tie, where there is one, and those beside it."""
    near = np.asarray((steps + 0.5) * np.float64(scale), np.float32)
    infinity = np.float32(np.inf)
    return np.concatenate([near, np.nextafter(near, infinity), np.nextafter(near, -infinity)], dtype=np.float32)


def _far(scale: np.float32) -> Float32Array:
    far = np.array(_FAR_STEPS, np.float32)
    return np.concatenate([far * scale, -far * scale, (far + np.float32(0.25)) * scale], dtype=np.float32)
