"""Policies that are computed, not learned, such as the balance robot's linear-quadratic regulator.

The environment names its designs in ``policy_designs`` and computes one in ``design_policy(name, settings)``: dense layers, each
(weights, float32 [outputs, inputs]; biases, float32 [outputs]), a ReLU between them, a clip to the action's limits behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.environment import Environment
from balance_hil.errors import UsageError, require
from balance_hil.metrics import summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep, evaluation_seeds, rollout
from balance_hil.settings import settings_from_dict
from balance_hil.training.algorithms import ALGORITHMS
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, pack, save
from balance_hil.training.config import folders_of, read_layers
from balance_hil.training.request import TrainingProgress, TrainingRequest, TrainingResult, new_record, require_output

_PROGRESS_STEPS = 50
_EPISODES = 50
Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def design(request: TrainingRequest, environment: Environment, on_progress: Callable[[TrainingProgress], None]) -> TrainingResult:
    """Computes the policy, evaluates it on unseen episodes and writes ``policy.zip`` and ``training.json``.

    Raises:
        UsageError: an option that applies to learning only, or the output folder is taken.
        ConfigError, CheckpointError, MissingExtraError.
    """
    for option in ("seed", "steps", "resume", "init_from"):
        if getattr(request, option) is not None:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} does not apply to {request.algorithm}, which is computed, not learned", "drop it")
    require_output(request)
    for module in ("torch", "stable_baselines3"):
        require(module, "train")
    settings = read_layers(request.algorithm, folders_of(environment), request.config)
    episodes = int(settings.pop("episodes", _EPISODES))
    start_s = time.perf_counter()
    own: Any = environment.env.unwrapped
    layers: Layers = own.design_policy(request.algorithm, settings)
    designed_s = time.perf_counter()
    on_progress(TrainingProgress(phase="evaluating", steps=0, total_steps=0))

    def report(step: RolloutStep) -> None:
        if step.step % _PROGRESS_STEPS == 0:
            on_progress(TrainingProgress(phase="evaluating", steps=0, total_steps=0, evaluation_step=step.step))

    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        for weights, biases in layers[:-1]:
            observations = np.maximum(observations @ weights.T + biases, 0.0)
        return np.asarray(observations @ layers[-1][0].T + layers[-1][1], np.float32)  # the rollout clips it

    summary = summarize(rollout(act, environment, evaluation_seeds(episodes), on_step=report), environment.metrics)
    record = replace(
        new_record(request, environment.spec, {**settings, "episodes": episodes}),
        wall_s=round(designed_s - start_s, 3),
        evaluation_wall_s=round(time.perf_counter() - designed_s, 3),
        success_rate=summary.success_rate,
        evaluation={**summary.to_dict(), "first_seed": EVALUATION_SEED_BASE},
    )
    checkpoint = as_policy(layers, record, environment)
    save(checkpoint, request.output)
    return TrainingResult(
        record=checkpoint.record,
        good=summary.success_rate == 1.0,
        interrupted=False,
        output=request.output,
        checkpoint=request.output,
        tensorboard=None,
    )


def as_policy(layers: Layers, record: TrainingRecord, environment: Environment) -> Checkpoint:
    """A checkpoint of PPO's form with these layers as its actor."""
    keep_tensorflow_out()
    import torch

    from balance_hil.training.vec_env import TrainingEnvs

    ppo = ALGORITHMS["ppo"]
    form: dict[str, Any] = {
        "policy_layers": [len(weights) for weights, _ in layers[:-1]],
        "value_layers": [],
        "activation": "relu",
        "n_envs": 1,
        "n_steps": 2,
        "batch_size": 2,
    }
    config = settings_from_dict(ppo.config_type, read_layers("ppo", folders_of(environment)) | form)
    model = ppo.build(config, TrainingEnvs(environment, 1, 1, (0, 0)), 0, "cpu")
    dense = [layer for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
        for layer, (weights, biases) in zip([*dense, model.policy.action_net], layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weights))
            layer.bias.copy_(torch.from_numpy(biases))
    return pack(model, record)
