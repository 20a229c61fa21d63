"""PyTorch on the desktop: the deterministic actor as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.bundle import POLICY, Bundle
from balance_hil.checkpoint import Actor, open_checkpoint, read_checkpoint, read_surroundings
from balance_hil.errors import BundleError, require
from balance_hil.quantize import Float32Array
from balance_hil.runtimes.base import Runtime


class TorchRuntime(Runtime):
    """An actor in float32."""

    name = "torch"

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.n_obs, self.n_act = actor.n_obs, actor.n_act
        self._module = build_module(actor)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, trust: bool = False) -> TorchRuntime:
        """The actor of a checkpoint, behind the ``vecnormalize.pkl`` beside it where there is one; raises CheckpointError."""
        opened = open_checkpoint(path, trust=trust)
        runtime = cls(opened.actor)
        runtime.normalization = read_surroundings(opened.path, opened.actor.n_obs).normalization
        return runtime

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """See Runtime."""
        import torch

        with torch.inference_mode():
            actions = self._module(torch.from_numpy(np.ascontiguousarray(self.normalized(observations))))
        return np.asarray(actions.numpy(), np.float32)


def build_module(actor: Actor) -> Any:
    """The actor as a ``torch.nn.Sequential``: float32 [n, n_obs] to float32 [n, n_act]."""
    require("torch", "train")
    import torch
    from torch import nn

    activations = {
        "clip": lambda: nn.Hardtanh(-1.0, 1.0),
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "elu": nn.ELU,
        "leaky_relu": nn.LeakyReLU,
        "silu": nn.SiLU,
    }
    modules: list[nn.Module] = []
    for layer in actor.layers:
        dense = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        with torch.no_grad():
            dense.weight.copy_(torch.from_numpy(layer.weight))
            dense.bias.copy_(torch.from_numpy(layer.bias))
        modules += [dense, *([activations[layer.activation]()] if layer.activation else [])]
    return nn.Sequential(*modules).eval()


def load(name: str, bundle: Bundle) -> TorchRuntime:
    """The runtime ``torch`` for a bundle. Raises BundleError where the policy is not one of Stable-Baselines3."""
    file = bundle.file(POLICY)
    if not file.is_file():
        raise BundleError(f"the bundle {bundle.path} holds no {POLICY}", "choose another runtime: --runtime float32")
    return TorchRuntime(read_checkpoint(file))
