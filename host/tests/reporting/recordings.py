"""Recordings for the tests of the page, written without a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.recording import RecordingWriter, Step
from balance_hil.spec import PolicySpec, Signal

STEPS = 1500
HOSTILE = "<script>alert('x')</script>"


def write_run(
    path: Path,
    *,
    timed: bool = True,
    steps: int = STEPS,
    board: str = "native",
    good: bool = False,
    ended: str = "complete",
    environment: str = "balance/Balance-v0",
    trace: tuple[str, ...] = ("pitch_rad", "speed_error_rad_s"),
    n_obs: int = 1,
    n_act: int = 2,
    changed_meta: Mapping[str, Any] | None = None,
    changed_result: Mapping[str, Any] | None = None,
    changed_episode: Mapping[str, Any] | None = None,
) -> Path:
    """Two episodes; unless ``good``, the second fails. One lost reply, one that took 57.7 ms. Names and texts are hostile."""
    spec = PolicySpec(
        environment=environment,
        observation=tuple(Signal(index=i, name=f"{HOSTILE}{i}", unit="rad", min=-1, max=1) for i in range(n_obs)),
        action=tuple(Signal(index=i, name=f"wheel_{i}", unit="rad/s", min=None, max=None) for i in range(n_act)),
        control_period_s=0.005,
    )
    meta: dict[str, Any] = {
        "policy": HOSTILE,
        "bundle": "0123456789ab",
        "environment": environment,
        "options": {},
        "clock": "realtime" if timed else "lockstep",
        "seeds": [10_000, 10_001],
        "max_lost": 300,
        "metrics": [
            {"name": "return", "unit": "", "source": "reward", "reduction": "sum", "better": "higher"},
            {"name": "speed_error_rms_rad_s", "unit": "rad/s", "source": "e", "reduction": "rms", "better": "lower"},
        ],
        "float_metrics": {"return": 5000.0, "speed_error_rms_rad_s": 8.0},
        "board": {"definition": board, "board": board, "note": HOSTILE},
    }
    with RecordingWriter(path, meta | (changed_meta or {}), spec, trace) as writer:
        for row in range(2 * steps):
            episode, step = divmod(row, steps)
            held = row == 700
            late = row == 901
            times = (None if held or late else 300.0 + row % 50, None if held else 20.0, 3.0) if timed else ()
            vectors = (None, None) if held else ([1] * n_obs, [2] * n_act)
            plant = [float("nan") if step < 3 else 0.001 * np.sin(row / 50)] * len(trace)
            actions = [(-1.0) ** step / 4] * n_act
            writer.step(
                row * 0.005, Step(step * 0.005, episode, step, [0.5] * n_obs, actions, held, plant, 1.0, *vectors, *times)
            )
            if held:
                writer.injected(row * 0.005, episode, step, "drop", "rx", {})
                writer.fault(row * 0.005, episode, step, "lost", HOSTILE)
            if late and timed:
                times = {"request_step": step, "round_trip_us": 57_700.0, "inference_us": 20.0}
                writer.fault(row * 0.005, episode, step + 1, "late", "the reply took 57.7 ms", **times)
            if step == steps - 1 and ended == "complete":
                failed = episode == 1 and not good
                metrics = {"return": 1500.0, "speed_error_rms_rad_s": 7.5}
                result = {"episode": episode, "seed": 10_000 + episode, "steps": steps, "failed": failed, "metrics": metrics}
                result |= changed_episode or {}
                writer.episode((row + 1) * 0.005, result)
        if ended == "complete":
            writer.result = {
                "metrics": {"return": 1500.0, "speed_error_rms_rad_s": 7.5},
                "late": 1,
                "lost": 1,
                "equals_tflm": {"checked": 3998, "differing": 0 if good else 1, "emulated": False},
                "miss_causes": {"host": 1, "board": 0, "link": 1},
                "verdict": {"good": good, "reasons": [] if good else ["1 of 2 episodes failed: seed 10001 after 1500 steps"]},
                **(changed_result or {}),
            }
        writer.close(ended)
    return path
