"""Tries what ``conditions`` proves: the same random inputs on every int8 runtime that is installed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from balance_hil.errors import ExportError
from balance_hil.quantize import INT8_MAX, INT8_MIN
from balance_hil.runtimes import INT8_RUNTIME_NAMES
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.tflite import TfliteInt8Runtime
from balance_hil.runtimes.tflm import TflmRuntime

_BLOCK_ROWS = 50_000


def differing_outputs(model: bytes, samples: int, seed: int) -> dict[str, int]:
    """How many of ``samples`` · n_act output values of each runtime are not TFLM's, for inputs uniform over all int8 codes."""
    reference = TflmRuntime(model)
    others = {name: TfliteInt8Runtime(name, model) for name in INT8_RUNTIME_NAMES if name != "tflm"}
    counts = dict.fromkeys(others, 0)
    for block in _random_blocks(samples, reference.n_obs, seed):
        expected = reference.infer_int8_batch(block)
        for name, runtime in others.items():
            counts[name] += int(np.count_nonzero(runtime.infer_int8_batch(block) != expected))
    return counts


def check_agreement(model: bytes, samples: int, seed: int) -> dict[str, int]:
    """Like ``differing_outputs``; raises ExportError when anything differs."""
    counts = differing_outputs(model, samples, seed)
    if any(counts.values()):
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ExportError(
            f"outputs of the rounding-invariant model differ from TFLM's on {samples} random inputs ({found})",
            "say which versions are installed (hil doctor) when you report this",
        )
    return counts


def _random_blocks(samples: int, n_obs: int, seed: int) -> Iterator[Int8Array]:
    rng = np.random.default_rng(seed)
    for start in range(0, samples, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, samples - start)
        yield rng.integers(INT8_MIN, INT8_MAX + 1, (rows, n_obs)).astype(np.int8)
