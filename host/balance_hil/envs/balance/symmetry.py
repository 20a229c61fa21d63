"""The robot in two mirrors. One stands beside it: left and right wheel change places, yaw changes its sign. The other stands
before it: forward is backward, every signal and every action changes its sign.

So every step that was made is also known to happen in three other ways, and an algorithm can learn from all of them, as in
"On Learning Symmetric Locomotion" (Abdolhosseini, Ling, Xie, Peng, van de Panne; MIG 2019). Without the first mirror the actor
keeps a small preference for one side for long, which is a steady yaw error; without the second for one direction, in which it
runs away. Off-policy algorithms learn from every row of a batch in one of the four ways; for A2C see ``symmetric_a2c``.

A robot whose mass is off its middle is no mirror image of itself: there the environment has to draw the offset evenly to both
sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from balance_hil.spec import PolicySpec, Signal


def mirror_of(spec: PolicySpec) -> dict[str, list[Any]]:
    """For observations and actions: what each signal becomes sideways, and its sign. Plain lists, which a checkpoint can hold."""
    observation, action = _places(spec.observation), _places(spec.action)
    return {
        "observation": observation,
        "observation_sign": [-1.0 if "difference" in signal.name else 1.0 for signal in spec.observation],
        "action": action,
        "action_sign": [-1.0 if "difference" in signal.name else 1.0 for signal in spec.action],
    }


def mirrored_sideways(values: torch.Tensor, mirror: Mapping[str, list[Any]], name: str) -> torch.Tensor:
    """Rows of float32 [rows, n] in the mirror beside the robot; ``name`` says whether they are of "observation" or "action"."""
    return values[:, mirror[name]] * values.new_tensor(mirror[f"{name}_sign"])


def mirror_rows(values: torch.Tensor, mirror: Mapping[str, list[Any]], name: str) -> torch.Tensor:
    """Row 0 as it is, row 1 in the mirror beside the robot, row 2 in the one before it, row 3 in both, row 4 as it is, and so on.

    Applied twice it gives the original again.
    """
    mixed = values.clone()
    mixed[1::2] = mirrored_sideways(values[1::2], mirror, name)
    for first in (2, 3):
        mixed[first::4].neg_()
    return mixed


def _places(signals: Sequence[Signal]) -> list[int]:
    names = [signal.name for signal in signals]
    swap = {"left": "right", "right": "left"}
    return [names.index("_".join(swap.get(word, word) for word in name.split("_"))) for name in names]
