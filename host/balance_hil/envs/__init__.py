"""Environments that come with the package. Importing it registers them; each is one folder behind the environment seam.

import gymnasium, balance_hil.envs
env = gymnasium.make("balance/Balance-v0")
"""

from __future__ import annotations

import gymnasium as gym

DEFAULT_ENVIRONMENT = "balance/Balance-v0"
# Ids of version 1 -> ids of today. Those of version 1 are not registered: the public project that they come from registers the
# same ones, with other signals.
ALIASES = {
    "Env01-v1": "balance/Balance-v0",
    "Env01-v2": "balance/BalanceNoisy-v0",
    "Env01-v3": "balance/BalanceTargets-v0",
    "Env02-v1": "balance/BalanceRandomized-v0",
    "Env03-v1": "balance/BalanceBlocks-v0",
    "Env03-v2": "balance/BalanceBlocksFrontBack-v0",
    "Cal01-v1": "balance/MotorStand-v0",
}


def register() -> None:
    """Registers what is not registered yet. ``balance.catalog`` has the settings of each id."""
    for environment in ALIASES.values():
        if environment not in gym.registry:
            entry_point = "motor_stand:MotorStandEnv" if "Motor" in environment else "env:BalanceEnv"
            gym.register(
                environment,
                f"balance_hil.envs.balance.{entry_point}",
                max_episode_steps=6000,
                kwargs={"environment": environment},
            )


register()
