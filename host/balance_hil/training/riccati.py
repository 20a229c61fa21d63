"""The discrete algebraic Riccati equation, and the optimal linear feedback that follows from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

_MAX_DOUBLINGS = 60  # each doubles the horizon that is looked ahead
_TOLERANCE = 1e-12


def solve_riccati(a: Float64Array, b: Float64Array, q: Float64Array, r: Float64Array) -> Float64Array:
    """The stabilizing solution P of ``P = q + a'Pa - a'Pb (r + b'Pb)^-1 b'Pa``, float64 [n, n].

    By the structure-preserving doubling algorithm (Chu, Fan, Lin and Wang 2004), which converges quadratically.

    Args:
        a: float64 [n, n].
        b: float64 [n, m].
        q: cost of the state, float64 [n, n], symmetric and not negative.
        r: cost of the input, float64 [m, m], symmetric and positive.

    Raises:
        numpy.linalg.LinAlgError: there is no stabilizing solution, for example because ``b`` does not reach an unstable mode.
    """
    identity = np.eye(len(a))
    ak, g, p = a, b @ np.linalg.solve(r, b.T), q
    with np.errstate(over="ignore", invalid="ignore"):  # the check below finds it
        for _ in range(_MAX_DOUBLINGS):
            w = np.linalg.solve(identity + g @ p, np.hstack([ak, g]))
            w_a, w_g = w[:, : len(a)], w[:, len(a) :]
            step = ak.T @ p @ w_a
            ak, g, p = ak @ w_a, g + ak @ w_g @ ak.T, p + step
            if not np.max(np.abs(step)) > _TOLERANCE * np.max(np.abs(p)):
                break
    if not (np.all(np.isfinite(p)) and np.max(np.abs(np.linalg.eigvals(a - b @ _gain(a, b, r, p)))) < 1.0):
        raise np.linalg.LinAlgError("the Riccati equation has no stabilizing solution")
    return np.asarray(0.5 * (p + p.T))


def lqr_gain(a: Float64Array, b: Float64Array, q: Float64Array, r: Float64Array) -> Float64Array:
    """The feedback ``u = -k x``, float64 [m, n], that minimizes the sum of ``x'qx + u'ru``. Raises as ``solve_riccati`` does."""
    return _gain(a, b, r, solve_riccati(a, b, q, r))


def _gain(a: Float64Array, b: Float64Array, r: Float64Array, p: Float64Array) -> Float64Array:
    return np.asarray(np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a))
