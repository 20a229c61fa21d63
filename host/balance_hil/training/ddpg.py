"""DDPG: its hyper-parameters and how it is built on Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.deterministic import DeterministicConfig, action_noise, smoothness
from balance_hil.training.off_policy import mirror_for, shared_settings


@dataclass(frozen=True, kw_only=True)
class DdpgConfig(DeterministicConfig):
    """Names and meanings are those of ``stable_baselines3.DDPG``."""


def build(config: DdpgConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.DDPG``, with the smooth actor loss, on a vectorised environment."""
    from balance_hil.training.smoothness import SmoothDDPG

    model = SmoothDDPG("MlpPolicy", env, action_noise=action_noise(config), seed=seed, device=device, **shared_settings(config))
    model.smoothness = smoothness(config)
    model.mirror = mirror_for(config, env)
    return model
