"""PPO: its hyper-parameters and how Stable-Baselines3 builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.errors import ConfigError
from balance_hil.training.config import CommonConfig


@dataclass(frozen=True, kw_only=True)
class PpoConfig(CommonConfig):
    """Names and meanings are those of ``stable_baselines3.PPO``."""

    n_steps: int
    batch_size: int
    n_epochs: int
    gae_lambda: float
    clip_range: float
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    log_std_init: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_steps", "batch_size", "n_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hyper-parameter {name!r} is {getattr(self, name)}, it must be 1 or more", "correct it")
        if (self.n_envs * self.n_steps) % self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} does not divide n_envs x n_steps = {self.n_envs * self.n_steps}",
                "choose a batch_size that does, or the last minibatch is a rest",
            )


def build(config: PpoConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.PPO`` on a vectorised environment."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.utils import LinearSchedule

    return PPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(config.learning_rate, config.learning_rate_end, 1.0),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={
            "net_arch": {"pi": list(config.policy_layers), "vf": list(config.value_layers)},
            "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation],
            "log_std_init": config.log_std_init,
        },
        seed=seed,
        device=device,
    )
