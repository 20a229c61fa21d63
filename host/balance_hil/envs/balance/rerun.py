"""An episode that went wrong, run again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.crash_repro import CrashRepro, restored_generator
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.options import options_from_dict
from balance_hil.errors import SimulationDivergedError


class Moment(NamedTuple):
    """The state after one control step of an episode that is run again."""

    step: int
    trace: dict[str, float]  # what the environment records at every step
    action: tuple[float, ...]


@dataclass(frozen=True)
class Rerun:
    """How the episode went the second time."""

    moments: list[Moment]
    error: str | None  # None: this time nothing went wrong
    robot: Mapping[str, Any]  # what was sampled for it, where its options differ from the nominal robot


def rerun(crash_repro: CrashRepro) -> Rerun:
    """Runs the episode again, up to where it went wrong or to the end of its actions.

    Raises:
        UnknownEnvironmentError, ConfigError: it is of another version of the program.
    """
    batch = BalanceBatch(crash_repro.environment, 1, 1, options_from_dict(crash_repro.made_with))
    options = options_from_dict(crash_repro.options)
    if options != batch.config.options:
        batch.change_options(options)
    batch.restart(0, restored_generator(crash_repro.generator), crash_repro.reset_options)
    moments: list[Moment] = []
    error = None
    for step, action in enumerate(crash_repro.actions):
        try:
            info = batch.step(action[np.newaxis])[0][4]
        except (SimulationDivergedError, ValueError) as exc:
            error = str(exc)
            break
        trace = {key: float(info[key]) for key in BalanceEnv.policy_trace}
        moments.append(Moment(step, trace, tuple(action.tolist())))
    robot = batch.robot(0)
    return Rerun(moments, error, {} if robot is None else robot.sampled.to_dict())
