"""Conversions around a model: per-feature normalization, and affine quantization with TensorFlow Lite Micro's rounding.

    n = clip(float32(float32(x - mean) * inverse_std), -clip, clip)         before quantization, where a policy has it

    q = clip(round_half_away(float32(x / float32(scale))) + zero_point, -128, 127)       of int16x8: -32768, 32767
    x = float32(float64(scale) * (q - zero_point))

A float32 model takes ``n`` and gives ``x`` as they are.

Source: ``AffineQuantize`` and ``Dequantize`` of tflite-micro (kernels/internal/quantization_util and quantize.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance_hil.errors import NonFiniteInputError

Float32Array = NDArray[np.float32]
RawArray = NDArray[Any]  # what a model takes and gives, of its element type

INT8_MIN = -128
INT8_MAX = 127


class ElementType(NamedTuple):
    """What a model computes with: the type of its inputs, outputs and of what lies between its operators."""

    name: str  # as ``hil export --quantize`` and a bundle have it
    tensor: str  # as a .tflite has it
    dtype: np.dtype[Any]
    low: int  # smallest raw value; of float32 there is none
    high: int
    number: int  # on the wire, in model.h and in the firmware


INT8 = ElementType("int8", "INT8", np.dtype(np.int8), INT8_MIN, INT8_MAX, 0)
INT16X8 = ElementType("int16x8", "INT16", np.dtype(np.int16), -(1 << 15), (1 << 15) - 1, 1)  # weights are int8, as in ``int8``
FLOAT32 = ElementType("float32", "FLOAT32", np.dtype(np.float32), 0, 0, 2)
ELEMENT_TYPES = {kind.name: kind for kind in (INT8, INT16X8, FLOAT32)}
NUMBERED_ELEMENT_TYPES = {kind.number: kind for kind in ELEMENT_TYPES.values()}


def bits_of(values: NDArray[Any]) -> NDArray[Any]:
    """The bits of raw values as unsigned integers of their width: 0 and -0 of float32 are two numbers."""
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


@dataclass(frozen=True)
class QuantParams:
    """Per-tensor affine parameters. ``scale`` is a float32 value > 0, ``zero_point`` a value of the element type."""

    scale: float
    zero_point: int
    kind: ElementType = INT8


@dataclass(frozen=True, eq=False)
class Normalization:
    """Per-feature normalization of observations: subtract, multiply, clip, each in float32 and in this order.

    The order matters: scale and offset in one step would become a fused multiply-add on a board and differ in the last bit.

    Args:
        mean: float32 [n_obs].
        inverse_std: float32 [n_obs], > 0.
        clip: the result stays within plus and minus this; a finite float32 > 0.

    Raises:
        ValueError: the arrays differ in shape, are not finite, or a factor is not positive.
    """

    mean: Float32Array
    inverse_std: Float32Array
    clip: float

    def __post_init__(self) -> None:
        for name in ("mean", "inverse_std"):
            array = np.array(getattr(self, name), np.float32)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "clip", float(np.float32(self.clip)))
        if self.mean.ndim != 1 or self.mean.shape != self.inverse_std.shape or not self.mean.size:
            raise ValueError("mean and inverse_std of a normalization must be vectors of one length")
        finite = np.isfinite(self.mean).all() and np.isfinite(self.inverse_std).all() and np.isfinite(self.clip)
        if not finite or not (self.inverse_std > 0).all() or self.clip <= 0:
            raise ValueError("a normalization needs finite means, and finite factors and a clip above 0")

    def apply(self, observations: ArrayLike) -> Float32Array:
        """Normalized observations, float32 [..., n_obs]; the same bits as on a board.

        Raises:
            NonFiniteInputError: a value is NaN or infinite; the clip would hide an infinity.
        """
        if not np.all(np.isfinite(observations)):
            raise NonFiniteInputError("an observation is NaN or infinite", "check the sensor or the environment")
        with np.errstate(over="ignore"):  # a difference beyond float32 is infinite and clipped, as on the board
            scaled = (np.asarray(observations, np.float32) - self.mean) * self.inverse_std
        return np.asarray(np.clip(scaled, np.float32(-self.clip), np.float32(self.clip)), np.float32)

    def to_bytes(self) -> bytes:
        """Bytes for the wire and for the model's id: mean, inverse_std, clip as little-endian float32."""
        return b"".join(np.asarray(v, "<f4").tobytes() for v in (self.mean, self.inverse_std, self.clip))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"mean": self.mean.tolist(), "inverse_std": self.inverse_std.tolist(), "clip": self.clip}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``. Raises KeyError, TypeError or ValueError on a malformed table."""
        return cls(np.asarray(data["mean"], np.float32), np.asarray(data["inverse_std"], np.float32), float(data["clip"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalization) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())


def quantize(values: ArrayLike, params: QuantParams, normalization: Normalization | None = None) -> NDArray[Any]:
    """Converts physical values, float [...], to raw values [...] of the parameters' element type.

    Observations, float [..., n_obs], are normalized first.

    Raises:
        NonFiniteInputError: a value is NaN or infinite. The firmware refuses those as well.
    """
    x = np.asarray(values, dtype=np.float32)
    if not np.all(np.isfinite(x)):
        raise NonFiniteInputError("cannot quantize a NaN or an infinity", "check the observation that produced it")
    if normalization is not None:
        x = normalization.apply(x)
    if params.kind == FLOAT32:
        return x
    # A huge finite value divided by a small scale is infinite and saturates below, like in the C++ code.
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = x / np.float32(params.scale)
        # Halves away from zero: numpy's rint rounds them to even, and trunc(r + 0.5) would round 0.49999997 up in float32.
        whole = np.trunc(ratio)
        rounded = whole + np.where(np.abs(ratio - whole) >= 0.5, np.sign(ratio), np.float32(0.0))
    clipped = np.clip(rounded.astype(np.float64) + params.zero_point, params.kind.low, params.kind.high)
    return np.asarray(clipped, dtype=params.kind.dtype)


def dequantize(values: ArrayLike, params: QuantParams) -> NDArray[np.float32]:
    """Converts raw values [...] of the parameters' element type to float32 [...] physical values."""
    q = np.asarray(values, dtype=params.kind.dtype)
    if params.kind == FLOAT32:
        return q
    return np.asarray(np.float64(np.float32(params.scale)) * (q.astype(np.int64) - params.zero_point), dtype=np.float32)
