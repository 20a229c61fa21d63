"""The outcome of a condition run: one cell per policy and condition, as numbers with intervals, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from balance_hil.evaluating.robustness import Condition
from balance_hil.metrics import EpisodeMetrics, Metric
from balance_hil.paired import PairedDifference, SuccessDifference, paired_difference, success_difference

LEVEL = 0.95  # confidence of the intervals
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that covers the true value at the confidence LEVEL."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """The share of successes with Wilson's score interval, which is also valid for shares of 0 and 1 (Wilson 1927).

    50 of 50 gives 0.929..1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding alone must not exclude the estimate itself.
    return Interval(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def bootstrap(values: Sequence[float], weights: Sequence[int], *, rms: bool = False) -> Interval:
    """The weighted mean over episodes with its percentile bootstrap interval (Efron 1979).

    Args:
        values: one of each episode.
        weights: steps of each episode; those without a step do not count.
        rms: the root of the mean square instead of the mean.
    """
    numbers, steps = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if not steps.sum() > 0:
        return Interval(0.0, 0.0, 0.0)
    weighted = (numbers * numbers if rms else numbers) * steps
    # A fixed seed: the same episodes give the same interval.
    picks = np.random.default_rng(0).integers(0, len(numbers), (_RESAMPLES, len(numbers)))
    resampled = weighted[picks].sum(axis=1) / np.maximum(steps[picks].sum(axis=1), 1.0)
    ends = np.quantile(resampled, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]).tolist()
    shown = [float(weighted.sum() / steps.sum()), *ends]
    return Interval(*(map(math.sqrt, shown) if rms else shown))


@dataclass(frozen=True, kw_only=True)
class SuitePolicy:
    """One column of the table."""

    name: str
    path: str
    id: str  # of the bundle; "" for a checkpoint that was not exported


@dataclass(frozen=True, kw_only=True)
class RobustnessCell:
    """One policy under one condition."""

    policy: str
    condition: str
    episodes: int
    failed: int
    success_rate: Interval  # 0..1; Wilson
    metrics: Mapping[str, Interval]  # bootstrap over episodes

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an interval is a value with ``_low`` and ``_high`` beside it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ("policy", "condition", "episodes", "failed")}
        for name, interval in {"success_rate": self.success_rate, **self.metrics}.items():
            values |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return values


@dataclass(frozen=True, kw_only=True)
class RobustnessTable:
    """Everything that was run. ``episodes`` has the metrics of every (policy name, condition name)."""

    runtime: str
    environment: str
    metrics: Sequence[Metric]
    max_steps: int
    policies: tuple[SuitePolicy, ...]
    conditions: tuple[Condition, ...]
    episodes: Mapping[tuple[str, str], Sequence[EpisodeMetrics]]

    def cell(self, policy: str, condition: str) -> RobustnessCell:
        """The numbers of one policy under one condition."""
        episodes = self.episodes[policy, condition]
        failed = sum(episode.failed for episode in episodes)
        return RobustnessCell(
            policy=policy,
            condition=condition,
            episodes=len(episodes),
            failed=failed,
            success_rate=wilson(len(episodes) - failed, len(episodes)),
            metrics={metric.name: _interval(metric, episodes) for metric in self.metrics},
        )

    def cells(self) -> list[RobustnessCell]:
        """Every cell, policy by policy."""
        return [self.cell(policy.name, condition.name) for policy in self.policies for condition in self.conditions]

    @property
    def n_episodes(self) -> int:
        """Episodes of a cell."""
        return len(next(iter(self.episodes.values())))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "runtime": self.runtime,
            "environment": self.environment,
            "episodes": self.n_episodes,
            "steps": self.max_steps,
            "confidence": LEVEL,
            "policies": [vars(policy) for policy in self.policies],
            "conditions": [
                {"name": condition.name, "title": condition.title, "options": dict(condition.options)}
                for condition in self.conditions
            ],
            "cells": [cell.to_dict() for cell in self.cells()],
        }

    def paired(self, condition: str) -> tuple[SuccessDifference, list[PairedDifference]]:
        """The second policy against the first on the same episodes; metrics of those in which neither failed.

        The family-wise error is held over all conditions and metrics.
        """
        tests = len(self.conditions) * (1 + len(self.metrics))
        a, b = (self.episodes[policy.name, condition] for policy in self.policies[:2])
        both = [(x, y) for x, y in zip(a, b, strict=True) if not (x.failed or y.failed)]
        metrics = (
            paired_difference(
                metric.name,
                metric.unit,
                [x.metrics[metric.name] for x, _ in both],
                [y.metrics[metric.name] for _, y in both],
                tests=tests,
            )
            for metric in self.metrics
        )
        success = success_difference([not x.failed for x in a], [not y.failed for y in b], tests=tests)
        return success, [each for each in metrics if each is not None]

    def _differences(self) -> list[str]:
        first, second = (policy.name for policy in self.policies)
        lines = [f"| condition | only {first} / only {second} failed | " + " | ".join(m.name for m in self.metrics) + " |"]
        lines.append("|---|---|" + "---|" * len(self.metrics))
        for condition in self.conditions:
            success, metrics = self.paired(condition.name)
            shown = {each.metric: _show_difference(each) for each in metrics}
            cells = [f"{success.only_b} / {success.only_a}" + _star(success), *(shown.get(m.name, "") for m in self.metrics)]
            lines.append(f"| {condition.title} | " + " | ".join(cells) + " |")
        what = f"{second} minus {first} on the same episodes, mean over those in which neither failed (interval; * differs, "
        return [what + f"{1 - LEVEL:.0%} error over all tests of this table):", "\n".join(lines)]

    def to_markdown(self) -> str:
        """One table for success and one for each metric, conditions down, policies across; differences of two."""
        names = ", ".join(f"{policy.name} `{policy.id}`" if policy.id else policy.name for policy in self.policies)
        parts = [
            f"Success, % of {self.n_episodes} episodes of {self.max_steps} steps ({LEVEL:.0%} confidence, Wilson):",
            self._table(lambda cell: show_share(cell.success_rate)),
        ]
        for metric in self.metrics:
            unit = f", {metric.unit}" if metric.unit else ""
            parts.append(f"{metric.name}{unit} ({LEVEL:.0%} confidence, bootstrap over episodes):")
            parts.append(self._table(partial(_show_metric, metric.name)))
        if len(self.policies) == 2:
            parts += self._differences()
        parts.append(f"Environment {self.environment}, runtime {self.runtime}; policies: {names}.")
        return "\n\n".join(parts)

    def _table(self, show: Callable[[RobustnessCell], str]) -> str:
        lines = ["| condition | " + " | ".join(policy.name for policy in self.policies) + " |"]
        lines.append("|---|" + "---|" * len(self.policies))
        for condition in self.conditions:
            shown = [show(self.cell(policy.name, condition.name)) for policy in self.policies]
            lines.append(f"| {condition.title} | " + " | ".join(shown) + " |")
        return "\n".join(lines)


def show_share(share: Interval) -> str:
    """``98 (90-100)``, in per cent."""
    return f"{100 * share.value:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})"


def _show_metric(name: str, cell: RobustnessCell) -> str:
    metric = cell.metrics[name]
    return f"{metric.value:.3g} ({metric.low:.3g}-{metric.high:.3g})"


def _show_difference(each: PairedDifference) -> str:
    interval = "" if each.interval is None else f" ({each.interval[0]:+.3g} to {each.interval[1]:+.3g})"
    return f"{each.mean_difference:+.3g}{interval}{_star(each)}"


def _star(each: PairedDifference | SuccessDifference) -> str:
    return " *" if each.differs else ""


def _interval(metric: Metric, episodes: Sequence[EpisodeMetrics]) -> Interval:
    values = [episode.metrics[metric.name] for episode in episodes]
    weights = [episode.steps for episode in episodes] if metric.reduction in ("mean", "rms") else [1] * len(episodes)
    return bootstrap(values, weights, rms=metric.reduction == "rms")
