"""A link that changes what passes: to the host, the board behind it has a fault. Checksums are right, contents are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from balance_hil.link import Link
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.wire import Message

DELIMITER = b"\x00"
OWN_SEQ = 0xFFFF  # of requests that a fault makes itself: the host never sees their replies


@dataclass(frozen=True)
class Tamper:
    """What a fault does with the traffic. None: that passes as it is."""

    request: Callable[[TamperedLink, Frame], None] | None = None  # a request of the host: passes it on, or not
    reply: Callable[[TamperedLink, Frame], None] | None = None  # a message of the board, likewise
    sent: Callable[[TamperedLink, bytes], None] | None = None  # text and damaged frames of the host, with their end
    line: Callable[[bytes], bytes] | None = None  # text of the board, with its end
    wire: Callable[[bytes], bytes] | None = None  # everything from the board, in pieces of any size


class TamperedLink:
    """Wraps the link to a healthy board."""

    def __init__(self, link: Link, tamper: Tamper) -> None:
        self.description = link.description
        self._link = link
        self._tamper = tamper
        self._sent, self._received = bytearray(), bytearray()
        self._ready = bytearray()
        self._own = 0  # requests of the fault that are not yet answered

    def write(self, data: bytes) -> None:
        """See ``Link``."""
        request, sent = self._tamper.request, self._tamper.sent
        if request is None and sent is None:
            self._link.write(data)
            return
        self._sent += data
        for unit in _units(self._sent):
            frames = Decoder().feed(unit)
            for frame in frames if request is not None else ():
                request(self, frame)  # type: ignore[misc]
            if not frames and sent is not None:
                sent(self, unit)
            elif not frames or request is None:
                self._link.write(unit)

    def read(self, timeout_s: float) -> bytes:
        """See ``Link``."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            data = self._link.read(max(0.0, deadline - time.monotonic()))
            if self._tamper.wire is not None:
                self._ready += self._tamper.wire(data) if data else b""
            else:
                self._received += data
                for unit in _units(self._received):
                    self._receive(unit)
            if time.monotonic() >= deadline:
                break
        ready = bytes(self._ready)
        self._ready.clear()
        return ready

    def close(self) -> None:
        """See ``Link``."""
        self._link.close()

    def to_board(self, message: Message, seq: int | None = None) -> None:
        """Sends a request to the board; without a number one of the fault's own."""
        self._own += seq is None
        self._link.write(encode(message, OWN_SEQ if seq is None else seq))

    def bytes_to_board(self, data: bytes) -> None:
        """Sends bytes to the board as they are."""
        self._link.write(data)

    def to_host(self, message: Message, seq: int) -> None:
        """Sends a message to the host."""
        self._ready += encode(message, seq)

    def _receive(self, unit: bytes) -> None:
        frames = Decoder().feed(unit)
        for frame in frames:
            if frame.seq == OWN_SEQ and self._own:  # the host's own numbers reach it, too, after 65,534 requests
                self._own -= 1
                continue
            if self._tamper.reply is not None:
                self._tamper.reply(self, frame)
            else:
                self.to_host(frame.message, frame.seq)
        if not frames and unit != DELIMITER:  # of a frame that the host does not get: it would stand behind a text line
            self._ready += self._tamper.line(unit) if self._tamper.line is not None else unit


def _units(buffer: bytearray) -> list[bytes]:
    """Takes frames with their 0x00 and text lines with their line feed off the head of ``buffer``."""
    units = []
    start = 0
    for at, byte in enumerate(buffer):
        if byte == 0 or (byte == 0x0A and at > start and all(b < 0x80 for b in buffer[start:at])):
            units.append(bytes(buffer[start : at + 1]))
            start = at + 1
    del buffer[:start]
    return units
