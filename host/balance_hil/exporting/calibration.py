"""Observations that set the int8 ranges: recorded from the environment while it is disturbed, or read from a file."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import open_environment
from balance_hil.errors import ExportError
from balance_hil.spec import PolicySpec

Float32Array = NDArray[np.float32]
ActBatch = Callable[[Float32Array], Float32Array]

RECORDED_ROWS = 2000
HELD_OUT_ROWS = 500
UNIFORM_SHARE = 0.05  # of all rows, drawn uniformly over the observation box: no part of the box is left without a range
_MIN_FILE_ROWS = 16

_STEPS_PER_ROW = 4  # neighbors in time differ by little more than noise
_EPISODE_STEPS = 1000
_HELD_OUT_STREAM = 1  # of the seed sequence; calibration is stream 0


@dataclass(frozen=True)
class Calibration:
    """Rows that the converter sees, float32 [n, n_obs], rows that it does not see, and where they come from."""

    observations: Float32Array
    held_out: Float32Array
    origin: dict[str, Any]


def record_calibration(act_batch: ActBatch, spec: PolicySpec, seed: int) -> Calibration:
    """Runs disturbed episodes with the policy and adds 5 % of observations uniform over the box. The seed decides everything."""
    observations = _disturbed_and_uniform(act_batch, spec, [seed, 0], RECORDED_ROWS)
    held_out = _disturbed_and_uniform(act_batch, spec, [seed, _HELD_OUT_STREAM], HELD_OUT_ROWS)
    origin = {
        "source": "recorded from disturbed episodes",
        "seed": seed,
        "recorded_rows": RECORDED_ROWS,
        "uniform_rows": len(observations) - RECORDED_ROWS,
    }
    return Calibration(observations, held_out, origin | _describe(observations))


def load_calibration(path: Path, act_batch: ActBatch, spec: PolicySpec, seed: int) -> Calibration:
    """Rows from a file; the held-out rows are recorded all the same.

    Raises:
        ExportError: not such a file, wrong shape, too few rows, or a value that is not finite.
    """
    hint = f"save them with numpy.savez('{path.name}', observations=...), float32 [n, {spec.n_obs}], n >= {_MIN_FILE_ROWS}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive["observations"]
    except FileNotFoundError:
        raise ExportError(f"no such calibration file: {path}", hint) from None
    except KeyError:
        raise ExportError(f"{path} holds no array named 'observations'", hint) from None
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as exc:  # numpy's ways of saying that it is no .npz
        raise ExportError(f"{path} is no .npz file of plain arrays: {exc}", hint) from exc
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
    held_out = _disturbed_and_uniform(act_batch, spec, [seed, _HELD_OUT_STREAM], HELD_OUT_ROWS)
    return Calibration(observations, held_out, {"source": path.name, "seed": seed} | _describe(observations))


def record_disturbed(act_batch: ActBatch, environment: str, seed: list[int], rows: int) -> Float32Array:
    """Observations, float32 [rows, n_obs], of episodes that excite the plant. The end of one starts the next."""
    rng = np.random.default_rng(seed)
    with open_environment(environment) as env:
        recorded = np.empty((rows, env.spec.n_obs), np.float32)
        count = step = 0
        over = True
        while count < rows:
            if over:
                observation, step = env.reset(int(rng.integers(2**31)), env.excite(rng)), 0
            if step % _STEPS_PER_ROW == 0:
                recorded[count] = observation
                count += 1
            result = env.step(env.spec.clip(act_batch(observation[np.newaxis, :])[0]))
            observation = result.observation
            step += 1
            over = result.terminated or result.truncated or step >= _EPISODE_STEPS
    return recorded


def _disturbed_and_uniform(act_batch: ActBatch, spec: PolicySpec, seed: list[int], rows: int) -> Float32Array:
    recorded = record_disturbed(act_batch, spec.environment, seed, rows)
    uniform_rows = round(rows * UNIFORM_SHARE / (1.0 - UNIFORM_SHARE))
    low, high = [s.min or -1.0 for s in spec.observation], [s.max or 1.0 for s in spec.observation]
    uniform = np.random.default_rng([*seed, 0]).uniform(low, high, (uniform_rows, spec.n_obs)).astype(np.float32)
    return np.concatenate([recorded, uniform])


def _describe(observations: Float32Array) -> dict[str, Any]:
    return {
        "rows": len(observations),
        "min": [float(v) for v in observations.min(axis=0)],
        "max": [float(v) for v in observations.max(axis=0)],
        "sha256": hashlib.sha256(np.ascontiguousarray(observations).tobytes()).hexdigest(),
    }
