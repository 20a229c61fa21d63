"""What happens between the steps of a training: progress, reward terms, checks, checkpoints, stopping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from balance_hil.envs.balance.task import REWARD_TERMS
from balance_hil.training.config import CommonConfig

_TERM_EVERY_STEPS = 8  # reward terms are averaged over every 8th step of all episodes: enough for a curve


class TrainingCallback(BaseCallback):  # type: ignore[misc]
    """Calls ``check`` and ``checkpoint`` when they are due, and ends the training when one of them says so.

    Args:
        config: when they are due.
        stop_requested: asked at every step.
        check: judges the policy; true ends the training.
        checkpoint: saves the present state.
        progress: told (steps, mean return of the latest episodes).
    """

    def __init__(
        self,
        config: CommonConfig,
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
        self._sums = np.zeros(len(REWARD_TERMS))
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
            self._sums += [sum(info[f"reward_{term}"] for info in self.locals["infos"]) for term in REWARD_TERMS]
            self._count += len(self.locals["infos"])
        return not (self._finished or self._stop_requested())

    def _on_rollout_end(self) -> None:
        if self._count:
            for term, total in zip(REWARD_TERMS, self._sums, strict=True):
                # Off-policy algorithms log after several rollouts of a few steps each.
                self.logger.record_mean(f"reward/{term}", total / self._count)
        self._sums[:] = 0.0
        self._count = 0
