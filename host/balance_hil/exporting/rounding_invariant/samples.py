"""What the fine-tuning learns from: observations of disturbed episodes, their neighborhood, and the rest of the box."""

from __future__ import annotations

import numpy as np

from balance_hil.exporting.calibration import ActBatch, Float32Array, record_disturbed
from balance_hil.exporting.rounding_invariant.fine_tuning import Samples
from balance_hil.spec import PolicySpec

RECORDED_ROWS = 6000
_COPIES = 3  # of every recorded row, moved a little: the teacher labels as many as one likes
_SPREAD = 0.05  # of those moves, standard deviation in units of an observation of -1..1
_UNIFORM_SHARE = 0.05
_STREAM = 2  # of the seed sequence; calibration is 0, held-out rows are 1


def record_samples(act_batch: ActBatch, spec: PolicySpec, seed: int) -> Samples:
    """Observations and the teacher's actions. The seed decides everything; no row is one of the calibration's."""
    recorded = record_disturbed(act_batch, spec.environment, [seed, _STREAM], RECORDED_ROWS)
    rng = np.random.default_rng([seed, _STREAM, 0])
    low, high = np.array([[s.min for s in spec.observation], [s.max for s in spec.observation]])
    moved = [np.clip(recorded + rng.normal(0.0, _SPREAD, recorded.shape), low, high) for _ in range(_COPIES)]
    uniform = rng.uniform(low, high, (round(RECORDED_ROWS * _UNIFORM_SHARE), spec.n_obs))
    observations: Float32Array = np.concatenate([recorded, *moved, uniform]).astype(np.float32)
    return Samples(observations, act_batch(observations))
