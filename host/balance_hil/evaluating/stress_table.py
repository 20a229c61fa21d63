"""The outcome of a stress run: one cell per policy and stress, as numbers with intervals, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balance_hil.evaluating.intervals import LEVEL, Interval, bootstrap_mean, bootstrap_rms, wilson
from balance_hil.evaluating.stress import Stress
from balance_hil.metrics import EpisodeMetrics


@dataclass(frozen=True, kw_only=True)
class StressedPolicy:
    """One column of the table."""

    name: str
    path: str
    id: str  # of the bundle; "" for a checkpoint that was not exported


@dataclass(frozen=True, kw_only=True)
class StressCell:
    """One policy under one stress."""

    policy: str
    stress: str
    episodes: int
    survived: int
    survival: Interval  # 0..1; Wilson
    speed_error_rms: Interval  # rad/s; bootstrap
    wheel_speed_difference_error_rms: Interval  # rad/s; bootstrap
    action_rate: Interval  # bootstrap

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an interval is a value with ``_low`` and ``_high`` beside it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ("policy", "stress", "episodes", "survived")}
        for name in ("survival", "speed_error_rms", "wheel_speed_difference_error_rms", "action_rate"):
            interval: Interval = getattr(self, name)
            values |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return values


@dataclass(frozen=True, kw_only=True)
class StressTable:
    """Everything that was run. ``episodes`` has the metrics of every (policy name, stress name)."""

    runtime: str
    environment: str
    max_steps: int
    policies: tuple[StressedPolicy, ...]
    stresses: tuple[Stress, ...]
    episodes: Mapping[tuple[str, str], Sequence[EpisodeMetrics]]

    def cell(self, policy: str, stress: str) -> StressCell:
        """The numbers of one policy under one stress."""
        episodes = self.episodes[policy, stress]
        steps = [episode.steps for episode in episodes]
        survived = sum(episode.survived for episode in episodes)
        return StressCell(
            policy=policy,
            stress=stress,
            episodes=len(episodes),
            survived=survived,
            survival=wilson(survived, len(episodes)),
            speed_error_rms=bootstrap_rms([episode.speed_error_rms_rad_s for episode in episodes], steps),
            wheel_speed_difference_error_rms=bootstrap_rms(
                [episode.wheel_speed_difference_error_rms_rad_s for episode in episodes], steps
            ),
            action_rate=bootstrap_mean([episode.action_rate for episode in episodes], steps),
        )

    def cells(self) -> list[StressCell]:
        """Every cell, policy by policy."""
        return [self.cell(policy.name, stress.name) for policy in self.policies for stress in self.stresses]

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
            "stresses": [
                {"name": stress.name, "title": stress.title, "options": stress.options.to_dict()} for stress in self.stresses
            ],
            "cells": [cell.to_dict() for cell in self.cells()],
        }

    def to_markdown(self) -> str:
        """Three tables, stresses down and policies across: survival, tracking, action_rate."""
        names = ", ".join(f"{policy.name} `{policy.id}`" if policy.id else policy.name for policy in self.policies)
        return "\n\n".join(
            [
                f"Survival, % of {self.n_episodes} episodes of {self.max_steps} steps ({LEVEL:.0%} confidence, Wilson):",
                self._table(lambda cell: show_survival(cell.survival)),
                "RMS of speed error and of yaw error, rad/s, until the end of an episode or its fall "
                f"({LEVEL:.0%} confidence of the speed error, bootstrap over episodes):",
                self._table(
                    lambda cell: (
                        f"{cell.speed_error_rms.value:.1f} ({cell.speed_error_rms.low:.1f}-{cell.speed_error_rms.high:.1f})"
                        f" / {cell.wheel_speed_difference_error_rms.value:.1f}"
                    )
                ),
                "Chatter, mean change of an action (-1..1) per step:",
                self._table(lambda cell: f"{cell.action_rate.value:.3f}"),
                f"Environment {self.environment}, runtime {self.runtime}; policies: {names}.",
            ]
        )

    def _table(self, show: Callable[[StressCell], str]) -> str:
        lines = ["| stress | " + " | ".join(policy.name for policy in self.policies) + " |"]
        lines.append("|---|" + "---|" * len(self.policies))
        for stress in self.stresses:
            shown = [show(self.cell(policy.name, stress.name)) for policy in self.policies]
            lines.append(f"| {stress.title} | " + " | ".join(shown) + " |")
        return "\n".join(lines)


def show_survival(survival: Interval) -> str:
    """``98 (90-100)``, in per cent."""
    return f"{100 * survival.value:.0f} ({100 * survival.low:.0f}-{100 * survival.high:.0f})"
