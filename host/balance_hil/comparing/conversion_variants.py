"""Right and wrong ways of converting observations to raw values and these to actions, and observations that tell them apart.

The conversion of a firmware is identified by the variant that reproduces all of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.inputs import raw_observations
from balance_hil.quantize import ElementType, Float32Array, Normalization, QuantParams, RawArray
from balance_hil.runtimes.emulated.primitives import round_half_away

RIGHT = "right"
_SAFE = 2.0e9  # a C cast to int is defined below this

# How the quotient becomes an integer; the zero point is added afterwards, but for the last way.
ROUNDINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    RIGHT: round_half_away,
    "rounds ties to even": np.rint,
    "rounds ties up": lambda t: np.floor(t + np.float32(0.5)),
    "truncates instead of rounding": np.trunc,
    "rounds down": np.floor,
    "adds 0.5 and truncates": lambda t: np.trunc(t + np.float32(0.5)),
}
TRUNCATES_THE_SUM = "adds the zero point and truncates instead of rounding"
DIVISIONS: dict[str, Callable[[NDArray[Any], float], NDArray[Any]]] = {
    RIGHT: lambda x, scale: x / np.float32(scale),
    "multiplies by the reciprocal": lambda x, scale: x * (np.float32(1) / np.float32(scale)),
    "divides in float64": lambda x, scale: x.astype(np.float64) / scale,
    "multiplies by the scale": lambda x, scale: x * np.float32(scale),
}
LIMITS: dict[str, Callable[[NDArray[Any], ElementType], NDArray[Any]]] = {
    RIGHT: lambda q, kind: np.clip(q, kind.low, kind.high),
    "wraps around instead of saturating": lambda q, kind: q,
    "saturates at -127": lambda q, kind: np.clip(q, -kind.high, kind.high),  # of int16: -32767
}
ZERO_POINTS: dict[str, Callable[[int], int]] = {
    RIGHT: lambda zero_point: zero_point,
    "omits the zero point": lambda zero_point: 0,
    "subtracts the zero point": lambda zero_point: -zero_point,
    "takes a zero point that is 1 too high": lambda zero_point: zero_point + 1,
    "takes a zero point that is 1 too low": lambda zero_point: zero_point - 1,
}
_FIRST_LOOK_ROWS = 32
DECIMALS = (2, 3, 4, 5, 6)


@dataclass(frozen=True, kw_only=True)
class InputConversion:
    """One conversion of observations to raw inputs; each field is a key of its table above."""

    rounding: str = RIGHT
    division: str = RIGHT
    limit: str = RIGHT
    zero_point: str = RIGHT
    scale: str = RIGHT  # RIGHT, or a description of the fault
    params: QuantParams

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it, () for the right conversion."""
        parts = (self.rounding, self.division, self.limit, self.zero_point, self.scale)
        return tuple(part for part in parts if part != RIGHT)

    def apply(self, observations: Float32Array) -> RawArray:
        """Raw [...] for observations, float32 [...]."""
        with np.errstate(over="ignore", invalid="ignore"):
            quotient = DIVISIONS[self.division](np.asarray(observations, np.float32), self.params.scale)
            zero_point = ZERO_POINTS[self.zero_point](self.params.zero_point)
            if self.rounding == TRUNCATES_THE_SUM:
                integers = np.trunc(quotient + np.float32(zero_point))
            else:
                integers = ROUNDINGS[self.rounding](quotient) + zero_point
        safe = np.nan_to_num(np.clip(integers.astype(np.float64), -_SAFE, _SAFE))
        limited = LIMITS[self.limit](safe.astype(np.int64), self.params.kind)
        return np.asarray(limited, np.int64).astype(self.params.kind.dtype)


def matching_input_conversions(
    observations: Float32Array, inputs: RawArray, right: QuantParams, other: QuantParams | None = None
) -> list[InputConversion]:
    """The conversions with the fewest faults that make ``inputs``, raw [n, n_obs], of ``observations``, float32 [n, n_obs]."""
    few = slice(None, None, max(1, len(inputs) // _FIRST_LOOK_ROWS))  # most conversions fail on the first rows looked at
    matching: list[InputConversion] = []
    for conversion in input_conversions(right, other):
        if matching and len(conversion.faults) > len(matching[0].faults):
            break
        if np.array_equal(conversion.apply(observations[few]), inputs[few]) and np.array_equal(
            conversion.apply(observations), inputs
        ):
            matching.append(conversion)
    return matching


def input_conversions(right: QuantParams, other: QuantParams | None = None) -> Iterator[InputConversion]:
    """Every conversion, those with the fewest faults first. ``other`` are parameters that firmware might take by mistake."""
    base = InputConversion(params=right)
    conversions = [
        replace(base, rounding=rounding, division=division, limit=limit, zero_point=zero_point, scale=scale, params=params)
        for rounding, division, limit, zero_point, (scale, params) in product(
            (*ROUNDINGS, TRUNCATES_THE_SUM), DIVISIONS, LIMITS, ZERO_POINTS, scale_mistakes(right, other)
        )
    ]
    yield from sorted(conversions, key=lambda conversion: len(conversion.faults))


def scale_mistakes(right: QuantParams, other: QuantParams | None) -> list[tuple[str, QuantParams]]:
    """Ways of having the wrong parameters, the right one first."""
    found = [(RIGHT, right)]
    for digits in DECIMALS:
        scale = round(right.scale, digits)
        if scale > 0 and np.float32(scale) != np.float32(right.scale):
            found.append((f"has its scale rounded to {digits} decimals", replace(right, scale=scale)))
    if other is not None and other != right:
        found.append(("takes the parameters of the other end of the model", other))
    return found


def wrong_normalizations(right: Normalization) -> Iterator[tuple[str, Callable[[Float32Array], Float32Array]]]:
    """Wrong ways of normalizing observations, float32 [n, n_obs], each with a description of the fault."""
    mean, factor, clip = right.mean, right.inverse_std, np.float32(right.clip)
    wide_mean, wide_factor = mean.astype(np.float64), factor.astype(np.float64)

    def clipped(scale: Callable[[Float32Array], NDArray[Any]]) -> Callable[[Float32Array], Float32Array]:
        return lambda x: np.clip(scale(x).astype(np.float32), -clip, clip)

    yield "does not normalize", lambda x: x
    yield "omits the mean", clipped(lambda x: x * factor)
    yield "adds the mean", clipped(lambda x: (x + mean) * factor)
    yield "omits the factor", clipped(lambda x: x - mean)
    yield "divides by the factor", clipped(lambda x: (x - mean) / factor)
    yield "divides by the variance", clipped(lambda x: (x - mean) * (factor * factor))
    yield "does not clip", lambda x: (x - mean) * factor
    yield "clips before it normalizes", lambda x: (np.clip(x, -clip, clip) - mean) * factor
    yield "divides by the standard deviation", clipped(lambda x: (x - mean) / (np.float32(1) / factor))
    yield "multiplies, then adds an offset", clipped(lambda x: x * factor - mean * factor)
    # The product of two float32 is exact in float64: one rounding, as in a fused multiply-add.
    yield "multiplies and adds in one step", clipped(lambda x: x.astype(np.float64) * wide_factor - (mean * factor))
    yield "normalizes in float64", clipped(lambda x: (x.astype(np.float64) - wide_mean) * wide_factor)
    yield "takes the mean and factor of the neighboring element", clipped(lambda x: (x - np.roll(mean, 1)) * np.roll(factor, 1))


@dataclass(frozen=True, kw_only=True)
class OutputConversion:
    """One conversion of raw outputs to actions."""

    fault: str  # RIGHT, or a description of the fault
    convert: Callable[[RawArray], Float32Array]


def output_conversions(right: QuantParams, other: QuantParams | None = None) -> Iterator[OutputConversion]:
    """Every conversion for actions, the right one first."""
    for (zero, shift), (scale, params) in product(ZERO_POINTS.items(), scale_mistakes(right, other)):
        if RIGHT in (zero, scale):  # one mistake at a time
            fault = scale if zero == RIGHT else zero
            yield OutputConversion(fault=fault, convert=_scaled(params.scale, shift(params.zero_point)))
    yield OutputConversion(
        fault="reads the output as unsigned", convert=lambda q: _scaled(right.scale, right.zero_point)(q.view(f"u{q.itemsize}"))
    )
    for divisor in (right.kind.high, right.kind.high + 1):
        yield OutputConversion(fault=f"divides the raw output by {divisor}", convert=_divided(divisor))
    yield OutputConversion(fault="sends the raw output", convert=_scaled(1.0, 0))
    yield OutputConversion(
        fault="swaps the bytes of the action", convert=lambda q: _scaled(right.scale, right.zero_point)(q).byteswap()
    )


def _divided(divisor: int) -> Callable[[NDArray[Any]], Float32Array]:
    return lambda q: q.astype(np.float32) / np.float32(divisor)


def _scaled(scale: float, zero_point: int) -> Callable[[NDArray[Any]], Float32Array]:
    return lambda q: (np.float64(np.float32(scale)) * (q.astype(np.int64) - zero_point)).astype(np.float32)


# --- Observations that show them ----------------------------------------------------------------------------------------------

_FAR_STEPS = (200.0, 333.0, 700.0, 5_000.0)  # beyond saturation on either side, each another value modulo 256
_RANDOM_ROWS = 64
_MOST_VALUES, _LEAST_ROWS = 1 << 17, 8  # of all probes: half a megabyte to the board
_MOST_STEPS = 400


def probe_observations(
    quant: QuantParams, n_obs: int, *, normalization: Normalization | None = None, seed: int = 0
) -> Float32Array:
    """Observations, float32 [n, n_obs], that distinguish the known input faults; n is about 1,300, or less for a wide input.

    They hold, for each element: every tie (k + 1/2) · s in int8's range, or 400 of int16's, with its float32 neighbors on
    both sides, every point k · s, values far beyond saturation, and random ones; random observations meet a tie about once in a
    million. The elements of a row differ from each other and rows from their predecessors, which exposes permuted, repeated and
    stale inputs. Of an input of more than 100 elements each has a part of these values: all of them would take minutes to send.
    With a normalization, they are the observations that it maps to these values.
    """
    scale = np.float32(quant.scale)
    kind = quant.kind
    steps = np.arange(kind.low - quant.zero_point - 2, kind.high - quant.zero_point + 3)
    rng = np.random.default_rng(seed)
    if len(steps) > _MOST_STEPS:  # both ends, the middle, and others
        part = _MOST_STEPS // 4
        middle = len(steps) // 2 - part // 2
        others = np.sort(rng.choice(steps, part, replace=False))
        steps = np.concatenate([steps[:part], steps[middle : middle + part], others, steps[-part:]])
    spread = rng.uniform(steps[0] - 40.0, steps[-1] + 40.0, _RANDOM_ROWS * 4)
    values = np.concatenate(
        [_around_ties(scale, steps), scale * steps.astype(np.float32), _far(scale), scale * spread.astype(np.float32)]
    )
    rows = min(len(values), max(_LEAST_ROWS, _MOST_VALUES // n_obs))
    if rows < len(values):
        return raw_observations(values[rng.integers(len(values), size=(rows, n_obs))], normalization)
    probes = np.ascontiguousarray(np.stack([rng.permutation(values) for _ in range(n_obs)], axis=1), dtype=np.float32)
    return raw_observations(probes, normalization)


def _around_ties(scale: np.float32, steps: NDArray[np.int_]) -> Float32Array:
    """float32 values whose float32 quotient by ``scale`` is a tie, where there is one, and those beside it."""
    near = np.asarray((steps + 0.5) * np.float64(scale), np.float32)
    infinity = np.float32(np.inf)
    return np.concatenate([near, np.nextafter(near, infinity), np.nextafter(near, -infinity)], dtype=np.float32)


def _far(scale: np.float32) -> Float32Array:
    far = np.array(_FAR_STEPS, np.float32)
    return np.concatenate([far * scale, -far * scale, (far + np.float32(0.25)) * scale], dtype=np.float32)
