"""Repeatable fault injection on a link: the effects of a bad cable, a slow hub or a noisy line on frames.

Each fault draws from its own random generator once per frame, so the same seed affects the same frames regardless of how the
bytes are split into chunks. A frame ends with 0x00, a text line with a line feed.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from balance_hil.errors import CableUnpluggedError, UsageError
from balance_hil.link.base import Link

Kind = Literal["drop", "drop-byte", "corrupt", "duplicate", "truncate", "delay", "cut"]
Direction = Literal["tx", "rx", "both"]
MAX_UNIT_BYTES = 4096  # unterminated bytes are passed on at this size

_SYNTAX = re.compile(r"(?P<kind>[a-z-]+)=(?P<value>[0-9.eE+-]+)(@(?P<probability>[0-9.eE+-]+))?(:(?P<direction>tx|rx|both))?")
_HELP = "KIND=VALUE[@PROBABILITY][:tx|rx], for example drop=0.01, corrupt=0.02:rx, delay=0.004@0.5:rx, cut=500"


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    ``value`` is a probability per frame (drop, corrupt: one bit flips, duplicate, truncate), a probability per byte (drop-byte),
    seconds (delay), or the number of frames after which the link is cut (cut).
    """

    kind: Kind
    value: float
    direction: Direction = "both"  # tx: host to board; rx: board to host
    probability: float = 1.0  # share of frames that a delay hits

    def __post_init__(self) -> None:
        limit = float("inf") if self.kind in ("delay", "cut") else 1.0
        if self.kind not in get_args(Kind):
            raise UsageError(f"unknown fault: {self.kind}", f"kinds are {', '.join(get_args(Kind))}; write {_HELP}")
        if self.direction not in get_args(Direction):
            raise UsageError(f"unknown direction: {self.direction}", "tx is host to board, rx is board to host, or both")
        if not 0 <= self.value <= limit or not 0 <= self.probability <= 1:
            raise UsageError(f"fault {self.kind}={self.value:g}@{self.probability:g} is out of range", f"write {_HELP}")


def parse_fault(text: str) -> Fault:
    """Reads ``KIND=VALUE[@PROBABILITY][:DIRECTION]``. Raises UsageError."""
    match = _SYNTAX.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(text)
        return Fault(
            kind=match["kind"],  # type: ignore[arg-type]  # checked in __post_init__
            value=float(match["value"]),
            direction=match["direction"] or "both",  # type: ignore[arg-type]
            probability=float(match["probability"] or 1.0),
        )
    except ValueError as exc:
        if isinstance(exc, UsageError):
            raise
        raise UsageError(f"cannot read the fault {text!r}", f"write {_HELP}") from None


class FaultyLink:
    """Wraps a link and injects faults into its traffic.

    Delayed frames are delivered during ``read`` and ``write`` only.
    """

    def __init__(self, link: Link, faults: Sequence[Fault], seed: int = 0, *, armed: bool = True) -> None:
        self.description = link.description
        self.armed = armed  # False: bytes pass unchanged
        self.injected: Counter[str] = Counter()  # count of each fault, "drop rx": 3
        self._link = link
        self._tx = _Lane("tx", faults, seed, self.injected)
        self._rx = _Lane("rx", faults, seed, self.injected)

    def write(self, data: bytes) -> None:
        """See ``Link.write``. Raises CableUnpluggedError once the cable is cut."""
        if not self.armed:
            self._link.write(data)
            return
        self._tx.push(data, time.monotonic())
        self._pump()

    def read(self, timeout_s: float) -> bytes:
        """See ``Link.read``. Raises CableUnpluggedError once the cable is cut."""
        if not self.armed:
            return self._link.read(timeout_s)
        deadline = time.monotonic() + timeout_s
        while True:
            self._pump()
            now = time.monotonic()
            ready = self._rx.pop(now)
            if ready:
                return ready
            self._check_cable()
            wake = min(deadline, self._rx.next_due(), self._tx.next_due())
            data = self._link.read(max(0.0, wake - now))
            now = time.monotonic()
            self._rx.push(data, now)
            if now >= deadline:
                return self._rx.pop(now)

    def close(self) -> None:
        """See ``Link.close``."""
        self._link.close()

    @property
    def cut(self) -> bool:
        """Whether the cable was cut."""
        return self._tx.cut or self._rx.cut

    def _pump(self) -> None:
        ready = self._tx.pop(time.monotonic())
        if ready:
            self._link.write(ready)
        self._check_cable()

    def _check_cable(self) -> None:
        if self.cut:
            self._link.close()
            raise CableUnpluggedError(
                f"{self.description} vanished while it was in use (fault injection cut the cable)", "leave out --fault cut"
            )


class _Lane:
    """One direction: splits bytes into frames, injects faults, and holds frames until they are due."""

    def __init__(self, name: Literal["tx", "rx"], faults: Sequence[Fault], seed: int, injected: Counter[str]) -> None:
        self.cut = False
        self._name = name
        self._injected = injected
        own = [fault for fault in faults if fault.direction in (name, "both")]
        self._faults = [(fault, np.random.default_rng([seed, index, name == "tx"])) for index, fault in enumerate(own)]
        self._partial = bytearray()
        self._held: deque[tuple[float, bytes]] = deque()  # (due, bytes), in order
        self._frames = 0

    def push(self, data: bytes, now: float) -> None:
        """Accepts bytes that arrived at ``now``."""
        if not self._faults:
            if data:
                self._held.append((now, data))
            return
        for byte in data:
            self._partial.append(byte)
            if byte == 0 or len(self._partial) >= MAX_UNIT_BYTES or (byte == 0x0A and _is_text(self._partial)):
                self._frame(bytes(self._partial), now)
                self._partial.clear()

    def pop(self, now: float) -> bytes:
        """Everything that is due by ``now``."""
        ready = bytearray()
        while self._held and self._held[0][0] <= now:
            ready += self._held.popleft()[1]
        return bytes(ready)

    def next_due(self) -> float:
        """When the next held bytes are due; infinity when none are held."""
        return self._held[0][0] if self._held else float("inf")

    def _frame(self, frame: bytes, now: float) -> None:
        self._frames += 1
        due = now
        for fault, random in self._faults:
            if fault.kind == "delay":
                late = random.random() < fault.probability
                due += fault.value if late else 0.0
                self._count(fault.kind, late)
            elif fault.kind == "cut":
                self.cut = self.cut or self._frames > fault.value
            else:
                harmed = _harm(frame, fault, random)
                self._count(fault.kind, harmed != frame)
                frame = harmed
        if frame and not self.cut:
            self._held.append((due, frame))

    def _count(self, kind: str, struck: bool) -> None:
        if struck:
            self._injected[f"{kind} {self._name}"] += 1


def _harm(frame: bytes, fault: Fault, random: np.random.Generator) -> bytes:
    """``frame`` after one fault; unchanged if the fault does not occur."""
    if fault.kind == "drop-byte":
        kept = random.random(len(frame)) >= fault.value
        return bytes(byte for byte, keep in zip(frame, kept, strict=True) if keep)
    strike, where = random.random(2)
    if strike >= fault.value or not frame:
        return frame
    if fault.kind == "drop":
        return b""
    if fault.kind == "duplicate":
        return frame + frame
    if fault.kind == "truncate":  # cuts the terminator, too, so that the rest merges with the next frame
        return frame[: int(where * len(frame))]
    bit = int(where * len(frame) * 8)
    harmed = bytearray(frame)
    harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


def _is_text(data: bytearray) -> bool:
    printable = sum(0x20 <= byte < 0x7F for byte in data)
    return printable > 0 and printable + sum(byte in (0x09, 0x0A, 0x0D) for byte in data) == len(data)
