"""Message format of a recording."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

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
    input_int8: Sequence[float] | None = None  # raw, int8 or of the model's other element type; None when held
    output_int8: Sequence[float] | None = None
    round_trip_us: float | None = None  # realtime only, from here on; of a late reply they are in its fault
    inference_us: float | None = None
    jitter_us: float | None = None  # how late the control step began
    substep: int | None = None  # of the physics, counted from 1, before which the action took effect
    earlier: Sequence[tuple[float, ...]] = ()  # late replies that took effect in the step before: substep and action
    state: Any = None  # of the plant at the observation, for the scene of the recording; not read back


Encode: TypeAlias = Callable[[Step], bytes]


def step_encoder(spec: PolicySpec, trace: Sequence[str]) -> Encode:
    """A function that turns a Step into JSON; ``trace`` names the elements of ``plant``.

    Filling in a format string takes a fifth of the time of the json module, and this is called between two control deadlines.
    Nine digits identify every float32. A recording and a live page that share the function encode a step once.
    """
    observations, actions = names(spec.observation), names(spec.action)
    head = (
        '{"t_s":%.9g,"episode":%d,"step":%d,"held":%s,"reward":%.9g,"observation":'
        + _object(observations, "%.9g")
        + ',"action":'
        + _object(actions, "%.9g")
        + ',"plant":'
        + _object(trace, "%.9g")
    )
    raw = ',"input_int8":' + _object(observations, "%.9g") + ',"output_int8":' + _object(actions, "%.9g")

    latest: tuple[Step | None, bytes] = None, b""

    def encode_once(step: Step) -> bytes:
        nonlocal latest
        if latest[0] is not step:
            latest = step, encode(step)
        return latest[1]

    def encode(step: Step) -> bytes:
        held = "true" if step.held else "false"
        traced = [step.reward, *step.plant]
        known = [math.isfinite(value) for value in traced]
        if not all(known):  # JSON has no such number: it is left out below
            traced = [value if is_known else 0.0 for value, is_known in zip(traced, known, strict=True)]
        text = head % (step.t_s, step.episode, step.step, held, traced[0], *step.observation, *step.action, *traced[1:])
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
            text += f',"earlier":{json.dumps([value for each in step.earlier for value in each])}'
        text += "}"
        return text.encode() if all(known) else _without_unknown(text, known)

    return encode_once


def schemas(spec: PolicySpec, trace: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and JSON Schema of each topic."""
    number, integer, boolean, text = ({"type": name} for name in ("number", "integer", "boolean", "string"))
    step: dict[str, Any] = {
        "t_s": number,
        "episode": integer,
        "step": integer,
        "held": boolean,
        "reward": number,
        "observation": _vector(spec.observation, "number"),
        "action": _vector(spec.action, "number"),
        "plant": {"type": "object", "properties": dict.fromkeys(trace, number)},
        "input_int8": _vector(spec.observation, "number"),
        "output_int8": _vector(spec.action, "number"),
        **dict.fromkeys(TIMINGS, number),
        "substep": integer,
        "earlier": {"type": "array", "items": number},  # of each reply substep and action, one after the other
    }
    fault = {"t_s": number, "episode": integer, "step": integer, "kind": text, "detail": text}
    fault["request_step"] = integer  # of a late reply, as what follows
    fault |= dict.fromkeys(("round_trip_us", "inference_us", "host_us", "board_us", "link_us"), number)
    injected: dict[str, Any] = {"t_s": number, "episode": integer, "step": integer, "fault": text, "direction": text}
    injected["values"] = {"type": "object", "properties": {}, "additionalProperties": number}
    episode: dict[str, Any] = {"t_s": number, "episode": integer, "seed": integer, "steps": integer, "failed": boolean}
    episode["metrics"] = {"type": "object", "properties": {}, "additionalProperties": number}
    topics = {STEP: step, FAULT: fault, INJECTED: injected, EPISODE: episode}
    return {
        topic: (f"balance_hil{topic.replace('/', '.')}", {"type": "object", "properties": fields})
        for topic, fields in topics.items()
    }


def names(signals: Sequence[Signal]) -> list[str]:
    """Of the signals, in order."""
    return [signal.name for signal in signals]


def _without_unknown(text: str, known: Sequence[bool]) -> bytes:
    """An environment may trace a value that it does not have."""
    step = json.loads(text)
    if not known[0]:
        del step["reward"]
    step["plant"] = {name: value for (name, value), is_known in zip(step["plant"].items(), known[1:], strict=True) if is_known}
    return json.dumps(step).encode()


def _object(keys: Sequence[str], pattern: str) -> str:
    # Names come from the environment: quotes and percent signs are escaped.
    return "{" + ",".join(json.dumps(key).replace("%", "%%") + ":" + pattern for key in keys) + "}"


def _vector(signals: Sequence[Signal], kind: str) -> dict[str, Any]:
    properties = {signal.name: {"type": kind, "description": f"1.0 = {signal.scale:g} {signal.unit}"} for signal in signals}
    return {"type": "object", "properties": properties}
