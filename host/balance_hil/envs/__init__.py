"""Environments that come with the package. Importing it registers them; each is one folder behind the environment seam.

import gymnasium, balance_hil.envs
env = gymnasium.make("balance/Balance-v0")
"""

from __future__ import annotations

import gymnasium as gym

_BALANCE = "balance_hil.envs.balance."
ENTRY_POINTS = {
    "balance/Balance-v0": _BALANCE + "env:BalanceEnv",
    "balance/BalanceNoisy-v0": _BALANCE + "variants:NoisySensorsEnv",
    "balance/BalanceTargets-v0": _BALANCE + "variants:DriveEnv",
    "balance/BalanceRandomized-v0": _BALANCE + "variants:RandomPhysicsEnv",
    "balance/BalanceBlocks-v0": _BALANCE + "variants:ThrownBlocksEnv",
    "balance/BalanceBlocksFrontBack-v0": _BALANCE + "variants:BlocksFrontBackEnv",
    "balance/MotorStand-v0": _BALANCE + "motor_stand:MotorStandEnv",
}
# Ids of version 1. Not registered: the public project that they come from registers the same ones, with other signals.
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
    """Registers what is not registered yet."""
    for environment, entry_point in ENTRY_POINTS.items():
        if environment not in gym.registry:
            gym.register(environment, entry_point, max_episode_steps=6000, kwargs={"environment": environment})


register()
