"""Metrics and results of episodes, in simulation or on a board. Metrics are data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from balance_hil.documents import EpisodeDocument, VerdictDocument
from balance_hil.errors import SimulationDivergedError, UnsupportedEnvironmentError

Reduction = Literal["sum", "mean", "rms", "max", "last"]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about an episode.

    ``source`` is a key of the step's ``info``, or "reward", "steps" (always 1) or "action_rate": the mean over the outputs of
    |a_t - a_(t-1)|, with a_0 = 0 before the first step. ``reduction`` makes one number of an episode. Over episodes, means
    and root mean squares are weighted by steps; the others are plain means.
    """

    name: str  # with the unit as suffix where it has one
    unit: str
    source: str
    reduction: Reduction = "mean"
    better: Better = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a result is good, and if not, the reasons, one sentence each."""

    reasons: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether there are no reasons against it."""
        return not self.reasons

    @property
    def line(self) -> str:
        """One line for people."""
        return "PASS" if self.good else "FAIL: " + "; ".join(self.reasons)

    def to_dict(self) -> VerdictDocument:
        """Plain JSON types."""
        return {"good": self.good, "reasons": list(self.reasons)}


RETURN = Metric(name="return", unit="", source="reward", reduction="sum", better="higher")
LENGTH = Metric(name="length", unit="steps", source="steps", reduction="sum")
DEFAULT_METRICS = (RETURN, LENGTH)
BUILT_IN_SOURCES = ("reward", "steps", "action_rate")


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """One episode."""

    seed: int
    steps: int  # control steps until it ended
    failed: bool  # as the environment means it: a fall, a crash; not a truncation
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> EpisodeDocument:
        """Plain JSON types."""
        return {"seed": self.seed, "steps": self.steps, "failed": self.failed, "metrics": dict(self.metrics)}


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """Several episodes."""

    episodes: int
    failed: int
    success_rate: float  # 0..1, of episodes that did not fail; 0 without episodes
    steps: int  # of all episodes together
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "metrics": dict(self.metrics)}


class EpisodeAccumulator:
    """Collects one episode step by step."""

    def __init__(self, seed: int, metrics: Sequence[Metric]) -> None:
        self.seed = seed
        self.steps = 0
        self._metrics = metrics
        self._totals = [0.0] * len(metrics)
        self._previous: Sequence[float] = ()

    def add(self, outputs: Sequence[float] | NDArray[np.floating[Any]], reward: float, info: Mapping[str, Any]) -> None:
        """Adds one control step: the policy's outputs that took effect, float [n_act], and what the step returned.

        Raises:
            UnsupportedEnvironmentError: ``info`` lacks the source of a metric.
        """
        values: Sequence[float] = outputs.tolist() if isinstance(outputs, np.ndarray) else outputs
        totals = self._totals
        for i, metric in enumerate(self._metrics):
            source = metric.source
            if source == "reward":
                value = reward
            elif source == "steps":
                value = 1.0
            elif source == "action_rate":
                previous = self._previous or (0.0,) * len(values)
                value = sum([abs(a - b) for a, b in zip(values, previous, strict=True)]) / max(1, len(values))
            elif source in info:
                value = float(info[source])
            else:
                raise UnsupportedEnvironmentError(
                    f"the metric {metric.name!r} reads {source!r}, which the step's info does not have",
                    f"info has: {', '.join(map(str, info)) or 'nothing'}",
                )
            match metric.reduction:
                case "rms":
                    totals[i] += value * value
                case "max":
                    totals[i] = value if self.steps == 0 else max(totals[i], value)
                case "last":
                    totals[i] = value
                case _:
                    totals[i] += value
        self._previous = values
        self.steps += 1

    def finish(self, failed: bool) -> EpisodeMetrics:
        """The metrics of the episode so far; all zero when it has no step. Raises SimulationDivergedError: one is not finite."""
        steps = max(1, self.steps)
        values = {}
        for metric, total in zip(self._metrics, self._totals, strict=True):
            mean = total / steps if metric.reduction in ("mean", "rms") else total
            values[metric.name] = math.sqrt(mean) if metric.reduction == "rms" else mean
            if not math.isfinite(mean):
                raise SimulationDivergedError(
                    f"the metric {metric.name!r} of the episode with seed {self.seed} is {mean}",
                    f"look for a NaN or an infinity in {metric.source!r} of the environment",
                )
        return EpisodeMetrics(seed=self.seed, steps=self.steps, failed=failed, metrics=values)


def summarize(episodes: Sequence[EpisodeMetrics], metrics: Sequence[Metric]) -> EvaluationSummary:
    """Joins episodes into one summary."""
    steps = sum(e.steps for e in episodes)
    failed = sum(e.failed for e in episodes)
    joined = {}
    for metric in metrics:
        values = [e.metrics[metric.name] for e in episodes]
        by_steps = metric.reduction in ("mean", "rms")
        weights = [e.steps for e in episodes] if by_steps else [1] * len(episodes)
        total = sum((v * v if metric.reduction == "rms" else v) * w for v, w in zip(values, weights, strict=True))
        mean = total / max(1, sum(weights))
        joined[metric.name] = math.sqrt(mean) if metric.reduction == "rms" else mean
    return EvaluationSummary(
        episodes=len(episodes),
        failed=failed,
        success_rate=(len(episodes) - failed) / max(1, len(episodes)),
        steps=steps,
        metrics=joined,
    )


def metric_of(table: Mapping[str, Any] | Metric) -> Metric:
    """A metric from a plain table, so that an environment's package need not import this one. Raises TypeError or ValueError."""
    if isinstance(table, Metric):
        return table
    metric = Metric(**table)
    if metric.reduction not in ("sum", "mean", "rms", "max", "last") or metric.better not in ("higher", "lower", ""):
        raise ValueError(f"metric {metric.name!r}: reduction {metric.reduction!r}, better {metric.better!r}")
    return metric
