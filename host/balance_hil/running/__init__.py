"""Runs a policy on a board, with the plant in simulation."""

from __future__ import annotations

from balance_hil.running.config import Clock, RunConfig, Tick
from balance_hil.running.result import RunResult
from balance_hil.running.run import RunInterrupted, open_plant, run
from balance_hil.running.soak import SoakConfig, SoakResult, soak

__all__ = ["Clock", "RunConfig", "RunInterrupted", "RunResult", "SoakConfig", "SoakResult", "Tick", "open_plant", "run", "soak"]
