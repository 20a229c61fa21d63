"""The two-wheeled balance robot: the built-in example of an environment behind the seam."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from balance_hil.envs import register
from balance_hil.envs.balance.catalog import CATALOG
from balance_hil.envs.balance.config import EPISODE_STEPS, BalanceConfig
from balance_hil.errors import UnknownEnvironmentError
from balance_hil.files import require_known

__all__ = ["CATALOG", "EPISODE_STEPS", "BalanceConfig", "config_for", "make"]
register()


def config_for(environment: str) -> BalanceConfig:
    """Settings of a balance environment. Raises UnknownEnvironmentError."""
    require_known(environment, CATALOG, "environment of the balance robot:", error=UnknownEnvironmentError)
    return CATALOG[environment]


def make(environment: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """``gymnasium.make`` of a balance environment, without Gymnasium's per-step checks (the tests run them).

    Raises:
        ConfigError: an unknown option or a value out of range.
    """
    return gym.make(environment, **{"disable_env_checker": True, **kwargs})
