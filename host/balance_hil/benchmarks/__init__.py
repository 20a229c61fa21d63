"""Side-by-side benchmarks: ``hil bench NAME`` calls the function ``run`` of the module NAME."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def row(
    what: str, metric: str, value: float, unit: str, baseline: str | None = None, ratio: float | None = None
) -> dict[str, Any]:
    """One row of ``hil bench --json``: ``baseline`` is what ``value`` is compared with, ``ratio`` is value / its value."""
    return {"what": what, "metric": metric, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def balance(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """A PD controller of the balance robot: actions, float32 [n, 2], for observations, float32 [n, 6]."""
    pitch, rate, _, _, speed, yaw = observations.T
    common = 2.0 * (0.35 * pitch - np.clip(0.3 * speed, -0.1, 0.1)) + 0.5 * rate
    turn = 0.8 * yaw
    return np.asarray(np.clip(np.stack([common - turn, common + turn], axis=1), -1.0, 1.0), np.float32)
