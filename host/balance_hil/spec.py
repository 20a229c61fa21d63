"""Signal tables: what each number of an observation or action is, with unit and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One element of an observation or action vector."""

    index: int
    name: str  # snake_case, one spelling in Python, C++ and the recording
    unit: str  # of the physical quantity, before scaling
    min: float  # of the scaled number that the policy sees
    max: float
    scale: float = 1.0  # physical value = scaled number * scale


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """What a policy reads and writes, and how often.

    ``observation`` describes float32 [n_obs], ``action`` float32 [n_act].
    """

    environment: str  # Gymnasium id
    observation: tuple[Signal, ...]
    action: tuple[Signal, ...]
    control_period_s: float

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return len(self.observation)

    @property
    def n_act(self) -> int:
        """Length of the action vector."""
        return len(self.action)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicySpec:
        """Inverse of ``to_dict``; raises KeyError or TypeError on a malformed table."""
        return cls(
            environment=data["environment"],
            observation=_signals(data["observation"]),
            action=_signals(data["action"]),
            control_period_s=float(data["control_period_s"]),
        )


def _signals(rows: Sequence[dict[str, Any]]) -> tuple[Signal, ...]:
    signals = tuple(Signal(**row) for row in rows)
    if [s.index for s in signals] != list(range(len(signals))):
        raise KeyError("signal indices must be 0, 1, 2, ...")
    return signals
