"""``hil bench env``: environment steps per second, beside the reference project's stepping, in one run.

    balance/Balance-v0  5 physics substeps of 1 ms per control step, through gymnasium.make as users get it, and without wrappers
    the same at 20 us   the same robot and task with 250 substeps of 20 us, as the reference project's Env01-v1 is stepped
    side by side        16 episodes in one call per control step, on every core: what training and evaluation use
    the others          each environment with its options, side by side and through gymnasium.make

The contenders take turns in short blocks, and the fastest block of each counts: other programs can only slow one down. A
hand-written controller balances the robot and is not timed.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from balance_hil.benchmarks import balance, row
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.env import BalanceEnv

BLOCKS = 40
SECONDS_PER_BLOCK = 0.03  # of stepping, for each contender
EPISODES = 16


class Contender(Protocol):
    """Something that makes control steps."""

    name: str
    metric: str

    def step(self) -> tuple[int, float]:
        """Steps once; returns the number of control steps made and the wall time they took, s."""


class OneEpisode:
    """A Gymnasium environment, one step at a time."""

    def __init__(self, name: str, env: gym.Env[Any, Any]) -> None:
        self.name = name
        self.metric = "one core"
        self._env = env
        self._observation, _ = env.reset(seed=0)

    def step(self) -> tuple[int, float]:
        """See ``Contender``."""
        action = balance(self._observation[np.newaxis])[0]
        start_s = time.perf_counter()
        self._observation, _, fallen, cut_off, _ = self._env.step(action)
        wall_s = time.perf_counter() - start_s
        if fallen or cut_off:
            self._observation, _ = self._env.reset()
        return 1, wall_s


class SideBySide:
    """Episodes of an environment in a batch."""

    def __init__(self, environment: str) -> None:
        self.name = f"{environment}, {EPISODES} side by side"
        self.metric = "all cores"
        self._batch = BalanceBatch(environment, EPISODES)
        self._observations = np.stack([self._batch.reset(i, i) for i in range(EPISODES)])

    def step(self) -> tuple[int, float]:
        """See ``Contender``."""
        actions = balance(self._observations)
        start_s = time.perf_counter()
        outcomes = self._batch.step(actions)
        wall_s = time.perf_counter() - start_s
        for i, outcome in enumerate(outcomes):
            self._observations[i] = self._batch.reset(i) if outcome[2] else outcome[0]
        return EPISODES, wall_s


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio. A value is that of the fastest block."""
    reference_stepping = replace(BalanceConfig(), physics_timestep_s=20e-6, substeps_per_step=250)
    contenders: list[Contender] = [
        OneEpisode("the same at 20 us", BalanceEnv(config=reference_stepping)),
        OneEpisode("balance/Balance-v0", envs.make("balance/Balance-v0")),
        OneEpisode("balance/Balance-v0, no wrappers", envs.make("balance/Balance-v0").unwrapped),
        SideBySide("balance/Balance-v0"),
    ]
    for environment in envs.CATALOG:
        if environment != "balance/Balance-v0":
            contenders += [OneEpisode(environment, envs.make(environment)), SideBySide(environment)]
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(BLOCKS):
        for contender in contenders:
            rates[contender.name].append(_block(contender))
    baseline = max(rates[contenders[0].name])
    rows = []
    for contender in contenders:
        value = max(rates[contender.name])
        versus = () if contender is contenders[0] else (contenders[0].name, value / baseline)
        rows.append(row(contender.name, contender.metric, value, "env steps/s", *versus))
    return rows


def _block(contender: Contender) -> float:
    steps, wall_s = 0, 0.0
    while wall_s < SECONDS_PER_BLOCK:
        made, took_s = contender.step()
        steps += made
        wall_s += took_s
    return steps / wall_s
