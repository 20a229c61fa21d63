"""The symmetries of the robot. Sideways: left and right wheel change places, the wheel-speed difference changes its sign.
Forward and backward: every signal and every action changes its sign. And both.

An algorithm learns from each step and its three images (symmetry augmentation). Without the first image the actor keeps a small
preference for one side, which is a steady wheel-speed-difference error; without the second, for one direction, in which it runs
away. A robot whose mass is off center is not symmetric: its environment has to sample the offset evenly to both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from balance_hil.spec import PolicySpec, Signal

Symmetry = dict[str, list[Any]]  # "observation", "action": which signal each becomes; "observation_sign", "action_sign": its sign


def symmetries_of(spec: PolicySpec) -> list[Symmetry]:
    """The three images. Plain lists, which a checkpoint can hold."""
    return [_image(spec, sideways, forward) for sideways, forward in ((True, 1.0), (False, -1.0), (True, -1.0))]


def _image(spec: PolicySpec, sideways: bool, forward: float) -> Symmetry:
    image: Symmetry = {}
    for name, signals in (("observation", spec.observation), ("action", spec.action)):
        image[name] = _swapped(signals) if sideways else list(range(len(signals)))
        image[f"{name}_sign"] = [-forward if sideways and "difference" in signal.name else forward for signal in signals]
    return image


def _swapped(signals: Sequence[Signal]) -> list[int]:
    names = [signal.name for signal in signals]
    swap = {"left": "right", "right": "left"}
    return [names.index("_".join(swap.get(word, word) for word in name.split("_"))) for name in names]
