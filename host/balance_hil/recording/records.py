"""Reads the records of an MCAP file up to the last complete one; the file may be cut off anywhere, or be malicious."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, Message, Metadata, Schema

MAGIC = b"\x89MCAP0\r\n"
MAX_RECORD_BYTES = 1 << 24  # of a record that is read, compressed or not; chunks written here have 64 KiB
MAX_RATIO, MAX_EXTRA_BYTES = 200, 1 << 24  # decompressed: this many times the file, and this much on top

Record: TypeAlias = Schema | Channel | Message | Metadata | Attachment

_KINDS: dict[int, Any] = {
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
    Opcode.ATTACHMENT: Attachment,
}


class DamagedFileError(Exception):
    """Not MCAP, altered, or larger when decompressed than a recording can be."""


@dataclass
class End:
    """How far a file could be read; known once its records are exhausted."""

    data: bool = False  # every message is there
    index: bool = False  # the file is complete, including what follows the messages


def records(path: Path, end: End) -> Iterator[Record]:
    """Schemas, channels, messages, metadata and attachments in the order of the file; ``end`` is filled in.

    Raises:
        DamagedFileError: invalid data. A file that merely ends early is not an error.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            yield from _records(file, path.stat().st_size, end)
        except OSError:
            raise
        except DamagedFileError:
            raise
        except Exception as exc:  # a record with invalid content: struct, UTF-8, zstd
            raise DamagedFileError(f"a record before byte {file.tell()} cannot be read: {exc!r}") from exc


def _records(file: BinaryIO, size: int, end: End) -> Iterator[Record]:
    start = file.read(len(MAGIC))
    if start != MAGIC:
        raise DamagedFileError("it does not begin like one" if start else "it is empty")
    left = MAX_RATIO * size + MAX_EXTRA_BYTES
    while (content := _next(file, size)) is not None:
        opcode, data = content
        if opcode == Opcode.CHUNK:
            inside = _decompressed(Chunk.read(_stream(data)), min(left, MAX_RECORD_BYTES))
            left -= len(inside)
            if not end.data:
                yield from _parsed(inside)
        elif opcode == Opcode.DATA_END:
            end.data = True
        elif opcode == Opcode.FOOTER:
            end.index = file.read(len(MAGIC)) == MAGIC
            return
        elif not end.data and (record := _parse(opcode, data)) is not None:
            yield record


def _next(file: BinaryIO, size: int) -> tuple[int, bytes] | None:
    """Opcode and content of the next record; None at the end of the file, wherever it was cut off."""
    at = file.tell()
    head = file.read(9)
    if len(head) < 9:
        return None
    opcode, length = head[0], int.from_bytes(head[1:], "little")
    if opcode == 0:
        if head.strip(b"\0") or any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b"")):
            raise DamagedFileError(f"there is no record at byte {at}")
        return None  # zeros: the computer lost power before the data was on the disk
    if length > size - at - 9:
        return None
    if length > MAX_RECORD_BYTES:
        raise DamagedFileError(f"the record at byte {at} has {length} bytes, more than {MAX_RECORD_BYTES}")
    return opcode, file.read(length)


def _decompressed(chunk: Chunk, limit: int) -> bytes:
    data: bytes = chunk.data
    if chunk.compression == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_RECORD_BYTES)
        with decompressor.stream_reader(data) as reader:
            data = reader.read(limit + 1)
    elif chunk.compression:
        raise DamagedFileError(f"it is compressed as {chunk.compression!r}, only zstd is read")
    if len(data) > limit:
        raise DamagedFileError("it decompresses to more than a recording can have")
    if len(data) != chunk.uncompressed_size or (chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc):
        raise DamagedFileError("a checksum is wrong: it was altered")
    return data


def _parsed(data: bytes) -> Iterator[Record]:
    """The records within a chunk."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 9], "little")
        content = data[at + 9 : at + 9 + length]
        if len(content) != length:
            raise DamagedFileError("a record is longer than its chunk")
        if (record := _parse(data[at], content)) is not None:
            yield record
        at += 9 + length


def _parse(opcode: int, content: bytes) -> Record | None:
    if opcode == Opcode.MESSAGE:
        return Message.read(_stream(content), len(content))
    kind = _KINDS.get(opcode)
    record: Record | None = kind.read(_stream(content)) if kind else None
    return record


def _stream(content: bytes) -> ReadDataStream:
    return ReadDataStream(BytesIO(content))
