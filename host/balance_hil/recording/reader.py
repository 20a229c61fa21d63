"""Reading a recording back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mcap.records import Channel, Message, Metadata
from numpy.typing import NDArray

from balance_hil.errors import RecordingError
from balance_hil.files import parse_json
from balance_hil.recording.format import END, EPISODE, FAULT, FORMAT, RUN, STEP
from balance_hil.recording.records import DamagedFileError, End, records
from balance_hil.spec import PolicySpec, Signal


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run, row by row; ``n`` control steps over all episodes. Timings are NaN where none were taken."""

    t_s: NDArray[np.float64]  # [n], simulated time of the observation within the episode
    episode: NDArray[np.int64]  # [n], counts from 0
    observation: NDArray[np.float32]  # [n, n_obs]
    input_int8: NDArray[np.int8]  # [n, n_obs]; 0 where held
    output_int8: NDArray[np.int8]  # [n, n_act]; 0 where held
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
    episodes: list[dict[str, Any]]  # of every episode that was finished
    missing: str = ""  # of a file that was cut off: what it lacks; "" when it is complete

    def __len__(self) -> int:
        return len(self.t_s)


def read_recording(path: str | Path) -> Recording:
    """Reads a recording; one that was cut off, up to its last complete record, with ``missing`` set.

    Raises:
        RecordingError: no such file, not a recording of this program, or altered.
    """
    with recording_errors(path):
        messages, metadata, end = _read(Path(path))
        meta = run_metadata(path, metadata)
        spec = PolicySpec.from_dict(meta["spec"])
        with np.errstate(over="ignore"):  # a float64 that no float32 holds is infinite
            return replace(_assemble(messages, meta, spec), missing=_missing(end, messages[STEP], meta))


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


def _read(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, str]], End]:
    """Messages by topic, in order, metadata by name, and how far the file could be read."""
    messages: dict[str, list[dict[str, Any]]] = {STEP: [], FAULT: [], EPISODE: []}
    topics: dict[int, str] = {}
    metadata: dict[str, dict[str, str]] = {}
    end = End()
    for record in records(path, end):
        match record:
            case Metadata():
                metadata[record.name] = record.metadata
            case Channel():
                topics[record.id] = record.topic
            case Message() if (topic := topics[record.channel_id]) in messages:
                messages[topic].append(parse_json(record.data))
    if not end.data:
        metadata.pop(END, None)  # older recordings have it before the last steps
    elif RUN in metadata and END not in metadata:
        raise KeyError(END)
    return messages, metadata, end


def _missing(end: End, steps: list[dict[str, Any]], meta: dict[str, Any]) -> str:
    if end.index:
        return ""
    if end.data:
        return "its index is cut off; every control step is there"
    if not steps:
        return "it is cut off before its first control step"
    last, seeds = steps[-1], meta.get("seeds")
    of = f" of {len(seeds)}" if isinstance(seeds, list) else ""
    return (
        f"it is cut off after {len(steps)} control steps, at {last['t_s']:.3f} s of episode {int(last['episode']) + 1}{of}; "
        "what came after that is missing"
    )


def _assemble(messages: dict[str, list[dict[str, Any]]], meta: dict[str, Any], spec: PolicySpec) -> Recording:
    steps = messages[STEP]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([step[name] for step in steps], np.float64)

    def timing(name: str) -> NDArray[np.float64]:
        return np.array([step.get(name, np.nan) for step in steps], np.float64)

    faults = [_checked(fault, t_s=float, episode=int, step=int, kind=str) for fault in messages[FAULT]]
    round_trip_us, inference_us = timing("round_trip_us"), timing("inference_us")
    _add_late(round_trip_us, inference_us, steps, faults)
    return Recording(
        t_s=column("t_s"),
        episode=np.array([step["episode"] for step in steps], np.int64),
        observation=_matrix(steps, "observation", spec.observation, np.float32),
        input_int8=_matrix(steps, "input_int8", spec.observation, np.int8),
        output_int8=_matrix(steps, "output_int8", spec.action, np.int8),
        action=_matrix(steps, "action", spec.action, np.float32),
        held=column("held").astype(bool),
        plant={name: np.array([step["plant"][name] for step in steps], np.float64) for name in meta["trace"]},
        reward=column("reward"),
        meta=meta,
        spec=spec,
        faults=faults,
        episodes=[_checked(episode, episode=int) for episode in messages[EPISODE]],
        round_trip_us=round_trip_us,
        inference_us=inference_us,
        jitter_us=timing("jitter_us"),
    )


def _add_late(
    round_trip_us: NDArray[np.float64],
    inference_us: NDArray[np.float64],
    steps: Sequence[dict[str, Any]],
    faults: Sequence[dict[str, Any]],
) -> None:
    """Gives the times of late replies, which are in their faults, to the steps whose observations they answer."""
    late = [fault for fault in faults if "request_step" in fault]
    rows = {(step["episode"], step["step"]): row for row, step in enumerate(steps)} if late else {}
    for fault in late:
        row = rows.get((fault["episode"], fault["request_step"]))
        if row is not None:
            round_trip_us[row] = float(fault["round_trip_us"])
            inference_us[row] = float(fault["inference_us"])


def _checked(message: dict[str, Any], **types: type) -> dict[str, Any]:
    for name, kind in types.items():
        if not isinstance(message[name], (int, float) if kind is float else kind):
            raise TypeError(f"{name} is {message[name]!r}")
    return message


def _matrix(steps: Sequence[dict[str, Any]], name: str, signals: Sequence[Signal], dtype: Any) -> NDArray[Any]:
    nothing = dict.fromkeys((signal.name for signal in signals), 0)  # a held step has no int8 vectors
    rows = [[vector[signal.name] for signal in signals] for step in steps for vector in (step.get(name, nothing),)]
    values = np.array(rows, np.int64 if dtype is np.int8 else dtype).reshape(len(steps), len(signals))
    if dtype is np.int8 and np.any(values != values.astype(np.int8)):
        raise ValueError(f"a number of {name} is no int8")
    return values.astype(dtype)
