"""SAC: its hyper-parameters and how it is built on Stable-Baselines3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from balance_hil.errors import ConfigError
from balance_hil.training.config import at_least
from balance_hil.training.off_policy import OffPolicyConfig, mirror_for, shared_settings


@dataclass(frozen=True, kw_only=True)
class SacConfig(OffPolicyConfig):
    """Names and meanings are those of ``stable_baselines3.SAC``."""

    ent_coef: str  # "auto_0.1": learned, from 0.1 on
    target_entropy: float
    policy_delay: int  # gradient steps of the critics for one of the actor; 1: as published

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "policy_delay")
        if re.fullmatch(r"(auto(_\d*\.?\d+(e-?\d+)?)?)|\d*\.?\d+(e-?\d+)?", self.ent_coef) is None:
            raise ConfigError(
                f"hyper-parameter 'ent_coef' is {self.ent_coef!r}, it must be auto, auto_0.1 or a number", "correct it"
            )


def build(config: SacConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.SAC`` on a vectorised environment."""
    from balance_hil.training.delayed_sac import DelayedSAC

    model = DelayedSAC(
        "MlpPolicy",
        env,
        ent_coef=config.ent_coef,
        target_entropy=config.target_entropy,
        seed=seed,
        device=device,
        **shared_settings(config),
    )
    model.policy_delay = config.policy_delay
    model.mirror = mirror_for(config, env)
    return model
