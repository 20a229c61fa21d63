"""Base class of the generated messages: packs and unpacks their fields by wire type."""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance_hil.errors import UsageError

SCALARS = {"u8": "B", "u16": "H", "u32": "I", "i8": "b", "i16": "h", "i32": "i", "f32": "f"}  # wire type -> struct's code
_DTYPES: dict[str, np.dtype[Any]] = {"i8[]": np.dtype("<i1"), "f32[]": np.dtype("<f4")}
_COUNT = struct.Struct("<H")
_MAX_COUNT = 0xFFFF
_MAX_STRING = 0xFF


class MalformedPayloadError(ValueError):
    """A payload does not have the layout of its type. The decoder counts it; it never leaves ``protocol``."""


class Message:
    """One message without its sequence number. Two are equal when they are the same bytes on the wire (so NaN equals NaN).

    A subclass is a dataclass; ``layout`` names the wire types of its fields, in order.
    """

    TYPE: ClassVar[int]
    _PARTS: ClassVar[list[struct.Struct | str]]  # runs of scalars together, every other field alone

    def __init_subclass__(cls, *, type: int, layout: str = "") -> None:
        cls.TYPE, cls._PARTS, run = type, [], ""
        for kind in [*layout.split(), ""]:
            if kind in SCALARS:
                run += SCALARS[kind]
                continue
            cls._PARTS += [struct.Struct("<" + run)] * bool(run) + [kind] * bool(kind)
            run = ""

    def pack(self) -> bytes:
        """The payload.

        Raises:
            UsageError: a value that does not fit its field.
        """
        values, taken, packed = tuple(vars(self).values()), 0, b""
        for part in self._PARTS:
            if isinstance(part, struct.Struct):
                count = len(part.format) - 1
                packed += _pack_scalars(part, type(self).__name__, values[taken : taken + count])
                taken += count
            else:
                packed += _pack(part, values[taken])
                taken += 1
        return packed

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Inverse of ``pack``.

        Raises:
            MalformedPayloadError: too short, too long, or not UTF-8 where text belongs.
        """
        values: list[Any] = []
        offset = 0
        for part in cls._PARTS:
            if isinstance(part, struct.Struct):
                values += _unpack_scalars(part, payload, offset)
                offset += part.size
            else:
                value, offset = _unpack(part, payload, offset)
                values.append(value)
        if offset != len(payload):
            raise MalformedPayloadError("bytes left over")
        return cls(*values)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Message) and other.pack() == self.pack()

    def __hash__(self) -> int:
        return hash((self.TYPE, self.pack()))


def _pack_scalars(layout: struct.Struct, name: str, values: tuple[Any, ...]) -> bytes:
    try:
        return layout.pack(*values)
    except (struct.error, OverflowError) as exc:
        raise UsageError(
            f"a value does not fit its field in {name}: {exc}", "see the field's range in firmware/PROTOCOL.md"
        ) from exc


def _unpack_scalars(layout: struct.Struct, payload: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return layout.unpack_from(payload, offset)
    except struct.error as exc:
        raise MalformedPayloadError("scalars cut off") from exc


def _pack(kind: str, value: Any) -> bytes:
    """A string: u8 length and UTF-8. Bytes and arrays: u16 count and elements."""
    if kind == "string":
        raw: bytes = value.encode()
        if len(raw) > _MAX_STRING:
            raise UsageError(f"a string on the wire has at most {_MAX_STRING} bytes", "shorten it")
        return bytes([len(raw)]) + raw
    if kind == "u8[]":
        if len(value) > _MAX_COUNT:
            raise UsageError(f"at most {_MAX_COUNT} bytes fit", "send less")
        return _COUNT.pack(len(value)) + bytes(value)
    array = _converted(value, _DTYPES[kind])
    if array.ndim != 1 or array.size > _MAX_COUNT:
        raise UsageError(f"an array on the wire is flat and holds at most {_MAX_COUNT} elements", "pass one vector, not a batch")
    return _COUNT.pack(array.size) + array.tobytes()


def _converted(values: ArrayLike, target: np.dtype[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == target:
        return array
    if array.size == 0:
        return np.zeros(0, target)
    if target.kind in "iu":
        limits = np.iinfo(target)
        if array.dtype.kind not in "iu" or array.min() < limits.min or array.max() > limits.max:
            raise UsageError(f"a value does not fit {target}", "quantize it first: balance_hil.quantize.quantize")
    elif array.dtype.kind not in "iuf":
        raise UsageError(f"cannot send {array.dtype} as {target}", "pass numbers")
    with np.errstate(over="ignore"):
        return array.astype(target)


def _unpack(kind: str, payload: bytes, offset: int) -> tuple[Any, int]:
    """Inverse of ``_pack``: the value, and the offset after it."""
    dtype = _DTYPES.get(kind)
    if kind == "string":
        if offset >= len(payload):
            raise MalformedPayloadError("string cut off")
        count, start = payload[offset], offset + 1
    else:
        count, start = _unpack_scalars(_COUNT, payload, offset)[0], offset + _COUNT.size
    end = start + count * (dtype.itemsize if dtype else 1)
    if end > len(payload):
        raise MalformedPayloadError(f"{kind} cut off")
    if dtype:
        return np.frombuffer(payload, dtype, count, start), end
    try:
        return payload[start:end].decode() if kind == "string" else payload[start:end], end
    except UnicodeDecodeError as exc:
        raise MalformedPayloadError("not UTF-8") from exc
