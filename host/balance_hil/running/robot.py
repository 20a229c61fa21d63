"""A robot with its own sensors and motors, ``firmware/examples/robot``: what it prints, checked against the desktop.

It prints a line for each control period, its checksum after a star, and now and then a line about itself:

    TIME_US,INFERENCE_US,INPUT,...,OUTPUT,...*HH
    # robot MODEL_ID MODE STATE
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.errors import (
    LinkError,
    ModelMismatchError,
    NotOurFirmwareError,
    RecordingError,
    SilentBoardError,
    WrongBaudError,
)
from balance_hil.metrics import Verdict
from balance_hil.quantize import dequantize, quantize
from balance_hil.recording.format import Step
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.spec import Signal

SCHEMA = "balance_hil/watch@2"
RUNNING = "running"
SILENCE_S = 5.0  # longer without a line means that none will come
_MAX_LINE = 8192
_READ_BYTES = 1 << 16
_ROWS = 256  # checked at a time
_CLOCK_US = 2**32  # at which the robot's clock wraps
_DAMAGED_SHARE = 0.01  # of the lines: a good cable has none
_MAX_STATES = 20

Float32Array = NDArray[np.float32]


class Numbers(NamedTuple):
    """A control period."""

    t_us: int  # of the measurement, on the robot's clock
    inference_us: int
    inputs: Float32Array  # of the policy, float32 [n_obs]
    outputs: Float32Array  # of the policy, float32 [n_act]


class Status(NamedTuple):
    """What the robot says of itself."""

    model_id: str
    mode: str  # shadow, motors or standalone
    state: str  # RUNNING, or why the motors are off


class Lines:
    """Splits what the robot sends into lines. What does not belong to one is skipped, and counted if it looks damaged."""

    def __init__(self, n_obs: int, n_act: int) -> None:
        self.damaged = 0
        self.received = 0  # bytes
        self.strange = 0  # of them neither printable nor a line end
        self._n_obs, self._n_act = n_obs, n_act
        self._rest = b""
        self._begun = False  # the first piece is the end of a line that began before the port was open

    def feed(self, data: bytes) -> Iterator[Numbers | Status]:
        """The lines that ``data`` completes.

        Raises:
            ModelMismatchError: a sound line has another number of values than the policy.
        """
        self.received += len(data)
        self.strange += sum(not 32 <= byte < 127 and byte not in b"\r\n\t" for byte in data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            self._rest = self._rest[:_MAX_LINE]  # its end is missing: the checksum says so
        for each in lines:
            found = self._parse(each.strip())
            if found is not None:
                yield found
            elif self._begun:
                self.damaged += 1
            self._begun = True

    def _parse(self, line: bytes) -> Numbers | Status | None:
        if line.startswith(b"#"):
            about = line.decode("ascii", "replace").split()
            return Status(*about[2:]) if about[:2] == ["#", "robot"] and len(about) == 5 else None
        body, star, digits = line.rpartition(b"*")
        if not star or digits.lower() != b"%02x" % reduce(xor, body, 0):
            return None
        words = body.split(b",")
        if len(words) != 2 + self._n_obs + self._n_act:
            raise ModelMismatchError(
                f"the robot prints {len(words)} numbers a line: 2 times and {len(words) - 2} signals; the policy has "
                f"{self._n_obs} inputs and {self._n_act} outputs",
                "build its firmware with model.h and signals.h of this bundle",
            )
        try:
            t_us, inference_us = int(words[0]), int(words[1])
            values = np.array(words[2:], dtype=np.float32)
        except ValueError:
            return None
        if not (0 <= t_us < _CLOCK_US and 0 <= inference_us < _CLOCK_US and np.isfinite(values).all()):
            return None
        return Numbers(t_us, inference_us, values[: self._n_obs], values[self._n_obs :])


def lines_of_log(path: Path, lines: Lines) -> Iterator[Numbers | Status]:
    """Those of a file.

    Raises:
        RecordingError: it cannot be read, or has no line of a robot.
    """
    found = False
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                for line in lines.feed(data):
                    found = True
                    yield line
    except OSError as exc:
        raise RecordingError(f"cannot read {path}: {exc.strerror}", "name a file with what the robot has printed") from exc
    if not found:
        raise RecordingError(f"{path} has no line of a robot", "save what firmware/examples/robot prints: docs/bench-to-robot.md")


def lines_of_port(
    read: Callable[[float], bytes], now_s: Callable[[], float], lines: Lines, seconds: float
) -> Iterator[Numbers | Status]:
    """Those that come within ``seconds``. ``read`` waits for bytes, at most for the time that it is given, in seconds.

    Raises:
        SilentBoardError: nothing came for ``SILENCE_S``.
        WrongBaudError, NotOurFirmwareError: something came, and no line.
    """
    start_s = heard_s = now_s()
    while (t_s := now_s()) - start_s < seconds:
        if t_s - heard_s > SILENCE_S:
            raise _silence(lines)
        for line in lines.feed(read(0.1)):
            heard_s = t_s
            yield line


def _silence(lines: Lines) -> LinkError:
    what = f"no line of a robot for {SILENCE_S:g} s"
    if not lines.received:
        return SilentBoardError(f"{what}: not one byte", "check the port, and reset the robot")
    if lines.strange > lines.received // 4:
        return WrongBaudError(f"{what}, but {lines.received} bytes that are no text", "check --baud: the example has 921600")
    return NotOurFirmwareError(
        f"{what}, but {lines.received} bytes", "flash firmware/examples/robot; if that runs, reset it: docs/bench-to-robot.md"
    )


@dataclass(frozen=True, kw_only=True)
class SignalRange:
    """What a signal did, in its unit."""

    name: str
    unit: str
    least: float
    most: float
    latest: float


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Result of a watch. ``to_dict`` is the ``--json`` document."""

    bundle: str  # id
    mode: str
    states: tuple[str, ...]  # in their order, without repetition
    lines: int
    damaged: int
    missing: int  # control periods without a line
    duration_s: float  # by the robot's clock
    period_us: dict[str, float]  # p50, p99, max, of periods that follow each other
    inference_us: dict[str, float]
    compared: int  # lines whose outputs were computed on the desktop, too
    differing: int
    first_difference: str
    signals: tuple[SignalRange, ...]

    @property
    def verdict(self) -> Verdict:
        """Good when the robot computes what the desktop computes and nothing has stopped its motors."""
        reasons = []
        if self.differing:
            reasons.append(f"{self.differing} of {self.compared} outputs are not the desktop's; {self.first_difference}")
        if not self.mode:
            reasons.append("the robot did not say which model it runs")
        elif not self.lines:
            reasons.append("no line with measurements came")
        if self.states and self.states[-1] != RUNNING:
            reasons.append(f"the motors are off: {self.states[-1]}")
        if self.damaged > _DAMAGED_SHARE * self.lines:
            reasons.append(f"{self.damaged} lines were damaged, {self.lines} were not")
        return Verdict(tuple(reasons))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"schema": SCHEMA, **asdict(self), "verdict": self.verdict.to_dict()}


class Watch:
    """Takes the lines of a robot, one after the other.

    Args:
        bundle: the policy that it must run.
        runtime: of the desktop, with that policy.
    """

    def __init__(self, bundle: Bundle, runtime: ModelRuntime) -> None:
        self._bundle, self._runtime = bundle, runtime
        self._signals = (*bundle.spec.observation, *bundle.spec.action)
        self._mode, self._states = "", list[str]()
        self._lines = self._missing = self._compared = self._differing = 0
        self._first = ""
        self._first_us = self._wraps_us = 0
        self._last_us: int | None = None
        self._elapsed_us = 0
        self._periods, self._inferences = Counter[int](), Counter[int]()
        self._waiting: list[Numbers] = []
        self._range = np.zeros((3, len(self._signals)))  # least, most, latest

    def take(self, line: Numbers | Status) -> None:
        """Takes a line.

        Raises:
            ModelMismatchError: the robot runs another model.
        """
        if isinstance(line, Status):
            self._take_status(line)
            return
        self._take_time(line)
        self._lines += 1
        self._inferences[line.inference_us] += 1
        values = np.concatenate([line.inputs, line.outputs]) * [signal.scale for signal in self._signals]
        least, most, _ = self._range if self._lines > 1 else (values, values, values)
        self._range = np.stack([np.minimum(least, values), np.maximum(most, values), values])
        self._waiting.append(line)
        if len(self._waiting) >= _ROWS:
            self._compare()

    def step(self, line: Numbers) -> Step:
        """The control step, for a recording, of the line that was taken last."""
        return Step(
            t_s=self._elapsed_us / 1e6,
            episode=0,
            step=self._lines - 1,
            observation=line.inputs.tolist(),
            action=line.outputs.tolist(),
            held=False,
            plant=(),
            reward=0.0,
            input_int8=self._bundle.quantized(line.inputs).tolist(),
            output_int8=quantize(line.outputs, self._bundle.output_quant).tolist(),
            inference_us=line.inference_us,
        )

    def result(self, damaged: int) -> Watched:
        """What was found."""
        self._compare()
        return Watched(
            bundle=self._bundle.id,
            mode=self._mode,
            states=tuple(self._states),
            lines=self._lines,
            damaged=damaged,
            missing=self._missing,
            duration_s=self._elapsed_us / 1e6,
            period_us=_spread(self._periods),
            inference_us=_spread(self._inferences),
            compared=self._compared * self._bundle.spec.n_act,
            differing=self._differing,
            first_difference=self._first,
            signals=self.ranges(),
        )

    def ranges(self) -> tuple[SignalRange, ...]:
        """What each signal has done so far."""
        if not self._lines:
            return ()
        columns = zip(self._signals, *self._range.tolist(), strict=True)
        return tuple(SignalRange(name=s.name, unit=s.unit, least=a, most=b, latest=c) for s, a, b, c in columns)

    def _take_status(self, status: Status) -> None:
        if status.model_id != self._bundle.id:
            raise ModelMismatchError(
                f"the robot runs the model {status.model_id[:40]}, the bundle is {self._bundle.id}",
                "build its firmware with model.h and signals.h of this bundle, or name the bundle that it runs",
            )
        if self._mode and status.mode != self._mode:
            self._compare()
        self._mode = status.mode
        if self._states[-1:] != [status.state] and len(self._states) < _MAX_STATES:
            self._states.append(status.state)

    def _take_time(self, line: Numbers) -> None:
        period_us = self._bundle.spec.control_period_s * 1e6
        if self._last_us is not None:
            passed_us = (line.t_us - self._last_us) % _CLOCK_US
            if passed_us > _CLOCK_US // 2:  # back in time: it was reset
                passed_us = round(period_us)
            skipped = round(passed_us / period_us) - 1
            if skipped > 0:
                self._missing += skipped
            else:
                self._periods[passed_us] += 1
            self._elapsed_us += passed_us
        self._last_us = line.t_us

    def _compare(self) -> None:
        rows, self._waiting = self._waiting, []
        if self._mode in ("", "motors") or not rows:  # the outputs are not the policy's, or may not be
            return
        outputs = np.stack([row.outputs for row in rows])
        wanted = dequantize(
            self._runtime.infer_raw_batch(self._bundle.quantized(np.stack([row.inputs for row in rows]))),
            self._bundle.output_quant,
        )
        differ = outputs != wanted
        self._compared += len(rows)
        self._differing += int(np.count_nonzero(differ))
        if differ.any() and not self._first:
            row, column = (int(i) for i in np.argwhere(differ)[0])
            name = self._bundle.spec.action[column].name
            self._first = (
                f"the first at {rows[row].t_us} us, {name}: {outputs[row, column]:.9g}, desktop {wanted[row, column]:.9g}"
            )


def _spread(counts: Counter[int]) -> dict[str, float]:
    """Median, 99th percentile and largest value."""
    if not counts:
        return {}
    values = np.array(sorted(counts))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    at = [int(values[np.searchsorted(ends, math.ceil(share * ends[-1]))]) for share in (0.5, 0.99)]
    return {"p50": at[0], "p99": at[1], "max": int(values[-1])}


# --- polarity ---------------------------------------------------------------------------------------------------------

MOVED = 0.1  # of the policy's 1.0
_REST = 0.05  # at most so much within _REST_S; a hand does not turn a wheel that evenly
_REST_S = 0.5
_PATIENCE_S = 30.0

Polarity = Literal["right", "wrong", "not moved"]


@dataclass(frozen=True, kw_only=True)
class SignalPolarity:
    """How a signal answered to what makes it rise."""

    name: str
    asked: str
    found: Polarity
    moved: float  # in its unit
    instead: str  # what moved most where this did not; "": nothing


class PolarityCheck:
    """Asks for one signal after the other to be made to rise, and sees whether it does.

    Args:
        signals: of the observation; those without ``positive`` are left out.
        ask: called with a signal once everything is at rest.
        period_s: between two lines.
    """

    def __init__(self, signals: Sequence[Signal], ask: Callable[[Signal], None], period_s: float) -> None:
        self.results: list[SignalPolarity] = []
        self._rest: NDArray[np.floating[Any]] | None = None  # None: not at rest yet
        self._window: deque[Float32Array] = deque(maxlen=max(2, round(_REST_S / period_s)))
        self._most = np.zeros(len(signals))
        self._seen = 0  # lines since everything was at rest, or since the last signal
        self._signals, self._ask = signals, ask
        self._left = deque(signal for signal in signals if signal.positive)
        self._patience = round(_PATIENCE_S / period_s)  # lines

    @property
    def done(self) -> bool:
        """Whether every signal was asked for."""
        return not self._left

    @property
    def verdict(self) -> Verdict:
        """Good when every signal rose."""
        reasons = [f"{r.name}: {_WORDS[r.found]}" for r in self.results if r.found != "right"]
        return Verdict((*reasons, *(f"{signal.name}: the lines ended before" for signal in self._left)))

    def take(self, inputs: Float32Array) -> None:
        """Takes the inputs of the policy in a control period, float32 [n_obs]."""
        if self.done:
            return
        self._seen += 1
        signal = self._left[0]
        if self._rest is None:
            self._window.append(inputs)
            if len(self._window) == self._window.maxlen and np.ptp(np.stack(self._window), axis=0).max() < _REST:
                self._rest, self._seen = np.mean(self._window, axis=0), 0
                self._ask(signal)
            elif self._seen > self._patience:
                self._end(signal, "not moved", 0.0, "it does not come to rest")
            return
        moved = inputs - self._rest
        self._most = np.maximum(self._most, np.abs(moved))
        change = float(moved[signal.index])
        if abs(change) >= MOVED:
            self._end(signal, "right" if change > 0 else "wrong", change)
        elif self._seen > self._patience:
            other = int(np.argmax(self._most))
            self._end(signal, "not moved", change, self._signals[other].name if self._most[other] >= MOVED else "")

    def _end(self, signal: Signal, found: Polarity, change: float, instead: str = "") -> None:
        moved = change * signal.scale
        self.results.append(SignalPolarity(name=signal.name, asked=signal.positive, found=found, moved=moved, instead=instead))
        self._left.popleft()
        self._rest, self._most, self._seen = None, np.zeros(len(self._signals)), 0
        self._window.clear()


_WORDS: dict[Polarity, str] = {"right": "rises", "wrong": "falls, the sign is wrong", "not moved": "does not move"}
