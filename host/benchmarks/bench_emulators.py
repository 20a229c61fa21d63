"""``hil bench emulators``: inferences per second of the emulators in a batch, beside the runtimes called row by row.

Row by row is what a user of the interpreter's Python API does: set the input, invoke, get the output. "Every layer" fetches every
operator's output, as attributing differences needs; "output" the last one alone. Models: models/ppo (6-32-32-2, ReLU) and random
6-64-64-2 actors with ReLU and with tanh. The contenders take turns in short blocks, and the fastest block of each counts: other
programs can only slow one down. The emulators use every core that they are given (taskset -c 0 gives one), the interpreters one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from balance_hil.bundle import Bundle
from balance_hil.runtimes.base import Int8Array, Int8Runtime
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.synthetic import actor
from balance_hil.runtimes.emulated.verification import LITERT_SUBJECTS, TENSORFLOW_SUBJECTS, Subject, random_inputs

BUNDLE = "models/ppo"
BLOCKS = 40
ROWS_ONE_BY_ONE = 200
ROWS_TOGETHER = 40_000


def run() -> list[dict[str, Any]]:
    """Rows of the table, see DESIGN: what, metric, value, unit, baseline, ratio."""
    models = {
        BUNDLE: Bundle.load(BUNDLE).int8_model(),
        "ReLU 6-64-64-2": actor((6, 64, 64, 2), "RELU", per_channel=True, seed=0),
        "tanh 6-64-64-2": actor((6, 64, 64, 2), "TANH", per_channel=True, seed=0),
    }
    subjects = LITERT_SUBJECTS + (TENSORFLOW_SUBJECTS if find_spec("tensorflow") else ())
    return [row for name, model in models.items() for subject in subjects for row in _subject(subject, name, model)]


def _subject(subject: Subject, title: str, model: bytes) -> list[dict[str, Any]]:
    runtime, emulator = subject.make(model), EmulatedRuntime(model, subject.variant)
    together = random_inputs(ROWS_TOGETHER, runtime.n_obs, 0)
    few = together[:ROWS_ONE_BY_ONE]
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "output": (lambda: _outputs(runtime, few), lambda: emulator.infer_int8_batch(together)),
        "every layer": (lambda: _layers(runtime, few), lambda: emulator.layers_int8_batch(together)),
    }
    rows = []
    for metric, (one_by_one, batch) in ways.items():
        slow, fast = _rates(one_by_one, len(few), batch, len(together))
        baseline = f"{title}: {subject.name}, row by row"
        rows.append(_row(baseline, metric, slow, None, None))
        rows.append(_row(f"{title}: {emulator.name}, {ROWS_TOGETHER} rows", metric, fast, baseline, fast / slow))
    return rows


def _row(what: str, metric: str, value: float, baseline: str | None, ratio: float | None) -> dict[str, Any]:
    return {"what": what, "metric": metric, "value": value, "unit": "inferences/s", "baseline": baseline, "ratio": ratio}


def _rates(a: Callable[[], object], rows_a: int, b: Callable[[], object], rows_b: int) -> tuple[float, float]:
    """Rows per second of two ways, each in its fastest block."""
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(BLOCKS):
        for way, seen in zip((a, b), times, strict=True):
            start_s = time.perf_counter()
            way()
            seen.append(time.perf_counter() - start_s)
    return rows_a / min(times[0]), rows_b / min(times[1])


def _outputs(runtime: Int8Runtime, rows: Int8Array) -> None:
    for row in rows:
        runtime.infer_int8(row)


def _layers(runtime: Int8Runtime, rows: Int8Array) -> None:
    for i in range(len(rows)):
        runtime.layers_int8_batch(rows[i : i + 1])
