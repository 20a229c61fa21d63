"""The classical baseline: a linear-quadratic regulator in the form of a policy.

The gain comes from the linearized simulator and the Riccati equation, in milliseconds and without an episode. The speed error is
limited before it is fed back, so that a far target asks for a bounded lean. All of that is written as an actor of two small
dense layers, so that everything made for learned policies (export, boards, comparison) takes it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.environment import open_environment
from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.linear import linearize
from balance_hil.errors import ConfigError, UsageError, require
from balance_hil.metrics import summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep, evaluation_seeds, rollout
from balance_hil.training.algorithms import LQR
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, pack, save
from balance_hil.training.config import load_config
from balance_hil.training.riccati import lqr_gain
from balance_hil.training.trainer import (
    TrainingProgress,
    TrainingRequest,
    TrainingResult,
    package_versions,
    rebuild_command,
    require_writable,
)

_PROGRESS_STEPS = 50
Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]  # weights [outputs, inputs], biases [outputs]


@dataclass(frozen=True, kw_only=True)
class LqrConfig:
    """By Bryson's rule each of the first five is the deviation that costs as much as the others at theirs."""

    pitch_rad: float
    pitch_rate_rad_s: float
    speed_error_rad_s: float
    wheel_speed_difference_error_rad_s: float
    action: float  # of -1..1
    speed_error_limit_rad_s: float  # a larger speed error counts as this
    episodes: int  # full-length episodes that the result is reported on

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ConfigError(f"{item.name!r} is {getattr(self, item.name)}, it must be more than 0", "correct the file")


def feedback(config: LqrConfig, environment: str) -> NDArray[np.float64]:
    """The gain ``k``, float64 [2, 4]: ``action = -k (state - target)``, state as in ``envs.linear.STATES``.

    Raises:
        UnknownEnvironmentError: no such environment.
    """
    model = linearize(environment)
    limits = (config.pitch_rad, config.pitch_rate_rad_s, config.speed_error_rad_s, config.wheel_speed_difference_error_rad_s)
    return lqr_gain(model.a, model.b, np.diag(1.0 / np.square(limits)), np.eye(2) / config.action**2)


def observation_gain(gain: NDArray[np.float64], env: BalanceConfig) -> NDArray[np.float32]:
    """The same gain on the observation, float32 [2, 6]; errors count target minus state, and the wheel speeds are in them."""
    on_observation = np.zeros((2, 6))
    on_observation[:, 0] = -gain[:, 0] * env.pitch_scale_rad
    on_observation[:, 1] = -gain[:, 1] * env.pitch_rate_scale_rad_s
    on_observation[:, 4] = gain[:, 2] * env.speed_error_scale_rad_s
    on_observation[:, 5] = gain[:, 3] * env.wheel_speed_difference_error_scale_rad_s
    return on_observation.astype(np.float32)


def limited_actor(config: LqrConfig, environment: str) -> Layers:
    """The regulator as two dense layers with a ReLU between them and a clip behind: [(weights, biases), (weights, biases)].

    What the gain works on lies within -1..1, so that one unit ``relu(x + 1)`` passes it on; the speed error takes two:
    ``clip(x, -c, c) = relu(x + c) - relu(x - c) - c``.

    Raises:
        UnknownEnvironmentError: no such environment.
    """
    env = config_for(environment)
    gain = observation_gain(feedback(config, environment), env)
    limit = config.speed_error_limit_rad_s / env.speed_error_scale_rad_s
    observed = (0, 1, 5, 4, 4)  # pitch, pitch rate, yaw error, speed error twice
    offsets = np.array([1.0, 1.0, 1.0, limit, -limit])
    hidden = np.zeros((len(observed), gain.shape[1]))
    hidden[range(len(observed)), observed] = 1.0
    output = gain[:, observed] * (1.0, 1.0, 1.0, 1.0, -1.0)
    constant = -gain[:, [0, 1, 5]].sum(axis=1) - limit * gain[:, 4]
    return [(_float32(hidden), _float32(offsets)), (_float32(output), _float32(constant))]


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def design(request: TrainingRequest, on_progress: Callable[[TrainingProgress], None]) -> TrainingResult:
    """Designs the regulator, judges it on unseen episodes and writes ``policy.zip`` and ``training.json``.

    Raises:
        UsageError: an option that only learning knows.
        UnknownEnvironmentError, ConfigError, CheckpointError, MissingExtraError.
    """
    for option in ("seed", "steps", "resume", "init_from"):
        if getattr(request, option) is not None:
            option = option.replace("_", "-")
            raise UsageError(f"--{option} means nothing to lqr, which is computed, not learned", "drop it")
    spec = config_for(request.environment).policy_spec(request.environment)
    config = load_config(LqrConfig, LQR, request.config)
    require_writable(request.output)
    for module in ("torch", "stable_baselines3"):
        require(module, "train")
    start_s = time.perf_counter()
    layers = limited_actor(config, request.environment)
    designed_s = time.perf_counter()
    on_progress(TrainingProgress(phase="evaluating", steps=0, total_steps=0))

    def report(step: RolloutStep) -> None:
        if step.step % _PROGRESS_STEPS == 0:
            on_progress(TrainingProgress(phase="evaluating", steps=0, total_steps=0, evaluation_step=step.step))

    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        (hidden, offsets), (output, constant) = layers
        return np.clip(np.maximum(observations @ hidden.T + offsets, 0.0) @ output.T + constant, -1.0, 1.0)

    with open_environment(request.environment) as env:
        summary = summarize(rollout(act, env, evaluation_seeds(config.episodes), on_step=report), env.metrics)
    record = TrainingRecord(
        algorithm=LQR,
        environment=request.environment,
        seed=0,
        steps=0,
        wall_s=round(designed_s - start_s, 3),
        evaluation_wall_s=round(time.perf_counter() - designed_s, 3),
        success_rate=summary.success_rate,
        evaluation={**summary.to_dict(), "first_seed": EVALUATION_SEED_BASE},
        hyper_parameters=vars(config),
        versions=package_versions(),
        spec=spec,
        rebuild=rebuild_command(request),
    )
    checkpoint = as_policy(layers, record)
    save(checkpoint, request.output)
    return TrainingResult(
        record=checkpoint.record, interrupted=False, output=request.output, checkpoint=request.output, tensorboard=None
    )


def as_policy(layers: Layers, record: TrainingRecord) -> Checkpoint:
    """A checkpoint of PPO's form with these layers as its actor."""
    keep_tensorflow_out()
    import torch

    from balance_hil.training.ppo import PpoConfig, build
    from balance_hil.training.vec_env import BatchVecEnv

    shape = replace(
        load_config(PpoConfig, "ppo"),
        policy_layers=tuple(len(weights) for weights, _ in layers[:-1]),
        value_layers=(),
        activation="relu",
        n_envs=1,
        n_steps=2,
        batch_size=2,
    )
    model: Any = build(shape, BatchVecEnv(record.environment, 1, 1, (0, 0)), 0, "cpu")
    dense = [layer for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
        for layer, (weights, biases) in zip([*dense, model.policy.action_net], layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weights))
            layer.bias.copy_(torch.from_numpy(biases))
    return pack(model, record)
