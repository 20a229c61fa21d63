"""Foxglove's well-known messages as JSON: the scene, the transforms of what moves in it, the log, and a layout of panels.

Foxglove reads a subset of JSON Schema: every field has one type, and items of an array are numbers, texts or objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from balance_hil.spec import PolicySpec

SCENE, TRANSFORMS, LOG = "/scene", "/tf", "/log"
WORLD = "world"  # frame of everything that does not move
INFO, WARNING, ERROR = 2, 3, 4  # levels of the log
LAYOUT = "foxglove-layout.json"  # name of the attachment
MAX_PLOTTED = 12  # signals in one plot


class Shape(NamedTuple):
    """A solid in its frame."""

    kind: Literal["cubes", "spheres", "cylinders"]
    position_m: Sequence[float]  # [3], of its center
    quaternion: Sequence[float]  # [4], w x y z
    size_m: Sequence[float]  # [3], edges or diameters; a cylinder stands along z
    rgba: Sequence[float]  # [4], 0..1


class Scene(Protocol):
    """What a recording shows in 3D."""

    @property
    def frames(self) -> Sequence[str]:
        """Names of what moves."""

    @property
    def shapes(self) -> Mapping[str, Sequence[Shape]]:
        """By frame, WORLD included; a new object when they changed."""

    def poses(self, state: Any) -> Sequence[float]:
        """Of each frame x y z (m) and w x y z, one after the other: [7 * n_frames]. ``state`` is that of a Step."""


def scene_update(shapes: Mapping[str, Sequence[Shape]], time_ns: int) -> dict[str, Any]:
    """A foxglove.SceneUpdate with one entity for each frame."""
    entities = []
    for frame, solids in shapes.items():
        entity: dict[str, Any] = {
            "timestamp": _time(time_ns), "frame_id": frame, "id": frame, "lifetime": _time(0), "frame_locked": True,
            "metadata": [], "arrows": [], "cubes": [], "spheres": [], "cylinders": [], "lines": [], "triangles": [], "texts": [],
            "models": [],
        }  # fmt: skip
        for solid in solids:
            w, x, y, z = solid.quaternion
            primitive: dict[str, Any] = {
                "pose": {"position": _named("xyz", solid.position_m), "orientation": _named("xyzw", (x, y, z, w))},
                "size": _named("xyz", solid.size_m),
                "color": _named("rgba", solid.rgba),
            }
            if solid.kind == "cylinders":
                primitive |= {"bottom_scale": 1, "top_scale": 1}
            entity[solid.kind].append(primitive)
        entities.append(entity)
    return {"deletions": [], "entities": entities}


def log_message(time_ns: int, level: int, message: str) -> dict[str, Any]:
    """A foxglove.Log."""
    return {"timestamp": _time(time_ns), "level": level, "message": message, "name": "balance_hil", "file": "", "line": 0}


def transforms_encoder(frames: Sequence[str]) -> Callable[[int, Sequence[float]], bytes]:
    """A function that turns time and poses, [7 * n_frames], into a foxglove.FrameTransforms. See ``step_encoder``."""
    one = (
        '{"timestamp":{"sec":%%d,"nsec":%%d},"parent_frame_id":"' + WORLD + '","child_frame_id":%s,"translation":'
        '{"x":%%.5f,"y":%%.5f,"z":%%.5f},"rotation":{"w":%%.5f,"x":%%.5f,"y":%%.5f,"z":%%.5f}}'
    )
    text = '{"transforms":[' + ",".join(one % json.dumps(frame).replace("%", "%%") for frame in frames) + "]}"

    def encode(time_ns: int, poses: Sequence[float]) -> bytes:
        now = divmod(time_ns, 10**9)
        values: list[float] = []
        for at in range(0, len(poses), 7):
            values += now
            values += poses[at : at + 7]
        return (text % tuple(values)).encode()

    return encode


def schemas() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and JSON Schema of each topic: the fields that are written here, of the schemas that Foxglove publishes."""
    number, integer, text = ({"type": name} for name in ("number", "integer", "string"))
    time = _object(sec=integer, nsec=integer)
    instant, duration = time | {"title": "time"}, time | {"title": "duration"}
    vector, quaternion = (_object(**dict.fromkeys(letters, number)) for letters in ("xyz", "xyzw"))
    color = _object(**dict.fromkeys("rgba", number))
    solid = {"pose": _object(position=vector, orientation=quaternion), "size": vector, "color": color}
    unused = {name: _array(_object()) for name in ("metadata", "arrows", "lines", "triangles", "texts", "models")}
    entity = _object(
        timestamp=instant, frame_id=text, id=text, lifetime=duration, frame_locked={"type": "boolean"}, **unused,
        cubes=_array(_object(**solid)), spheres=_array(_object(**solid)),
        cylinders=_array(_object(**solid, bottom_scale=number, top_scale=number)),
    )  # fmt: skip
    transform = _object(timestamp=instant, parent_frame_id=text, child_frame_id=text, translation=vector, rotation=quaternion)
    return {
        SCENE: ("foxglove.SceneUpdate", _object(deletions=_array(_object()), entities=_array(entity))),
        TRANSFORMS: ("foxglove.FrameTransforms", _object(transforms=_array(transform))),
        LOG: ("foxglove.Log", _object(timestamp=instant, level=integer, message=text, name=text, file=text, line=integer)),
    }


def layout(spec: PolicySpec, trace: Sequence[str], frames: Sequence[str]) -> dict[str, Any]:
    """A Foxglove layout: the scene, following the first of ``frames``, the log, and plots of timing and signals."""
    names = {
        "action": [signal.name for signal in spec.action],
        "plant": list(trace),
        "observation": [signal.name for signal in spec.observation],
    }
    plots = [_plot("timing", ["/step.round_trip_us", "/fault.round_trip_us", "/step.jitter_us"])]
    plots += [_plot(of, [f"/step.{of}.{_path(name)}" for name in each[:MAX_PLOTTED]]) for of, each in names.items() if each]
    log = _panel("Log", {"topicToRender": LOG}, "events")
    left = [_panel("ThreeDee", _view(frames[0]), "scene"), log] if frames else [log]
    return {"version": 1, "content": _split("row", [_split("column", left), _split("column", plots)])}


def _view(frame: str) -> dict[str, Any]:
    return {
        "fixedFrame": WORLD,
        "followTf": frame,
        "followMode": "follow-position",
        "topics": {SCENE: {"visible": True}},
        "cameraState": {"distance": 1.5, "perspective": True, "phi": 70, "thetaOffset": 45},
    }


def _plot(title: str, paths: Sequence[str]) -> dict[str, Any]:
    return _panel("Plot", {"paths": [{"value": path} for path in paths]}, title)


def _panel(kind: str, config: dict[str, Any], title: str) -> dict[str, Any]:
    return {"type": "panel", "panelType": kind, "config": config, "title": title, "version": 1}


def _split(direction: str, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    items = [{"proportion": 1 / len(parts), "content": part} for part in parts]
    return {"type": "split", "direction": direction, "items": items}


def _path(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else json.dumps(name)


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _named(letters: str, values: Sequence[float]) -> dict[str, float]:
    return {letter: round(float(value), 6) for letter, value in zip(letters, values, strict=True)}


def _time(time_ns: int) -> dict[str, int]:
    return {"sec": time_ns // 10**9, "nsec": time_ns % 10**9}
