"""The robot in a mirror: left and right wheel change places and yaw its sign, and nothing else changes.

So every step that was made is also known to happen the other way round, and an algorithm can learn from both, as in "On Learning
Symmetric Locomotion" (Abdolhosseini, Ling, Xie, Peng, van de Panne; MIG 2019). Without it the actor keeps a small preference for
one side for long, which is a steady yaw error. Off-policy algorithms mirror half of the rows of each batch; for A2C see
``symmetric_a2c``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from balance_hil.spec import PolicySpec, Signal


def mirror_of(spec: PolicySpec) -> dict[str, list[Any]]:
    """For observations and actions: which signal each one becomes, and its sign. Plain lists, which a checkpoint can hold."""
    observation, action = _places(spec.observation), _places(spec.action)
    return {
        "observation": observation,
        "observation_sign": [-1.0 if "yaw" in signal.name else 1.0 for signal in spec.observation],
        "action": action,
        "action_sign": [-1.0 if "yaw" in signal.name else 1.0 for signal in spec.action],
    }


def mirrored(values: torch.Tensor, mirror: Mapping[str, list[Any]], name: str) -> torch.Tensor:
    """Rows of float32 [rows, n] in the mirror; ``name`` says whether they are of "observation" or "action"."""
    return values[:, mirror[name]] * values.new_tensor(mirror[f"{name}_sign"])


def mirror_every_other(values: torch.Tensor, mirror: Mapping[str, list[Any]], name: str) -> torch.Tensor:
    """The same of rows 1, 3, 5, ...; the others stay as they are."""
    mixed = values.clone()
    mixed[1::2] = mirrored(values[1::2], mirror, name)
    return mixed


def _places(signals: Sequence[Signal]) -> list[int]:
    names = [signal.name for signal in signals]
    swap = {"left": "right", "right": "left"}
    return [names.index("_".join(swap.get(word, word) for word in name.split("_"))) for name in names]
