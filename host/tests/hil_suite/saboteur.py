"""A link that lies: what a faulty firmware would send. Checksums are right, contents are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from balance_hil.link import Link
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.wire import Message

Request = Callable[[Message], Message]  # what the firmware acts on instead of what it was asked
Reply = Callable[[Frame], Iterable[Frame]]  # what it sends instead of a reply
Wire = Callable[[bytes], bytes]  # what a frame, whole with its 0x00, becomes on the way to the host


class Saboteur:
    """Wraps the link to a healthy board. Set ``request``, ``reply`` or ``wire``; None leaves that side alone."""

    def __init__(self, link: Link) -> None:
        self.description = link.description
        self._link = link
        self.heal()

    def heal(self) -> None:
        """Everything passes as it is."""
        self.request: Request | None = None
        self.reply: Reply | None = None
        self.wire: Wire | None = None
        self._outgoing, self._incoming = Decoder(), Decoder()

    def write(self, data: bytes) -> None:
        """See ``Link``."""
        if self.request is None:
            self._link.write(data)
            return
        for frame in self._outgoing.feed(data):
            self._link.write(encode(self.request(frame.message), frame.seq))

    def read(self, timeout_s: float) -> bytes:
        """See ``Link``."""
        data = self._link.read(timeout_s)
        if self.reply is None and self.wire is None:
            return data
        frames = [changed for frame in self._incoming.feed(data) for changed in (self.reply or _as_it_is)(frame)]
        wire = self.wire or bytes
        return b"".join(wire(encode(frame.message, frame.seq)) for frame in frames)

    def close(self) -> None:
        """See ``Link``."""
        self._link.close()


def _as_it_is(frame: Frame) -> list[Frame]:
    return [frame]
