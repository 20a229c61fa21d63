"""Observation and action spaces, as a checkpoint stores them and as an environment has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.inert import Inert, array_of, dtype_of, path_of

_PACKAGES = ("gymnasium.spaces.", "gym.spaces.")
_LIMIT_TOLERANCE = 1e-6  # relative: limits are kept in float32 or float64


@dataclass(frozen=True, eq=False)
class Space:
    """A Box, a Discrete, or the name of something that no policy on a board can have.

    ``low`` and ``high`` are those of a Box, in its shape; ``n`` the number of choices of a Discrete.
    """

    kind: str  # "Box", "Discrete", "Dict", ...
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    n: int = 0

    @property
    def size(self) -> int:
        """Number of elements of a Box."""
        return 0 if self.low is None else int(self.low.size)

    @property
    def is_image(self) -> bool:
        """Whether Stable-Baselines3 takes it for an image, which it scales."""
        return self.low is not None and self.low.ndim == 3 and self.low.dtype == np.uint8

    def __str__(self) -> str:
        if self.low is not None:
            return f"Box{self.low.shape}"
        return f"Discrete({self.n})" if self.kind == "Discrete" else self.kind

    def difference(self, other: Space) -> str | None:
        """Where two spaces differ, in words; None: nowhere. Types of numbers do not count."""
        if self.kind != other.kind or self.n != other.n:
            return f"{self} and {other}"
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        if self.low.shape != other.low.shape:
            return f"shape {self.low.shape} and {other.low.shape}"
        mine = [np.asarray(a, np.float64).ravel() for a in (self.low, self.high)]
        theirs = [np.asarray(a, np.float64).ravel() for a in (other.low, other.high)]
        same = [np.isclose(a, b, rtol=_LIMIT_TOLERANCE, atol=0.0) | (a == b) for a, b in zip(mine, theirs, strict=True)]
        wrong = np.flatnonzero(~(same[0] & same[1]))
        if not wrong.size:
            return None
        i = int(wrong[0])
        return f"limits of element {i}, {mine[0][i]:g}..{mine[1][i]:g} and {theirs[0][i]:g}..{theirs[1][i]:g}"


def space_of(space: Any) -> Space:
    """The space of a Gymnasium environment."""
    kind = next((c.__name__ for c in type(space).__mro__ if c.__module__.startswith(_PACKAGES)), type(space).__name__)
    if kind == "Box":
        return Space("Box", np.asarray(space.low), np.asarray(space.high))
    return Space(kind, n=int(space.n)) if kind == "Discrete" else Space(kind)


def pickled_space(value: Any) -> Space:
    """The space that a pickle holds. Raises ValueError: garbled, or no space."""
    path = path_of(value)
    if not isinstance(value, Inert) or not path.startswith(_PACKAGES):
        raise ValueError(f"no space of Gymnasium: {path or type(value).__name__}")
    kind, fields = path.rpartition(".")[2], value.fields
    if kind == "Discrete":
        n = array_of(fields.get("n"))
        if n.ndim or not 0 < int(n) < 1 << 31:
            raise ValueError("a Discrete space without choices")
        return Space("Discrete", n=int(n))
    if kind != "Box":
        return Space(kind)
    shape = tuple(int(n) for n in array_of(list(fields.get("_shape", fields.get("shape", ())))))
    dtype = dtype_of(fields.get("dtype"))
    limits = [array_of(fields.get(key)) for key in ("low", "high")]
    if any(limit.size != math.prod(shape) for limit in limits) or any(np.isnan(limit).any() for limit in limits):
        raise ValueError("the limits of a Box do not fit its shape")
    low, high = (np.asarray(limit, dtype).reshape(shape) for limit in limits)
    if np.any(low > high):
        raise ValueError("the limits of a Box are upside down")
    return Space("Box", low, high)
