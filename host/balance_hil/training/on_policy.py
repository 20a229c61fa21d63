"""What PPO and A2C share: they learn from the steps of the present policy and then forget them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.config import CommonConfig, activation_function, at_least, within


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(CommonConfig):
    """Names and meanings are those of Stable-Baselines3."""

    n_steps: int  # of each of the n_envs per update
    gae_lambda: float
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    log_std_init: float

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "n_steps")
        within(0.0, 1.0, self, "gae_lambda")


def shared_settings(config: OnPolicyConfig) -> dict[str, Any]:
    """The keyword arguments that both constructors take; a new dictionary each time."""
    from stable_baselines3.common.utils import LinearSchedule

    return {
        "learning_rate": LinearSchedule(config.learning_rate, config.learning_rate_end, 1.0),
        "n_steps": config.n_steps,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef,
        "max_grad_norm": config.max_grad_norm,
        "policy_kwargs": {
            "net_arch": {"pi": list(config.policy_layers), "vf": list(config.value_layers)},
            "activation_fn": activation_function(config.activation),
            "log_std_init": config.log_std_init,
        },
    }
