"""Evaluating a policy during training, on episodes that are not used in training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import Environment
from balance_hil.errors import ConfigError
from balance_hil.metrics import EvaluationSummary, summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep, evaluation_seeds, rollout
from balance_hil.training.config import EvaluationConfig

# Checks choose the policy, so the reported success is measured on other seeds.
CHECK_SEED_BASE = 2 * EVALUATION_SEED_BASE


class StopRequestedError(Exception):
    """Raised out of an evaluation when the user interrupts; never leaves the package."""


@dataclass
class Evaluator:
    """Runs full-length episodes and counts the time they take."""

    environment: Environment  # an open one; it stays the caller's
    config: EvaluationConfig
    stop_requested: Callable[[], bool] = lambda: False  # called at every step; true ends the evaluation with StopRequestedError
    on_step: Callable[[int], None] = lambda step: None  # called with the control step, for a progress display
    n_threads: int = 0  # of the physics; 0 takes every core
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def check(self, model: Any) -> EvaluationSummary:
        """A few episodes on the check seeds."""
        return self._run(model, list(range(CHECK_SEED_BASE, CHECK_SEED_BASE + self.config.check_episodes)))

    def confirm(self, model: Any) -> EvaluationSummary:
        """The episodes that the result is reported on."""
        return self._run(model, evaluation_seeds(self.config.episodes))

    def is_good(self, summary: EvaluationSummary) -> bool:
        """Whether no episode failed and every limit is kept."""
        better = {metric.name: metric.better for metric in self.environment.metrics}
        return summary.success_rate == 1.0 and all(
            summary.metrics[name] >= limit if better[name] == "higher" else summary.metrics[name] <= limit
            for name, limit in self.config.limits.items()
        )

    def rank(self, check: EvaluationSummary, confirmed_success: float | None, good: bool) -> tuple[float, ...]:
        """Larger is better: success rate of the check, of the confirmation, ``good``, the metric ``best_by``; in this order."""
        name = self.config.best_by
        lower = any(metric.name == name and metric.better == "lower" for metric in self.environment.metrics)
        value = check.metrics[name]
        return check.success_rate, confirmed_success or 0.0, good, -value if lower else value

    def _run(self, model: Any, seeds: list[int]) -> EvaluationSummary:
        normalizer = model.get_vec_normalize_env()
        spec, space = self.environment.spec, self.environment.env.observation_space

        def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
            rows: Any = observations.reshape(len(observations), *(space.shape or ()))
            actions, _ = model.predict(normalizer.normalize_obs(rows) if normalizer else rows, deterministic=True)
            return spec.outputs_for(actions)

        def on_step(step: RolloutStep) -> None:
            if self.stop_requested():
                raise StopRequestedError
            self.on_step(step.step)

        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        try:
            episodes = rollout(act, self.environment, seeds, on_step=on_step, n_threads=self.n_threads)
            return summarize(episodes, self.environment.metrics)
        finally:
            self.wall_s += time.perf_counter() - start_s
            self.cpu_s += time.process_time() - start_cpu_s


def check_criteria(config: EvaluationConfig, environment: Environment) -> None:
    """Refuses limits on metrics that the environment does not have, and stop_when_good without a criterion.

    Raises:
        ConfigError: naming the key and the metrics that there are.
    """
    names = [metric.name for metric in environment.metrics]
    for name in (*config.limits, config.best_by):
        if name not in names:
            raise ConfigError(
                f"{environment.spec.environment} has no metric {name!r}, which evaluation of the configuration names",
                f"its metrics: {', '.join(names)}",
            )
    says_failure = environment.spec.terminated or hasattr(environment.env.unwrapped, "failed")
    if config.stop_when_good and not config.limits and not says_failure:
        raise ConfigError(
            f"stop_when_good needs a limit: {environment.spec.environment} does not define failure",
            f"for example evaluation: {{limits: {{{names[0]}: 100}}}}, or --terminated failure",
        )
