"""Message format of a recording."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from balance_hil.spec import PolicySpec, Signal

FORMAT = 2
STEP, FAULT, INJECTED, EPISODE = "/step", "/fault", "/injected", "/episode"
RUN, END = "run", "end"  # metadata records
TIMINGS = ("round_trip_us", "inference_us", "jitter_us")


class Step(NamedTuple):
    """One control step. Floats are plain Python numbers; vectors are sequences of them."""

    t_s: float  # simulated time of the observation, within the episode
    episode: int  # counts from 0
    step: int  # of the episode, counts from 0
    observation: Sequence[float]  # what was sent
    action: Sequence[float]  # of the policy, that took effect; a held step repeats the one before it
    held: bool  # no reply took effect: the action in force stayed
    plant: Sequence[float]  # what the environment traces, at the end of the step
    reward: float
    input_int8: Sequence[int] | None = None  # None when held
    output_int8: Sequence[int] | None = None
    round_trip_us: float | None = None  # realtime only, from here on; of a late reply they are in its fault
    inference_us: float | None = None
    jitter_us: float | None = None  # how late the control step began
    substep: int | None = None  # of the physics, counted from 1, before which the action took effect
    earlier: Sequence[tuple[float, ...]] = ()  # late replies that took effect in the step before: substep and action


def step_encoder(spec: PolicySpec, trace: Sequence[str]) -> Callable[[Step], bytes]:
    """A function that turns a Step into JSON; ``trace`` names the elements of ``plant``.

    Filling in a format string takes a fifth of the time of the json module, and this is called between two control deadlines.
    Nine digits identify every float32.
    """
    observations, actions = names(spec.observation), names(spec.action)
    head = (
        '{"t_s":%.9g,"episode":%d,"step":%d,"held":%s,"reward":%s,"observation":'
        + _object(observations, "%.9g")
        + ',"action":'
        + _object(actions, "%.9g")
        + ',"plant":'
        + _object(trace, "%s")
    )
    raw = ',"input_int8":' + _object(observations, "%d") + ',"output_int8":' + _object(actions, "%d")

    def encode(step: Step) -> bytes:
        held = "true" if step.held else "false"
        reward, *plant = map(_number, (step.reward, *step.plant))
        text = head % (step.t_s, step.episode, step.step, held, reward, *step.observation, *step.action, *plant)
        if step.input_int8 is not None and step.output_int8 is not None:
            text += raw % (*step.input_int8, *step.output_int8)
        for name, value in (
            ("round_trip_us", step.round_trip_us),
            ("inference_us", step.inference_us),
            ("jitter_us", step.jitter_us),
        ):
            if value is not None:
                text += f',"{name}":{value:.1f}'
        if step.substep is not None:
            text += f',"substep":{step.substep}'
        if step.earlier:
            text += f',"earlier":{json.dumps(step.earlier)}'
        return (text + "}").encode()

    return encode


def schemas(spec: PolicySpec, trace: Sequence[str]) -> dict[str, dict[str, Any]]:
    """JSON Schema of each topic."""
    number, integer, boolean, text = ({"type": name} for name in ("number", "integer", "boolean", "string"))
    step: dict[str, Any] = {
        "t_s": number,
        "episode": integer,
        "step": integer,
        "held": boolean,
        "reward": {"type": ["number", "null"]},
        "observation": _vector(spec.observation, "number"),
        "action": _vector(spec.action, "number"),
        "plant": {"type": "object", "properties": {name: {"type": ["number", "null"]} for name in trace}},
        "input_int8": _vector(spec.observation, "integer"),
        "output_int8": _vector(spec.action, "integer"),
        **dict.fromkeys(TIMINGS, number),
        "substep": integer,
        "earlier": {"type": "array", "items": {"type": "array", "items": number}},
    }
    fault = {"t_s": number, "episode": integer, "step": integer, "kind": text, "detail": text}
    fault["request_step"] = integer  # of a late reply, as what follows
    fault |= dict.fromkeys(("round_trip_us", "inference_us", "host_us", "board_us", "link_us"), number)
    injected: dict[str, Any] = {"t_s": number, "episode": integer, "step": integer, "fault": text, "direction": text}
    injected["values"] = {"type": "object", "additionalProperties": number}
    episode: dict[str, Any] = {"t_s": number, "episode": integer, "seed": integer, "steps": integer, "failed": boolean}
    episode["metrics"] = {"type": "object", "additionalProperties": number}
    topics = {STEP: step, FAULT: fault, INJECTED: injected, EPISODE: episode}
    return {topic: {"type": "object", "properties": fields} for topic, fields in topics.items()}


def names(signals: Sequence[Signal]) -> list[str]:
    """Of the signals, in order."""
    return [signal.name for signal in signals]


def _number(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else "null"  # an environment may trace a value that it does not have


def _object(keys: Sequence[str], pattern: str) -> str:
    # Names come from the environment: quotes and percent signs are escaped.
    return "{" + ",".join(json.dumps(key).replace("%", "%%") + ":" + pattern for key in keys) + "}"


def _vector(signals: Sequence[Signal], kind: str) -> dict[str, Any]:
    properties = {signal.name: {"type": kind, "description": f"1.0 = {signal.scale:g} {signal.unit}"} for signal in signals}
    return {"type": "object", "properties": properties}
