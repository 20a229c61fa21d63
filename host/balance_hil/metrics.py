"""What is said about a policy's episodes, in one place: simulated, on a runtime or on a board."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """One episode. Errors are of the true state, without sensor noise."""

    seed: int
    steps: int  # control steps until the fall or the end
    survived: bool
    speed_error_rms_rad_s: float
    wheel_speed_difference_error_rms_rad_s: float
    action_rate: float  # mean over steps and action elements of |a_t - a_(t-1)|, with a_0 = 0 before the first step


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """Several episodes. Errors and action_rate are weighted by steps, so that a short episode counts for little."""

    episodes: int
    survived: int
    survival: float  # 0..1
    steps: int  # of all episodes together
    speed_error_rms: float  # rad/s
    wheel_speed_difference_error_rms: float  # rad/s
    action_rate: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class EpisodeAccumulator:
    """Collects one episode step by step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.steps = 0
        self._speed_squares = 0.0
        self._yaw_squares = 0.0
        self._change = 0.0
        self._previous: Sequence[float] = ()

    def add(self, action: Sequence[float] | NDArray[np.floating[Any]], info: Mapping[str, Any]) -> None:
        """Adds one control step: the action that was applied, float [n_act], and the ``info`` that the step returned."""
        values: Sequence[float] = action.tolist() if isinstance(action, np.ndarray) else action
        previous = self._previous or (0.0,) * len(values)
        self._change += sum([abs(a - b) for a, b in zip(values, previous, strict=True)]) / len(values)
        self._previous = values
        speed, yaw = info["speed_error_rad_s"], info["wheel_speed_difference_error_rad_s"]
        self._speed_squares += speed * speed
        self._yaw_squares += yaw * yaw
        self.steps += 1

    def finish(self, survived: bool) -> EpisodeMetrics:
        """The metrics of the episode so far; all zero when it has no step."""
        steps = max(1, self.steps)
        return EpisodeMetrics(
            seed=self.seed,
            steps=self.steps,
            survived=survived,
            speed_error_rms_rad_s=math.sqrt(self._speed_squares / steps),
            wheel_speed_difference_error_rms_rad_s=math.sqrt(self._yaw_squares / steps),
            action_rate=self._change / steps,
        )


def summarize(episodes: Sequence[EpisodeMetrics]) -> EvaluationSummary:
    """Joins episodes into one summary; zero episodes give a survival of 0."""
    steps = sum(e.steps for e in episodes)
    survived = sum(e.survived for e in episodes)

    def mean(values: Sequence[float]) -> float:
        return sum(v * e.steps for v, e in zip(values, episodes, strict=True)) / max(1, steps)

    return EvaluationSummary(
        episodes=len(episodes),
        survived=survived,
        survival=survived / max(1, len(episodes)),
        steps=steps,
        speed_error_rms=math.sqrt(mean([e.speed_error_rms_rad_s**2 for e in episodes])),
        wheel_speed_difference_error_rms=math.sqrt(mean([e.wheel_speed_difference_error_rms_rad_s**2 for e in episodes])),
        action_rate=mean([e.action_rate for e in episodes]),
    )
