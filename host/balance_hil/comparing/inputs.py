"""Inputs of a comparison: vectors uniform over the raw range, and observations from a control loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.errors import RecordingError, UsageError
from balance_hil.quantize import FLOAT32, INT8, ElementType, Float32Array, Normalization, QuantParams, RawArray, dequantize
from balance_hil.runtimes.base import Runtime

if TYPE_CHECKING:
    from balance_hil.environment import Environment

_LARGEST = 1e6  # of golden observations
_LARGEST_RAW = 1e38  # finite in float32
OBSERVED_EPISODE_STEPS = 1000  # five seconds: from the disturbed start into the steady state


@dataclass(frozen=True, kw_only=True)
class InputSet:
    """Rows that every runtime is given: first the random ones, then the recorded ones.

    Float runtimes read ``observations``, those of the board's model ``raw``; row for row they are the same input.
    """

    observations: Float32Array  # float32 [n, n_obs]
    raw: RawArray  # [n, n_obs]
    random: int  # how many rows are uniform over the raw range
    seed: int
    source: str  # where the recorded rows come from, for display

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def recorded(self) -> int:
        """How many rows are observations."""
        return len(self) - self.random


def make_inputs(bundle: Bundle, observations: Float32Array, *, random: int, seed: int, source: str) -> InputSet:
    """Joins ``random`` uniform raw rows and the recorded ``observations``, float32 [n, n_obs], into one set.

    The range is that of the model's input: of a bundle with a normalization, values beyond its clip are not reached.

    Raises:
        UsageError: there would be no input at all, or the observations are of another length than the bundle's.
        NonFiniteInputError: an observation is NaN or infinite.
    """
    n_obs = bundle.spec.n_obs
    if observations.ndim != 2 or observations.shape[1] != n_obs:
        raise UsageError(
            f"the observations have the shape {observations.shape}, the policy reads {n_obs} numbers",
            "compare a recording with the bundle it was made with",
        )
    if random + len(observations) == 0:
        raise UsageError("nothing to compare: no random and no recorded input", "ask for some: --samples 10000")
    uniform = dequantize(_uniform(n_obs, random, seed, bundle.kind), bundle.input_quant)
    rows = np.concatenate([raw_observations(uniform, bundle.normalization), np.asarray(observations, dtype=np.float32)])
    return InputSet(
        observations=rows,
        raw=bundle.quantized(rows),
        random=random,
        seed=seed,
        source=source,
    )


def raw_observations(values: Float32Array, normalization: Normalization | None) -> Float32Array:
    """Observations, float32 [n, n_obs], that a normalization maps to ``values``, or next to those that are out of its reach."""
    if normalization is None:
        return values
    raw = values.astype(np.float64) / normalization.inverse_std + normalization.mean
    return np.clip(raw, -_LARGEST_RAW, _LARGEST_RAW).astype(np.float32)


def random_inputs(n_obs: int, quant: QuantParams, count: int, seed: int) -> InputSet:
    """``count`` uniform raw rows only, for a model without known observations."""
    uniform = _uniform(n_obs, count, seed, quant.kind)
    return InputSet(observations=dequantize(uniform, quant), raw=uniform, random=count, seed=seed, source="nowhere")


def observe(policy: Runtime, environment: Environment, count: int, seed: int) -> Float32Array:
    """``count`` observations, float32 [count, n_obs], of episodes with ``policy`` as controller, in lockstep.

    Deterministic: the same policy, environment, count and seed give the same rows.
    """
    from balance_hil.rollout import EVALUATION_SEED_BASE, rollout  # loads the physics

    if count == 0:
        return np.empty((0, policy.n_obs), dtype=np.float32)
    seen: list[Float32Array] = []

    def act(observations: Float32Array) -> Float32Array:
        seen.append(np.array(observations, dtype=np.float32))
        return policy.act_batch(observations)

    episodes = math.ceil(count / OBSERVED_EPISODE_STEPS)
    first = EVALUATION_SEED_BASE + seed
    while sum(map(len, seen)) < count:  # again with new seeds when episodes end early
        rollout(act, environment, range(first, first + episodes), max_steps=OBSERVED_EPISODE_STEPS)
        first += episodes
    return spread(np.concatenate(seen), count)


def golden_observations(bundle: Bundle, count: int) -> Float32Array:
    """Up to ``count`` of the bundle's golden observations, float32 [n, n_obs], evenly spread. Raises BundleError.

    Those at the end of float32's range are left out: int8 saturates there, and a float network overflows to no number.
    """
    observations = bundle.golden("observations").astype(np.float32)
    return spread(observations[np.all(np.abs(observations) <= _LARGEST, axis=1)], count)


def recorded_observations(observation: NDArray[np.float32], count: int, path: str) -> Float32Array:
    """Up to ``count`` finite observations of a recording, float32 [n, n_obs], evenly spread. Raises RecordingError."""
    rows = np.asarray(observation, dtype=np.float32)
    finite = rows[np.all(np.isfinite(rows), axis=1)] if rows.ndim == 2 else rows
    if finite.ndim != 2 or len(finite) == 0:
        raise RecordingError(f"the recording {path} holds no observation", "record a run: hil run ppo --board native")
    return spread(finite, count)


def spread(rows: Float32Array, count: int) -> Float32Array:
    """At most ``count`` rows, evenly spaced over all of ``rows`` and in their order."""
    return rows[spread_rows(len(rows), count)]


def spread_rows(total: int, count: int) -> NDArray[np.intp]:
    """At most ``count`` indices, evenly spaced over ``range(total)``."""
    chosen: Sequence[float] | NDArray[np.float64] = np.linspace(0, total - 1, num=min(count, total))
    return np.asarray(np.rint(chosen), dtype=np.intp)


def _uniform(n_obs: int, count: int, seed: int, kind: ElementType = INT8) -> RawArray:
    rng = np.random.default_rng(seed)
    if kind == FLOAT32:
        return rng.uniform(-1, 1, (count, n_obs)).astype(np.float32)
    return rng.integers(kind.low, kind.high, size=(count, n_obs), dtype=kind.dtype, endpoint=True)
