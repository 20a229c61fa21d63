"""``hil bench realtime``: the same real-time episode on this computer as it is, and under load, in turns.

The load is two busy processes for each core and one that writes to the disk. The board is the native one, so it is under load,
too. Misses are attributed as ``running.misses`` describes.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from balance_hil.boards import connect
from balance_hil.bundle import Bundle
from balance_hil.paths import MODELS
from balance_hil.processes import popen
from balance_hil.running import RunConfig, open_plant
from balance_hil.running import run as run_episode
from balance_hil.running.soak import Statistics
from balance_hil.scheduling import usable_cores

TURNS = 5
STEPS = 2000  # of an episode; 10 s
BUSY_PER_CORE = 2
SPIN = "while True: pass"
WRITE_TO_DISK = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        for _ in range(64):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
"""


@contextlib.contextmanager
def load() -> Iterator[str]:
    """Keeps this computer busy; yields a description of how."""
    busy = BUSY_PER_CORE * usable_cores()
    with tempfile.NamedTemporaryFile() as file, contextlib.ExitStack() as processes:
        for program in [[SPIN]] * busy + [[WRITE_TO_DISK, file.name]]:
            process = processes.enter_context(popen([sys.executable, "-c", *program], start_new_session=True))
            processes.callback(process.kill)
        yield f"{busy} busy processes, a disk writer"


def _turns() -> tuple[dict[str, Statistics], str]:
    """Statistics of the episodes by what else this computer did, and the priority that it gave to the loop."""
    bundle = Bundle.load(MODELS / "ppo")
    config = RunConfig(seeds=[0], max_steps=STEPS, max_lost=TURNS * STEPS)
    statistics: dict[str, Statistics] = {}
    with connect("native", bundle) as board, open_plant(bundle, config) as plant:
        for turn in range(TURNS):
            for condition in (contextlib.nullcontext("idle"), load()):
                with condition as what:
                    result = run_episode(board, bundle, replace(config, seeds=[turn]), environment=plant)
                statistics.setdefault(what, Statistics()).add(result, anomalies=0)
    return statistics, result.priority


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    statistics, priority = _turns()
    return rows(statistics, "idle", f"; {priority} priority")


def rows(statistics: Mapping[str, Statistics], baseline: str, note: str = "") -> list[dict[str, Any]]:
    """A row for each condition and metric, with its ratio to the condition ``baseline``; ``note`` follows every condition."""
    base = _values(statistics[baseline])
    return [
        {
            "what": what + note,
            "metric": metric,
            "value": value,
            "unit": unit,
            "baseline": None if what == baseline else baseline,
            "ratio": value / base[metric][0] if what != baseline and base[metric][0] else None,
        }
        for what, of in statistics.items()
        for metric, (value, unit) in _values(of).items()
    ]


def _values(of: Statistics) -> dict[str, tuple[float, str]]:
    """Value and unit by metric."""
    values: dict[str, tuple[float, str]] = {}
    for name, times_us in (("tick jitter", of.jitter_us), ("round trip", of.round_trip_us)):
        for quantile in ("p50", "p99", "p999", "max"):
            values[f"{name} {quantile.replace('p999', 'p99.9')}"] = (getattr(times_us, quantile), "us")
    values["control steps"] = (of.steps, "")
    values["late"], values["lost"] = (of.counts["late"], ""), (of.counts["lost"], "")
    for cause in ("host", "board", "link"):
        values[f"misses by the {cause}"] = (of.causes[cause], "")
    return values
