"""A2C: its hyper-parameters and how Stable-Baselines3 builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.on_policy import OnPolicyConfig, shared_settings


@dataclass(frozen=True, kw_only=True)
class A2cConfig(OnPolicyConfig):
    """Names and meanings are those of ``stable_baselines3.A2C``. The optimiser is Adam, not A2C's usual RMSprop."""

    normalize_advantage: bool


def build(config: A2cConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.A2C`` on a vectorised environment."""
    from stable_baselines3 import A2C

    return A2C(
        "MlpPolicy",
        env,
        use_rms_prop=False,
        normalize_advantage=config.normalize_advantage,
        seed=seed,
        device=device,
        **shared_settings(config),
    )
