"""Fills the tables of ``firmware/PROTOCOL.md`` from the schema."""

from __future__ import annotations

from balance_hil.errors import ConfigError
from balance_hil.protocol.schema import MessageDef, Schema


def fill_tables(schema: Schema, document: str) -> str:
    """Replaces what stands between each pair of ``<!-- generated: NAME -->`` and ``<!-- end -->``.

    Raises:
        ConfigError: the document lacks one of the places.
    """
    for name, text in (("constants", _constants(schema)), ("messages", _messages(schema)), ("statuses", _statuses(schema))):
        before, mark, rest = document.partition(f"<!-- generated: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ConfigError(
                f"PROTOCOL.md has no place for the generated {name}", f"add <!-- generated: {name} --> and <!-- end -->"
            )
        document = before + mark + text + end + after
    return document


def _constants(schema: Schema) -> str:
    rows = "".join(f"| {name} | {value} |\n" for name, value in schema.constants.items())
    return f"| constant | value |\n|---|---|\n{rows}| schema CRC | `0x{schema.crc():08X}` |\n"


def _messages(schema: Schema) -> str:
    rows = "".join(_row(m) for m in schema.messages)
    return f"| type | message | payload | answered by | meaning |\n|---|---|---|---|---|\n{rows}"


def _row(message: MessageDef) -> str:
    fields = ", ".join(f"{f.name} {f.wire}" for f in message.fields) or "none"
    marks = ("H" if message.handshake else "") + ("G" if message.gated else "") + ("P" if message.pieces else "")
    name = f"{message.name}{f' ({marks})' if marks else ''}"
    return f"| 0x{message.type:02X} | {name} | {fields} | {message.reply} | {message.doc} |\n"


def _statuses(schema: Schema) -> str:
    rows = "".join(f"| {s.value} | {s.name} | {s.doc} |\n" for s in schema.statuses)
    return f"| status | name | meaning |\n|---|---|---|\n{rows}"
