"""SAC: its hyper-parameters and how Stable-Baselines3 builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.off_policy import OffPolicyConfig, shared_settings


@dataclass(frozen=True, kw_only=True)
class SacConfig(OffPolicyConfig):
    """Names and meanings are those of ``stable_baselines3.SAC``."""

    ent_coef: str  # "auto_0.1": learned, from 0.1 on
    target_entropy: float


def build(config: SacConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.SAC`` on a vectorised environment."""
    from stable_baselines3 import SAC

    return SAC(
        "MlpPolicy",
        env,
        ent_coef=config.ent_coef,
        target_entropy=config.target_entropy,
        seed=seed,
        device=device,
        **shared_settings(config),
    )
