"""A curriculum: options of the robot that move from an easy start to a hard end while training goes on.

In a YAML file of hyper-parameters, with options as in ``envs.options``:

    curriculum:
      from_progress: 0.0     # of the training's steps, 0..1: until here the options are those of `start`
      until_progress: 0.6    # from here on those of `end`; in between every range moves linearly
      start: {}              # the ideal robot
      end: {physics: {mass_scale: [0.8, 1.2]}}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from balance_hil.envs.balance.options import RobotOptions, Uniform, options_from_dict
from balance_hil.errors import ConfigError

_KEYS = ("from_progress", "until_progress", "start", "end")
_HINT = "compare with training/configs/ppo-robust.yaml"
_STAGES = 20  # the options change this often on their way; finer is not different


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Where the options go, and when."""

    from_progress: float
    until_progress: float
    start: RobotOptions
    end: RobotOptions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curriculum:
        """From plain types. Raises ConfigError, naming the key."""
        for key in values:
            if key not in _KEYS:
                raise ConfigError(f"unknown key 'curriculum.{key}'", f"known are: {', '.join(_KEYS)}")
        if "end" not in values:
            raise ConfigError("a curriculum needs an 'end'", _HINT)
        low, high = values.get("from_progress", 0.0), values.get("until_progress", 0.5)
        for end in (low, high):
            if isinstance(end, bool) or not isinstance(end, int | float) or not 0.0 <= end <= 1.0:
                raise ConfigError(f"the progress of a curriculum is {end!r}, it must be within 0..1", _HINT)
        if low > high:
            raise ConfigError(f"a curriculum from {low} until {high} of the training goes backwards", _HINT)
        start = options_from_dict(values.get("start") or {}, name="curriculum.start")
        end_options = options_from_dict(values["end"] or {}, name="curriculum.end")
        curriculum = cls(from_progress=float(low), until_progress=float(high), start=start, end=end_options)
        curriculum.at(0.5 * (low + high))  # finds what cannot be interpolated
        return curriculum

    def growth(self, progress: float) -> float:
        """How far the options have come, 0..1, in steps of 1/20, when ``progress`` (0..1) of the training is done."""
        if progress >= self.until_progress:
            return 1.0
        if progress <= self.from_progress:
            return 0.0
        share = (progress - self.from_progress) / (self.until_progress - self.from_progress)
        return int(share * _STAGES) / _STAGES

    def at(self, progress: float) -> RobotOptions:
        """The options when ``progress`` (0..1) of the training is done."""
        growth = self.growth(progress)
        if growth in (0.0, 1.0):
            return self.end if growth else self.start
        return _between(self.start, self.end, growth)


def _between(start: RobotOptions, end: RobotOptions, growth: float) -> RobotOptions:
    groups = {}
    for group in dataclasses.fields(RobotOptions):
        easy, hard = getattr(start, group.name), getattr(end, group.name)
        values = {
            each.name: _interpolated(
                getattr(easy, each.name),
                getattr(hard, each.name),
                growth,
                each.metadata.get("limits"),
                f"{group.name}.{each.name}",
            )
            for each in dataclasses.fields(hard)
        }
        groups[group.name] = dataclasses.replace(hard, **values)
    return RobotOptions(**groups)


def _interpolated(easy: Any, hard: Any, growth: float, limits: Any, name: str) -> Any:
    if easy == hard or limits is None:  # the sides, of pushes and blocks, are those of the end
        return hard
    if easy is None or hard is None:
        raise ConfigError(
            f"the curriculum cannot move {name!r} from {easy} to {hard}", f"name the model's own value in its start: {name}"
        )
    (easy_low, easy_high), (hard_low, hard_high) = _ends(easy), _ends(hard)
    low, high = (a + growth * (b - a) for a, b in ((easy_low, hard_low), (easy_high, hard_high)))
    if limits.whole:
        low, high = float(round(low)), float(round(high))
    return Uniform(low=low, high=high) if low != high else low


def _ends(value: float | Uniform) -> tuple[float, float]:
    return (value.low, value.high) if isinstance(value, Uniform) else (value, value)


class OptionsSchedule:
    """Hands the curriculum's options to the episodes when they change. One object per training.

    Args:
        curriculum: what to follow.
        total_steps: of the training.
        apply: takes new options; episodes that start from then on have them.
    """

    def __init__(self, curriculum: Curriculum, total_steps: int, apply: Callable[[RobotOptions], None]) -> None:
        self._curriculum = curriculum
        self._total_steps = total_steps
        self._apply = apply
        self._growth = -1.0

    def update(self, steps: int) -> float:
        """To be called now and then with the steps done; returns how far the options have come, 0..1."""
        growth = self._curriculum.growth(steps / self._total_steps)
        if growth != self._growth:
            self._growth = growth
            self._apply(self._curriculum.at(steps / self._total_steps))
        return growth
