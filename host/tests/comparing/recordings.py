"""Recordings made for tests of the replay: what an int8 runtime answers to random observations."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np

from balance_hil.bundle import Bundle
from balance_hil.quantize import dequantize, quantize
from balance_hil.recording import RecordingWriter, Step
from balance_hil.runtimes.base import ModelRuntime

EPISODE_STEPS = 30


def write_recording(
    path: Path,
    bundle: Bundle,
    runtime: ModelRuntime,
    *,
    steps: int = 60,
    held: Container[int] = (),
    late: Mapping[int, int] | None = None,
    recorded_with: str | None = None,
) -> Path:
    """A recording of a run of ``runtime``; ``late`` maps a row to the earlier row whose observation its reply answers."""
    rng = np.random.default_rng(7)
    observations = rng.uniform(-1, 1, (steps, bundle.spec.n_obs)).astype(np.float32)
    meta = {"bundle": recorded_with or bundle.id, "clock": "lockstep", "board": {"board": "bench", "engine": "tflm"}}
    with RecordingWriter(path, meta, bundle.spec) as writer:
        for row in range(steps):
            episode, step = divmod(row, EPISODE_STEPS)
            answered = (late or {}).get(row, row)
            inputs = quantize(observations[answered][np.newaxis], bundle.input_quant)
            outputs = runtime.infer_raw_batch(inputs)
            raw = (None, None) if row in held else (inputs[0].tolist(), outputs[0].tolist())
            action = dequantize(outputs, bundle.output_quant)[0].tolist()
            t_s = step * bundle.spec.control_period_s
            writer.step(row * 0.005, Step(t_s, episode, step, observations[row].tolist(), action, row in held, (), 0.0, *raw))
            if answered != row:
                writer.fault(row * 0.005, episode, step, "late", "a reply to an earlier observation")
    return path
