"""What TD3 and DDPG share beyond the buffer: a deterministic actor, which explores by added noise and has to be kept smooth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from balance_hil.envs.balance.task import N_ACT, N_OBS
from balance_hil.errors import ConfigError
from balance_hil.training.config import at_least
from balance_hil.training.off_policy import OffPolicyConfig


@dataclass(frozen=True, kw_only=True)
class SmoothnessConfig:
    """Weights of the smoothness terms in the actor's loss, see ``smoothness``. All zero: the algorithm as published."""

    observation_noise: tuple[float, ...]  # standard deviation of the disturbance of each signal, in units of the observation
    spatial_weight: float  # of the squared change of action under it
    saturation_weight: float  # of the squared output before tanh

    def __post_init__(self) -> None:
        at_least(0.0, self, "spatial_weight", "saturation_weight")
        if len(self.observation_noise) != N_OBS or min(self.observation_noise) < 0.0:
            raise ConfigError(
                f"hyper-parameter 'smoothness.observation_noise' is {list(self.observation_noise)}",
                f"give {N_OBS} numbers of 0 or more, one for each signal of the observation",
            )


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


def smoothness(config: DeterministicConfig) -> dict[str, Any]:
    """The terms as plain numbers, which a checkpoint can hold."""
    return asdict(config.smoothness)
