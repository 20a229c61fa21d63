"""What happens between the steps of a training: progress, reward terms, checks, checkpoints, stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from balance_hil.training.config import TrainingConfig

_TERM = "reward_"  # what the keys of reward terms in ``info`` begin with
_TERM_EVERY_STEPS = 8  # reward terms are averaged over every 8th step of all episodes: enough for a curve


class TrainingCallback(BaseCallback):  # type: ignore[misc]  # the base class has no types
    """Calls ``check`` and ``checkpoint`` when they are due, and ends the training when one of them requests it.

    Args:
        config: when they are due.
        stop_requested: asked at every step.
        check: evaluates the policy; true ends the training.
        checkpoint: saves the present state.
        progress: called with (steps, mean return of the latest episodes).
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        stop_requested: Callable[[], bool],
        check: Callable[[], bool],
        checkpoint: Callable[[], object],
        progress: Callable[[int, float | None], None],
    ) -> None:
        super().__init__()
        self._config = config
        self._stop_requested = stop_requested
        self._check = check
        self._checkpoint = checkpoint
        self._progress = progress
        self._next_check = 0
        self._next_checkpoint = 0
        self._sums: dict[str, float] = {}  # of the reward terms, if the environment reports them
        self._count = 0
        self._finished = False

    def _on_training_start(self) -> None:
        evaluation = self._config.evaluation
        self._next_check = max(evaluation.from_steps, self.num_timesteps + evaluation.every_steps)
        self._next_checkpoint = self.num_timesteps + self._config.checkpoint_every_steps

    def _on_rollout_start(self) -> None:
        """The policy is fresh from an update here."""
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._progress(self.num_timesteps, float(np.mean(returns)) if returns else None)
        if self.num_timesteps >= self._next_checkpoint:
            self._next_checkpoint = self.num_timesteps + self._config.checkpoint_every_steps
            self._checkpoint()
        if self.num_timesteps >= self._next_check:
            self._next_check = self.num_timesteps + self._config.evaluation.every_steps
            self._finished = self._check()

    def _on_step(self) -> bool:
        if self.n_calls % _TERM_EVERY_STEPS == 0:
            infos: list[dict[str, Any]] = self.locals["infos"]
            for key in infos[0]:
                if isinstance(key, str) and key.startswith(_TERM):
                    self._sums[key] = self._sums.get(key, 0.0) + sum(info.get(key, 0.0) for info in infos)
            self._count += len(infos)
        return not (self._finished or self._stop_requested())

    def _on_rollout_end(self) -> None:
        for key, total in self._sums.items():
            # Off-policy algorithms log after several rollouts of a few steps each.
            self.logger.record_mean(f"reward/{key.removeprefix(_TERM)}", total / self._count)
        self._sums, self._count = {}, 0
