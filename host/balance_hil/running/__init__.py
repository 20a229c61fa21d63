"""Running a policy on a board: the robot in MuJoCo, the policy at the far end of a wire."""

from __future__ import annotations

from balance_hil.running.config import Clock, RunConfig, Tick
from balance_hil.running.result import RunResult
from balance_hil.running.run import run

__all__ = ["Clock", "RunConfig", "RunResult", "Tick", "run"]
