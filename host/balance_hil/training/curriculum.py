"""A curriculum: the environment's options move from an easy start to a hard end while training goes on.

In a YAML file of hyper-parameters, for an environment that interpolates between two sets of options
(``options_between``) and whose batch takes new ones (``change_options``):

    curriculum:
      from_progress: 0.0     # of the training's steps, 0..1: until here the options are those of `start`
      until_progress: 0.6    # from here on those of `end`; in between they move linearly
      start: {}
      end: {physics: {mass_scale: [0.8, 1.2]}}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from balance_hil.environment import Environment
from balance_hil.errors import ConfigError
from balance_hil.settings import Settings, number

_STAGES = 20  # the options change this often on their way; finer is not different


@dataclass(frozen=True, kw_only=True)
class Curriculum(Settings):
    """Where the options go, and when."""

    from_progress: float = number(0.0, 1.0, 0.0)
    until_progress: float = number(0.0, 1.0, 0.5)
    start: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_progress > self.until_progress:
            raise ConfigError(
                f"a curriculum from {self.from_progress} until {self.until_progress} of the training goes backwards",
                "correct the file given to --config",
            )

    def growth(self, progress: float) -> float:
        """How far the options have come, 0..1, in steps of 1/20, when ``progress`` (0..1) of the training is done."""
        if progress >= self.until_progress:
            return 1.0
        if progress <= self.from_progress:
            return 0.0
        share = (progress - self.from_progress) / (self.until_progress - self.from_progress)
        return int(share * _STAGES) / _STAGES

    def options(self, environment: Environment, growth: float) -> Any:
        """The options at that growth, as the environment's batch takes them.

        Raises:
            ConfigError: a typing error in them, something that cannot move, or an environment that has no curriculum.
        """
        own: Any = environment.env.unwrapped
        if not hasattr(own, "options_between"):
            raise ConfigError(
                f"{environment.spec.environment} cannot change its options while training goes on: no curriculum",
                "let it have options_between(start, end, share), and its batch change_options(options)",
            )
        return own.options_between(self.start, self.end, growth)
