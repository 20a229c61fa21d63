"""``hil bench parallel``: the same episode on three boards in QEMU, one after the other and at once.

``hil run`` is started for each board, and then for all three, in turns. Times are whole commands: start-up of Python and boards,
the episode, the comparison with TensorFlow Lite Micro. Images are built, and instructions counted, before.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from balance_hil.benchmarks import row
from balance_hil.errors import HarnessError

BOARDS = ("qemu-m4", "qemu-m7", "f405")
CLOCKS = ("realtime", "lockstep")
TURNS = 3
SECONDS = 20.0


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio. Raises HarnessError where a board does not work."""
    _run([",".join(BOARDS)], "lockstep", 0.1)
    rows = []
    for clock in CLOCKS:
        one, all_of_them = f"{clock}, one after the other", f"{clock}, at once"
        measured: dict[str, list[tuple[float, int]]] = {one: [], all_of_them: []}
        for _ in range(TURNS):
            measured[one].append(_run(BOARDS, clock, SECONDS))
            measured[all_of_them].append(_run([",".join(BOARDS)], clock, SECONDS))
        ratio = statistics.median(b[0] / a[0] for a, b in zip(measured[one], measured[all_of_them], strict=True))
        for what, turns in measured.items():
            versus = (one, ratio) if what == all_of_them else ()
            rows.append(row(what, "wall time", statistics.median(wall_s for wall_s, _ in turns), "s", *versus))
            if clock == "realtime":
                rows.append(row(what, "late and lost replies", sum(misses for _, misses in turns), ""))
    return rows


def _run(calls: Any, clock: str, seconds: float) -> tuple[float, int]:
    """Wall time of one command after the other, and how many replies were late or lost."""
    misses, start_s = 0, time.perf_counter()
    for boards in calls:
        words = ["run", "ppo", "--board", boards, "--clock", clock, "--seconds", str(seconds)]
        options = ["--no-record", "--no-history", "--json"]
        done = subprocess.run([sys.executable, "-m", "balance_hil", *words, *options], capture_output=True, text=True)
        if done.returncode:
            raise HarnessError(
                f"hil {' '.join(words)} failed: {done.stderr.strip()[-500:]}", "check the installation: hil doctor"
            )
        misses += sum(each["late"] + each["lost"] for each in json.loads(done.stdout)["runs"])
    return time.perf_counter() - start_s, misses
