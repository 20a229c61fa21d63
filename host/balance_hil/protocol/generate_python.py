"""Writes ``messages.py`` from the schema; ``generate`` formats it."""

from __future__ import annotations

from textwrap import wrap

from balance_hil.protocol.schema import MessageDef, Schema

_TYPES = {
    "i8[]": "NDArray[np.int8]",
    "f32[]": "NDArray[np.float32]",
    "u8[]": "bytes",
    "string": "str",
    "f32": "float",
}  # else int

_HEADER = '''"""Messages of the wire protocol.

Generated from schema.toml by ``python -m balance_hil.protocol.generate``: do not edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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


def _message(message: MessageDef) -> str:
    types = " ' '".join(wrap(" ".join(field.wire for field in message.fields), 100))
    layout = f", layout='{types}'" if types else ""
    lines = [
        "\n\n@dataclass(frozen=True, eq=False)",
        f"class {message.class_name}(wire.Message, type=0x{message.type:02X}{layout}):",
        f'    """{_sentence(message)}"""',
        *([""] if message.fields else []),
    ]
    for field in message.fields:
        note = "; ".join(text for text in (field.unit, field.doc) if text)
        python = _TYPES.get(field.wire, "int")
        lines.append(f"    {field.name}: {python}" + (f"  # {note}" if note else ""))
    return "\n".join(lines) + "\n"


def _sentence(message: MessageDef) -> str:
    route = "host to board" if message.sender == "host" else "board to host"
    return f"{route.capitalize()}: {message.doc}." + (f" Answered by {message.reply}." if message.reply else "")
