"""``signals.yaml``: the signal table of a policy without an environment.

    control_period_ms: 20
    observation:                                   # one row for each input, in order
      - {name: pitch, unit: rad, scale: 0.35, min: -1, max: 1, positive: tilt it forward}
      - {name: pitch_rate, unit: rad/s}            # scale 1, no limits
    action:
      - {name: wheel_left, unit: rad/s, min: -1, max: 1}
    discrete: false                                # true: the outputs are logits, the largest is the action

``min`` and ``max`` are limits of the policy's own number, ``scale`` the physical value of 1.0, ``positive`` what makes it rise.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.errors import ConfigError
from balance_hil.files import read_yaml, require_known
from balance_hil.spec import ActionMap, PolicySpec, Signal

_LARGEST = float(np.finfo(np.float32).max)
_KEYS = ("control_period_ms", "observation", "action", "discrete")
_ROW_KEYS = {"name", "unit", "scale", "min", "max", "positive"}
_HINT = "the format: docs/policies.md, section signals.yaml"


def read_signals(path: Path, n_obs: int, n_act: int) -> PolicySpec:
    """The signal table of a policy with ``n_obs`` inputs and ``n_act`` outputs, whose outputs are not scaled.

    Raises:
        ConfigError: no such file, an unknown key, a value of the wrong kind, or a wrong number of rows; see the message.
    """
    table = read_yaml(path)
    for key in table:
        require_known(key, _KEYS, "key", f" in {path}")
    period_ms = _number(path, table, "control_period_ms")
    if period_ms is None or period_ms <= 0:
        raise ConfigError(f"{path}: control_period_ms must be a time in milliseconds, above 0", _HINT)
    observation, action = _rows(path, table, "observation", n_obs), _rows(path, table, "action", n_act)
    if table.get("discrete", False) not in (True, False):
        raise ConfigError(f"{path}: discrete must be true or false", _HINT)
    low = np.array([-_LARGEST if signal.min is None else signal.min for signal in action], np.float32)
    high = np.array([_LARGEST if signal.max is None else signal.max for signal in action], np.float32)
    return PolicySpec(
        environment="",
        observation=observation,
        action=action,
        control_period_s=period_ms / 1000,
        action_map=ActionMap(kind="discrete", dtype="int64")
        if table.get("discrete")
        else ActionMap.of_box(low, high, scaled=False),
    )


def unnamed_signals(n_obs: int, n_act: int, period_s: float) -> PolicySpec:
    """The table of a policy of which only the sizes are known: obs_0, ..., act_0, ..., without units and limits."""
    limits = np.full(n_act, _LARGEST, np.float32)
    return PolicySpec(
        environment="",
        observation=tuple(Signal(index=i, name=f"obs_{i}", unit="", min=None, max=None) for i in range(n_obs)),
        action=tuple(Signal(index=i, name=f"act_{i}", unit="", min=None, max=None) for i in range(n_act)),
        control_period_s=period_s,
        action_map=ActionMap.of_box(-limits, limits, scaled=False),
    )


def _rows(path: Path, table: Mapping[str, Any], kind: str, count: int) -> tuple[Signal, ...]:
    rows = table.get(kind)
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ConfigError(f"{path}: {kind} must be a list of signals", _HINT)
    if len(rows) != count:
        raise ConfigError(f"{path}: {kind} has {len(rows)} rows, the policy has {count}", "one row for each element, in order")
    signals = []
    for i, given in enumerate(rows):
        row = {"name": given} if isinstance(given, str) else given
        place = f"{path}: {kind} {i}"
        if not isinstance(row, Mapping) or not isinstance(row.get("name"), str) or not set(row) <= _ROW_KEYS:
            raise ConfigError(f"{place} must have a name, and may have {', '.join(sorted(_ROW_KEYS - {'name'}))}", _HINT)
        low, high, scale = (_number(Path(place), row, key) for key in ("min", "max", "scale"))
        if (low is not None and high is not None and low >= high) or scale == 0:
            raise ConfigError(f"{place}: min must be below max, and scale not 0", _HINT)
        scale = 1.0 if scale is None else scale
        unit, positive = str(row.get("unit", "")), str(row.get("positive", ""))
        signals.append(Signal(index=i, name=row["name"], unit=unit, min=low, max=high, scale=scale, positive=positive))
    if len({signal.name for signal in signals}) != len(signals):
        raise ConfigError(f"{path}: two elements of {kind} have one name", "give each its own")
    return tuple(signals)


def _number(place: Path, table: Mapping[str, Any], key: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ConfigError(f"{place}: {key} must be a number of float32, not {reprlib.repr(value)}", _HINT)
    return float(value)
