"""``hil bench campaign``: tasks per second of a campaign, in processes and on dask, and rows per second of the results database.

Empty tasks show what the distribution itself costs; real ones are 25 episodes of a shipped policy in TensorFlow Lite Micro. The
start is the time until the first task has ended.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from balance_hil.benchmarks import row
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_run import RobustnessConfig, run_suite
from balance_hil.farm.campaign import LOCAL, Campaign, Task
from balance_hil.history import Result, append
from balance_hil.paths import MODELS
from balance_hil.rollout import EVALUATION_SEED_BASE

JOBS = 2
EMPTY = 1000
REAL, BATCH, STEPS = 8, 25, 500
ROWS, WRITERS = 1000, 4


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    rows = []
    for name, campaign in (
        (f"{JOBS} processes", Campaign(jobs=JOBS)),
        (f"dask, {JOBS} workers", Campaign(jobs=JOBS, cluster=LOCAL)),
    ):
        ended_s = [time.perf_counter()]
        for _ in campaign.run(_nothing, [Task(str(number), (number,), {}) for number in range(EMPTY)]):
            ended_s.append(time.perf_counter())
        rows.append(row(name, "start", ended_s[1] - ended_s[0], "s"))
        rows.append(row(name, "empty tasks", (EMPTY - 1) / (ended_s[-1] - ended_s[1]), "1/s"))
        real_s: list[float] = []
        config = RobustnessConfig(
            policies=(MODELS / "ppo",),
            conditions=(Condition("nominal", "nominal", {}),),
            runtime="tflm",
            environment=None,
            seeds=range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + REAL * BATCH),
            max_steps=STEPS,
        )
        run_suite(config, partial(_note, real_s), campaign)
        real = (REAL - JOBS) / (real_s[-1] - real_s[JOBS - 1])
        rows.append(row(name, f"tasks of {BATCH} episodes of {STEPS} steps", real, "1/s"))
        rows.append(row(name, "control steps", real * BATCH * STEPS, "1/s"))
    alone = _rows_per_s(1)
    rows.append(row("results database, 1 writer", "rows", alone, "1/s"))
    several = _rows_per_s(WRITERS)
    rows.append(
        row(f"results database, {WRITERS} writers", "rows", several, "1/s", "results database, 1 writer", several / alone)
    )
    return rows


def _note(times_s: list[float], done: float, what: str) -> None:
    times_s.append(time.perf_counter())


def _nothing(number: int) -> int:
    return number


def _rows_per_s(writers: int) -> float:
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(writers, mp_context=get_context("spawn")) as pool:
        path = Path(folder) / "history.db"
        spans = list(pool.map(_write, [path] * writers, [ROWS // writers] * writers))
    return ROWS / (max(end_s for _, end_s in spans) - min(start_s for start_s, _ in spans))


def _write(path: Path, rows: int) -> tuple[float, float]:
    """When it began and ended; the clock is the same in every process."""
    start_s = time.monotonic()
    result = Result(
        command="bench", bundle="ppo", board="native", good=True, reasons=[], metrics={"return": 1.0}, commit="0" * 12
    )
    for _ in range(rows):
        append(result, path)
    return start_s, time.monotonic()
