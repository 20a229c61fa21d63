"""What faulty devices do. Each function makes a ``Tamper`` for a bundle, or a function that does; state begins with a link."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cobs import cobs

from balance_hil.bundle import Bundle
from balance_hil.protocol import messages as m
from balance_hil.protocol.codec import Frame, seal
from balance_hil.protocol.wire import Message
from balance_hil.quantize import dequantize
from balance_hil.verifying.tampering import Tamper, TamperedLink

Make = Callable[[Bundle], Tamper]


def passes(bundle: Bundle) -> Tamper:
    """Nothing."""
    return Tamper(
        request=lambda wire, frame: wire.to_board(frame.message, frame.seq),
        reply=lambda wire, frame: wire.to_host(frame.message, frame.seq),
    )


# --- what a faulty device does with messages --------------------------------------------------------------------------


def replies(kind: type[Message], change: Callable[[Any], Any]) -> Make:
    """Every message ``kind`` of the board is changed."""

    def reply(wire: TamperedLink, frame: Frame) -> None:
        message = frame.message
        wire.to_host(change(message) if isinstance(message, kind) else message, frame.seq)

    return lambda bundle: Tamper(reply=reply)


def reports(kind: type[Message], **fields: Any) -> Make:
    """Every message ``kind`` of the board carries these values, or what a function makes of the board's."""

    def change(message: Any) -> Any:
        values = {name: value(getattr(message, name)) if callable(value) else value for name, value in fields.items()}
        return replace(message, **values)

    return replies(kind, change)


def requests(kind: type[Message], change: Callable[[Any], Message | None]) -> Make:
    """Every request ``kind`` reaches the board changed, or not at all (None)."""

    def request(wire: TamperedLink, frame: Frame) -> None:
        message = change(frame.message) if isinstance(frame.message, kind) else frame.message
        if message is not None:
            wire.to_board(message, frame.seq)

    return lambda bundle: Tamper(request=request)


def before(kind: type[Message], make: Callable[[Bundle], Message]) -> Make:
    """The board gets a request of its own before every request ``kind``."""

    def of(bundle: Bundle) -> Tamper:
        def request(wire: TamperedLink, frame: Frame) -> None:
            if isinstance(frame.message, kind):
                wire.to_board(make(bundle))
            wire.to_board(frame.message, frame.seq)

        return Tamper(request=request)

    return of


def zeros(bundle: Bundle) -> Message:
    """An observation of zeros."""
    return m.Infer(np.zeros(bundle.spec.n_obs, np.float32))


def previous(*fields: str) -> Make:
    """Every ACTION carries these fields of the one before."""

    def of(bundle: Bundle) -> Tamper:
        kept: list[m.Action] = []

        def change(action: m.Action) -> m.Action:
            kept[:] = [*kept[-1:], action]
            return replace(action, **{name: getattr(kept[0], name) for name in fields})

        return replies(m.Action, change)(bundle)

    return of


def one_lsb(number: int) -> Make:
    """One output of the ACTION with this number, counted from 1, is off by one."""

    def of(bundle: Bundle) -> Tamper:
        seen = 0

        def change(action: m.Action) -> m.Action:
            nonlocal seen
            seen += 1
            output = action.output.copy()
            if seen == number:
                output[0] += 1 if output[0] < 127 else -1
            return replace(action, output=output)

        return replies(m.Action, change)(bundle)

    return of


def wrong_way(bundle: Bundle) -> Tamper:
    """Every output has the wrong sign, and the action is what belongs to it."""

    def change(action: m.Action) -> m.Action:
        output = np.clip(-action.output.astype(int), -128, 127).astype(np.int8)
        return replace(action, output=output, action=dequantize(output, bundle.output_quant))

    return replies(m.Action, change)(bundle)


def counting(kind: type[Message], field: str) -> Make:
    """``field`` grows by one with every message."""

    def of(bundle: Bundle) -> Tamper:
        count = 0

        def change(message: Any) -> Any:
            nonlocal count
            count += 1
            return replace(message, **{field: getattr(message, field) + count})

        return replies(kind, change)(bundle)

    return of


def flipped_bit(data: m.TensorData) -> m.TensorData:
    """One value of the first operator's tensor is off by one bit."""
    values = data.values.copy()
    values[:1] ^= data.op == 0
    return replace(data, values=values)


def renumbered(bundle: Bundle) -> Tamper:
    """A reply to ECHO carries the number of the next request."""

    def reply(wire: TamperedLink, frame: Frame) -> None:
        wire.to_host(frame.message, frame.seq + isinstance(frame.message, m.EchoReply))

    return Tamper(reply=reply)


def text_stays_on(bundle: Bundle) -> Tamper:
    """SET_TEXT_LINE(0) is acknowledged and has no effect."""

    def request(wire: TamperedLink, frame: Frame) -> None:
        message = frame.message
        wire.to_board(m.SetTextLine(1) if isinstance(message, m.SetTextLine) else message, frame.seq)

    def reply(wire: TamperedLink, frame: Frame) -> None:
        message = frame.message
        wire.to_host(m.TextLine(0) if isinstance(message, m.TextLine) else message, frame.seq)

    return Tamper(request=request, reply=reply)


def not_activated(bundle: Bundle) -> Tamper:
    """LOAD_COMMIT is answered with ok and does nothing."""

    def request(wire: TamperedLink, frame: Frame) -> None:
        if isinstance(frame.message, m.LoadCommit):
            wire.to_host(m.LoadResult(frame.message.transfer, 0, 0, ""), frame.seq)
        else:
            wire.to_board(frame.message, frame.seq)

    return Tamper(request=request)


def first_nonce(bundle: Bundle) -> Tamper:
    """INFO repeats the nonce of the first session."""
    seen: list[int] = []

    def change(info: m.Info) -> m.Info:
        seen.append(info.nonce)
        return replace(info, nonce=seen[0])

    return replies(m.Info, change)(bundle)


def no_greeting_needed(bundle: Bundle) -> Tamper:
    """Greets itself after a reset, and after an upload."""

    def reply(wire: TamperedLink, frame: Frame) -> None:
        if isinstance(frame.message, m.Ready | m.LoadResult):
            wire.to_board(m.Hello(0))
        wire.to_host(frame.message, frame.seq)

    return Tamper(reply=reply)


def says_ready(bundle: Bundle) -> Tamper:
    """RESET is answered by READY, and nothing else happens."""

    def request(wire: TamperedLink, frame: Frame) -> None:
        if isinstance(frame.message, m.Reset):
            wire.to_host(m.Ready(m.PROTOCOL_VERSION, m.SCHEMA_CRC, 1), 0)
        else:
            wire.to_board(frame.message, frame.seq)

    return Tamper(request=request)


def watchdog(change: Callable[[int], int]) -> Make:
    """The board uses another watchdog time than it says, the one of a new session included."""

    def of(bundle: Bundle) -> Tamper:
        said = m.WATCHDOG_MS

        def request(wire: TamperedLink, frame: Frame) -> None:
            nonlocal said
            message = frame.message
            if isinstance(message, m.SetWatchdog):
                said = message.timeout_ms
                message = m.SetWatchdog(change(said))
            wire.to_board(message, frame.seq)
            if isinstance(message, m.Hello):
                said = m.WATCHDOG_MS
                wire.to_board(m.SetWatchdog(change(said)))

        def reply(wire: TamperedLink, frame: Frame) -> None:
            message = frame.message
            wire.to_host(replace(message, timeout_ms=said) if isinstance(message, m.Watchdog) else message, frame.seq)

        return Tamper(request=request, reply=reply)

    return of


def watchdog_outlives(bundle: Bundle) -> Tamper:
    """The watchdog's time of a session holds in the next one, too."""
    kept: list[int] = []

    def request(wire: TamperedLink, frame: Frame) -> None:
        if isinstance(frame.message, m.SetWatchdog):
            kept[:] = [frame.message.timeout_ms]
        wire.to_board(frame.message, frame.seq)
        if isinstance(frame.message, m.Hello) and kept:
            wire.to_board(m.SetWatchdog(kept[0]))

    def reply(wire: TamperedLink, frame: Frame) -> None:
        message = frame.message
        wire.to_host(replace(message, watchdog_ms=kept[0]) if isinstance(message, m.Info) and kept else message, frame.seq)

    return Tamper(request=request, reply=reply)


def slow(bundle: Bundle) -> Tamper:
    """Every inference takes one and a half control periods longer, on the board's clock, too."""
    longer_s = 1.5 * bundle.spec.control_period_s

    def reply(wire: TamperedLink, frame: Frame) -> None:
        message = frame.message
        if isinstance(message, m.Action):
            time.sleep(longer_s)  # the fault itself
            us = round(1e6 * longer_s)
            message = replace(message, inference_us=message.inference_us + us, total_us=message.total_us + us)
        wire.to_host(message, frame.seq)

    return Tamper(reply=reply)


def late(bundle: Bundle) -> Tamper:
    """Every ACTION arrives one and a half control periods late."""

    def reply(wire: TamperedLink, frame: Frame) -> None:
        if isinstance(frame.message, m.Action):
            time.sleep(1.5 * bundle.spec.control_period_s)  # the fault itself
        wire.to_host(frame.message, frame.seq)

    return Tamper(reply=reply)


# --- what it does with text and bytes ---------------------------------------------------------------------------------


def lines(change: Callable[[bytes], bytes]) -> Make:
    """Every text line of the board is changed."""
    return lambda bundle: Tamper(line=lambda unit: change(unit) if len(unit) > 1 and unit.endswith(b"\n") else unit)


def three_digits(line: bytes) -> bytes:
    """The numbers of a line with three significant digits."""
    try:
        return b",".join(b"%.3g" % float(word) for word in line.split(b",")) + b"\n"
    except ValueError:
        return line  # an error, or a line with a checksum


def ignores_checksum(bundle: Bundle) -> Tamper:
    """Takes a checksum for a decoration: it is not checked, and the reply carries a right one."""
    expected = False

    def sent(wire: TamperedLink, unit: bytes) -> None:
        nonlocal expected
        line, star, _ = unit.rstrip().rpartition(b"*")
        expected = bool(star) and bool(line)
        wire.bytes_to_board(line + b"\n" if expected else unit)

    def reply(unit: bytes) -> bytes:
        text = unit.rstrip(b"\n")
        return text + b"*%02x\n" % functools.reduce(operator.xor, text, 0) if expected and text else unit

    return Tamper(sent=sent, line=reply)


def line_acts(bundle: Bundle) -> Tamper:
    """A text line ends the safe state."""

    def sent(wire: TamperedLink, unit: bytes) -> None:
        wire.bytes_to_board(unit)
        if unit.endswith(b"\n"):
            wire.to_board(zeros(bundle))

    return Tamper(sent=sent)


def _opened(unit: bytes) -> tuple[int, int, bytes] | None:
    """Type, number and payload of a frame, whatever its checksum; None for anything else."""
    try:
        body = cobs.decode(unit.strip(b"\x00"))
    except cobs.DecodeError:
        return None
    if not unit.endswith(b"\x00") or len(body) < 7:
        return None
    return body[0], int.from_bytes(body[1:3], "little"), body[3:-4]


def damage_unseen(bundle: Bundle) -> Tamper:
    """Frames are obeyed whatever their checksum."""

    def sent(wire: TamperedLink, unit: bytes) -> None:
        found = _opened(unit)
        wire.bytes_to_board(seal(*found) if found and found[0] >= 0x80 else unit)

    return Tamper(sent=sent)


def long_payload_taken(bundle: Bundle) -> Tamper:
    """One byte too many is ignored."""

    def sent(wire: TamperedLink, unit: bytes) -> None:
        found = _opened(unit)
        sound = found is not None and seal(*found) == unit
        wire.bytes_to_board(seal(found[0], found[1], found[2][:-1]) if sound and found else unit)

    return Tamper(sent=sent)


def unknown_ignored(bundle: Bundle) -> Tamper:
    """A sound frame of an unknown type gets no answer."""

    def sent(wire: TamperedLink, unit: bytes) -> None:
        found = _opened(unit)
        if not found or seal(*found) != unit or found[0] in m.MESSAGES:
            wire.bytes_to_board(unit)

    return Tamper(sent=sent)


def all_bytes(change: Callable[[bytes], bytes]) -> Make:
    """All bytes of the board are changed."""
    return lambda bundle: Tamper(wire=change)
