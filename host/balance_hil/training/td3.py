"""TD3: its hyper-parameters and how it is built on Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.config import at_least
from balance_hil.training.deterministic import DeterministicConfig, action_noise, smoothness
from balance_hil.training.off_policy import mirror_for, shared_settings


@dataclass(frozen=True, kw_only=True)
class Td3Config(DeterministicConfig):
    """Names and meanings are those of ``stable_baselines3.TD3``."""

    policy_delay: int  # gradient steps of the critics for one of the actor; with 1 it would be DDPG
    target_policy_noise: float
    target_noise_clip: float

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "policy_delay")
        at_least(0.0, self, "target_policy_noise", "target_noise_clip")


def build(config: Td3Config, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.TD3``, with the smooth actor loss, on a vectorised environment."""
    from balance_hil.training.smoothness import SmoothTD3

    model = SmoothTD3(
        "MlpPolicy",
        env,
        policy_delay=config.policy_delay,
        target_policy_noise=config.target_policy_noise,
        target_noise_clip=config.target_noise_clip,
        action_noise=action_noise(config),
        seed=seed,
        device=device,
        **shared_settings(config),
    )
    model.smoothness = smoothness(config)
    model.mirror = mirror_for(config, env)
    return model
