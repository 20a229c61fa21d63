"""Messages over a link: numbered requests out, frames in."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any, TypeVar

from balance_hil.link import Link, clock_of
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.wire import Message

RAW_TAIL_BYTES = 512

M = TypeVar("M", bound=Message)


class Channel:
    """One link with its decoder and sequence numbers."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.now_s = clock_of(link)
        self.decoder = Decoder()
        self.raw_tail = b""  # latest bytes received, for the diagnosis of a failed handshake
        self._frames: deque[Frame] = deque()
        self._seq = 0

    def replace(self, link: Link) -> None:
        """Switches to a newly opened link. Sequence numbers continue, so old replies cannot match new requests."""
        self.link.close()
        self.link = link
        self.now_s = clock_of(link)
        self.decoder = Decoder()
        self.raw_tail = b""
        self._frames.clear()

    def next_seq(self) -> int:
        """The next sequence number; never 0, which READY uses."""
        self._seq = self._seq % 0xFFFF + 1
        return self._seq

    def send(self, message: Message) -> int:
        """Sends one request; returns its sequence number."""
        seq = self.next_seq()
        self.link.write(encode(message, seq))
        return seq

    def poll(self, timeout_s: float) -> Frame | None:
        """The next frame, or None if none arrives within ``timeout_s``."""
        if self._frames:
            return self._frames.popleft()
        deadline = self.now_s() + timeout_s
        while True:
            data = self.link.read(timeout_s)
            if data:
                self.raw_tail = (self.raw_tail + data)[-RAW_TAIL_BYTES:]
                self._frames.extend(_literal(frame) for frame in self.decoder.feed(data))
                if self._frames:
                    return self._frames.popleft()
            timeout_s = deadline - self.now_s()
            if timeout_s <= 0:  # also while bytes keep arriving: a board may print text forever
                return None

    @property
    def has_frames(self) -> bool:
        """Whether ``poll`` has a frame without reading the link."""
        return bool(self._frames)

    def await_kind(self, kind: type[M], timeout_s: float) -> M | None:
        """The next message of one type, or None if none arrives within ``timeout_s``. Other messages are dropped."""
        deadline = self.now_s() + timeout_s
        left_s = timeout_s
        while (frame := self.poll(left_s)) is not None:
            if isinstance(frame.message, kind):
                return frame.message
            left_s = deadline - self.now_s()
            if left_s <= 0:  # even if frames keep coming
                return None
        return None


def printable(text: str) -> str:
    """Text from a board with nonprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _literal(frame: Frame) -> Frame:
    """The frame with all its text made printable. All text from a board passes through here."""
    message = frame.message
    if not isinstance(message, messages.Info | messages.LoadResult):
        return frame
    texts: dict[str, Any] = {name: printable(value) for name, value in vars(message).items() if isinstance(value, str)}
    return Frame(frame.seq, replace(message, **texts))
