"""Warm start: a training that begins with the weights of a trained policy instead of random ones.

Weights of actor and critic and the scale of the reward are taken over; the optimizer, the step count, the exploration noise of
on-policy algorithms and every hyper-parameter are those of the new training. ``--resume`` continues a training instead.

A computed policy, such as the linear-quadratic regulator, is laid into the first units of a larger actor that computes the same
(Net2Net, Chen et al. 2016); the units that it does not need are random and have no effect yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.errors import CheckpointError, EnvironmentMismatchError
from balance_hil.spec import PolicySpec
from balance_hil.training.algorithms import ALGORITHMS
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, load
from balance_hil.training.config import OnPolicyConfig

_ACTOR = re.compile(r"mlp_extractor\.policy_net\.\d+\.weight|action_net\.weight")


def load_warm_start(path: Path, algorithm: str, spec: PolicySpec) -> Checkpoint:
    """Reads the checkpoint to start from; its environment may be another one as long as the signals are the same.

    Raises:
        CheckpointError: none there, damaged, or of another algorithm.
        EnvironmentMismatchError: it was trained on other signals than ``spec`` has.
    """
    checkpoint = load(path)
    computed = checkpoint.record.algorithm not in ALGORITHMS and issubclass(ALGORITHMS[algorithm].config_type, OnPolicyConfig)
    if checkpoint.record.algorithm != algorithm and not computed:
        raise CheckpointError(
            f"the checkpoint {path} was trained with {checkpoint.record.algorithm}, not with {algorithm}",
            f"start from one of {algorithm}: --init-from models/{algorithm}",
        )
    difference = checkpoint.record.spec.difference(spec)
    if difference is not None:
        raise EnvironmentMismatchError(
            f"a policy of {checkpoint.record.environment} does not fit {spec.environment}: they differ in {difference}",
            f"train without --init-from: hil train {algorithm} -e {spec.environment}",
        )
    return checkpoint


def apply_warm_start(checkpoint: Checkpoint, model: Any, normalizer: Any) -> None:
    """Copies the checkpoint's weights into an untrained model, and its scales into the training's ``VecNormalize``.

    Raises:
        CheckpointError: its layers are not those of the model.
    """
    import torch

    if checkpoint.record.algorithm not in ALGORITHMS:
        _lay_in(checkpoint.parameters()["policy"], model.policy)
        return
    log_std: Any = getattr(model.policy, "log_std", None)
    fresh = None if log_std is None else log_std.detach().clone()
    try:
        model.policy.load_state_dict(checkpoint.parameters()["policy"])
    except (KeyError, RuntimeError) as exc:
        raise CheckpointError(
            f"the checkpoint's weights do not fit: {str(exc).splitlines()[-1].strip()}",
            "give the same policy_layers, value_layers and activation as its training.json",
        ) from exc
    if fresh is not None:
        with torch.no_grad():
            log_std.copy_(fresh)
    if bool(checkpoint.record.observation_statistics) != normalizer.norm_obs:
        raise CheckpointError(
            "the checkpoint and this training differ in whether observations are normalized",
            "set normalize_observations as its training.json has it",
        )
    apply_statistics(checkpoint.record, normalizer)


def _lay_in(computed: Mapping[str, Any], policy: Any) -> None:
    """Makes the actor compute what the dense layers of ``computed`` do, ReLU between them. Raises CheckpointError."""
    import torch

    actor = [*(layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")), policy.action_net]
    weights = [value for name, value in computed.items() if _ACTOR.fullmatch(name)]
    biases = [computed[name.replace("weight", "bias")] for name in computed if _ACTOR.fullmatch(name)]
    while 1 < len(weights) < len(actor):  # a ReLU changes nothing on what comes out of one
        weights.insert(-1, torch.eye(len(biases[-2])))
        biases.insert(-1, torch.zeros(len(biases[-2])))
    fits = len(weights) == len(actor) and all(len(bias) <= len(layer.bias) for bias, layer in zip(biases, actor, strict=True))
    if not fits or policy.activation_fn is not torch.nn.ReLU:
        raise CheckpointError(
            f"the computed policy, {' and '.join(str(len(bias)) for bias in biases[:-1])} ReLU units, does not fit the actor",
            "give at least as many layers and units, and activation: relu",
        )
    with torch.no_grad():
        for layer, weight, bias in zip(actor, weights, biases, strict=True):
            rows, columns = weight.shape
            layer.weight[:rows] = 0.0
            layer.weight[:rows, :columns] = weight
            layer.bias[:rows] = bias


def apply_statistics(record: TrainingRecord, normalizer: Any) -> None:
    """Sets the running scales of rewards and observations to those of a checkpoint; nothing where it has none."""
    for statistics, running in ((record.return_statistics, "ret_rms"), (record.observation_statistics, "obs_rms")):
        if statistics and hasattr(normalizer, running):
            scale = getattr(normalizer, running)
            scale.mean, scale.var = np.float64(statistics["mean"]), np.float64(statistics["variance"])
            scale.count = statistics["count"]


def statistics_of(running: Any) -> dict[str, Any]:
    """A running scale of ``VecNormalize`` as plain JSON types; the inverse of ``apply_statistics``."""
    return {
        "mean": np.asarray(running.mean).tolist(),
        "variance": np.asarray(running.var).tolist(),
        "count": float(running.count),
    }
