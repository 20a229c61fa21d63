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
MANY = 1_000_000  # misses allowed: they are counted here


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio. Raises HarnessError where a board does not work.

    A computer that is too slow for all boards in real time has late replies and episodes that fail; no ratio is computed then.
    """
    _run([",".join(BOARDS)], "lockstep", 0.1)
    rows = []
    for clock in CLOCKS:
        one, all_of_them = f"{clock}, one after the other", f"{clock}, at once"
        measured: dict[str, list[tuple[float, int, int]]] = {one: [], all_of_them: []}
        for _ in range(TURNS):
            measured[one].append(_run(BOARDS, clock, SECONDS))
            measured[all_of_them].append(_run([",".join(BOARDS)], clock, SECONDS))
        ratio = statistics.median(b[0] / a[0] for a, b in zip(measured[one], measured[all_of_them], strict=True))
        all_good = not any(failed for turns in measured.values() for _, _, failed in turns)
        for what, turns in measured.items():
            versus = (one, ratio) if what == all_of_them and all_good else ()
            rows.append(row(what, "wall time", statistics.median(wall_s for wall_s, _, _ in turns), "s", *versus))
            if clock == "realtime":
                rows.append(row(what, "late and lost replies", sum(misses for _, misses, _ in turns), ""))
                rows.append(row(what, "failed episodes", sum(failed for _, _, failed in turns), ""))
    return rows


def _run(calls: Any, clock: str, seconds: float) -> tuple[float, int, int]:
    """Wall time of one command after the other; how many replies were late or lost, and how many episodes failed."""
    misses, failed, start_s = 0, 0, time.perf_counter()
    for boards in calls:
        words = ["run", "ppo", "--board", boards, "--clock", clock, "--seconds", str(seconds)]
        options = ["--max-lost", str(MANY), "--no-record", "--no-history", "--json"]
        done = subprocess.run([sys.executable, "-m", "balance_hil", *words, *options], capture_output=True, text=True)
        runs = json.loads(done.stdout)["runs"] if done.returncode in (0, 1) and done.stdout else []
        failures = sum(episode["failed"] for each in runs for episode in each.get("episodes", ()))
        if (done.returncode and not failures) or any("error" in each for each in runs):
            raise HarnessError(
                f"hil {' '.join(words)} failed: {done.stderr.strip()[-500:]}", "check the installation: hil doctor"
            )
        misses += sum(each["late"] + each["lost"] for each in runs)
        failed += failures
    return time.perf_counter() - start_s, misses, failed
