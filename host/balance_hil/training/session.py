"""The running part of a training: model, episodes, checks and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from balance_hil.errors import (
    CheckpointError,
    HarnessError,
    NonFiniteInputError,
    SimulationDivergedError,
    TrainingError,
    first_line,
)
from balance_hil.interrupt import Interrupt
from balance_hil.metrics import EvaluationSummary
from balance_hil.rollout import EVALUATION_SEED_BASE
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, pack, restore_replay, save
from balance_hil.training.evaluation import Evaluator, StopRequestedError
from balance_hil.training.plan import Plan
from balance_hil.training.request import TrainingProgress, TrainingResult
from balance_hil.training.vec_env import TrainingEnvs
from balance_hil.training.warm_start import apply_statistics, apply_warm_start, statistics_of

_PROGRESS_PERIOD_S = 0.1
_TERM = "reward_"  # what the keys of reward terms in ``info`` begin with
_TERM_EVERY_STEPS = 8  # reward terms are averaged over every 8th step of all episodes: enough for a curve
_FIRST_SEED = "first_seed"
_TENSORBOARD_NAMES = {"return": "mean_reward", "length": "mean_ep_length"}  # as Stable-Baselines3's EvalCallback


class TrainingSession:
    """One run. ``run`` may be called once."""

    def __init__(self, plan: Plan, folder: Path, on_progress: Callable[[TrainingProgress], None]) -> None:
        self._plan = plan
        self._config = plan.config
        self._request = plan.request
        self._folder = folder
        self._checkpoint_folder = folder / "checkpoint"
        self._tensorboard = folder / "tensorboard"
        self._on_progress = on_progress
        self._stop = Interrupt()
        self._environment, self._evaluated = plan.open_training(), plan.open_evaluation()
        self._evaluator = Evaluator(
            self._evaluated, plan.config.evaluation, lambda: self._stop.requested, self._evaluation_step, plan.request.threads
        )
        self._progress = TrainingProgress(phase="training", steps=plan.record.steps, total_steps=plan.config.steps)
        self._progress_s = 0.0
        self._start_s = self._start_cpu_s = 0.0
        self._best: Checkpoint | None = None
        self._best_rank: tuple[float, ...] = ()
        self._checked_steps = -1
        evaluation = plan.config.evaluation
        self._next_check = max(evaluation.from_steps, plan.record.steps + evaluation.every_steps)
        self._next_checkpoint = plan.record.steps + plan.config.checkpoint_every_steps
        self._full = False  # the best policy failed in no episode, within the limits
        self._build()

    def run(self) -> TrainingResult:
        """Trains, evaluates and writes.

        Raises:
            TrainingError: an observation or a weight is no longer finite.
        """
        self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()
        with self._environment, self._evaluated, closing(self._env), self._stop:
            with suppress(StopRequestedError):
                self._learn()
            checkpoint = self._save_checkpoint()
            if not self._stop.requested:
                with suppress(StopRequestedError):
                    return self._finish()
        return self._result(checkpoint, interrupted=True)

    def _build(self) -> None:
        # One thread: the matrices are small, and more threads wait for one another.
        torch.set_num_threads(1)
        record, config = self._plan.record, self._config
        # A resumed training goes on with new episodes, not with those it began with.
        self._env = TrainingEnvs(
            self._environment,
            config.n_envs,
            config.episode_steps or record.spec.episode_steps,
            entropy=(record.seed, record.steps),
            n_threads=self._request.threads,
            far_starts=config.far_starts,
        )
        self._growth = -1.0  # of the curriculum
        self._grow(record.steps)
        self._normalizer = VecNormalize(
            self._env, norm_obs=config.normalize_observations, norm_reward=config.normalize_reward, gamma=config.gamma
        )
        learns = getattr(config, "symmetry", False) or getattr(config, "symmetry_weight", 0.0)
        symmetries = getattr(self._environment.env.unwrapped, "policy_symmetries", ()) if learns else ()
        self._model = self._plan.algorithm.build(config, self._normalizer, record.seed, self._request.device, symmetries)
        self._model.set_logger(configure(str(self._tensorboard), ["tensorboard"]))
        settings = {name: value for name, value in config.to_dict().items() if isinstance(value, int | float | str)}
        self._model.logger.record("hparams", HParam({**settings, "seed": record.seed}, {"eval/success_rate": 0.0}))
        if self._plan.parameters is not None:
            self._restore(self._plan.parameters)
        elif self._plan.warm_start is not None:
            apply_warm_start(self._plan.warm_start, self._model, self._normalizer)

    def _restore(self, parameters: dict[str, object]) -> None:
        try:
            self._model.set_parameters(parameters)
        except (ValueError, KeyError, RuntimeError) as exc:
            raise CheckpointError(
                f"the checkpoint's weights do not fit its settings: {first_line(exc)}", "train without --resume"
            ) from exc
        self._model.num_timesteps = self._plan.record.steps
        apply_statistics(self._plan.record, self._normalizer)
        checkpoint = self._plan.checkpoint
        if checkpoint is None or not isinstance(self._model, OffPolicyAlgorithm):
            return
        for name, value in checkpoint.variables().items():
            getattr(self._model, name).data.copy_(value)
        if checkpoint.replay:
            restore_replay(self._model, checkpoint.replay)
        else:  # the result of a training: the buffer is filled before the first update
            self._model.learning_starts += self._model.num_timesteps

    def _learn(self) -> None:
        left = self._config.steps - self._plan.record.steps
        try:
            self._model.learn(left, callback=_Callback(self), reset_num_timesteps=self._plan.parameters is None)
        except (NonFiniteInputError, SimulationDivergedError) as exc:
            raise self._diverged(exc.message, exc.crash_repro) from exc
        except ValueError as exc:
            # Torch's, of a distribution with NaN parameters; any other one is not about numbers.
            if isinstance(exc, HarnessError) or self._finite():
                raise
            raise self._diverged("the weights are NaN or infinite") from exc
        if not self._finite():
            raise self._diverged("the weights are NaN or infinite")

    def _finish(self) -> TrainingResult:
        """The final check and the result: the best policy, confirmed."""
        if not self._full and self._checked_steps != self._model.num_timesteps:
            self._check()
        best = self._best
        assert best is not None
        if best.record.success_rate is None:
            self._model.set_parameters(best.parameters())
            apply_statistics(best.record, self._normalizer)
            best, _ = self._confirmed(best)
        best = replace(best, record=self._timed(best.record))
        save(best, self._request.output)
        confirmed = {name: value for name, value in best.record.evaluation.items() if name != _FIRST_SEED}
        return self._result(best, interrupted=False, good=self._evaluator.is_good(EvaluationSummary(**confirmed)))

    def _check(self) -> None:
        """Evaluates the present policy; keeps the best, and notes when it is good on every episode and that ends the training."""
        if not self._finite():
            raise self._diverged("the weights are NaN or infinite")
        self._checked_steps = self._model.num_timesteps
        summary = self._evaluator.check(self._model)
        self._progress = replace(self._progress, success_rate=summary.success_rate)
        for name, value in {"success_rate": summary.success_rate, **summary.metrics}.items():
            self._model.logger.record(f"eval/{_TENSORBOARD_NAMES.get(name, name)}", value)
        self._model.logger.dump(self._model.num_timesteps)
        candidate = self._pack()
        good = self._evaluator.is_good(summary)
        if good and self._config.evaluation.stop_when_good:
            candidate, confirmation = self._confirmed(candidate)
            self._full = self._evaluator.is_good(confirmation)
        candidate_rank = self._evaluator.rank(summary, candidate.record.success_rate, good)
        if candidate_rank > self._best_rank:
            self._best, self._best_rank = candidate, candidate_rank

    def _confirmed(self, checkpoint: Checkpoint) -> tuple[Checkpoint, EvaluationSummary]:
        summary = self._evaluator.confirm(self._model)
        self._progress = replace(self._progress, success_rate=summary.success_rate)
        evaluation = {**summary.to_dict(), _FIRST_SEED: EVALUATION_SEED_BASE}
        record = replace(checkpoint.record, success_rate=summary.success_rate, evaluation=evaluation)
        return replace(checkpoint, record=record), summary

    def _pack(self, *, with_replay: bool = False) -> Checkpoint:
        observations = statistics_of(self._normalizer.obs_rms) if self._config.normalize_observations else {}
        record = replace(
            self._timed(self._plan.record),
            steps=self._model.num_timesteps,
            success_rate=None,
            evaluation={},
            return_statistics=statistics_of(self._normalizer.ret_rms),
            observation_statistics=observations,
        )
        return pack(self._model, record, with_replay=with_replay)

    def _save_checkpoint(self) -> Checkpoint:
        if not self._finite():
            raise self._diverged("the weights are NaN or infinite")
        checkpoint = self._pack(with_replay=True)
        save(checkpoint, self._checkpoint_folder)
        return checkpoint

    def _result(self, checkpoint: Checkpoint, *, interrupted: bool, good: bool = False) -> TrainingResult:
        return TrainingResult(
            record=checkpoint.record,
            good=good,
            interrupted=interrupted,
            output=self._request.output,
            checkpoint=self._checkpoint_folder,
            tensorboard=self._tensorboard,
        )

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self._model.policy.parameters())

    def _diverged(self, reason: str, crash_repro: Any = None) -> TrainingError:
        state = self._folder / "diverged.npz"
        with state.open("wb") as file:
            np.savez(file, **self._env.latest_step(), **(crash_repro.to_arrays() if crash_repro else {}))
        hint = "lower learning_rate in a --config file; "
        if crash_repro:
            hint += f"run the episode again, {len(crash_repro.actions)} steps: hil replay {state}"
        else:
            hint += f"the step that ended it is in {state}"
        if self._checkpoint_folder.is_dir():
            hint += f", the checkpoint in {self._checkpoint_folder} is from before that"
        return TrainingError(f"training diverged after {self._model.num_timesteps} steps: {reason}", hint)

    def _timed(self, record: TrainingRecord) -> TrainingRecord:
        """The record with the wall times so far, those of the runs it was resumed from included."""
        before = self._plan.record
        training_s = time.perf_counter() - self._start_s - self._evaluator.wall_s
        training_cpu_s = time.process_time() - self._start_cpu_s - self._evaluator.cpu_s
        return replace(
            record,
            wall_s=round(before.wall_s + training_s, 3),
            cpu_s=round(before.cpu_s + training_cpu_s, 3),
            evaluation_wall_s=round(before.evaluation_wall_s + self._evaluator.wall_s, 3),
        )

    def stop_requested(self) -> bool:
        """Whether the user has interrupted the training, or the policy is good."""
        return self._stop.requested or self._full

    def between_rollouts(self) -> None:
        """Progress, curriculum, and checkpoints and checks that are due. The policy is fresh from an update here."""
        steps = self._model.num_timesteps
        returns = [episode["r"] for episode in self._model.ep_info_buffer or ()]
        if self._plan.curriculum:
            self._grow(steps)
            self._model.logger.record("curriculum/growth", self._growth)
        self._progress = replace(
            self._progress, phase="training", steps=steps, episode_return=float(np.mean(returns)) if returns else None
        )
        self._on_progress(self._progress)
        if steps >= self._next_checkpoint:
            self._next_checkpoint = steps + self._config.checkpoint_every_steps
            self._save_checkpoint()
        if steps >= self._next_check:
            self._next_check = steps + self._config.evaluation.every_steps
            self._check()

    def _grow(self, steps: int) -> None:
        """Gives episodes that start from now on the options of the curriculum, where those have changed."""
        curriculum = self._plan.curriculum
        if curriculum and (growth := curriculum.growth(steps / self._config.steps)) != self._growth:
            self._growth = growth
            self._env.change_options(curriculum.options(self._environment, growth))

    def _evaluation_step(self, step: int) -> None:
        now_s = time.perf_counter()
        if now_s - self._progress_s >= _PROGRESS_PERIOD_S:
            self._progress_s = now_s
            self._on_progress(replace(self._progress, phase="evaluating", evaluation_step=step))


class _Callback(BaseCallback):  # type: ignore[misc]  # the base class has no types
    """Stable-Baselines3's calls during a training: hands them to the session, and averages the reward terms."""

    def __init__(self, session: TrainingSession) -> None:
        super().__init__()
        self._session = session
        self._sums: dict[str, float] = {}  # of the reward terms, if the environment reports them
        self._count = 0

    def _on_rollout_start(self) -> None:
        self._session.between_rollouts()

    def _on_step(self) -> bool:
        if self.n_calls % _TERM_EVERY_STEPS == 0:
            infos: list[dict[str, Any]] = self.locals["infos"]
            for key in infos[0]:
                if isinstance(key, str) and key.startswith(_TERM):
                    self._sums[key] = self._sums.get(key, 0.0) + sum(info.get(key, 0.0) for info in infos)
            self._count += len(infos)
        return not self._session.stop_requested()

    def _on_rollout_end(self) -> None:
        for key, total in self._sums.items():
            # Off-policy algorithms log after several rollouts of a few steps each.
            self.logger.record_mean(f"reward/{key.removeprefix(_TERM)}", total / self._count)
        self._sums, self._count = {}, 0
