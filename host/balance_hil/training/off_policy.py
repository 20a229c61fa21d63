"""What SAC, TD3 and DDPG share: they learn from a buffer of past steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.errors import ConfigError
from balance_hil.training.config import CommonConfig, activation_function, at_least, within


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(CommonConfig):
    """Names and meanings are those of Stable-Baselines3."""

    batch_size: int
    buffer_size: int  # environment steps
    learning_starts: int  # environment steps of random actions before the first update
    train_freq: int  # steps of each of the n_envs between updates
    gradient_steps: int  # per update
    tau: float  # share of the new weights in the target networks, per gradient step
    n_steps: int  # rewards summed before a critic is asked for the rest
    mirror: bool  # learn from steps as seen in mirrors, too

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "batch_size", "train_freq", "gradient_steps", "n_steps")
        at_least(0, self, "learning_starts")
        within(0.0, 1.0, self, "tau")
        if self.buffer_size < self.learning_starts or self.buffer_size < 2 * self.n_envs * self.n_steps:
            raise ConfigError(
                f"buffer_size {self.buffer_size} holds less than learning_starts or than two rows of n_envs x n_steps",
                "make it larger",
            )


def mirror_for(config: OffPolicyConfig, env: Any) -> dict[str, list[Any]]:
    """What a model's ``mirror`` has to be on a vectorised environment with a ``policy_spec``; empty for none."""
    from balance_hil.envs.balance.symmetry import mirror_of

    return mirror_of(env.get_attr("policy_spec")[0]) if config.mirror else {}


def shared_settings(config: OffPolicyConfig) -> dict[str, Any]:
    """The keyword arguments that the constructors take; a new dictionary each time, because SAC changes what it is given."""
    from stable_baselines3.common.utils import LinearSchedule

    return {
        "learning_rate": LinearSchedule(config.learning_rate, config.learning_rate_end, 1.0),
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "tau": config.tau,
        "gamma": config.gamma,
        "train_freq": config.train_freq,
        "gradient_steps": config.gradient_steps,
        "n_steps": config.n_steps,
        "policy_kwargs": {
            "net_arch": {"pi": list(config.policy_layers), "qf": list(config.value_layers)},
            "activation_fn": activation_function(config.activation),
            # One call for all tensors: half of a gradient step is the overhead of calls on small tensors.
            "optimizer_kwargs": {"fused": True},
        },
    }
