"""The robot in a mirror: left and right wheel change places and yaw its sign, and nothing else changes.

So every step that was made is also known to happen the other way round. Off-policy algorithms learn from both: half of the$
rows of each batch are mirrored ("On Learning Symmetric Locomotion", Abdolhosseini, Ling, Xie, Peng, van de Panne, MIG
2019). Without it the actor keeps a small preference for one side for long, which is a steady yaw error.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def mirror_every_other(values: torch.Tensor, places: Sequence[int], signs: Sequence[float]) -> torch.Tensor:
    """Rows 1, 3, 5, ... of float32 [rows, n] mirrored, the others as they are."""
    mirrored = values.clone()
    mirrored[1::2] = values[1::2][:, list(places)] * values.new_tensor(list(signs))
    return mirrored


def _places(signals: Sequence[Signal]) -> list[int]:
    names = [signal.name for signal in signals]
    swap = {"left": "right", "right": "left"}
    return [names.index("_".join(swap.get(word, word) for word in name.split("_"))) for name in names]
