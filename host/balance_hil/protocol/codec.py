"""Frames: bytes in, messages out, and back. No I/O.

    frame = COBS(type u8 | seq u16 | payload | crc32 u32) 0x00        little-endian

The CRC-32 is zlib's, continued from the CRC of the canonical schema, so that a frame of another layout fails the check. Handshake
messages (READY, HELLO, INFO) are not seeded: a board of another version can still be identified (``OtherSchema``).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from cobs import cobs

from balance_hil.errors import UsageError
from balance_hil.protocol import messages
from balance_hil.protocol.wire import MalformedPayloadError, Message

_HEADER = struct.Struct("<BH")
_CRC = struct.Struct("<I")
_PREFIX = struct.Struct("<HI")
OVERHEAD = _HEADER.size + _CRC.size
MAX_BODY = OVERHEAD + messages.MAX_PAYLOAD
MAX_FRAME = MAX_BODY + MAX_BODY // 254 + 1  # COBS-encoded, without the 0x00
_KEPT_TEXT = 512  # bytes of the latest text kept for diagnosis
_LINE_ENDS = b"\r\n"


@dataclass(frozen=True, eq=False)
class OtherSchema(Message, type=-1, layout="u8 u16 u32"):
    """READY or INFO of a board built from another schema: the common prefix. Received, never sent."""

    type: int
    protocol: int
    schema_crc: int


@dataclass(frozen=True)
class Frame:
    """One received message."""

    seq: int  # a reply carries the number of its request; READY carries 0
    message: Message


def encode(message: Message, seq: int) -> bytes:
    """One whole frame with its 0x00.

    Raises:
        UsageError: a value does not fit its field, the payload is longer than the protocol allows, or ``seq`` is not a u16.
    """
    payload = message.pack()
    if len(payload) > messages.MAX_PAYLOAD:
        raise UsageError(
            f"{type(message).__name__} would carry {len(payload)} bytes, a frame at most {messages.MAX_PAYLOAD}",
            "send less at once",
        )
    if not 0 <= seq <= 0xFFFF:
        raise UsageError(f"{seq} is not a sequence number", "count modulo 65536")
    return seal(message.TYPE, seq, payload)


def seal(message_type: int, seq: int, payload: bytes) -> bytes:
    """A frame of any type and payload, unchecked: for ``encode``, and for tests that build bad frames."""
    body = _HEADER.pack(message_type, seq) + payload
    crc = zlib.crc32(body, _seed(message_type))
    encoded: bytes = cobs.encode(body + _CRC.pack(crc))
    return encoded + b"\x00"


def _seed(message_type: int) -> int:
    return 0 if message_type in messages.HANDSHAKE_TYPES else messages.SCHEMA_CRC


class Decoder:
    """Finds frames in a byte stream. Never raises; bytes outside valid frames are counted.

    After damage it resynchronizes at the next 0x00. Text lines, sent by a board in reply to text or by a boot loader
    unsolicited, are recognized by their printable start (a frame's second byte is its type, >= 0x80).
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False  # inside a frame that is already known to be too long, up to its 0x00
        self._long_line = False  # inside a text line that is already known to be too long, up to its line end
        self.bytes_seen = 0
        self.frames = 0
        self.crc_errors = 0  # COBS was right, the CRC was not
        self.framing_errors = 0  # not COBS, too short, too long, or not the layout of its type
        self.dropped_bytes = 0  # part of no good frame or line; delimiters and line ends do not count
        self.text_lines = 0
        self.last_text = b""  # the latest bytes that look like text: identifies what is on the other end if it is other firmware

    @property
    def bad_frames(self) -> int:
        """Frames that arrived damaged."""
        return self.crc_errors + self.framing_errors

    @property
    def handshake_begun(self) -> bool:
        """Whether the first part of a READY or INFO of this schema has arrived: of a board that sends slowly."""
        body, at = bytearray(), 0
        buffer = self._buffer[: 2 * (_HEADER.size + _PREFIX.size)]
        while at < len(buffer):  # COBS, without the last group's end
            code = buffer[at] or 1
            body += buffer[at + 1 : at + code]
            at += code
            if code < 0xFF and at <= len(buffer):
                body.append(0)
        if len(body) < _HEADER.size + _PREFIX.size or body[0] not in messages.HANDSHAKE_TYPES:
            return False
        return _PREFIX.unpack_from(body, _HEADER.size) == (messages.PROTOCOL_VERSION, messages.SCHEMA_CRC)

    def reset(self) -> None:
        """Discards a partially received frame (after reopening a port). Counters stay."""
        self.dropped_bytes += len(self._buffer)
        self._buffer.clear()
        self._skipping = False
        self._long_line = False

    def feed(self, data: bytes) -> list[Frame]:
        """Accepts bytes in chunks of any size; returns the frames completed."""
        self.bytes_seen += len(data)
        self._buffer += data
        frames: list[Frame] = []
        while self._step(frames):
            pass
        return frames

    def _step(self, frames: list[Frame]) -> bool:
        """Handles one record at the head of the buffer; False when it needs more bytes."""
        buffer = self._buffer
        if self._skipping:
            return self._skip()
        if not buffer:
            return False
        if buffer[0] == 0:
            del buffer[: len(buffer) - len(buffer.lstrip(b"\x00"))]
            return True
        if len(buffer) < 2:
            return False
        if buffer[1] >= 0x80:
            self._long_line = False
            return self._frame(frames)
        return self._text()

    def _skip(self) -> bool:
        end = self._buffer.find(0)
        self.dropped_bytes += len(self._buffer) if end < 0 else end
        self._skipping = end < 0
        if end < 0:
            self._buffer.clear()
            return False
        del self._buffer[: end + 1]
        return True

    def _frame(self, frames: list[Frame]) -> bool:
        end = self._buffer.find(0, 1)
        if end > MAX_FRAME or (end < 0 and len(self._buffer) > MAX_FRAME):
            self.framing_errors += 1
            self._skipping = True
            return True
        if end < 0:
            return False
        record = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        frame = self._open(record)
        if frame is None:
            self.dropped_bytes += len(record)
        else:
            self.frames += 1
            frames.append(frame)
        return True

    def _open(self, record: bytes) -> Frame | None:
        try:
            body: bytes = cobs.decode(record)
        except cobs.DecodeError:
            body = b""
        if not OVERHEAD <= len(body) <= MAX_BODY:
            self.framing_errors += 1
            return None
        message_type, seq = _HEADER.unpack_from(body)
        if zlib.crc32(body[: -_CRC.size], _seed(message_type)) != _CRC.unpack_from(body, len(body) - _CRC.size)[0]:
            self.crc_errors += 1
            return None
        try:
            return Frame(seq, _parse(message_type, body[_HEADER.size : -_CRC.size]))
        except MalformedPayloadError:
            self.framing_errors += 1
            return None

    def _text(self) -> bool:
        """The head of the buffer is not a frame: take a text line, or drop bytes up to where a frame may start."""
        buffer = self._buffer
        if not self._long_line:
            if buffer[0] in _LINE_ENDS:
                del buffer[0]
                return True
            if not _is_text(buffer[0]):
                self._drop(1)
                return True
        for index in range(1, len(buffer)):
            byte = buffer[index]
            if byte == 0x0A:
                self._line(index)
                return True
            if byte >= 0x80:  # a type byte: the frame started at the byte before it
                self._drop(index - 1)
                self._long_line = False
                return True
            if not _is_text(byte) and byte != 0x0D:
                self._drop(index)
                self._long_line = False
                return True
        if len(buffer) > messages.MAX_TEXT:
            self._drop(len(buffer) - 1)
            self._long_line = True
        return False

    def _line(self, length: int) -> None:
        if self._long_line or length > messages.MAX_TEXT:
            self.dropped_bytes += length
        else:
            self.text_lines += 1
        self._remember(length + 1)
        self._long_line = False
        del self._buffer[: length + 1]

    def _drop(self, count: int) -> None:
        self._remember(count)
        self.dropped_bytes += count
        del self._buffer[:count]

    def _remember(self, count: int) -> None:
        text = bytes(b for b in self._buffer[:count] if _is_text(b) or b in _LINE_ENDS)
        self.last_text = (self.last_text + text)[-_KEPT_TEXT:]


def _is_text(byte: int) -> bool:
    return 0x20 <= byte < 0x7F or byte == 0x09


def _parse(message_type: int, payload: bytes) -> Message:
    kind = messages.MESSAGES.get(message_type)
    if kind is None:
        raise MalformedPayloadError("unknown type")
    if kind in (messages.Ready, messages.Info):
        if len(payload) < _PREFIX.size:
            raise MalformedPayloadError("handshake cut off")
        version, crc = _PREFIX.unpack_from(payload)
        if (version, crc) != (messages.PROTOCOL_VERSION, messages.SCHEMA_CRC):
            return OtherSchema(message_type, version, crc)
    return kind.unpack(payload)
