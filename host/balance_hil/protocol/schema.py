"""Reads ``schema.toml``, the definition of the wire protocol that the generator and the tests use."""

from __future__ import annotations

import tomllib
import zlib
from dataclasses import dataclass
from importlib.resources import files

from balance_hil.errors import ConfigError
from balance_hil.protocol.wire import SCALARS

ARRAYS = {"i8[]", "u8[]", "f32[]"}
FIRST_TYPE = 0x80  # a type byte is never printable, which distinguishes a frame from a text line
HANDSHAKE_TYPES = {"HELLO": 0x80, "READY": 0xC0, "INFO": 0xC1}  # fixed in every version
HANDSHAKE_PREFIX = (("protocol", "u16"), ("schema_crc", "u32"))  # first fields of READY and INFO, fixed in every version


@dataclass(frozen=True)
class Field:
    """One field of a message."""

    name: str
    wire: str  # a key of wire.SCALARS, a member of ARRAYS, or "string"
    unit: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class MessageDef:
    """One message type."""

    name: str  # UPPER_SNAKE
    type: int  # 0x80 to 0xFF
    sender: str  # "host" or "board"
    doc: str
    fields: tuple[Field, ...]
    reply: str = ""  # the reply on success; "" for the board's own messages
    handshake: bool = False
    gated: bool = False
    pieces: bool = False  # only on boards whose model may not fit a frame

    @property
    def class_name(self) -> str:
        """CamelCase, the name in Python and C++."""
        return "".join(part.capitalize() for part in self.name.split("_"))


@dataclass(frozen=True)
class StatusDef:
    """One status code."""

    value: int
    name: str
    doc: str


@dataclass(frozen=True)
class Schema:
    """The whole protocol."""

    constants: dict[str, int]  # version, max_payload, max_text, ...
    statuses: tuple[StatusDef, ...]
    messages: tuple[MessageDef, ...]

    def canonical(self) -> str:
        """The text whose CRC seeds every frame: layouts and numbers, no prose."""
        lines = [f"{name}={value}" for name, value in sorted(self.constants.items())]
        lines += [f"status {s.value} {s.name}" for s in self.statuses]
        for m in self.messages:
            fields = ",".join(f"{f.name}:{f.wire}" for f in m.fields)
            lines.append(f"{m.name} {m.type:#04x} {m.sender} {m.reply or '-'} {int(m.handshake)}{int(m.gated)} {fields}")
        return "\n".join(lines) + "\n"

    def crc(self) -> int:
        """CRC-32 (zlib) of the canonical text."""
        return zlib.crc32(self.canonical().encode())


def load_schema(text: str | None = None) -> Schema:
    """Parses and checks the schema; ``text`` defaults to the shipped ``schema.toml``.

    Raises:
        ConfigError: a number used twice, an unknown field type or key, a handshake message whose fixed part moved.
    """
    source = text if text is not None else files(__package__).joinpath("schema.toml").read_text()
    data = tomllib.loads(source)
    try:
        schema = Schema(
            constants={name: int(value) for name, value in data["protocol"].items()},
            statuses=tuple(StatusDef(**row) for row in data["status"]),
            messages=tuple(MessageDef(**{**row, "fields": tuple(Field(*f) for f in row["fields"])}) for row in data["message"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise _bad(f"missing or unknown key: {exc}") from exc
    _check(schema)
    return schema


def _check(schema: Schema) -> None:
    types = [m.type for m in schema.messages]
    names = {m.name for m in schema.messages}
    if len(set(types)) != len(types) or len(names) != len(types):
        raise _bad("two messages share a name or a type")
    if [s.value for s in schema.statuses] != list(range(len(schema.statuses))):
        raise _bad("statuses must count 0, 1, 2, ...")
    for message in schema.messages:
        _check_message(message, names)
    for name, number in HANDSHAKE_TYPES.items():
        if not any(m.name == name and m.type == number and m.handshake for m in schema.messages):
            raise _bad(f"{name} must be a handshake message of type {number:#x}")


def _check_message(message: MessageDef, names: set[str]) -> None:
    if not FIRST_TYPE <= message.type <= 0xFF or message.sender not in ("host", "board"):
        raise _bad(f"{message.name}: the type must lie in 0x80 to 0xFF and the sender be host or board")
    if message.reply and message.reply not in names:
        raise _bad(f"{message.name}: no such reply: {message.reply}")
    for field in message.fields:
        if field.wire not in SCALARS and field.wire not in ARRAYS and field.wire != "string":
            raise _bad(f"{message.name}.{field.name}: no such type: {field.wire}")
    prefix = tuple((f.name, f.wire) for f in message.fields[: len(HANDSHAKE_PREFIX)])
    if message.handshake and message.sender == "board" and prefix != HANDSHAKE_PREFIX:
        raise _bad(f"{message.name}: the first fields of a handshake message are fixed: {HANDSHAKE_PREFIX}")


def _bad(fact: str) -> ConfigError:
    return ConfigError(f"protocol/schema.toml: {fact}", "correct it, then: python -m balance_hil.protocol.generate")
