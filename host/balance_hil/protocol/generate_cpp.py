"""Writes the C++ headers ``status/status.h`` and ``frame/messages.h`` from the schema."""

from __future__ import annotations

from balance_hil.protocol.schema import Field, MessageDef, Schema

_CPP_SCALAR = {
    "u8": "uint8_t",
    "u16": "uint16_t",
    "u32": "uint32_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "f32": "float",
}
_PREAMBLE = """// {title}
// Generated from schema.toml by `python -m balance_hil.protocol.generate`: do not edit.
// clang-format off
#pragma once

#include <cstdint>
"""
_STATUS = """
namespace hil {

/// Result of a request, and of every function that can fail.
enum class Status : uint8_t {
%(statuses)s};

/// The status as it is spelled in schema.toml.
constexpr const char* StatusName(Status status) {
  switch (status) {
%(names)s  }
  return "unknown";
}

}  // namespace hil
"""
_MESSAGES = """
#include "frame/payload.h"
#include "status/status.h"

namespace hil::protocol {

%(constants)s
enum class MessageType : uint8_t {
%(types)s};

/// True for messages whose CRC is not seeded with the schema.
constexpr bool IsHandshake(uint8_t type) {
  return %(handshake)s;
}

/// True for requests that are refused until a HELLO has been answered.
template <bool kPieces>
constexpr bool IsGated(uint8_t type) {
  if (kPieces && (%(pieces)s)) return true;
  return %(gated)s;
}
%(messages)s
/// Calls `visit` with an empty request of this type, to be filled by its Read(). Returns false where no request has the type.
/// Without `kPieces`, those that carry an input in pieces are none.
template <bool kPieces, typename Visitor>
bool VisitRequest(uint8_t type, const Visitor& visit) {
  switch (static_cast<MessageType>(type)) {
%(visits)s    default:
      return false;
  }
  return true;
}

}  // namespace hil::protocol
"""


def status_header(schema: Schema) -> str:
    """The text of ``status/status.h``."""
    return _PREAMBLE.format(title="What a request, or a function that can fail, returns.") + _STATUS % {
        "statuses": "".join(f"  k{_camel(s.name)} = {s.value},  ///< {s.doc}\n" for s in schema.statuses),
        "names": "".join(f'    case Status::k{_camel(s.name)}:\n      return "{s.name}";\n' for s in schema.statuses),
    }


def messages_header(schema: Schema) -> str:
    """The text of ``frame/messages.h``."""
    requests = [m for m in schema.messages if m.sender == "host"]
    return _PREAMBLE.format(title="Messages of the wire protocol.") + _MESSAGES % {
        "constants": _constants(schema),
        "types": "".join(f"  k{m.class_name} = 0x{m.type:02X},  ///< {m.sender}: {m.doc}\n" for m in schema.messages),
        "handshake": _any_of([m for m in schema.messages if m.handshake]),
        "gated": _any_of([m for m in schema.messages if m.gated and not m.pieces]),
        "pieces": _any_of([m for m in schema.messages if m.pieces]),
        "messages": "".join(_message(m) for m in schema.messages),
        "visits": "".join(_visit(m) for m in requests),
    }


def _visit(message: MessageDef) -> str:
    visit = f"visit({message.class_name}{{}});"
    if message.pieces:
        visit = f"if constexpr (!kPieces) return false;\n      else {visit}"
    return f"    case MessageType::k{message.class_name}:\n      {visit}\n      break;\n"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _constants(schema: Schema) -> str:
    lines = [f"inline constexpr uint32_t k{_camel(name)} = {value};\n" for name, value in schema.constants.items()]
    lines.append(f"inline constexpr uint32_t kSchemaCrc = 0x{schema.crc():08X}u;\n")
    return "".join(lines)


def _any_of(messages: list[MessageDef]) -> str:
    return " ||\n         ".join(f"type == 0x{m.type:02X}" for m in messages)


def _cpp_type(field: Field) -> str:
    if field.wire == "string":
        return "StringView"
    return _CPP_SCALAR.get(field.wire) or f"ArrayView<{_CPP_SCALAR[field.wire[:-2]]}>"


def _message(message: MessageDef) -> str:
    members = "".join(
        f"  {_cpp_type(f)} {f.name}{{}};" + (f"  ///< {_note(f)}" if _note(f) else "") + "\n" for f in message.fields
    )
    reads = " && ".join([*(f"reader->Read(&{f.name})" for f in message.fields), "reader->AtEnd()"])
    writes = "".join(f"    writer->Write({f.name});\n" for f in message.fields)
    reader = "PayloadReader* reader"
    writer = "PayloadWriter* writer" if message.fields else "PayloadWriter*"
    return f"""
/// {message.doc[0].upper()}{message.doc[1:]}.
struct {message.class_name} {{
  static constexpr MessageType kType = MessageType::k{message.class_name};
{members}
  /// False when the payload does not have this layout.
  bool Read({reader}) {{
    return {reads};
  }}
  void Write({writer}) const {{
{writes}  }}
}};
"""


def _note(field: Field) -> str:
    return "; ".join(text for text in (field.unit, field.doc) if text)
