"""Signal tables: name, unit and limits of each element of an observation or action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Terminated = Literal["", "failure", "success"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One element of an observation or action vector."""

    index: int
    name: str  # snake_case, one spelling in Python, C++ and the recording
    unit: str  # of the physical quantity, before scaling
    min: float | None  # of the scaled number that the policy reads; None: unbounded
    max: float | None
    scale: float = 1.0  # physical value = scaled number * scale
    positive: str = field(default="", compare=False)  # what makes it rise, as an instruction: "tilt forward"; "": not said


@dataclass(frozen=True, kw_only=True)
class ActionMap:
    """From the policy's outputs, float32 [n_act], to the action that the environment takes.

    A box: ``clip(offset + scale * output, low, high)``, reshaped in C order. Discrete: the index of the largest output,
    the lowest of equals.
    """

    kind: Literal["box", "discrete"] = "box"
    scale: tuple[float, ...] = ()  # of a box, one for each output
    offset: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()  # of the environment's action
    dtype: str = "float32"

    @classmethod
    def of_box(cls, low: NDArray[Any], high: NDArray[Any], *, scaled: bool = True) -> ActionMap:
        """The map onto a box with finite limits: of outputs within -1..1, or, not ``scaled``, in the environment's own units."""
        bottom, top = np.asarray(low, np.float64).ravel(), np.asarray(high, np.float64).ravel()
        half = (top - bottom) / 2
        return cls(
            scale=tuple((half if scaled else np.ones_like(half)).tolist()),
            offset=tuple((bottom + half if scaled else np.zeros_like(half)).tolist()),
            low=tuple(bottom.tolist()),
            high=tuple(top.tolist()),
            shape=tuple(np.shape(low)),
            dtype=str(np.asarray(low).dtype),
        )

    def __call__(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Actions of the environment, ``dtype`` [n, *shape] or int64 [n], for outputs, float32 [n, n_act]."""
        if self.kind == "discrete":
            return np.asarray(np.argmax(outputs, axis=1))
        values = np.clip(np.asarray(self.offset) + np.asarray(self.scale) * outputs, self.low, self.high)
        return np.asarray(values, self.dtype).reshape(len(outputs), *self.shape)


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Inputs and outputs of a policy, its control period, and the mapping to its environment's actions.

    ``observation`` describes float32 [n_obs] as the environment gives it, flattened in C order; ``action`` the policy's outputs,
    float32 [n_act], which is what a board returns.
    """

    environment: str  # Gymnasium id as the user typed it, "module:Id" included; "" for a model without an environment
    observation: tuple[Signal, ...]
    action: tuple[Signal, ...]
    control_period_s: float
    action_map: ActionMap = field(default_factory=ActionMap)
    episode_steps: int = 0  # control steps after which an episode is truncated; 0: without an environment
    terminated: Terminated = ""  # what termination means; "": the environment's own ``failed`` decides, or nothing is a failure

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return len(self.observation)

    @property
    def n_act(self) -> int:
        """Length of the action vector."""
        return len(self.action)

    def clip(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs, float32 [..., n_act], within the limits of ``action``."""
        return np.clip(np.asarray(outputs, np.float32), *self._limits)

    @cached_property
    def _limits(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low = [-np.inf if signal.min is None else signal.min for signal in self.action]
        high = [np.inf if signal.max is None else signal.max for signal in self.action]
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def outputs_for(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs, float32 [n, n_act], that stand for actions of the environment, [n, ...]: the inverse of ``action_map``."""
        if self.action_map.kind == "discrete":
            return np.asarray(np.eye(self.n_act)[np.asarray(actions, np.int64).reshape(-1)], np.float32)
        flat = np.asarray(actions).reshape(len(actions), self.n_act)
        return np.asarray((flat - np.asarray(self.action_map.offset)) / np.asarray(self.action_map.scale), np.float32)

    def difference(self, other: PolicySpec) -> str | None:
        """Why a policy made for this table cannot run on ``other``; None if it can.

        The environments may differ, provided that every number has the same meaning.
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
        if self.action_map != other.action_map:
            return "the mapping of outputs to actions"
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
            action_map=_action_map(data["action_map"]),
            episode_steps=int(data["episode_steps"]),
            terminated=_one_of(data["terminated"], get_args(Terminated)),
        )


def _action_map(table: Mapping[str, Any]) -> ActionMap:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return ActionMap(**fields)


def _one_of(value: Any, allowed: Sequence[Any]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
    return value


def _signals(rows: Sequence[dict[str, Any]]) -> tuple[Signal, ...]:
    signals = tuple(Signal(**row) for row in rows)
    if [s.index for s in signals] != list(range(len(signals))):
        raise KeyError("signal indices must be 0, 1, 2, ...")
    return signals
