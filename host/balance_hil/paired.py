"""Paired statistics over seeds: does the second of two runtimes do worse on the same episodes?

Continuous metrics: a sign-flip permutation test of the mean paired difference decides, which holds its level for any number of
seeds; a percentile bootstrap interval over seeds estimates the difference. Success: the exact McNemar test on the seeds
in which only one of the two failed. The family-wise error is held at 5 % by Bonferroni over the tests made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAMILY_ERROR = 0.05
RESAMPLES = 10_000
RESAMPLING_SEED = 1
BLOCK = 500  # resamples drawn at once: bounds the memory
MIN_PAIRS = 10  # of fewer, a percentile interval is much too narrow
EXACT_PAIRS = 12  # up to here every flip of signs is tried


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """One metric of the same episodes under ``a`` and ``b``; differences are b - a."""

    metric: str
    unit: str
    pairs: int  # episodes
    mean_a: float
    mean_b: float
    mean_difference: float
    interval: tuple[float, float] | None  # of the mean difference; None: too few pairs
    confidence: float  # of the interval
    p_value: float  # sign-flip permutation test of the mean, two-sided
    level: float  # a p-value below it counts as a difference
    min: float  # of the differences
    median: float
    max: float

    @property
    def differs(self) -> bool:
        """Whether the test finds a difference."""
        return self.p_value < self.level

    @property
    def too_few(self) -> bool:
        """Whether no difference, however large, could be found: too few episodes."""
        return 2.0 / (1 << self.pairs) >= self.level


@dataclass(frozen=True, kw_only=True)
class SuccessDifference:
    """In which of the same episodes ``a`` and ``b`` did not fail."""

    pairs: int  # episodes
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float  # exact McNemar, two-sided; 1 without discordant pairs
    level: float  # a p-value below it counts as a difference
    discordant_bound: float | None  # upper 95 % bound of the share of such episodes when none was seen, else None

    @property
    def differs(self) -> bool:
        """Whether the test finds a difference."""
        return self.p_value < self.level


def paired_difference(
    metric: str, unit: str, a: Sequence[float], b: Sequence[float], *, tests: int = 1
) -> PairedDifference | None:
    """Compares one metric of the same episodes in the same order; None when there is no pair.

    ``tests`` is how many tests are made altogether: the error is shared among them.
    """
    if not a:
        return None
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference = y - x
    confidence = 1.0 - FAMILY_ERROR / tests
    return PairedDifference(
        metric=metric,
        unit=unit,
        pairs=len(difference),
        mean_a=float(x.mean()),
        mean_b=float(y.mean()),
        mean_difference=float(difference.mean()),
        interval=bootstrap_interval(difference, confidence) if len(difference) >= MIN_PAIRS else None,
        confidence=confidence,
        p_value=sign_flip_test(difference),
        level=FAMILY_ERROR / tests,
        min=float(difference.min()),
        median=float(np.median(difference)),
        max=float(difference.max()),
    )


def bootstrap_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, float [n]: 10,000 resamples from a fixed seed."""
    rng = np.random.default_rng(RESAMPLING_SEED)
    means = np.concatenate(
        [values[rng.integers(0, len(values), size=(BLOCK, len(values)))].mean(axis=1) for _ in range(RESAMPLES // BLOCK)]
    )
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def sign_flip_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value that the mean of the paired ``differences``, float [n], is 0 because the labels a and b mean nothing.

    Every flip of signs up to 12 pairs; 10,000 random ones from a fixed seed beyond.
    """
    n = len(differences)
    observed = abs(float(differences.sum()))
    slack = 1e-12 * float(np.abs(differences).sum())  # tolerance for the order of summation
    if n <= EXACT_PAIRS:
        bits = (np.arange(2**n)[:, np.newaxis] >> np.arange(n)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ differences) >= observed - slack))
    rng = np.random.default_rng(RESAMPLING_SEED)
    as_large = 0
    for _ in range(RESAMPLES // BLOCK):
        signs = 1 - 2 * rng.integers(0, 2, size=(BLOCK, n))
        as_large += int(np.count_nonzero(np.abs(signs @ differences) >= observed - slack))
    return (as_large + 1) / (RESAMPLES + 1)  # counts the observed flip


def success_difference(a: Sequence[bool], b: Sequence[bool], *, tests: int = 1) -> SuccessDifference:
    """Compares the success of the same episodes, given in the same order; ``tests`` as for ``paired_difference``."""
    pairs = list(zip(a, b, strict=True))
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    discordant = only_a + only_b
    return SuccessDifference(
        pairs=len(pairs),
        both=pairs.count((True, True)),
        only_a=only_a,
        only_b=only_b,
        neither=pairs.count((False, False)),
        p_value=mcnemar_exact(only_a, only_b),
        level=FAMILY_ERROR / tests,
        discordant_bound=1.0 - 0.05 ** (1.0 / len(pairs)) if pairs and not discordant else None,
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that discordant pairs fall to either side alike: a binomial test with probability 1/2."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2.0 * tail / float(1 << n))
