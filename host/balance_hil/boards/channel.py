"""Messages over a link: numbered requests out, frames in."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Any, TypeVar

from balance_hil.link import Link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.wire import Message

RAW_TAIL_BYTES = 512

M = TypeVar("M", bound=Message)


class Channel:
    """One link with its decoder and sequence numbers."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.decoder = Decoder()
        self.raw_tail = b""  # latest bytes received, whatever they were: what the diagnosis of a failed handshake looks at
        self._frames: deque[Frame] = deque()
        self._seq = 0

    def replace(self, link: Link) -> None:
        """Goes on with a newly opened link; sequence numbers run on, so that no old reply is taken for a new one."""
        self.link.close()
        self.link = link
        self.decoder = Decoder()
        self.raw_tail = b""
        self._frames.clear()

    def next_seq(self) -> int:
        """A fresh sequence number; never 0, which is READY's."""
        self._seq = self._seq % 0xFFFF + 1
        return self._seq

    def send(self, message: Message) -> int:
        """Sends one request; returns its sequence number."""
        seq = self.next_seq()
        self.link.write(encode(message, seq))
        return seq

    def poll(self, timeout_s: float) -> Frame | None:
        """The next frame, waiting at most ``timeout_s`` for it; None when none came."""
        if self._frames:
            return self._frames.popleft()
        deadline = time.perf_counter() + timeout_s
        while True:
            data = self.link.read(timeout_s)
            if data:
                self.raw_tail = (self.raw_tail + data)[-RAW_TAIL_BYTES:]
                self._frames.extend(_literal(frame) for frame in self.decoder.feed(data))
                if self._frames:
                    return self._frames.popleft()
            timeout_s = deadline - time.perf_counter()
            if timeout_s <= 0:  # even if bytes keep coming: a board may print text for ever
                return None

    def await_kind(self, kind: type[M], timeout_s: float) -> M | None:
        """The next message of one kind, waiting at most ``timeout_s``; what comes before it is dropped. None when none came."""
        deadline = time.monotonic() + timeout_s
        while (frame := self.poll(max(0.0, deadline - time.monotonic()))) is not None:
            if isinstance(frame.message, kind):
                return frame.message
        return None


def printable(text: str) -> str:
    """Text from a board as it may be shown: control characters, and whatever else does not print, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _literal(frame: Frame) -> Frame:
    """The frame with all its text printable: the one place where text from a board enters."""
    message = frame.message
    if not isinstance(message, messages.Info | messages.LoadResult):
        return frame
    texts: dict[str, Any] = {name: printable(value) for name, value in vars(message).items() if isinstance(value, str)}
    return Frame(frame.seq, replace(message, **texts))
