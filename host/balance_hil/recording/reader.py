"""Reading a recording back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from numpy.typing import NDArray

from balance_hil.errors import RecordingError
from balance_hil.files import parse_json
from balance_hil.recording.format import END, EPISODE, FAULT, FORMAT, RUN, STEP, TIMINGS
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
    round_trip_us: NDArray[np.float64]  # [n]
    inference_us: NDArray[np.float64]  # [n]
    jitter_us: NDArray[np.float64]  # [n], how late the control step began
    meta: dict[str, Any]  # bundle, board, clock, seed, ...; "ended" says how the run ended
    spec: PolicySpec
    faults: list[dict[str, Any]]  # t_s (since the run began), episode, step, kind, detail
    episodes: list[dict[str, Any]]  # of every episode that was finished

    def __len__(self) -> int:
        return len(self.t_s)


def read_recording(path: str | Path) -> Recording:
    """Reads a recording whole.

    Raises:
        RecordingError: no such file, not a recording of ours, or cut off.
    """
    try:
        messages, metadata = _read(Path(path))
        meta = {name: parse_json(value) for name, value in metadata[RUN].items()}
        if meta["format"] != FORMAT:
            raise RecordingError(
                f"{path} has the recording format {meta['format']}, this program reads {FORMAT}",
                "read it with the version that wrote it",
            )
        spec = PolicySpec.from_dict(meta["spec"])
        meta["ended"] = parse_json(metadata[END]["ended"])
        return _assemble(messages, meta, spec)
    except FileNotFoundError:
        raise RecordingError(f"no such recording: {path}", "record a run: hil run ppo --board native") from None
    except OSError as exc:
        raise RecordingError(f"cannot read the recording {path}: {exc}", "check its permissions") from exc
    except _DamagedFileError as exc:
        raise RecordingError(f"{path} is not a whole MCAP file: {exc.__cause__!r}", _CUT_OFF) from exc
    except (KeyError, TypeError, ValueError) as exc:
        if isinstance(exc, RecordingError):
            raise
        raise RecordingError(f"{path} is an MCAP file, but not a recording of a run ({exc!r})", _OTHER) from exc


_CUT_OFF = "it was cut off, or is something else: record the run again with hil run; a run that was killed leaves a .partial file"
_OTHER = "give a file that hil run wrote, from recordings/"


class _DamagedFileError(Exception):
    """The mcap library gave up; why is its cause."""


def _read(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, str]]]:
    """Messages by topic, in order, and metadata by name."""
    messages: dict[str, list[dict[str, Any]]] = {STEP: [], FAULT: [], EPISODE: []}
    with path.open("rb") as file:
        try:
            reader = make_reader(file, validate_crcs=True)
            metadata = {record.name: record.metadata for record in reader.iter_metadata()}
            for _, channel, message in reader.iter_messages(topics=list(messages)):
                messages[channel.topic].append(parse_json(message.data))
        except OSError:
            raise
        except Exception as exc:  # a damaged file fails anywhere in there: magic, record, CRC, zstd, UTF-8
            raise _DamagedFileError from exc
    return messages, metadata


def _assemble(messages: dict[str, list[dict[str, Any]]], meta: dict[str, Any], spec: PolicySpec) -> Recording:
    steps = messages[STEP]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([step[name] for step in steps], np.float64)

    def timing(name: str) -> NDArray[np.float64]:
        return np.array([step.get(name, np.nan) for step in steps], np.float64)

    timings = {name: timing(name) for name in TIMINGS}
    return Recording(
        t_s=column("t_s"),
        episode=column("episode").astype(np.int64),
        observation=_matrix(steps, "observation", spec.observation, np.float32),
        input_int8=_matrix(steps, "input_int8", spec.observation, np.int8),
        output_int8=_matrix(steps, "output_int8", spec.action, np.int8),
        action=_matrix(steps, "action", spec.action, np.float32),
        held=column("held").astype(bool),
        plant={name: np.array([step["plant"][name] for step in steps], np.float64) for name in meta["trace"]},
        reward=column("reward"),
        meta=meta,
        spec=spec,
        faults=messages[FAULT],
        episodes=messages[EPISODE],
        **timings,
    )


def _matrix(steps: Sequence[dict[str, Any]], name: str, signals: Sequence[Signal], dtype: Any) -> NDArray[Any]:
    nothing = dict.fromkeys((signal.name for signal in signals), 0)  # a held step has no int8 vectors
    rows = [[vector[signal.name] for signal in signals] for step in steps for vector in (step.get(name, nothing),)]
    return np.array(rows, dtype).reshape(len(steps), len(signals))
