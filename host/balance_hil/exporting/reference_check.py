"""Compares the exported policy with the source's own actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.sb3_reference import TOLERANCE, largest_difference
from balance_hil.errors import CheckpointError, ExportError, MissingExtraError
from balance_hil.exporting.calibration import Calibration, uniform_rows
from balance_hil.exporting.source import PolicySource
from balance_hil.quantize import Normalization

RECORDED_ROWS = RANDOM_ROWS = 1000
_STREAM = 3  # of the seed sequence; calibration is 0, held-out rows are 1, those of fine-tuning 2

Float32Array = NDArray[np.float32]


def check_against_source(
    act_batch: Callable[[Float32Array], Float32Array], source: PolicySource, calibration: Calibration, seed: int
) -> dict[str, Any]:
    """Compares actions on 1,000 recorded and 1,000 random observations.

    Args:
        act_batch: the float policy as it is exported, float32 [n, n_obs] to [n, n_act].
        source: the policy that was read, which has answers of its own.
        calibration: rows to take.
        seed: of the choice and of the random observations.

    Returns:
        What ``bundle.json`` stores: ``by``, ``rows``, ``max_error`` (of half the range of an action) and ``tolerance``; or ``by``
        None and ``why``, where the source cannot answer.

    Raises:
        ExportError: the actions differ.
    """
    try:
        answers, name = source.reference()
    except (CheckpointError, MissingExtraError) as exc:
        return {"by": None, "why": exc.message}
    pool = np.concatenate([calibration.observations, calibration.held_out])
    recorded = pool[np.linspace(0, len(pool) - 1, RECORDED_ROWS).astype(int)]
    rows = np.concatenate([recorded, uniform_rows(source.spec, pool, RANDOM_ROWS, [seed, _STREAM])])
    asked = _exactly_normalized(rows, source.normalization) if source.kind == "sb3" else rows
    error = largest_difference(source.spec.action_map, act_batch(rows), answers(asked))
    if error > TOLERANCE:
        raise ExportError(
            f"the exported policy is not the one of {source.file}: actions differ from {name} by up to {error:.3g} of half their "
            "range",
            "check the installed versions: hil doctor; if they are right, report it with the file attached",
        )
    return {"by": name, "rows": len(rows), "max_error": error, "tolerance": TOLERANCE}


def _exactly_normalized(rows: Float32Array, by: Normalization | None) -> Float32Array:
    """As Stable-Baselines3's VecNormalize does it, in float64."""
    if by is None:
        return rows
    values = (rows.astype(np.float64) - by.mean.astype(np.float64)) * by.inverse_std.astype(np.float64)
    return np.clip(values, -by.clip, by.clip).astype(np.float32)
