"""Repeatable fault injection on a link: a bad cable, a slow hub, a noisy line, and a board that fails.

Each fault draws from its own random generator once per frame, so the same seed affects the same frames regardless of how the
bytes are split into chunks. A frame ends with 0x00, a text line with a line feed.

In simulated time (``begin(simulated=True)``), nothing waits: a delayed frame arrives when the simulation reaches that time. The
board's own time counts as none, and a lost reply is known to be lost: after every request an ECHO goes to the board past the
faults, and once it is answered, so is everything before it.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from balance_hil.errors import CableUnpluggedError, SilentBoardError, UsageError
from balance_hil.link.base import Link, clock_of
from balance_hil.link.fault_table import EPSILON_S, NEEDS_EMULATION, Fault
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, OtherSchema, encode

MAX_UNIT_BYTES = 4096  # unterminated bytes are passed on at this size
SETTLE_TIMEOUT_S, SETTLE_ATTEMPTS = 1.0, 3  # for the answer to the ECHO in simulated time
BOOT_TIMEOUT_S = 20.0  # for READY in simulated time
KEPT_INJECTIONS = 100_000  # a run takes them at every step
_ENDS = re.compile(rb"[\x00\n]")
_NEVER = float("inf")


class Injection(NamedTuple):
    """A fault that was injected."""

    t_s: float  # since the beginning of the run
    fault: str
    direction: str  # "tx", "rx", or "" for what happens to a board
    values: Mapping[str, float]  # its parameters, and what was drawn


class Machine(Protocol):
    """What faults need of a board that this program started."""

    def restart(self) -> Link:
        """Restarts the board and returns the new link."""

    def pause(self) -> None:
        """Suspends the processor until ``resume``."""

    def resume(self) -> None:
        """Resumes a paused processor."""

    def flip_bit(self, data: bytes, position: int, bit: int) -> int:
        """Flips one bit of every copy of ``data`` in the board's memory; returns how many there are."""


class FaultyLink:
    """Wraps a link and injects faults into its traffic and into the board behind it.

    Delayed frames are delivered, and faults of a board happen, during ``read`` and ``write`` only.

    Args:
        link: to the board.
        faults: to inject.
        seed: the same seed affects the same frames.
        armed: False: bytes pass unchanged until ``begin``.
        machine: of a board that this program started.
        weights: of the running model, for flip-bit.

    Raises:
        UsageError: a fault needs a ``machine``, or ``weights``.
    """

    def __init__(
        self,
        link: Link,
        faults: Sequence[Fault],
        seed: int = 0,
        *,
        armed: bool = True,
        machine: Machine | None = None,
        weights: Callable[[], bytes] | None = None,
    ) -> None:
        self.description = link.description
        self._machine = machine
        self._weights = weights
        self._require_means(faults)
        self.faults = tuple(faults)
        self.seed = seed
        self.armed = armed
        self.simulated = False
        self.injected: Counter[str] = Counter()  # count of each fault, "drop rx": 3
        self.injections: deque[Injection] = deque(maxlen=KEPT_INJECTIONS)  # not yet taken by whoever records them
        self._link = link
        self._follow_clock()
        self._now_s = 0.0  # simulated
        self._zero_s = 0.0  # of the wall clock
        self._echo = 0
        self._booted_s = 0.0  # simulated time at which the board can hear again
        self.flipped = False  # a bit of the running model, which stays so however the faults begin and end
        self._begin(None)

    def _require_means(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if fault.name in NEEDS_EMULATION and self._machine is None:
                raise UsageError(
                    f"the fault {fault.name} cannot be injected into the board on {self.description}, which this program did "
                    "not start",
                    "use an emulated board without --port: --board native; on this one: reboot:at_s=2 or hang:at_s=2",
                )
            if fault.name == "flip-bit" and self._weights is None:
                raise UsageError("the fault flip-bit needs the policy that the board runs", "name it: --hil-bundle, or bundle=…")

    # --- time ---------------------------------------------------------------------------------------------------------

    def begin(self, control_period_s: float | None = None, *, simulated: bool = False) -> None:
        """Arms the faults at time 0, with all generators as new.

        Args:
            control_period_s: of the run that begins; None: none does, and faults with ``at_step`` do not happen.
            simulated: time passes by ``advance`` only.
        """
        self.armed = True
        self.simulated = simulated
        self._now_s = self._booted_s = 0.0
        self._begin(control_period_s)
        if simulated:
            self._answers()  # what the board still sends is from before the run

    def _begin(self, control_period_s: float | None) -> None:
        self._zero_s = self._clock()
        self._period_s = control_period_s
        self.injected.clear()
        self.injections.clear()
        self._happened: Counter[int] = Counter()  # by index of the fault of a board
        self._paused_until_s = _NEVER  # infinity: it is not paused
        self._unplugged = False
        # Faults that are not about a frame, with their index.
        self._strikes = [(i, f) for i, f in enumerate(self.faults) if self._is_strike(f)]
        self._tx, self._rx = _Lane("tx", self), _Lane("rx", self)

    def _follow_clock(self) -> None:
        """Takes the clock of the link over; see ``clock_of``."""
        self._clock = clock_of(self._link)
        if self._clock is not time.perf_counter:
            self.now_s = self._clock

    def now(self) -> float:
        """Seconds since the beginning of the run."""
        return self._now_s if self.simulated else self._clock() - self._zero_s

    def advance(self, now_s: float) -> None:
        """Simulated time becomes ``now_s``. Raises CableUnpluggedError, SilentBoardError."""
        self._now_s = max(self._now_s, now_s)
        self._pump()

    def end(self) -> None:
        """No more faults until the next ``begin``; what is held is lost, and a board that hangs goes on."""
        if self._machine is not None and self._paused_until_s < _NEVER:
            self._machine.resume()
        self.armed = self.simulated = False

    @property
    def readable(self) -> bool:
        """Whether bytes can be read now."""
        return self.armed and self._rx.next_due() <= self.now() + EPSILON_S

    def inject(self, fault: Fault) -> None:
        """Adds a fault while the link is armed. Raises UsageError."""
        self._require_means([fault])
        index = len(self.faults)
        self.faults += (fault,)
        if self._is_strike(fault):
            self._strikes.append((index, fault))
        for lane in (self._tx, self._rx):
            lane.add(index, fault)

    # --- a link -------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See ``Link.write``. Raises CableUnpluggedError once the cable is cut."""
        if not self.armed:
            self._link.write(data)
            return
        self._tx.push(data, self.now())
        self._pump()

    def read(self, timeout_s: float) -> bytes:
        """See ``Link.read``; in simulated time it does not wait. Raises CableUnpluggedError once the cable is cut."""
        if not self.armed:
            return self._link.read(timeout_s)
        deadline = self.now() + timeout_s
        while True:
            self._pump()
            now = self.now()
            ready = self._rx.pop(now)
            if ready or self.simulated:
                return ready
            wake = min(deadline, self._rx.next_due(), self._tx.next_due(), self._next_strike())
            data = self._link.read(max(0.0, wake - now))
            now = self.now()
            self._rx.push(data, now)
            if now + EPSILON_S >= deadline:
                return self._rx.pop(now)

    def close(self) -> None:
        """See ``Link.close``."""
        self._link.close()

    @property
    def cut(self) -> bool:
        """Whether the cable was cut."""
        return self._unplugged

    def _pump(self) -> None:
        self._strike()
        if self._unplugged:
            self._link.close()
            raise CableUnpluggedError(
                f"{self.description} vanished while it was in use (fault injection cut the cable)", "leave out --fault cut"
            )
        ready = self._tx.pop(self.now())
        if not ready or (self.simulated and self._now_s + EPSILON_S < self._booted_s):
            return
        if self.simulated:
            self._rx.push(self._answers(ready), self._now_s)
        else:
            self._link.write(ready)

    def _answers(self, requests: bytes = b"") -> bytes:
        """Sends ``requests`` and returns what the board sends in answer."""
        received = bytearray()
        for _ in range(SETTLE_ATTEMPTS):
            self._echo = (self._echo + 1) % 256
            echo, last = _echo_frames(self._echo)
            self._link.write(requests + echo)
            requests = b""
            deadline = time.monotonic() + SETTLE_TIMEOUT_S
            while (left_s := deadline - time.monotonic()) > 0:
                received += self._link.read(left_s)
                if last in received:
                    before, _, after = bytes(received).partition(last)
                    return before + after
        raise SilentBoardError(
            f"the board on {self.description} stopped answering: nothing came for {SETTLE_ATTEMPTS * SETTLE_TIMEOUT_S:g} s",
            "reset it; if it stops again, its firmware hangs there: see the recording",
        )

    # --- faults of the board ------------------------------------------------------------------------------------------

    def note(self, fault: Fault, direction: str, **drawn: float) -> None:
        """Counts an injected fault and keeps it for the recording."""
        self.injected[f"{fault.name} {direction}".rstrip()] += 1
        self.injections.append(Injection(self.now(), fault.name, direction, {**fault.parameters, **drawn}))

    def window(self, fault: Fault, now_s: float) -> tuple[int, float] | None:
        """See ``Fault.window``."""
        return fault.window(now_s, self._period_s)

    def suspends(self, fault: Fault) -> bool:
        """Whether a hang suspends the board's process; else its link is held."""
        return fault.name == "hang" and self._machine is not None and not self.simulated

    def _is_strike(self, fault: Fault) -> bool:
        return fault.kind.lasts == "once" or self.suspends(fault)

    def _next_strike(self) -> float:
        times = [fault.next_s(self._happened[index], self._period_s) for index, fault in self._strikes]
        return min([self._paused_until_s, *times], default=_NEVER)

    def _strike(self) -> None:
        if not self._strikes:
            return
        now = self.now()
        if self._machine is not None and now + EPSILON_S >= self._paused_until_s:
            self._paused_until_s = _NEVER
            self._machine.resume()
        for index, fault in self._strikes:
            window = self.window(fault, now)
            if window is not None and window[0] >= self._happened[index]:
                self._happened[index] = window[0] + 1
                self._happen(fault, window[1], np.random.default_rng([self.seed, index, window[0]]))

    def _happen(self, fault: Fault, end_s: float, random: np.random.Generator) -> None:
        drawn: dict[str, float] = {}
        match fault.name:
            case "cut":
                self._unplugged = True
            case "reboot":
                self._link.write(b"\x00" + encode(messages.Reset(), 0))
                self._boots(fault)
            case "power-cycle" if self._machine is not None:
                self._link.close()
                self._link = self._machine.restart()
                self._follow_clock()
                self.flipped = False
                self._boots(fault)
            case "hang" if self._machine is not None:
                self._machine.pause()
                self._paused_until_s = end_s
                drawn["for_s"] = fault.for_s or 0.0
            case "flip-bit" if self._machine is not None and self._weights is not None:
                weights = self._weights()
                position = int(random.integers(len(weights)))
                self._machine.flip_bit(weights, position, int(fault.parameters["bit"]))
                self.flipped = True
                drawn["position"] = position
        self.note(fault, "", **drawn)

    def _boots(self, fault: Fault) -> None:
        """In simulated time: READY arrives ``boot_s`` later, and what is sent to the board meanwhile is lost."""
        if not self.simulated:
            return
        decoder, ready = Decoder(), None
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while ready is None and (left_s := deadline - time.monotonic()) > 0:
            frames = decoder.feed(self._link.read(left_s))
            ready = next((frame.message for frame in frames if isinstance(frame.message, messages.Ready)), None)
        if ready is None:
            raise SilentBoardError(
                f"the board on {self.description} did not come back after the injected {fault.name}", "power-cycle it"
            )
        self._booted_s = self._now_s + fault.parameters["boot_s"]
        self._rx.push(b"\x00" + encode(ready, 0), self._booted_s)


class _State:
    """One fault in one direction."""

    def __init__(self, fault: Fault, random: np.random.Generator) -> None:
        self.fault = fault
        self.random = random
        self.kept: tuple[float, bytes] | None = None  # by reorder
        self.left = 0  # frames of a burst
        self.counted = -1  # latest of its times that was counted


class _Lane:
    """One direction: splits bytes into frames, injects faults, and holds frames until they are due."""

    def __init__(self, name: Literal["tx", "rx"], owner: FaultyLink) -> None:
        self._name = name
        self._owner = owner
        self._states: list[_State] = []
        for index, fault in enumerate(owner.faults):
            self.add(index, fault)
        self._partial = bytearray()
        self._held: deque[tuple[float, bytes]] = deque()  # (due, bytes), in order

    def add(self, index: int, fault: Fault) -> None:
        """Injects ``fault``, number ``index`` of the link, from now on, where it concerns this direction."""
        if fault.kind.lasts != "once" and self._concerns(fault):
            self._states.append(_State(fault, np.random.default_rng([self._owner.seed, index, self._name == "tx"])))

    def push(self, data: bytes, now: float) -> None:
        """Accepts bytes that arrived at ``now``."""
        if not self._states:
            if data:
                self._held.append((now, data))
            return
        start = 0
        for match in _ENDS.finditer(data):
            end = match.end()
            unit = self._partial + data[start:end]
            if match[0] == b"\x00" or _is_text(unit):
                start = end
                self._partial.clear()
                self._frame(bytes(unit), now)
        self._partial += data[start:]
        while len(self._partial) >= MAX_UNIT_BYTES:
            self._frame(bytes(self._partial[:MAX_UNIT_BYTES]), now)
            del self._partial[:MAX_UNIT_BYTES]

    def pop(self, now: float) -> bytes:
        """Everything that is due by ``now``."""
        ready = bytearray()
        while self._held and self._held[0][0] <= now + EPSILON_S:
            ready += self._held.popleft()[1]
        return bytes(ready)

    def next_due(self) -> float:
        """When the next held bytes are due; infinity when none are held."""
        return self._held[0][0] if self._held else _NEVER

    def _concerns(self, fault: Fault) -> bool:
        if fault.name == "hang":  # the board receives nothing; what it has sent arrives
            return self._name == "tx" and not self._owner.suspends(fault)
        if fault.name == "clock-drift":
            return self._name == "rx"
        return fault.direction in (self._name, "both")

    def _frame(self, frame: bytes, now: float) -> None:
        due = now
        for state in self._states:
            window = self._owner.window(state.fault, now)
            if window is not None:
                frame, due = self._harm(state, frame, due, window)
        if frame:
            self._held.append((due, frame))

    def _harm(self, state: _State, frame: bytes, due: float, window: tuple[int, float]) -> tuple[bytes, float]:
        """Frame and due time after one fault."""
        fault, random, values = state.fault, state.random, state.fault.parameters
        if fault.name in ("stall", "hang", "clock-drift"):
            if state.counted != window[0]:
                state.counted = window[0]
                self._note(fault, **({} if fault.for_s is None else {"for_s": fault.for_s}))
            if fault.name == "clock-drift":
                return _changed(frame, ("_us", "uptime_ms"), 1 + values["ppm"] * 1e-6), due
            return frame, max(due, window[1])
        if fault.name in ("drop-byte", "corrupt-byte"):
            return self._harm_bytes(fault, random, frame), due
        strike, where = random.random(2)
        if state.left:  # in a burst
            state.left -= 1
            self._note(fault)
            return b"", due
        if state.kept is not None:
            (_, kept), state.kept = state.kept, None
            return frame + kept, due
        if strike >= values["rate"] or not frame:
            return frame, due
        match fault.name:
            case "drop":
                self._note(fault)
                return b"", due
            case "burst":
                state.left = int(values["frames"]) - 1
                self._note(fault)
                return b"", due
            case "duplicate":
                self._note(fault)
                return frame + frame, due
            case "reorder":
                state.kept = (due, frame)
                self._note(fault)
                return b"", due
            case "delay":
                self._note(fault)
                return frame, due + values["s"]
        frame = self._repeatable(frame)
        match fault.name:
            case "truncate":  # cuts the terminator, too, so that the rest merges with the next frame
                kept_bytes = int(where * len(frame))
                self._note(fault, left=kept_bytes)
                return frame[:kept_bytes], due
            case "garbage":
                self._note(fault)
                return random.bytes(int(values["bytes"])) + frame, due
        bit = int(where * len(frame) * 8)
        self._note(fault, bit=bit)
        harmed = bytearray(frame)
        harmed[bit // 8] ^= 1 << bit % 8
        return bytes(harmed), due

    def _harm_bytes(self, fault: Fault, random: np.random.Generator, frame: bytes) -> bytes:
        hit = random.random(len(frame)) < fault.parameters["rate"]
        if not hit.any():
            return frame
        self._note(fault, hit=int(hit.sum()))
        frame = self._repeatable(frame)
        if fault.name == "drop-byte":
            return bytes(byte for byte, gone in zip(frame, hit, strict=True) if not gone)
        data = np.frombuffer(frame, np.uint8).copy()
        data[hit] ^= random.integers(1, 256, int(hit.sum()), np.uint8)
        return data.tobytes()

    def _repeatable(self, frame: bytes) -> bytes:
        """A frame that is going to be damaged, without what differs from run to run: the damage has the same effect then."""
        return _changed(frame, ("_us", "uptime_ms", "nonce", "stack"), 0.0) if self._owner.simulated else frame

    def _note(self, fault: Fault, **drawn: float) -> None:
        self._owner.note(fault, "" if fault.kind.side == "board" else self._name, **drawn)


@cache
def _echo_frames(number: int) -> tuple[bytes, bytes]:
    """An ECHO and its answer. The 0x00 before it ends a truncated frame."""
    data = bytes([number])
    return b"\x00" + encode(messages.Echo(data), 0), encode(messages.EchoReply(data), 0)


def _changed(frame: bytes, names: tuple[str, ...], factor: float) -> bytes:
    """A frame with those fields multiplied whose names end in one of ``names``."""
    decoded = Decoder().feed(frame)
    if len(decoded) != 1 or isinstance(decoded[0].message, OtherSchema):
        return frame
    seq = decoded[0].seq
    message: Any = decoded[0].message
    fields = {name: value for name, value in vars(message).items() if name.endswith(names)}
    return encode(replace(message, **{name: min(round(value * factor), 0xFFFF_FFFF) for name, value in fields.items()}), seq)


def _is_text(data: bytearray) -> bool:
    printable = sum(0x20 <= byte < 0x7F for byte in data)
    return printable > 0 and printable + sum(byte in (0x09, 0x0A, 0x0D) for byte in data) == len(data)
