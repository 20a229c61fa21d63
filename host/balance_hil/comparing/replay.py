"""Replays a recording: compares what a board computed in a run with what a runtime or a board computes for the same run.

Three rows, of the control steps in which a reply took effect:

    input_int8    the recorded observation, quantized again
    output_int8   inferred from the *recorded* raw input, so that it differs only where the arithmetic does
    action        from the recorded observation to the float32 action, end to end

In a realtime run a late reply takes effect in a later step than that of its observation. In those steps the replay starts from
the recorded raw input, and they are left out of the row ``input_int8``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.comparing.samples import Progress, no_progress
from balance_hil.errors import NonFiniteInputError, RecordingError, RecordingMismatchError
from balance_hil.metrics import Verdict
from balance_hil.quantize import Float32Array, RawArray, dequantize
from balance_hil.recording import Recording
from balance_hil.runtimes.base import ModelRuntime, Runtime
from balance_hil.spec import Signal

RECORDED = "recorded"
CHUNK_ROWS = 256  # rows between two progress reports: a few seconds of a board at 115200 baud
SCHEMA = "balance_hil/replay@2"
_PLURALS = {"input_int8": "raw inputs", "output_int8": "raw outputs", "action": "actions"}


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """The earliest value that differs."""

    episode: int  # counts from 0
    step: int  # of the episode, counts from 0
    t_s: float  # simulated time within the episode
    index: int  # element of the vector
    signal: str  # its name in the bundle's table
    recorded: float
    replayed: float


@dataclass(frozen=True, kw_only=True)
class ReplayRow:
    """One kind of value, recorded against replayed."""

    what: str  # "input_int8", "output_int8" or "action"
    a: str  # "recorded"
    b: str  # name of the replaying runtime or board
    steps: int  # compared
    values: int  # compared: steps times elements
    differing: int
    max_lsb: float  # largest |a - b| in steps of the model's scale; a whole number for raw rows
    first: FirstDifference | None  # None: nothing differs


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Result of one replay. ``to_dict`` is the ``--json`` document."""

    recording: str
    bundle: str  # id
    recorded_by: Mapping[str, Any]
    replayed_by: Mapping[str, Any]
    episodes: int
    steps: int  # control steps in the recording
    held: int  # of them without a reply: nothing to compare
    late: int  # of them with a reply to an earlier observation: compared from the recorded raw input on
    missing: str  # of a recording that was cut off; "" of a whole one
    rows: tuple[ReplayRow, ...]

    @property
    def equal(self) -> bool:
        """Whether every value is the recorded one."""
        return not any(row.differing for row in self.rows)

    @property
    def summary(self) -> str:
        """One-sentence summary of a replay without differences."""
        who, before = self.replayed_by["name"], self.recorded_by["board"]
        return f"{who} computes what {before} computed when this was recorded, bit for bit, in {self.rows[-1].steps} steps"

    @property
    def verdict(self) -> Verdict:
        """Good when nothing differs."""
        if self.equal:
            return Verdict()
        who, before = self.replayed_by["name"], self.recorded_by["board"]
        parts = ", ".join(f"{row.differing} of {row.values} {_PLURALS[row.what]}" for row in self.rows if row.differing)
        return Verdict((f"{who} differs from what {before} computed when this was recorded: {parts}",))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; docs/json.md explains the keys."""
        rows = [asdict(row) for row in self.rows]
        return {"schema": SCHEMA, **asdict(self), "rows": rows, "equal": self.equal, "verdict": self.verdict.to_dict()}


@dataclass(frozen=True)
class _Rows:
    """The control steps that are compared."""

    index: NDArray[np.intp]  # row numbers in the recording
    on_time: NDArray[np.bool_]  # the reply answers this step's observation


def replay(
    recording: Recording, path: str, bundle: Bundle, target: Runtime | Board, *, on_progress: Progress = no_progress
) -> Replay:
    """Feeds a recorded run to ``target`` and counts the values that differ from those of the recorded board.

    Args:
        recording: of a run of ``bundle``.
        path: of the recording, for messages and the report.
        bundle: that ``target`` runs.
        target: a desktop runtime or a board. A float runtime has no raw values: only the row ``action`` is made.
        on_progress: called with what is running, rows done and rows in all.

    Raises:
        RecordingMismatchError: the recording is of another model.
        RecordingError: no reply took effect in any of its steps.
        NonFiniteInputError: the target returned a NaN or an infinity.
        HarnessError: whatever the target raises (a lost board).
    """
    check_model(recording, path, bundle)
    late = _late_steps(recording)
    kept = np.flatnonzero(~recording.held)
    if not len(kept):
        raise RecordingError(f"{path} holds no step with a reply", "record a run: hil run ppo --board native")
    rows = _Rows(kept, ~late[kept])
    if isinstance(target, Runtime) and not isinstance(target, ModelRuntime):
        found: tuple[ReplayRow, ...] = (_float_row(recording, bundle, target, rows, on_progress),)
    else:
        found = _raw_rows(recording, bundle, target, rows, on_progress)
    return Replay(
        recording=path,
        bundle=bundle.id,
        recorded_by=_recorded_by(recording),
        replayed_by=_replayed_by(target),
        episodes=len(np.unique(recording.episode)),
        steps=len(recording),
        held=int(np.count_nonzero(recording.held)),
        late=int(np.count_nonzero(late[kept])),
        missing=recording.missing,
        rows=found,
    )


def check_model(recording: Recording, path: str, bundle: Bundle) -> None:
    """Raises RecordingMismatchError unless the recording is of a run of ``bundle``."""
    recorded = recording.meta.get("bundle")
    if recorded != bundle.id:
        raise RecordingMismatchError(
            f"{path} was recorded with policy {recorded}, the bundle {bundle.path} is {bundle.id}",
            f"give the bundle that it was recorded with, or record again: hil run {bundle.path} --board native",
        )
    if (recording.spec.n_obs, recording.spec.n_act) != (bundle.spec.n_obs, bundle.spec.n_act):
        raise RecordingMismatchError(
            f"{path} has {recording.spec.n_obs} observations and {recording.spec.n_act} actions, the bundle {bundle.path} "
            f"{bundle.spec.n_obs} and {bundle.spec.n_act}",
            f"record again: hil run {bundle.path} --board native",
        )


def _late_steps(recording: Recording) -> NDArray[np.bool_]:
    """Control steps, bool [n], in which a reply to an earlier observation arrived."""
    late = {(fault["episode"], fault["step"]) for fault in recording.faults if fault["kind"] == "late"}
    keys = zip(recording.episode.tolist(), _step_numbers(recording).tolist(), strict=True)
    return np.array([key in late for key in keys], dtype=np.bool_)


def _step_numbers(recording: Recording) -> NDArray[np.int64]:
    """Number of each row's control step within its episode, int64 [n]."""
    return np.asarray(np.rint(recording.t_s / recording.spec.control_period_s), dtype=np.int64)


# --- raw: the three rows ----------------------------------------------------------------------------------------------


def _raw_rows(
    recording: Recording, bundle: Bundle, target: ModelRuntime | Board, rows: _Rows, report: Progress
) -> tuple[ReplayRow, ...]:
    recorded = recording.input_int8[rows.index]
    inputs = recorded.copy()
    outputs = np.zeros((len(recorded), bundle.spec.n_act), bundle.kind.dtype)
    actions = np.zeros(outputs.shape, np.float32)
    name = _name(target)
    fresh = np.flatnonzero(rows.on_time)
    for part in _chunks(name, fresh, report):
        observations = recording.observation[rows.index[part]]
        inputs[part], outputs[part], actions[part] = _from_observations(target, observations)
    # Arithmetic is compared on equal inputs: rows quantized differently, and late replies, start from the recorded raw.
    again = np.flatnonzero(np.any(inputs != recorded, axis=1) | ~rows.on_time)
    for part in _chunks(f"{name}, recorded inputs", again, report):
        outputs[part], from_inputs = _from_inputs(target, recorded[part])
        stale = ~rows.on_time[part]
        actions[part[stale]] = from_inputs[stale]
    observed, acted = bundle.spec.observation, bundle.spec.action
    differences = _Differences(recording, name, bundle.output_quant.scale)
    return (
        differences.row("input_int8", rows.index[fresh], inputs[fresh], observed),
        differences.row("output_int8", rows.index, outputs, acted),
        differences.row("action", rows.index, actions, acted),
    )


def _from_observations(target: ModelRuntime | Board, observations: Float32Array) -> tuple[RawArray, RawArray, Float32Array]:
    """Raw inputs [n, n_obs], raw outputs [n, n_act] and actions [n, n_act] for observations, float32 [n, n_obs]."""
    if isinstance(target, Board):
        replies = target.infer_batch(observations)
        return (
            np.stack([reply.input for reply in replies]),
            np.stack([reply.output for reply in replies]),
            np.stack([reply.action for reply in replies]),
        )
    inputs = target.quantized(observations)
    return inputs, *_from_inputs(target, inputs)


def _from_inputs(target: ModelRuntime | Board, inputs: RawArray) -> tuple[RawArray, Float32Array]:
    """Raw outputs and actions, both [n, n_act], for raw inputs [n, n_obs]."""
    if isinstance(target, Board):
        replies = target.infer_raw_batch(inputs)
        return np.stack([reply.output for reply in replies]), np.stack([reply.action for reply in replies])
    outputs = target.infer_raw_batch(inputs)
    return outputs, dequantize(outputs, target.output_quant)


# --- float: actions alone ---------------------------------------------------------------------------------------------


def _float_row(recording: Recording, bundle: Bundle, target: Runtime, rows: _Rows, report: Progress) -> ReplayRow:
    index = rows.index[rows.on_time]
    actions = np.zeros((len(index), bundle.spec.n_act), np.float32)
    for part in _chunks(target.name, np.arange(len(index)), report):
        actions[part] = target.act_batch(recording.observation[index[part]])
    return _Differences(recording, target.name, bundle.output_quant.scale).row("action", index, actions, bundle.spec.action)


# --- counting ---------------------------------------------------------------------------------------------------------


class _Differences:
    """Counts what differs from the recording."""

    def __init__(self, recording: Recording, name: str, action_scale: float) -> None:
        self._recording, self._name, self._action_scale = recording, name, action_scale
        self._steps = _step_numbers(recording)

    def row(self, what: str, index: NDArray[np.intp], replayed: NDArray[Any], signals: Sequence[Signal]) -> ReplayRow:
        """Compares ``replayed`` [len(index), k] with the rows ``index`` of the recording's column ``what``."""
        if not np.all(np.isfinite(replayed)):
            raise NonFiniteInputError(
                f"{self._name} answered finite observations with a NaN or an infinity",
                "the model or the firmware is damaged: export it again (hil export), then build and flash it again",
            )
        recorded: NDArray[Any] = getattr(self._recording, what)[index]
        distance = np.abs(recorded.astype(np.float64) - replayed.astype(np.float64))
        scale = self._action_scale if what == "action" else 1.0
        differs = recorded != replayed
        return ReplayRow(
            what=what,
            a=RECORDED,
            b=self._name,
            steps=len(index),
            values=int(differs.size),
            differing=int(np.count_nonzero(differs)),
            max_lsb=round(float(distance.max(initial=0.0)) / scale, 3),  # hides that actions are rounded to float32
            first=self._first(index, differs, recorded, replayed, signals),
        )

    def _first(
        self,
        index: NDArray[np.intp],
        differs: NDArray[np.bool_],
        recorded: NDArray[Any],
        replayed: NDArray[Any],
        signals: Sequence[Signal],
    ) -> FirstDifference | None:
        places = np.argwhere(differs)
        if not len(places):
            return None
        row, element = (int(number) for number in places[0])
        at = index[row]
        return FirstDifference(
            episode=int(self._recording.episode[at]),
            step=int(self._steps[at]),
            t_s=float(self._recording.t_s[at]),
            index=element,
            signal=signals[element].name,
            recorded=recorded[row, element].item(),
            replayed=replayed[row, element].item(),
        )


def _chunks(name: str, rows: NDArray[np.intp], report: Progress) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(rows), CHUNK_ROWS):
        report(name, start, len(rows))
        yield rows[start : start + CHUNK_ROWS]
    report(name, len(rows), len(rows))


def _name(target: Runtime | Board) -> str:
    return target.info.board if isinstance(target, Board) else target.name


def _recorded_by(recording: Recording) -> dict[str, Any]:
    recorded = recording.meta.get("board")
    board = recorded if isinstance(recorded, Mapping) else {}
    facts = {key: board.get(key) for key in _IDENTITY}
    return {**facts, "board": facts["board"] or "a board", "clock": recording.meta.get("clock"), "ended": recording.meta["ended"]}


def _replayed_by(target: Runtime | Board) -> dict[str, Any]:
    if isinstance(target, Board):
        return {"name": _name(target), "kind": "board", **{key: getattr(target.info, key) for key in _IDENTITY}}
    return {"name": target.name, "kind": "runtime"}


_IDENTITY = ("board", "engine", "engine_version", "firmware_commit")
