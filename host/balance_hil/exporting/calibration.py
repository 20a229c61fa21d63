"""Observations that set the int8 ranges: recorded from the environment while it is excited, or read from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import ExportError
from balance_hil.files import read_npz
from balance_hil.quantize import Normalization
from balance_hil.spec import PolicySpec

Float32Array = NDArray[np.float32]
ActBatch = Callable[[Float32Array], Float32Array]

RECORDED_ROWS = 2000
HELD_OUT_ROWS = 500
# Of the outputs' half range, standard deviation; of a Discrete action the probability of a random one. Without noise a policy
# that converges sees next to nothing; with the largest alone the rows are not those of the policy.
NOISE_LEVELS = (0.0, 0.1, 0.3, 1.0)
UNIFORM_SHARE = 0.05  # of all rows, sampled uniformly, so that the whole observed range is covered
NORMALIZED_FROM = 10.0  # ratio of standard deviations from which one int8 scale for all inputs costs accuracy
_MIN_CLIP = 10.0  # standard deviations
_UNBOUNDED = 1e6  # a limit beyond it counts as none
_MIN_FILE_ROWS = 16
_HELD_OUT_SHARE = 5

_STEPS_PER_ROW = 4  # neighbors in time differ by little more than noise
_EPISODE_STEPS = 1000
_HELD_OUT_STREAM = 1  # of the seed sequence; calibration is stream 0


@dataclass(frozen=True)
class Calibration:
    """Calibration rows, float32 [n, n_obs], held-out rows, and where they come from.

    They are observations as the environment gives them, not normalized.
    """

    observations: Float32Array
    held_out: Float32Array
    origin: dict[str, Any]


def record_calibration(act_batch: ActBatch, env: Environment, seed: int) -> Calibration:
    """Runs excited episodes with the policy and adds 5 % of uniform observations. The seed decides everything."""
    observations = _excited_and_uniform(act_batch, env, [seed, 0], RECORDED_ROWS)
    held_out = _excited_and_uniform(act_batch, env, [seed, _HELD_OUT_STREAM], HELD_OUT_ROWS)
    origin = {
        "source": "recorded from excited episodes",
        "seed": seed,
        "recorded_rows": RECORDED_ROWS,
        "uniform_rows": len(observations) - RECORDED_ROWS,
        "noise_levels": list(NOISE_LEVELS),
    }
    return Calibration(observations, held_out, origin | _describe(observations))


def load_calibration(path: Path, spec: PolicySpec, seed: int) -> Calibration:
    """Rows from a file; every fifth is held out.

    Raises:
        ExportError: not such a file, wrong shape, too few rows, or a value that is not finite.
    """
    hint = f"save them with numpy.savez('{path.name}', observations=...), float32 [n, {spec.n_obs}], n >= {_MIN_FILE_ROWS}"
    try:
        values = read_npz(path)["observations"]
    except FileNotFoundError:
        raise ExportError(f"no such calibration file: {path}", hint) from None
    except KeyError:
        raise ExportError(f"{path} holds no array named 'observations'", hint) from None
    except (OSError, ValueError) as exc:
        raise ExportError(f"{path} is not an .npz file of plain arrays: {exc}", hint) from exc
    if values.ndim != 2 or values.shape[1] != spec.n_obs or not np.issubdtype(values.dtype, np.floating):
        raise ExportError(f"the calibration rows of {path} are {values.dtype} {list(values.shape)}", hint)
    if len(values) < _MIN_FILE_ROWS:
        raise ExportError(f"{path} holds {len(values)} rows only", hint)
    observations = np.asarray(values, np.float32)
    if not np.all(np.isfinite(observations)):
        raise ExportError(f"{path} holds NaN or infinite values", "remove those rows")
    if np.any(np.ptp(observations, axis=0) == 0):
        constant = [s.name for s, spread in zip(spec.observation, np.ptp(observations, axis=0), strict=True) if spread == 0]
        raise ExportError(
            f"in {path} these signals never change: {', '.join(constant)}", "record rows in which every signal moves"
        )
    held_out = observations[::_HELD_OUT_SHARE]
    return Calibration(observations, held_out, {"source": path.name, "seed": seed} | _describe(observations))


def record_excited(act_batch: ActBatch, env: Environment, seed: list[int], rows: int) -> Float32Array:
    """Observations, float32 [rows, n_obs], of episodes that excite the plant: its own reset options, and noise on the outputs.

    Each noise level fills its share of the rows. The end of an episode starts the next one.
    """
    rng = np.random.default_rng(seed)
    limit = min(_EPISODE_STEPS, require_control_steps(env, None if env.spec.episode_steps else _EPISODE_STEPS))
    recorded = np.empty((rows, env.spec.n_obs), np.float32)
    ends = [round(rows * (i + 1) / len(NOISE_LEVELS)) for i in range(len(NOISE_LEVELS))]
    count = 0
    for level, end in zip(NOISE_LEVELS, ends, strict=True):
        over, step = True, 0
        while count < end:
            if over:
                observation, step = env.reset(int(rng.integers(2**31)), env.excite(rng)), 0
            if step % _STEPS_PER_ROW == 0:
                recorded[count] = observation
                count += 1
            outputs = env.spec.clip(_with_noise(act_batch(observation[np.newaxis, :])[0], env.spec, level, rng))
            result = env.step(outputs)
            observation = result.observation
            step += 1
            over = result.terminated or result.truncated or step >= limit
    return recorded


def normalization_of(observations: Float32Array) -> Normalization | None:
    """The normalization by mean and standard deviation of rows, float32 [n, n_obs]; None where one scale serves all of them."""
    rows = observations.astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    moving = std[std > 0]
    if not moving.size or moving.max() / moving.min() <= NORMALIZED_FROM:
        return None
    std = np.where(std > 0, std, 1.0)
    clip = max(_MIN_CLIP, float(np.ceil(np.abs((rows - mean) / std).max())))
    return Normalization(mean.astype(np.float32), (1.0 / std).astype(np.float32), clip)


def uniform_rows(spec: PolicySpec, seen: Float32Array, count: int, seed: list[int]) -> Float32Array:
    """Rows, float32 [count, n_obs], uniform over the limits of each signal, or over what was seen of one that has no limits."""
    low, high = seen.min(axis=0).astype(np.float64), seen.max(axis=0).astype(np.float64)
    for i, signal in enumerate(spec.observation):
        if signal.min is not None and signal.max is not None and max(-signal.min, signal.max) < _UNBOUNDED:
            low[i], high[i] = signal.min, signal.max
    return np.random.default_rng(seed).uniform(low, high, (count, spec.n_obs)).astype(np.float32)


def _with_noise(outputs: Float32Array, spec: PolicySpec, level: float, rng: np.random.Generator) -> Float32Array:
    if spec.action_map.kind == "box":
        return np.asarray(outputs + level * rng.standard_normal(len(outputs)), np.float32)
    if rng.random() >= level:
        return outputs
    return np.asarray(np.eye(len(outputs))[int(rng.integers(len(outputs)))], np.float32)


def _excited_and_uniform(act_batch: ActBatch, env: Environment, seed: list[int], rows: int) -> Float32Array:
    recorded = record_excited(act_batch, env, seed, rows)
    count = round(rows * UNIFORM_SHARE / (1.0 - UNIFORM_SHARE))
    return np.concatenate([recorded, uniform_rows(env.spec, recorded, count, [*seed, 0])])


def _describe(observations: Float32Array) -> dict[str, Any]:
    return {
        "rows": len(observations),
        "min": [float(v) for v in observations.min(axis=0)],
        "max": [float(v) for v in observations.max(axis=0)],
        "sha256": hashlib.sha256(np.ascontiguousarray(observations).tobytes()).hexdigest(),
    }
