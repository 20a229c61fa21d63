"""A number of an option, or a range from which it is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from balance_hil.errors import ConfigError

OPTIONS_HINT = "the options and their units: docs/environments.md"


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A range from which a quantity is sampled; both ends belong to it."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The value at the fraction ``u``, 0..1, of the range."""
        return min(self.high, max(self.low, self.low + u * (self.high - self.low)))  # rounding may step outside


Quantity = float | Uniform


class Limits(NamedTuple):
    """What a quantity may be; ``whole`` numbers only, ``None`` where that leaves it to the model."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False


def pick(value: Quantity | None, u: float, *, whole: bool = False) -> float:
    """A quantity's value: itself, or where ``u``, 0 <= u < 1, falls in its range."""
    if isinstance(value, Uniform):
        return math.floor(value.low + u * (value.high - value.low + 1.0)) if whole else value.at(u)
    return cast(float, value)


def fixed(value: Quantity | None) -> float:
    """A quantity that has been sampled, as the number that it is."""
    assert isinstance(value, int | float)
    return float(value)


def check_quantity(value: Any, limits: Limits, name: str) -> None:
    """Raises ConfigError for an unknown quantity or a value out of its limits."""
    if value is None and limits.optional:
        return
    ends = (value.low, value.high) if isinstance(value, Uniform) else (value,)
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | float) or not limits.low <= end <= limits.high:
            raise ConfigError(f"option {name!r} is {end!r}, it must be within {limits.low:g}..{limits.high:g}", OPTIONS_HINT)
        if limits.whole and end != int(end):
            raise ConfigError(f"option {name!r} is {end!r}, it must be a whole number", OPTIONS_HINT)
    if ends[0] > ends[-1]:
        raise ConfigError(f"the range of option {name!r} is upside down: {ends[0]:g} to {ends[-1]:g}", "write [low, high]")
