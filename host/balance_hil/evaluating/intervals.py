"""Confidence intervals for small numbers of episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that covers the true value at the confidence LEVEL."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """The share of successes with Wilson's score interval, which is also valid for shares of 0 and 1 (Wilson 1927).

    50 of 50 gives 0.929..1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding alone must not exclude the estimate itself.
    return Interval(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def bootstrap_rms(values: Sequence[float], weights: Sequence[int], level: float = LEVEL) -> Interval:
    """The weighted RMS of per-episode RMS values with its percentile bootstrap interval over episodes (Efron 1979).

    Args:
        values: RMS of each episode.
        weights: steps of each episode; those without a step do not count.
        level: of confidence.
    """
    return _bootstrap(np.square(values), np.asarray(weights, np.float64), level, root=True)


def bootstrap_mean(values: Sequence[float], weights: Sequence[int], level: float = LEVEL) -> Interval:
    """The weighted mean over episodes with its percentile bootstrap interval; see ``bootstrap_rms``."""
    return _bootstrap(np.asarray(values, np.float64), np.asarray(weights, np.float64), level, root=False)


def _bootstrap(values: NDArray[np.float64], weights: NDArray[np.float64], level: float, *, root: bool) -> Interval:
    if len(values) == 0 or not np.sum(weights) > 0:
        return Interval(0.0, 0.0, 0.0)
    # A fixed seed: the same episodes give the same interval.
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    totals = np.maximum(weights[picks].sum(axis=1), 1.0)
    resampled = (values * weights)[picks].sum(axis=1) / totals
    value = float((values * weights).sum() / weights.sum())
    low, high = (float(q) for q in np.quantile(resampled, [0.5 - level / 2, 0.5 + level / 2]))
    return Interval(*(math.sqrt(v) for v in (value, low, high))) if root else Interval(value, low, high)
