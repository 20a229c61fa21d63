"""Gymnasium environments. Importing this package registers them.

import gymnasium, balance_hil.envs.balance
env = gymnasium.make("balance/Balance-v0")
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any

import gymnasium as gym

from balance_hil.envs.balance.catalog import CATALOG
from balance_hil.envs.balance.config import EPISODE_STEPS as EPISODE_STEPS
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.motor_stand import CALIBRATION, CalibrationConfig
from balance_hil.errors import EnvironmentMismatchError, UnknownEnvironmentError, UsageError
from balance_hil.spec import PolicySpec

ENVIRONMENTS: dict[str, BalanceConfig] = {environment: entry.config for environment, entry in CATALOG.items()}


def config_for(environment: str) -> BalanceConfig:
    """Settings of a registered balance environment.

    Raises:
        UnknownEnvironmentError: no such environment.
        UsageError: it is the motor calibration, in which there is nothing to balance.
    """
    _require_known(environment)
    if environment == CALIBRATION:
        raise UsageError(
            f"{CALIBRATION} is a robot on a stand: there is nothing to balance, to train or to evaluate",
            "record a step response: hil calibrate step.csv",
        )
    return ENVIRONMENTS[environment]


def spec_for(environment: str) -> PolicySpec:
    """Signal tables of a registered environment. Raises UnknownEnvironmentError."""
    _require_known(environment)
    config = CalibrationConfig() if environment == CALIBRATION else ENVIRONMENTS[environment]
    return config.policy_spec(environment)


def _require_known(environment: str) -> None:
    known = (*ENVIRONMENTS, CALIBRATION)
    if environment not in known:

        def likeness(name: str) -> float:
            return difflib.SequenceMatcher(None, environment.lower(), name.lower()).ratio()

        nearest = max(known, key=likeness)  # the first of equals: versions resemble one another
        guess = nearest if likeness(nearest) >= 0.5 else None
        raise UnknownEnvironmentError(
            f"unknown environment {environment!r}" + (f", did you mean {guess!r}?" if guess else ""),
            f"environments are: {', '.join(known)}",
        )


def require_same_signals(made_for: PolicySpec, environment: str) -> None:
    """Refuses to run a policy on an environment whose signal tables are not those it was made for.

    Raises:
        UnknownEnvironmentError: no such environment of ours.
        UsageError: it is the motor calibration.
        EnvironmentMismatchError: the tables differ; the message says where first.
    """
    difference = made_for.difference(config_for(environment).policy_spec(environment))
    if difference:
        raise EnvironmentMismatchError(
            f"a policy made for {made_for.environment} cannot run on {environment}: they differ in {difference}",
            f"train one for it: hil train ppo -e {environment}",
        )


def make(environment: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """``gymnasium.make`` of a registered environment, without Gymnasium's per-step checks (the tests run them).

    ``options`` makes another robot of it: a ``RobotOptions``, or a table of what differs from the environment's own.

    Raises:
        UnknownEnvironmentError: no such environment of ours.
        ConfigError: an unknown option or a value out of range.
    """
    _require_known(environment)
    kwargs.setdefault("disable_env_checker", True)
    with warnings.catch_warnings():
        # Gymnasium takes the lower version for an outdated one. Ours are different tasks, not revisions of one.
        warnings.filterwarnings("ignore", message=".*is out of date", category=DeprecationWarning)
        return gym.make(environment, **kwargs)


def _register() -> None:
    for environment, entry in CATALOG.items():
        if environment not in gym.registry:
            gym.register(
                id=environment,
                entry_point=entry.entry_point,
                max_episode_steps=EPISODE_STEPS,
                kwargs={"environment": environment},
            )
    if CALIBRATION not in gym.registry:
        gym.register(
            id=CALIBRATION,
            entry_point="balance_hil.envs.balance.motor_stand:CalibrationEnv",
            max_episode_steps=EPISODE_STEPS,
            kwargs={"environment": CALIBRATION},
        )


_register()
