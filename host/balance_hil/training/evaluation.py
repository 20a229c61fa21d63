"""Judging a policy during training, on episodes that training never sees."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import open_environment
from balance_hil.envs.balance.options import RobotOptions
from balance_hil.metrics import EvaluationSummary, summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep, evaluation_seeds, rollout
from balance_hil.training.config import EvaluationConfig

# Checks choose the policy, so the reported survival is measured on other seeds.
CHECK_SEED_BASE = 2 * EVALUATION_SEED_BASE


class StopRequestedError(Exception):
    """Raised out of an evaluation when the user interrupts; never leaves the package."""


class Evaluator:
    """Runs full-length episodes and counts the time they take in ``wall_s`` and ``cpu_s``.

    Args:
        environment: Gymnasium id.
        config: how many episodes.
        stop_requested: asked at every step; true ends the evaluation with StopRequestedError.
        on_step: told the control step for a progress display.
        n_threads: of the physics; 0 takes every core.
        options: how the robot differs from the ideal one; None: the environment's own.
    """

    def __init__(
        self,
        environment: str,
        config: EvaluationConfig,
        stop_requested: Callable[[], bool],
        on_step: Callable[[int], None],
        n_threads: int = 0,
        options: RobotOptions | None = None,
    ) -> None:
        self.wall_s = self.cpu_s = 0.0
        self._environment = open_environment(environment, {"options": options} if options is not None else None)
        self._config = config
        self._stop_requested = stop_requested
        self._on_step = on_step
        self._n_threads = n_threads

    def check(self, model: Any) -> EvaluationSummary:
        """A few episodes on the check seeds."""
        return self._run(model, list(range(CHECK_SEED_BASE, CHECK_SEED_BASE + self._config.check_episodes)))

    def confirm(self, model: Any) -> EvaluationSummary:
        """The episodes that the result is reported on."""
        return self._run(model, evaluation_seeds(self._config.episodes))

    def is_good(self, summary: EvaluationSummary) -> bool:
        """Whether no episode failed, with action_rate and tracking errors within the limits."""
        limits = self._config
        return (
            summary.success_rate == 1.0
            and summary.metrics["action_rate"] <= limits.max_action_rate
            and summary.metrics["speed_error_rms_rad_s"] <= limits.max_speed_error_rms_rad_s
            and summary.metrics["wheel_speed_difference_error_rms_rad_s"] <= limits.max_wheel_speed_difference_error_rms_rad_s
        )

    def _run(self, model: Any, seeds: list[int]) -> EvaluationSummary:
        def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            actions, _ = model.predict(observations, deterministic=True)
            return np.asarray(actions, np.float32)

        def on_step(step: RolloutStep) -> None:
            if self._stop_requested():
                raise StopRequestedError
            self._on_step(step.step)

        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        try:
            episodes = rollout(act, self._environment, seeds, on_step=on_step, n_threads=self._n_threads)
            return summarize(episodes, self._environment.metrics)
        finally:
            self.wall_s += time.perf_counter() - start_s
            self.cpu_s += time.process_time() - start_cpu_s


def rank(check: EvaluationSummary, confirmed_success: float | None, good: bool) -> tuple[float, ...]:
    """Larger is better: survival of the check, of the confirmation, ``good``, steps before the falls, tracking; in this order.

    So of two policies that survive every episode the one with the smaller RMS of speed and yaw error together is better.
    """
    tracking_error = math.hypot(check.metrics["speed_error_rms_rad_s"], check.metrics["wheel_speed_difference_error_rms_rad_s"])
    return check.success_rate, confirmed_success or 0.0, good, check.steps, -tracking_error
