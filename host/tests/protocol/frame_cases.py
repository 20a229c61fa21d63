"""Reads firmware/test/frame_cases.toml, the table that drives the tests of both codecs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from cobs import cobs

from balance_hil.protocol.codec import seal
from balance_hil.protocol.schema import load_schema

TABLE = Path(__file__).parents[3] / "firmware/test/frame_cases.toml"
TYPES = {message.name: message.type for message in load_schema().messages}


@dataclass(frozen=True)
class FrameCase:
    name: str
    data: bytes
    frames: tuple[tuple[int, int, bytes], ...]  # type, seq, payload
    lines: tuple[bytes, ...]
    crc_errors: int
    framing_errors: int
    long_lines: int
    dropped_bytes: int


def load_cases() -> list[FrameCase]:
    return [_case(row) for row in tomllib.loads(TABLE.read_text())["case"]]


def _case(row: dict) -> FrameCase:
    counters = {key: row.pop(key, 0) for key in ("crc_errors", "framing_errors", "long_lines", "dropped_bytes")}
    case = FrameCase(
        name=row.pop("name"),
        data=b"".join(_piece(text) for text in row.pop("bytes")),
        frames=tuple(_frame(text) for text in row.pop("frames", [])),
        lines=tuple(b"1" * int(t[1:]) if t.startswith("x") else t.encode() for t in row.pop("lines", [])),
        **counters,
    )
    assert not row, f"unknown keys {list(row)} in case {case.name}"
    return case


def _payload(text: str) -> bytes:
    head, _, filler = text.partition("x")
    return bytes.fromhex(head) + b"\x55" * int(filler or 0)


def _frame(text: str) -> tuple[int, int, bytes]:
    name, seq, payload = text.split(" ")
    return TYPES[name], int(seq), _payload(payload)


def _piece(text: str) -> bytes:
    kind, _, rest = text.partition(" ")
    if kind == "hex":
        return bytes.fromhex(rest)
    if kind == "text":
        return rest.encode().decode("unicode_escape").encode()
    if kind == "repeat":
        count, byte = rest.split(" ")
        return bytes.fromhex(byte) * int(count)
    if kind == "body":
        return cobs.encode(bytes.fromhex(rest)) + b"\x00"
    if kind == "cut":
        length, _, rest = rest.partition(" ")
        return seal(*_frame(rest))[: int(length)]
    good = seal(*_frame(rest))
    if kind == "badcrc":
        body = bytearray(cobs.decode(good[:-1]))
        body[-1] ^= 0x01
        return cobs.encode(bytes(body)) + b"\x00"
    assert kind == "frame", kind
    return good
