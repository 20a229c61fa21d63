"""Writes ``messages.py`` from the schema; ``generate`` formats it."""

from __future__ import annotations

from balance_hil.protocol.schema import SCALARS, Field, MessageDef, Schema

_STRUCT_CODE = {"u8": "B", "u16": "H", "u32": "I", "i8": "b", "i16": "h", "i32": "i", "f32": "f"}
_ARRAY = {"i8[]": ("NDArray[np.int8]", "<i1"), "f32[]": ("NDArray[np.float32]", "<f4")}

_HEADER = '''"""Messages of the wire protocol.

Generated from schema.toml by ``python -m balance_hil.protocol.generate``: do not edit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from balance_hil.protocol import wire

'''


def python_source(schema: Schema) -> str:
    """The text of ``messages.py``."""
    parts = [_HEADER, _constants(schema), _statuses(schema)]
    parts += [_message(m) for m in schema.messages]
    table = "".join(f"    {m.class_name}.TYPE: {m.class_name},\n" for m in schema.messages)
    parts.append(f"\n\nMESSAGES: dict[int, type[wire.Message]] = {{\n{table}}}\n")
    return "".join(parts)


def _constants(schema: Schema) -> str:
    number = {m.name: f"0x{m.type:02X}" for m in schema.messages}
    names = {name: "PROTOCOL_VERSION" if name == "version" else name.upper() for name in schema.constants}
    handshake = ", ".join(number[m.name] for m in schema.messages if m.handshake)
    replies = "".join(f"    {number[m.name]}: {number[m.reply]},  # {m.name}: {m.reply}\n" for m in schema.messages if m.reply)
    return (
        "".join(f"{names[name]} = {value}\n" for name, value in schema.constants.items())
        + f"SCHEMA_CRC = 0x{schema.crc():08X}\n"
        + f"HANDSHAKE_TYPES = frozenset({{{handshake}}})  # their CRC is not seeded with the schema\n"
        + f"REPLY_TYPES = {{\n{replies}}}  # ERROR may come instead of each\n"
    )


def _statuses(schema: Schema) -> str:
    lines = "".join(f"    {s.name.upper()} = {s.value}  # {s.doc}\n" for s in schema.statuses)
    return f'\n\nclass Status(IntEnum):\n    """Why a request was refused."""\n\n{lines}'


def _python_type(field: Field) -> str:
    if field.wire in _ARRAY:
        return _ARRAY[field.wire][0]
    if field.wire == "u8[]":
        return "bytes"
    if field.wire == "string":
        return "str"
    return "float" if field.wire == "f32" else "int"


def _groups(message: MessageDef) -> list[tuple[Field, ...]]:
    """Runs of scalars together, every other field alone."""
    groups: list[tuple[Field, ...]] = []
    for field in message.fields:
        if field.wire in SCALARS and groups and groups[-1][0].wire in SCALARS:
            groups[-1] += (field,)
        else:
            groups.append((field,))
    return groups


def _message(message: MessageDef) -> str:
    groups = _groups(message)
    lines = [
        "\n\n@dataclass(frozen=True, eq=False)",
        f"class {message.class_name}(wire.Message):",
        f'    """{_sentence(message)}"""',
        "",
    ]
    for index, group in enumerate(groups):
        if group[0].wire in SCALARS:
            code = "".join(_STRUCT_CODE[f.wire] for f in group)
            lines.append(f'    _S{index}: ClassVar = struct.Struct("<{code}")')
    lines.append(f"    TYPE: ClassVar[int] = 0x{message.type:02X}")
    for field in message.fields:
        note = "; ".join(text for text in (field.unit, field.doc) if text)
        lines.append(f"    {field.name}: {_python_type(field)}" + (f"  # {note}" if note else ""))
    lines += ["", "    def pack(self) -> bytes:", '        """Payload; raises UsageError when a value does not fit."""']
    lines += _pack(groups, message.class_name)
    lines += ["", "    @classmethod", "    def unpack(cls, payload: bytes) -> Self:"]
    lines += ['        """Inverse of ``pack``; raises MalformedPayloadError."""', *_unpack(groups)]
    return "\n".join(lines) + "\n"


def _sentence(message: MessageDef) -> str:
    route = "host to board" if message.sender == "host" else "board to host"
    return f"{route.capitalize()}: {message.doc}." + (f" Answered by {message.reply}." if message.reply else "")


def _pack(groups: list[tuple[Field, ...]], name: str) -> list[str]:
    terms = []
    for index, group in enumerate(groups):
        field = group[0]
        if field.wire in SCALARS:
            terms.append(f'wire.pack_scalars(self._S{index}, "{name}", {", ".join(f"self.{f.name}" for f in group)})')
        elif field.wire in _ARRAY:
            terms.append(f'wire.pack_array(self.{field.name}, "{_ARRAY[field.wire][1]}")')
        else:
            terms.append(f"wire.pack_{'bytes' if field.wire == 'u8[]' else 'string'}(self.{field.name})")
    if not terms:
        return ['        return b""']
    joined = terms[0] if len(terms) == 1 else f'b"".join(({", ".join(terms)}))'
    return [f"        return {joined}"]


def _unpack(groups: list[tuple[Field, ...]]) -> list[str]:
    lines = []
    offset = "0"
    for index, group in enumerate(groups):
        field = group[0]
        if field.wire in SCALARS:
            targets = ", ".join(f.name for f in group)
            lines.append(f"        ({targets},) = wire.unpack_scalars(cls._S{index}, payload, {offset})")
            lines.append(f"        end {'+=' if offset == 'end' else '='} cls._S{index}.size")
        elif field.wire in _ARRAY:
            lines.append(f'        {field.name}, end = wire.unpack_array(payload, {offset}, "{_ARRAY[field.wire][1]}")')
        else:
            kind = "bytes" if field.wire == "u8[]" else "string"
            lines.append(f"        {field.name}, end = wire.unpack_{kind}(payload, {offset})")
        offset = "end"
    names = ", ".join(f.name for group in groups for f in group)
    return [*lines, f"        wire.expect_end(payload, {offset})", f"        return cls({names})"]
