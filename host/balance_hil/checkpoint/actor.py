"""The deterministic actor of a policy: dense layers, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.spaces import Space, space_of
from balance_hil.errors import EnvironmentMismatchError
from balance_hil.spec import ActionMap

Float32Array = NDArray[np.float32]


def _sigmoid(x: Float32Array) -> Float32Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


# name -> what it computes; "clip" is to -1..1 and "" is nothing. The names are those of ``Layer.activation``.
ACTIVATIONS: dict[str, Callable[[Float32Array], Float32Array]] = {
    "": lambda x: x,
    "clip": lambda x: np.clip(x, np.float32(-1), np.float32(1)),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0)))),
    "leaky_relu": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "silu": lambda x: x * _sigmoid(x),
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer and the activation after it: ``weight`` float32 [outputs, inputs], ``bias`` float32 [outputs]."""

    weight: Float32Array
    bias: Float32Array
    activation: str = ""  # a key of ACTIVATIONS


def act_through(layers: Sequence[Layer], inputs: Float32Array) -> Float32Array:
    """Outputs, float32 [n, n_act], for inputs, float32 [n, n_obs], in plain numpy: what the layers mean."""
    values = np.asarray(inputs, np.float32)
    for layer in layers:
        values = ACTIVATIONS[layer.activation](values @ layer.weight.T + layer.bias)
    return np.asarray(values, np.float32)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A policy without exploration and critics: observations to outputs, and outputs to actions.

    The outputs of a policy with a Box of actions lie within -1..1; those of one with Discrete actions are logits.
    """

    algorithm: str  # "ppo", ...; "" if unknown
    layers: tuple[Layer, ...]
    action_map: ActionMap
    observation_space: Space | None = None  # as stored in the checkpoint; None: not stored
    action_space: Space | None = None
    sb3_version: str = ""

    @property
    def weights(self) -> tuple[Float32Array, ...]:
        """Of every layer, float32 [outputs, inputs]."""
        return tuple(layer.weight for layer in self.layers)

    @property
    def biases(self) -> tuple[Float32Array, ...]:
        """Of every layer, float32 [outputs]."""
        return tuple(layer.bias for layer in self.layers)

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return int(self.layers[0].weight.shape[1])

    @property
    def n_act(self) -> int:
        """Length of the output vector."""
        return int(self.layers[-1].weight.shape[0])

    def require_spaces(self, path: Path, environment: str, env: Any) -> None:
        """Raises EnvironmentMismatchError unless its spaces, read from ``path``, are those of ``env``, of Gymnasium."""
        spaces = {
            "observations": (self.observation_space, env.observation_space),
            "actions": (self.action_space, env.action_space),
        }
        for kind, (mine, theirs) in spaces.items():
            if difference := mine.difference(space_of(theirs)) if mine else None:
                raise EnvironmentMismatchError(
                    f"{path} and {environment} differ in their {kind}, {difference}",
                    "name the environment that it was trained in: -e ENVIRONMENT",
                )

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """Outputs, float32 [n, n_act], for observations, float32 [n, n_obs]."""
        return act_through(self.layers, observations)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened zip. ``settings`` are the policy's arguments with classes as stand-ins; ``state`` its tensors by name."""

    path: Path  # as the user named it
    content: bytes  # of the file
    actor: Actor
    policy_class: str
    settings: Mapping[str, Any]
    state: Mapping[str, Any]
    behind_vec_normalize: bool  # the training's environment was wrapped in one; of observations, rewards or both
