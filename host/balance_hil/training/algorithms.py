"""The algorithms that can be trained. A new one is a module like ``ppo``, a YAML file and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from balance_hil.errors import UsageError
from balance_hil.training import a2c, ddpg, ppo, sac, td3
from balance_hil.training.config import CommonConfig


@dataclass(frozen=True)
class Algorithm:
    """One algorithm of Stable-Baselines3."""

    name: str
    config_type: type[CommonConfig]
    build: Callable[[Any, Any, int, str], Any]  # config, vectorised environment, seed, device


LQR = "lqr"  # the classical baseline: computed by ``training.lqr``, not learned
ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("ppo", ppo.PpoConfig, ppo.build),
        Algorithm("a2c", a2c.A2cConfig, a2c.build),
        Algorithm("sac", sac.SacConfig, sac.build),
        Algorithm("td3", td3.Td3Config, td3.build),
        Algorithm("ddpg", ddpg.DdpgConfig, ddpg.build),
    )
}


def algorithm_for(name: str) -> Algorithm:
    """The algorithm of that name. Raises UsageError."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    names = (*ALGORITHMS, LQR)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    raise UsageError(
        f"unknown algorithm {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
        f"algorithms are: {', '.join(names)}",
    )
