"""``hil bench train``: environment steps per second, and seconds to a surviving policy, beside the reference project's physics.

Two things in one run, a few minutes long:

    stepping    32 episodes side by side, stepped by Stable-Baselines3's DummyVecEnv (one
                process, episode after episode) and SubprocVecEnv (a process per episode), and our batch on one and on every core
    training    the same PPO until it survives 4 of 4 and then 50 of 50 unseen 30-second episodes, in our batch, and in a
                DummyVecEnv of the same robot with the reference's physics: 250 substeps of 20 us instead of 5 of 1 ms

Contenders of the first part take turns in short blocks, and the fastest block of each counts: other programs can only slow one
down. Both policies of the second part are evaluated on balance/Balance-v0; that time is not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym

from balance_hil.benchmarks import balance, row
from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.environment import open_environment
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.env import BalanceEnv

EPISODES = 32
PROCESSES = 8  # of SubprocVecEnv, each with one episode: more share the same cores
BLOCKS = 12
SECONDS_PER_BLOCK = 0.4
CHECK_EVERY_STEPS = 10_000
REFERENCE = "20 us x 250, DummyVecEnv"
REFERENCE_TRAINING = "PPO, 20 us x 250, DummyVecEnv"


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    keep_tensorflow_out()
    return [*_stepping(), *_training()]


def _stepping() -> list[dict[str, Any]]:
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    cores = os.cpu_count() or 1
    ours, reference = _config(), _config(reference=True)
    # Forked, before MuJoCo starts threads: a spawned process could not import this module's functions.
    forked = SubprocVecEnv([_factory(ours)] * PROCESSES, start_method="fork")
    contenders = {
        REFERENCE: DummyVecEnv([_factory(reference)] * EPISODES),
        "1 ms x 5, DummyVecEnv": DummyVecEnv([_factory(ours)] * EPISODES),
        f"1 ms x 5, SubprocVecEnv, {PROCESSES} processes": forked,
        "1 ms x 5, our batch, 1 thread": _batch(EPISODES, 2000, 1),
    }
    if cores > 1:
        contenders[f"1 ms x 5, our batch, {cores} threads"] = _batch(EPISODES, 2000, cores)
    rates: dict[str, float] = dict.fromkeys(contenders, 0.0)
    try:
        observations = {name: env.reset() for name, env in contenders.items()}
        for _ in range(BLOCKS):
            for name, env in contenders.items():
                steps, start_s = 0, time.perf_counter()
                while time.perf_counter() - start_s < SECONDS_PER_BLOCK:
                    observations[name], *_ = env.step(balance(observations[name]))
                    steps += env.num_envs
                rates[name] = max(rates[name], steps / (time.perf_counter() - start_s))
    finally:
        for env in contenders.values():
            env.close()
    return [_row(name, "stepping", rate, "env steps/s", REFERENCE, rate / rates[REFERENCE]) for name, rate in rates.items()]


def _training() -> list[dict[str, Any]]:
    from stable_baselines3.common.vec_env import DummyVecEnv

    from balance_hil.settings import settings_from_dict
    from balance_hil.training.config import CONFIGS, PpoConfig, read_layers

    config = settings_from_dict(PpoConfig, read_layers("ppo", [CONFIGS, BalanceEnv.training_configs]))
    reference_s, reference_steps = _seconds_to_survival(config, DummyVecEnv([_factory(_config(reference=True))] * config.n_envs))
    ours_s, our_steps = _seconds_to_survival(config, _batch(config.n_envs, config.episode_steps or 6000))
    ours = "PPO, 1 ms x 5, our batch"
    rates = reference_steps / reference_s, our_steps / ours_s
    return [
        _row(REFERENCE_TRAINING, "to full survival", reference_s, "s", REFERENCE_TRAINING, 1.0),
        _row(ours, "to full survival", ours_s, "s", REFERENCE_TRAINING, ours_s / reference_s),
        _row(REFERENCE_TRAINING, "to full survival", reference_steps, "env steps", REFERENCE_TRAINING, 1.0),
        _row(ours, "to full survival", our_steps, "env steps", REFERENCE_TRAINING, our_steps / reference_steps),
        _row(REFERENCE_TRAINING, "updates included", rates[0], "env steps/s", REFERENCE_TRAINING, 1.0),
        _row(ours, "updates included", rates[1], "env steps/s", REFERENCE_TRAINING, rates[1] / rates[0]),
    ]


def _seconds_to_survival(config: Any, env: Any) -> tuple[float, int]:
    """Wall time of training, s, and its environment steps, until every episode is survived or the steps are spent."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    from balance_hil.training.algorithms import ALGORITHMS
    from balance_hil.training.evaluation import Evaluator

    torch.set_num_threads(1)
    evaluator = Evaluator(open_environment("balance/Balance-v0"), config.evaluation)

    class Evaluated(BaseCallback):  # type: ignore[misc]  # the base class has no types
        next_check = CHECK_EVERY_STEPS
        survived = False

        def _on_rollout_start(self) -> None:
            if self.num_timesteps >= self.next_check:
                self.next_check += CHECK_EVERY_STEPS
                self.survived = all(evaluate(self.model).success_rate == 1.0 for evaluate in (evaluator.check, evaluator.confirm))

        def _on_step(self) -> bool:
            return not self.survived

    env.seed(0)
    model = ALGORITHMS["ppo"].build(config, VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.gamma), 0, "cpu")
    start_s = time.perf_counter()
    model.learn(config.steps, callback=Evaluated())
    wall_s = time.perf_counter() - start_s - evaluator.wall_s
    env.close()
    return wall_s, model.num_timesteps


def _config(*, reference: bool = False) -> BalanceConfig:
    ours = envs.config_for("balance/Balance-v0")
    return replace(ours, physics_timestep_s=20e-6, substeps_per_step=250) if reference else ours


def _batch(episodes: int, episode_steps: int, n_threads: int = 0) -> Any:
    from balance_hil.training.vec_env import TrainingEnvs

    return TrainingEnvs(open_environment("balance/Balance-v0"), episodes, episode_steps, (0, 0), n_threads)


def _factory(config: BalanceConfig) -> Callable[[], gym.Env[Any, Any]]:
    """What SB3's vectorized environments make their episodes with: wrapped as ``make_vec_env`` does."""

    def make() -> gym.Env[Any, Any]:
        from stable_baselines3.common.monitor import Monitor

        monitored: gym.Env[Any, Any] = Monitor(gym.wrappers.TimeLimit(BalanceEnv(config=config), 2000))
        return monitored

    return make


def _row(what: str, metric: str, value: float, unit: str, baseline: str, ratio: float) -> dict[str, Any]:
    return row(what, metric, value, unit) if what == baseline else row(what, metric, value, unit, baseline, ratio)
