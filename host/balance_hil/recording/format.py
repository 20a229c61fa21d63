"""What the messages of a recording look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from balance_hil.spec import PolicySpec, Signal

FORMAT = 1
STEP, FAULT, EPISODE = "/step", "/fault", "/episode"
RUN, END = "run", "end"  # metadata records
TIMINGS = ("round_trip_us", "inference_us", "jitter_us")


class Step(NamedTuple):
    """One control step. Floats are plain Python numbers; vectors are sequences of them."""

    t_s: float  # simulated time of the observation, within the episode
    episode: int  # counts from 0
    step: int  # of the episode, counts from 0
    observation: Sequence[float]  # what was sent
    action: Sequence[float]  # that took effect; a held step repeats the one before it
    held: bool  # no reply took effect: the commanded wheel speed stayed where it was
    pitch_rad: float  # at the end of the step, without sensor noise
    speed_error_rad_s: float
    wheel_speed_difference_error_rad_s: float
    reward: float
    input_int8: Sequence[int] | None = None  # None when held
    output_int8: Sequence[int] | None = None
    round_trip_us: float | None = None  # realtime only, from here on
    inference_us: float | None = None
    jitter_us: float | None = None  # how late the control step began


def step_encoder(spec: PolicySpec) -> Callable[[Step], bytes]:
    """A function that turns a Step into JSON.

    A format string filled in takes a fifth of what the json module takes, and this is called between two control deadlines. Nine
    digits tell every float32 from its neighbors.
    """
    head = (
        '{"t_s":%.9g,"episode":%d,"step":%d,"observation":'
        + _object(spec.observation, "%.9g")
        + ',"action":'
        + _object(spec.action, "%.9g")
        + ',"held":%s,"pitch_rad":%.9g,"speed_error_rad_s":%.9g,"wheel_speed_difference_error_rad_s":%.9g,"reward":%.9g'
    )
    raw = ',"input_int8":' + _object(spec.observation, "%d") + ',"output_int8":' + _object(spec.action, "%d")

    def encode(step: Step) -> bytes:
        held = "true" if step.held else "false"
        text = head % (*step[:3], *step.observation, *step.action, held, *step[6:10])
        if step.input_int8 is not None and step.output_int8 is not None:
            text += raw % (*step.input_int8, *step.output_int8)
        for name, value in zip(TIMINGS, step[12:], strict=True):
            if value is not None:
                text += f',"{name}":{value:.1f}'
        return (text + "}").encode()

    return encode


def schemas(spec: PolicySpec) -> dict[str, dict[str, Any]]:
    """JSON Schema of each topic."""
    number, integer, boolean, text = ({"type": name} for name in ("number", "integer", "boolean", "string"))
    step = {
        "t_s": number,
        "episode": integer,
        "step": integer,
        "observation": _vector(spec.observation, "number"),
        "action": _vector(spec.action, "number"),
        "held": boolean,
        "pitch_rad": number,
        "speed_error_rad_s": number,
        "wheel_speed_difference_error_rad_s": number,
        "reward": number,
        "input_int8": _vector(spec.observation, "integer"),
        "output_int8": _vector(spec.action, "integer"),
        **dict.fromkeys(TIMINGS, number),
    }
    fault = {"t_s": number, "episode": integer, "step": integer, "kind": text, "detail": text}
    episode = {"t_s": number, "episode": integer, "seed": integer, "steps": integer, "survived": boolean}
    episode |= dict.fromkeys(("speed_error_rms_rad_s", "wheel_speed_difference_error_rms_rad_s", "action_rate"), number)
    return {
        topic: {"type": "object", "properties": fields} for topic, fields in ((STEP, step), (FAULT, fault), (EPISODE, episode))
    }


def _object(signals: Sequence[Signal], pattern: str) -> str:
    return "{" + ",".join(f'"{signal.name}":{pattern}' for signal in signals) + "}"


def _vector(signals: Sequence[Signal], kind: str) -> dict[str, Any]:
    properties = {signal.name: {"type": kind, "description": f"1.0 = {signal.scale:g} {signal.unit}"} for signal in signals}
    return {"type": "object", "properties": properties}
