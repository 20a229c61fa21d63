"""What a policy has to know of a Gymnasium environment: signals, control period, what termination means, and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from balance_hil.errors import EnvironmentMismatchError, UnsupportedEnvironmentError
from balance_hil.metrics import DEFAULT_METRICS, RETURN, Metric, metric_of
from balance_hil.spec import ActionMap, PolicySpec, Signal, Terminated


def spec_of(environment: str, env: gym.Env[Any, Any], period_s: float | None, terminated: Terminated, steps: int) -> PolicySpec:
    """The environment's own ``policy_spec``, or one from its spaces; the arguments are as of ``open_environment``.

    Raises:
        UnsupportedEnvironmentError: its spaces, limits, control period or table cannot serve a policy on a board.
        EnvironmentMismatchError: its own control period is another one.
    """
    own = getattr(env.unwrapped, "policy_spec", None)
    if isinstance(own, PolicySpec):
        if period_s not in (None, own.control_period_s):
            raise EnvironmentMismatchError(
                f"a control step of {environment} lasts {own.control_period_s * 1e3:g} ms, not {period_s * 1e3:g} ms",
                "leave --period-ms out; a policy that was made for another period has to be trained again",
            )
        return replace(
            own,
            environment=environment,
            episode_steps=steps or own.episode_steps,
            terminated=terminated or own.terminated,
        )
    if own is not None and not isinstance(own, Mapping):
        raise UnsupportedEnvironmentError(
            f"policy_spec of {environment} is a {type(own).__name__}",
            'make it a table: {"observation": [{"name": "pitch", "unit": "rad"}, ...], "action": [...]}',
        )
    own = own or {}
    low, high = _observation_limits(environment, env.observation_space)
    action_map, n_act = _action_map(environment, env.action_space)
    low_act, high_act = (-1.0, 1.0) if action_map.kind == "box" else (None, None)
    return PolicySpec(
        environment=environment,
        observation=_signals(environment, "observation", "obs", own.get("observation"), low, high, [1.0] * len(low)),
        action=_signals(
            environment,
            "action",
            "act",
            own.get("action"),
            [low_act] * n_act,
            [high_act] * n_act,
            action_map.scale or [1.0] * n_act,
        ),
        control_period_s=_period_s(environment, env, period_s),
        action_map=action_map,
        episode_steps=steps,
        terminated=terminated,
    )


def _observation_limits(environment: str, space: spaces.Space[Any]) -> tuple[list[float | None], list[float | None]]:
    if not isinstance(space, spaces.Box):
        hint = "return one vector, as gymnasium.wrappers.FlattenObservation does, in the environment that is registered"
        raise UnsupportedEnvironmentError(
            f"observations of {environment} are {_space_name(space)}, a policy here reads a Box", hint
        )
    limits = [[float(v) if math.isfinite(v) else None for v in np.ravel(bound).tolist()] for bound in (space.low, space.high)]
    if not limits[0]:
        raise UnsupportedEnvironmentError(f"observations of {environment} are empty", "give it an observation")
    return limits[0], limits[1]


def _action_map(environment: str, space: spaces.Space[Any]) -> tuple[ActionMap, int]:
    match space:
        case spaces.Box():
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise UnsupportedEnvironmentError(
                    f"actions of {environment} are unbounded (Box {np.ravel(space.low)[0]:g}..{np.ravel(space.high)[0]:g})",
                    "give its action_space finite limits: what a board returns is scaled to them",
                )
            return ActionMap.of_box(space.low, space.high), int(np.size(space.low))
        case spaces.Discrete():
            if space.start != 0:
                raise UnsupportedEnvironmentError(
                    f"actions of {environment} are Discrete and start at {space.start}", "let them start at 0"
                )
            return ActionMap(kind="discrete", dtype="int64"), int(space.n)
        case _:
            raise UnsupportedEnvironmentError(
                f"actions of {environment} are {_space_name(space)}, a board returns a Box or a Discrete action",
                "register it behind a wrapper that takes one vector or one number",
            )


def _space_name(space: spaces.Space[Any]) -> str:
    return f"{type(space).__name__} ({', '.join(space.spaces)})" if isinstance(space, spaces.Dict) else type(space).__name__


def _signals(
    environment: str, kind: str, prefix: str, rows: Any, low: Sequence[Any], high: Sequence[Any], scale: Sequence[float]
) -> tuple[Signal, ...]:
    """Signals from the environment's own table; without one they are numbered."""
    if rows is None:
        rows = [{"name": f"{prefix}_{i}"} for i in range(len(low))]
    hint = 'one {"name": ..., "unit": ..., "scale": ...} for each element, unit and scale may be left out'
    if not isinstance(rows, Sequence) or len(rows) != len(low):
        n = len(rows) if isinstance(rows, Sequence) else 0
        raise UnsupportedEnvironmentError(f"policy_spec of {environment} names {n} of {len(low)} elements of its {kind}", hint)
    signals = []
    for i, row in enumerate(rows):
        try:
            name, own_scale = str(row["name"]), float(row.get("scale", scale[i]))
            unit, positive = str(row.get("unit", "")), str(row.get("positive", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise UnsupportedEnvironmentError(f"policy_spec of {environment}, {kind} {i}: {exc}", hint) from exc
        signals.append(Signal(index=i, name=name, unit=unit, min=low[i], max=high[i], scale=own_scale, positive=positive))
    if len({signal.name for signal in signals}) != len(signals):
        raise UnsupportedEnvironmentError(f"policy_spec of {environment} gives two elements of its {kind} one name", hint)
    return tuple(signals)


def _period_s(environment: str, env: gym.Env[Any, Any], period_s: float | None) -> float:
    own = ((name, getattr(env.unwrapped, name, None)) for name in ("control_period_s", "dt", "tau"))
    for name, value in (("--period-ms", period_s), *own):
        if value is None or callable(value):
            continue
        if isinstance(value, int | float | np.number) and math.isfinite(value) and value > 0:
            return float(value)
        raise UnsupportedEnvironmentError(f"{name} of {environment} is {value!r}, it must be a time in seconds", "--period-ms 20")
    raise UnsupportedEnvironmentError(
        f"{environment} does not define its control period (no control_period_s, dt or tau)",
        "set it: --period-ms 20, or give the environment an attribute control_period_s",
    )


def metrics_of(environment: str, env: gym.Env[Any, Any]) -> tuple[Metric, ...]:
    """The environment's own ``policy_metrics`` and the return, or the default ones. Raises UnsupportedEnvironmentError."""
    own = getattr(env.unwrapped, "policy_metrics", None)
    if own is None:
        return DEFAULT_METRICS
    try:
        metrics = tuple(metric_of(each) for each in own)
    except (TypeError, ValueError) as exc:
        raise UnsupportedEnvironmentError(
            f"policy_metrics of {environment}: {exc}",
            'one {"name": ..., "unit": ..., "source": KEY OF INFO, "reduction": "mean", "better": "lower"} for each',
        ) from exc
    return (RETURN, *(metric for metric in metrics if metric.name != RETURN.name))
