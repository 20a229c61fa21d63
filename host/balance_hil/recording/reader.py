"""Reading a recording back."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from mcap.records import Channel, Message, Metadata
from numpy.typing import NDArray

from balance_hil.errors import RecordingError
from balance_hil.files import parse_json
from balance_hil.quantize import ELEMENT_TYPES, INT8, ElementType
from balance_hil.recording.format import END, EPISODE, FAULT, FORMAT, INJECTED, RUN, STEP, TIMINGS, names
from balance_hil.recording.records import DamagedFileError, End, records
from balance_hil.spec import PolicySpec


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run, row by row; ``n`` control steps over all episodes. Timings are NaN where none were taken."""

    t_s: NDArray[np.float64]  # [n], simulated time of the observation within the episode
    episode: NDArray[np.int64]  # [n], counts from 0
    observation: NDArray[np.float32]  # [n, n_obs]
    input_int8: NDArray[Any]  # raw [n, n_obs], int8 or of the model's other element type; 0 where held
    output_int8: NDArray[Any]  # raw [n, n_act]; 0 where held
    action: NDArray[np.float32]  # [n, n_act]; repeats the one before it where held
    held: NDArray[np.bool_]  # [n], no reply took effect in this step
    plant: dict[str, NDArray[np.float64]]  # what the environment traced, each [n], at the end of the step
    reward: NDArray[np.float64]  # [n]
    round_trip_us: NDArray[np.float64]  # [n], of the reply to this step's observation, however late it came
    inference_us: NDArray[np.float64]  # [n]
    jitter_us: NDArray[np.float64]  # [n], how late the control step began
    meta: dict[str, Any]  # bundle, board, clock, seed, ...; "ended": how the run ended; "result": what it found, or None
    spec: PolicySpec
    faults: list[dict[str, Any]]  # t_s (since the run began), episode, step, kind, detail
    injected: list[dict[str, Any]]  # t_s (since the run began), episode, step, fault, direction, values
    episodes: list[dict[str, Any]]  # of every episode that was finished
    substep: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # [n], before which the action took effect
    earlier: dict[int, list[tuple[int, list[float]]]] = field(default_factory=dict)  # row: other actions in that step, by substep
    missing: str = ""  # of a file that was cut off: what it lacks; "" when it is complete

    def __len__(self) -> int:
        return len(self.t_s)


def read_recording(path: str | Path) -> Recording:
    """Reads a recording; one that was cut off, up to its last complete record, with ``missing`` set.

    Raises:
        RecordingError: no such file, not a recording of this program, or altered.
    """
    with recording_errors(path), np.errstate(over="ignore"):  # a float64 that no float32 holds is infinite
        return _read(Path(path))


def run_time(recording: Recording) -> NDArray[np.float64]:
    """Seconds since the start, float64 [n], with the episodes end to end."""
    time_s = np.asarray(recording.t_s, np.float64).copy()
    shift = 0.0
    for start, end in pairwise(episode_edges(recording)):
        time_s[start:end] += shift - time_s[start]
        shift = float(time_s[end - 1]) + recording.spec.control_period_s
    return time_s


def episode_edges(recording: Recording) -> list[int]:
    """Rows at which episodes begin, and the number of rows."""
    starts = [0, *(np.flatnonzero(np.diff(recording.episode)) + 1).tolist()] if len(recording) else []
    return [*starts, len(recording)]


@contextlib.contextmanager
def recording_errors(path: str | Path) -> Iterator[None]:
    """Converts every exception caused by an invalid file to RecordingError."""
    try:
        yield
    except RecordingError:
        raise
    except FileNotFoundError:
        raise RecordingError(f"no such recording: {path}", "record a run: hil run ppo --board native") from None
    except OSError as exc:
        raise RecordingError(f"cannot read the recording {path}: {exc}", "check its permissions") from exc
    except DamagedFileError as exc:
        raise RecordingError(f"{path} is not a sound MCAP file: {exc}", _DAMAGED) from exc
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise RecordingError(f"{path} is an MCAP file, but not a recording of a run ({exc!r})", _OTHER) from exc


_DAMAGED = "it was altered, or is something else: record the run again with hil run"
_OTHER = "give a file that hil run wrote, from recordings/"
CUT_OFF = "cut off"


def run_metadata(path: str | Path, metadata: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Metadata of the run, and under "ended" how it ended. Raises RecordingError, LookupError, TypeError, ValueError."""
    if RUN not in metadata:
        raise RecordingError(f"{path} holds no metadata of a run", _OTHER)
    meta = {name: parse_json(value) for name, value in metadata[RUN].items()}
    if meta["format"] != FORMAT:
        raise RecordingError(
            f"{path} has the recording format {meta['format']}, this program reads {FORMAT}",
            "read it with the version that wrote it",
        )
    end = metadata.get(END)
    meta["ended"] = str(parse_json(end["ended"])) if end is not None else CUT_OFF
    meta["result"] = parse_json(end.get("result", "null")) if end is not None else None
    return meta


_RAW = ("input_int8", "output_int8")


class _Columns:
    """Collects control steps as they are read, so that an hour of them takes little memory. Raises what is not a number."""

    def __init__(self, spec: PolicySpec, trace: Sequence[str], kind: ElementType) -> None:
        self._raw = kind.dtype
        observations, actions = names(spec.observation), names(spec.action)
        self._vectors: dict[str, tuple[list[str], array[Any]]] = {
            "observation": (observations, array("d")),
            "action": (actions, array("d")),
            "input_int8": (observations, array(kind.dtype.char)),
            "output_int8": (actions, array(kind.dtype.char)),
        }
        self._plant = {name: array("d") for name in trace}
        self._whole = {name: array("q") for name in ("episode", "step", "substep")}
        self._numbers = {name: array("d") for name in ("t_s", "reward", *TIMINGS)}
        self._held = array("b")
        self._earlier: dict[int, list[tuple[int, list[float]]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, step: Mapping[str, Any]) -> None:
        for key, (signals, column) in self._vectors.items():
            vector = step.get(key) if key in _RAW else step[key]  # a held step has no raw vectors
            column.extend([vector[name] for name in signals] if vector is not None else [0] * len(signals))
        for name, column in self._plant.items():
            column.append(_number(step["plant"].get(name)))
        self._numbers["t_s"].append(step["t_s"])
        for name in ("reward", *TIMINGS):
            self._numbers[name].append(_number(step.get(name)))
        for name in ("episode", "step"):
            self._whole[name].append(step[name])
        self._whole["substep"].append(step.get("substep", 0))
        if "earlier" in step:
            rows = np.reshape(np.asarray(step["earlier"], np.float64), (-1, 1 + len(self._vectors["action"][0]))).tolist()
            self._earlier[len(self)] = [(int(substep), action) for substep, *action in rows]
        self._held.append(bool(step["held"]))

    def last(self) -> tuple[float, int]:
        """Time and episode of the last step."""
        return self._numbers["t_s"][-1], self._whole["episode"][-1]

    def fields(self, faults: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields of a Recording."""
        vectors = {
            name: np.array(column).astype(self._raw if name in _RAW else np.float32).reshape(len(self), len(signals))
            for name, (signals, column) in self._vectors.items()
        }
        numbers = {name: np.array(column) for name, column in self._numbers.items()}
        whole = {name: np.array(column) for name, column in self._whole.items()}
        step = whole.pop("step")
        late = [fault for fault in faults if "request_step" in fault]
        rows = {key: row for row, key in enumerate(zip(whole["episode"].tolist(), step.tolist(), strict=True))} if late else {}
        for fault in late:  # times of a late reply belong to the step whose observation it answers
            row = rows.get((fault["episode"], fault["request_step"]))
            if row is not None:
                numbers["round_trip_us"][row] = float(fault["round_trip_us"])
                numbers["inference_us"][row] = float(fault["inference_us"])
        plant = {name: np.array(column) for name, column in self._plant.items()}
        held = np.array(self._held).astype(bool)
        return {**vectors, **numbers, **whole, "plant": plant, "held": held, "earlier": self._earlier, "faults": faults}


def _number(value: Any) -> Any:
    return np.nan if value is None else value


def _read(path: Path) -> Recording:
    columns: _Columns | None = None
    faults: list[dict[str, Any]] = []
    injected: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    topics: dict[int, str] = {}
    metadata: dict[str, dict[str, str]] = {}
    end = End()
    for record in records(path, end):
        match record:
            case Metadata():
                metadata[record.name] = record.metadata
                if record.name == RUN and columns is None:
                    meta = run_metadata(path, metadata)
                    spec = PolicySpec.from_dict(meta["spec"])
                    columns = _Columns(spec, meta["trace"], ELEMENT_TYPES[meta.get("element_type", INT8.name)])
            case Channel():
                topics[record.id] = record.topic
            case Message():
                topic = topics[record.channel_id]
                if topic == STEP and columns is not None:
                    columns.add(parse_json(record.data))
                elif topic == FAULT:
                    faults.append(_checked(parse_json(record.data), t_s=float, episode=int, step=int, kind=str))
                elif topic == INJECTED:
                    injected.append(_checked(parse_json(record.data), t_s=float, episode=int, step=int, fault=str))
                elif topic == EPISODE:
                    episodes.append(_checked(parse_json(record.data), episode=int))
    if not end.data:
        metadata.pop(END, None)  # older recordings have it before the last steps
    elif RUN in metadata and END not in metadata:
        raise KeyError(END)
    meta = run_metadata(path, metadata)
    assert columns is not None  # there is metadata of a run
    missing = _missing(end, columns, meta)
    return Recording(meta=meta, spec=spec, injected=injected, episodes=episodes, missing=missing, **columns.fields(faults))


def _missing(end: End, columns: _Columns, meta: dict[str, Any]) -> str:
    if end.index:
        return ""
    if end.data:
        return "its index is cut off; every control step is there"
    if not len(columns):
        return "it is cut off before its first control step"
    (t_s, episode), seeds = columns.last(), meta.get("seeds")
    of = f" of {len(seeds)}" if isinstance(seeds, list) else ""
    return (
        f"it is cut off after {len(columns)} control steps, at {t_s:.3f} s of episode {episode + 1}{of}; "
        "what came after that is missing"
    )


def _checked(message: dict[str, Any], **types: type) -> dict[str, Any]:
    for name, kind in types.items():
        if not isinstance(message[name], (int, float) if kind is float else kind):
            raise TypeError(f"{name} is {message[name]!r}")
    return message
