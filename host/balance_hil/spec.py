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

    def difference(self, other: PolicySpec) -> str | None:
        """What keeps a policy made for this table from running on ``other``; None when nothing does.

        The environments may differ: what counts is that every number means the same.
        """
        if self.control_period_s != other.control_period_s:
            return f"control period {self.control_period_s:g} s and {other.control_period_s:g} s"
        for kind in ("observation", "action"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            if len(mine) != len(theirs):
                return f"{len(mine)} and {len(theirs)} elements of the {kind}"
            for a, b in zip(mine, theirs, strict=True):
                if a != b:
                    return f"{kind} {a.index}, {a.name} (1.0 = {a.scale:g} {a.unit}) and {b.name} (1.0 = {b.scale:g} {b.unit})"
        return None

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
