"""``signals.h``: the signal table of a bundle for a robot's own C++.

Each signal is a member of a struct, named with its unit, so that code which was written for another name, unit or order does
not compile. Scales, limits and order are in the two functions between the structs and the policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from balance_hil.spec import PolicySpec, Signal

_KEYWORDS = """
    alignas alignof and asm auto bitand bitor bool break case catch char class compl concept const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if inline int long mutable namespace
    new noexcept not nullptr operator or private protected public register requires return short signed sizeof static struct
    switch template this throw true try typedef typeid typename union unsigned using virtual void volatile while xor
"""


def signals_header(spec: PolicySpec, model_id: str) -> str:
    """The text of ``signals.h`` for the model with the id ``model_id``."""
    observation, action = member_names(spec.observation), member_names(spec.action)
    to_policy = [
        f"  inputs[{s.index}] = {_limited(f'physical.{name} / {_float(s.scale)}', s)};"
        for s, name in zip(spec.observation, observation, strict=True)
    ]
    return f"""// Written by `hil export`: what the numbers of the policy mean. Do not edit.
//
// A member's name has the signal's unit: code for another signal or unit does not compile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil_signals {{

constexpr char kModelId[] = "{model_id}";  ///< of the model.h that this belongs to
constexpr std::uint32_t kControlPeriodUs = {round(spec.control_period_s * 1e6)};
constexpr std::size_t kObservations = {spec.n_obs};
constexpr std::size_t kActions = {spec.n_act};  ///< outputs of the policy

/// What the policy reads, in physical units.
struct Observation {{
{_members(spec.observation, observation)}
}};

/// A value that is not a number stays one, so that the policy refuses it.
inline float Limited(float value, float low, float high) {{ return value < low ? low : value > high ? high : value; }}

/// Inputs of the policy, float32 [kObservations], in its order, scale and limits.
inline void ToPolicy(const Observation& physical, float* inputs) {{
{_lines(to_policy)}
}}

{_action(spec, action)}

}}  // namespace hil_signals
"""


def member_names(signals: Sequence[Signal]) -> list[str]:
    """Of the struct: name and unit of each signal, as a C++ identifier of its own."""
    names: list[str] = []
    for signal in signals:
        name, unit = _identifier(signal.name), _identifier(signal.unit)
        if unit not in ("", "1") and not name.endswith("_" + unit):
            name = f"{name}_{unit}".strip("_")
        if not name or name[0].isdigit() or name in _KEYWORDS.split():
            name = f"signal_{name}"
        names.append(name if name not in names else f"{name}_{signal.index}")
    return names


def _action(spec: PolicySpec, names: Sequence[str]) -> str:
    if spec.action_map.kind == "discrete":
        return """/// What the policy asks for: the number of an action.
struct Action {
  std::size_t choice;
};

/// From outputs of the policy, float32 [kActions]: the largest, the first of equals.
inline Action FromPolicy(const float* outputs) {
  std::size_t choice = 0;
  for (std::size_t i = 1; i < kActions; ++i) choice = outputs[i] > outputs[choice] ? i : choice;
  return {choice};
}"""
    fields = []
    for signal, offset, scale in zip(spec.action, spec.action_map.offset, spec.action_map.scale, strict=True):
        value = f"{_limited(f'outputs[{signal.index}]', signal)} * {_float(signal.scale)}"
        fields.append(f"      {value} + {_float(offset / scale * signal.scale)}," if offset else f"      {value},")
    return f"""/// What the policy asks for, in physical units.
struct Action {{
{_members(spec.action, names)}
}};

/// From outputs of the policy, float32 [kActions].
inline Action FromPolicy(const float* outputs) {{
  return {{
{_lines(fields)}
  }};
}}"""


def _members(signals: Sequence[Signal], names: Sequence[str]) -> str:
    lines = []
    for signal, name in zip(signals, names, strict=True):
        positive = f"positive: {signal.positive}; " if signal.positive else ""
        text = f"{positive}{signal.scale:g} {signal.unit}".strip() + " is 1 for the policy"
        lines.append(f"  float {name};  ///< " + re.sub(r"[^ -\[\]-~]", "_", text))
    return _lines(lines)


def _limited(value: str, signal: Signal) -> str:
    if signal.min is None and signal.max is None:
        return value
    low, high = ("-3.4028235e38f" if signal.min is None else _float(signal.min)), signal.max
    return f"Limited({value}, {low}, {'3.4028235e38f' if high is None else _float(high)})"


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower().replace("^", "")).strip("_")


def _float(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
