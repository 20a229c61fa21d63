"""PPO: its hyper-parameters and how Stable-Baselines3 builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.errors import ConfigError
from balance_hil.training.config import at_least
from balance_hil.training.on_policy import OnPolicyConfig, shared_settings


@dataclass(frozen=True, kw_only=True)
class PpoConfig(OnPolicyConfig):
    """Names and meanings are those of ``stable_baselines3.PPO``."""

    batch_size: int
    n_epochs: int
    clip_range: float

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "batch_size", "n_epochs")
        if (self.n_envs * self.n_steps) % self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} does not divide n_envs x n_steps = {self.n_envs * self.n_steps}",
                "choose a batch_size that does, or the last minibatch is a rest",
            )


def build(config: PpoConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.PPO`` on a vectorised environment."""
    from stable_baselines3 import PPO

    return PPO(
        "MlpPolicy",
        env,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        clip_range=config.clip_range,
        seed=seed,
        device=device,
        **shared_settings(config),
    )
