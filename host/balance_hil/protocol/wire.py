"""Base class of the generated messages, and packing of arrays and strings."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance_hil.errors import UsageError

_COUNT = struct.Struct("<H")
_MAX_COUNT = 0xFFFF
_MAX_STRING = 0xFF


class MalformedPayloadError(ValueError):
    """A payload does not have the layout of its type. The decoder counts it; it never leaves ``protocol``."""


class Message(ABC):
    """One message without its sequence number. Two are equal when they are the same bytes on the wire (so NaN equals NaN)."""

    TYPE: ClassVar[int]

    @abstractmethod
    def pack(self) -> bytes:
        """The payload.

        Raises:
            UsageError: a value that does not fit its field.
        """

    @classmethod
    @abstractmethod
    def unpack(cls, payload: bytes) -> Self:
        """Inverse of ``pack``.

        Raises:
            MalformedPayloadError: too short, too long, or not UTF-8 where text belongs.
        """

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Message) and other.pack() == self.pack()

    def __hash__(self) -> int:
        return hash((self.TYPE, self.pack()))


def pack_scalars(layout: struct.Struct, name: str, *values: Any) -> bytes:
    """Packs consecutive scalars; raises UsageError when one does not fit."""
    try:
        return layout.pack(*values)
    except (struct.error, OverflowError) as exc:
        raise UsageError(
            f"a value does not fit its field in {name}: {exc}", "see the field's range in firmware/PROTOCOL.md"
        ) from exc


def pack_array(values: ArrayLike, dtype: str) -> bytes:
    """u16 count and elements. ``dtype`` is a little-endian numpy type string; raises UsageError when a value does not fit."""
    array = np.asarray(values)
    target = np.dtype(dtype)
    if array.dtype != target:
        array = _converted(array, target)
    if array.ndim != 1 or array.size > _MAX_COUNT:
        raise UsageError(f"an array on the wire is flat and holds at most {_MAX_COUNT} elements", "pass one vector, not a batch")
    return _COUNT.pack(array.size) + array.tobytes()


def _converted(array: NDArray[Any], target: np.dtype[Any]) -> NDArray[Any]:
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


def unpack_array(payload: bytes, offset: int, dtype: str) -> tuple[NDArray[Any], int]:
    """An array and the offset behind it."""
    (count,) = unpack_scalars(_COUNT, payload, offset)
    start = offset + _COUNT.size
    end = start + count * np.dtype(dtype).itemsize
    if end > len(payload):
        raise MalformedPayloadError("array cut off")
    return np.frombuffer(payload, dtype, count, start), end


def pack_bytes(data: bytes) -> bytes:
    """u16 count and raw bytes."""
    if len(data) > _MAX_COUNT:
        raise UsageError(f"at most {_MAX_COUNT} bytes fit", "send less")
    return _COUNT.pack(len(data)) + bytes(data)


def unpack_bytes(payload: bytes, offset: int) -> tuple[bytes, int]:
    """Raw bytes and the offset behind them."""
    (count,) = unpack_scalars(_COUNT, payload, offset)
    start = offset + _COUNT.size
    if start + count > len(payload):
        raise MalformedPayloadError("bytes cut off")
    return payload[start : start + count], start + count


def pack_string(text: str) -> bytes:
    """u8 length and UTF-8."""
    raw = text.encode()
    if len(raw) > _MAX_STRING:
        raise UsageError(f"a string on the wire has at most {_MAX_STRING} bytes", "shorten it")
    return bytes([len(raw)]) + raw


def unpack_string(payload: bytes, offset: int) -> tuple[str, int]:
    """A string and the offset behind it."""
    if offset >= len(payload):
        raise MalformedPayloadError("string cut off")
    start = offset + 1
    end = start + payload[offset]
    if end > len(payload):
        raise MalformedPayloadError("string cut off")
    try:
        return payload[start:end].decode(), end
    except UnicodeDecodeError as exc:
        raise MalformedPayloadError("not UTF-8") from exc


def unpack_scalars(layout: struct.Struct, payload: bytes, offset: int) -> tuple[Any, ...]:
    """Consecutive scalars at ``offset``."""
    try:
        return layout.unpack_from(payload, offset)
    except struct.error as exc:
        raise MalformedPayloadError("scalars cut off") from exc


def expect_end(payload: bytes, offset: int) -> None:
    """Raises MalformedPayloadError when bytes are left over."""
    if offset != len(payload):
        raise MalformedPayloadError("bytes left over")
