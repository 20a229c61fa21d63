"""Distribution of a stream of numbers in constant memory: for runs that last days, and whatever shows one while it runs."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Self

import numpy as np

from balance_hil.documents import SpreadDocument

EXACT = 4096  # up to so many numbers quantiles are exact
RELATIVE_ERROR = 0.01  # of quantiles beyond that
SMALLEST, LARGEST = 1e-3, 1e12  # numbers outside are counted at these ends; for microseconds, a nanosecond and 12 days

_RATIO = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)  # upper end of a bin to its lower end
_SCALE = 1 / math.log(_RATIO)
_BINS = math.ceil(math.log(LARGEST / SMALLEST) * _SCALE) + 1


class Distribution:
    """Numbers of 0 and more, such as times: ``count``, ``total``, ``mean`` and the two ends are exact however many there are.

    A quantile of up to EXACT numbers is that of ``numpy.quantile``. Beyond that it is taken from a histogram with logarithmic
    bins, and is within RELATIVE_ERROR (or SMALLEST) of ``numpy.quantile``.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.max = 0.0
        self._min = math.inf
        self._first = array("d", bytes(8 * EXACT))
        self._bins = array("Q", bytes(8 * _BINS))  # bin k: from SMALLEST * _RATIO ** (k - 1) to that times _RATIO

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The distribution of ``values``. Raises ValueError: one is negative or not finite."""
        distribution = cls()
        for value in values:
            distribution.add(value)
        return distribution

    def add(self, value: float) -> None:
        """Adds one number. Raises ValueError: it is negative or not finite."""
        if not 0 <= value < math.inf:
            raise ValueError(f"a distribution holds finite numbers of 0 and more, not {value}")
        if self.count < EXACT:
            self._first[self.count] = value
        self._bins[0 if value <= SMALLEST else math.ceil(math.log(min(value, LARGEST) / SMALLEST) * _SCALE)] += 1
        self.count += 1
        self.total += value
        if value > self.max:
            self.max = value
        if value < self._min:
            self._min = value

    def merge(self, other: Distribution) -> None:
        """Adds the numbers of ``other``."""
        if self.count + other.count <= EXACT:
            self._first[self.count : self.count + other.count] = other._first[: other.count]
        self._bins = array("Q", (np.asarray(self._bins) + np.asarray(other._bins)).tobytes())
        self.count += other.count
        self.total += other.total
        self.max = max(self.max, other.max)
        self._min = min(self._min, other._min)

    def quantile(self, share: float) -> float:
        """The number below which ``share`` (0..1) of all lie, interpolated like ``numpy.quantile``; 0 without numbers."""
        if not self.count:
            return 0.0
        if self.count <= EXACT:
            return float(np.quantile(self._first[: self.count], share))
        rank = share * (self.count - 1)
        low, high = self._at(math.floor(rank)), self._at(math.ceil(rank))
        return low + (high - low) * (rank - math.floor(rank))

    def _at(self, rank: int) -> float:
        """The number of a rank, counted from 0 upward."""
        if rank in (0, self.count - 1):
            return self.max if rank else self._min
        k = int(np.searchsorted(np.cumsum(self._bins), rank, side="right"))
        middle = SMALLEST * _RATIO**k * 2 / (1 + _RATIO)  # as far, relatively, from either end of the bin
        return min(max(middle, self._min), self.max)

    @property
    def mean(self) -> float:
        """Mean; 0 without numbers."""
        return self.total / self.count if self.count else 0.0

    @property
    def p50(self) -> float:
        """Median."""
        return self.quantile(0.5)

    @property
    def p99(self) -> float:
        """99th percentile."""
        return self.quantile(0.99)

    @property
    def p999(self) -> float:
        """99.9th percentile."""
        return self.quantile(0.999)

    def to_document(self) -> SpreadDocument | None:
        """Rounded to a tenth; None without numbers."""
        if not self.count:
            return None
        return {"p50": round(self.p50, 1), "p99": round(self.p99, 1), "p999": round(self.p999, 1), "max": round(self.max, 1)}
