"""A link that lies: what a faulty firmware would send. Checksums are right, contents are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from balance_hil.link import Link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.wire import Message
from balance_hil.quantize import QuantParams

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


# --- what a faulty firmware does --------------------------------------------------------------------------------------


def on_action(change: Callable[[messages.Action], messages.Action]) -> Callable[[Frame], list[Frame]]:
    """Changes every ACTION, leaves other replies."""

    def reply(frame: Frame) -> list[Frame]:
        message = frame.message
        return [replace(frame, message=change(message)) if isinstance(message, messages.Action) else frame]

    return reply


def output_plus_one_once(number: int) -> Callable[[messages.Action], messages.Action]:
    seen = 0

    def change(action: messages.Action) -> messages.Action:
        nonlocal seen
        seen += 1
        if seen != number:
            return action
        output = action.output.copy()
        output[0] += 1 if output[0] < 127 else -1
        return replace(action, output=output)

    return change


def stale() -> Callable[[messages.Action], messages.Action]:
    kept: list[messages.Action] = []

    def change(action: messages.Action) -> messages.Action:
        kept.append(action)
        return replace(action, output=kept[max(0, len(kept) - 2)].output)

    return change


def wrong_quantizer(
    rule: Callable[[NDArray[np.float64]], NDArray[np.float64]], params: QuantParams
) -> Callable[[Message], Message]:
    """INFER is answered as if the firmware had quantized by ``rule``, float [n_obs] in steps to whole steps."""

    def request(message: Message) -> Message:
        if not isinstance(message, messages.Infer):
            return message
        ratio = (message.observation / np.float32(params.scale)).astype(np.float64)
        return messages.InferInt8(rule(ratio).astype(np.int8))

    return request
