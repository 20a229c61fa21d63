"""What TD3 and DDPG share beyond the buffer: a deterministic actor, which explores by added noise and has to be kept smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.envs.task import N_ACT
from balance_hil.training.config import at_least
from balance_hil.training.off_policy import OffPolicyConfig


@dataclass(frozen=True, kw_only=True)
class SmoothnessConfig:
    """Weights of the smoothness terms in the actor's loss, see ``smoothness``. All zero: the algorithm as published."""

    observation_noise: float  # standard deviation of the disturbance, in units of the observation
    spatial_weight: float  # of the squared change of action under it
    saturation_weight: float  # of the squared output before tanh

    def __post_init__(self) -> None:
        at_least(0.0, self, "observation_noise", "spatial_weight", "saturation_weight")


@dataclass(frozen=True, kw_only=True)
class DeterministicConfig(OffPolicyConfig):
    """Names and meanings are those of Stable-Baselines3, but for ``smoothness``."""

    action_noise: float  # standard deviation of the exploration noise
    smoothness: SmoothnessConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0.0, self, "action_noise")


def action_noise(config: DeterministicConfig) -> Any:
    """White Gaussian noise on every action."""
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    return NormalActionNoise(np.zeros(N_ACT), np.full(N_ACT, config.action_noise))


def smoothness(config: DeterministicConfig) -> dict[str, float]:
    """The terms' weights as plain numbers, which a checkpoint can hold."""
    terms = config.smoothness
    return {
        "observation_noise": terms.observation_noise,
        "spatial_weight": terms.spatial_weight,
        "saturation_weight": terms.saturation_weight,
    }
