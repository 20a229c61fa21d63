"""What the fine-tuning learns from: observations of excited episodes, their neighborhood, and the range of all of them."""

from __future__ import annotations

import numpy as np

from balance_hil.exporting.calibration import ActBatch, Float32Array
from balance_hil.exporting.rounding_invariant.fine_tuning import Samples

RECORDED_ROWS = 6000
STREAM = 2  # of the seed sequence; calibration is 0, held-out rows are 1
_COPIES = 3  # of every recorded row, moved a little: the teacher labels as many as one likes
_SPREAD = 0.025  # of those moves, standard deviation as a share of an input's range
_UNIFORM_SHARE = 0.05


def make_samples(teacher: ActBatch, recorded: Float32Array, calibration: Float32Array, seed: int) -> Samples:
    """Inputs of the network and the teacher's outputs. The seed decides everything.

    Args:
        teacher: the float network.
        recorded: float32 [n, n_obs], normalized where the policy is; no row is one of the calibration's.
        calibration: float32 [m, n_obs], normalized likewise; gives the range of each input.
        seed: of moves and uniform rows.
    """
    rng = np.random.default_rng([seed, STREAM, 0])
    low, high = calibration.min(axis=0), calibration.max(axis=0)
    moves = _SPREAD * (high - low)
    moved = [np.clip(recorded + rng.normal(0.0, 1.0, recorded.shape) * moves, low, high) for _ in range(_COPIES)]
    uniform = rng.uniform(low, high, (round(len(recorded) * _UNIFORM_SHARE), recorded.shape[1]))
    observations: Float32Array = np.concatenate([recorded, *moved, uniform]).astype(np.float32)
    return Samples(observations, teacher(observations))
