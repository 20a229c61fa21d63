"""A2C: its hyper-parameters and how it is built on Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.training.config import at_least
from balance_hil.training.on_policy import OnPolicyConfig, shared_settings


@dataclass(frozen=True, kw_only=True)
class A2cConfig(OnPolicyConfig):
    """Names and meanings are those of ``stable_baselines3.A2C``. The optimizer is Adam, not A2C's usual RMSprop."""

    normalize_advantage: bool
    mirror_weight: float  # of the preference for one side, see ``symmetric_a2c``; 0: as published

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0.0, self, "mirror_weight")


def build(config: A2cConfig, env: Any, seed: int, device: str) -> Any:
    """An untrained ``stable_baselines3.A2C`` on a vectorised environment."""
    from balance_hil.envs.balance.symmetry import mirror_of
    from balance_hil.training.symmetric_a2c import SymmetricA2C

    model = SymmetricA2C(
        "MlpPolicy",
        env,
        use_rms_prop=False,
        normalize_advantage=config.normalize_advantage,
        seed=seed,
        device=device,
        **shared_settings(config),
    )
    model.mirror_weight, model.mirror = config.mirror_weight, mirror_of(env.get_attr("policy_spec")[0])
    return model
