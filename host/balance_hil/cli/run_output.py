"""What ``hil run`` shows: one line while it runs, a table afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.table import Table

from balance_hil.cli.console import stderr, stdout
from balance_hil.runtimes.tflm import is_emulated as tflm_is_emulated

if TYPE_CHECKING:
    from balance_hil.distribution import Distribution
    from balance_hil.running import RunResult, Tick
    from balance_hil.running.trace import TflmCheck

SHOW_EVERY_S = 0.1
PLAIN_EVERY_S = 10.0  # where stderr is no terminal
HEADING_WIDTH, COLUMN_WIDTH = 40, 42  # of a table, for a board
TABLE_WIDTH = 160  # where stdout is no terminal


class LiveLine:
    """One line on stderr, redrawn ten times a second; a new line every ten seconds where stderr is no terminal.

    It is called between two control deadlines, so it writes the line itself (20 us): rich's Live would take the interpreter for a
    millisecond at a time, from a thread of its own at any moment.
    """

    def __init__(self, progress: Callable[[Tick], str], *, enabled: bool) -> None:
        self._progress = progress  # how far it is, at the start of the line
        self._enabled = enabled
        self._next_s = 0.0
        self._redraws = stderr.is_terminal
        self._width = stderr.width - 1 if self._redraws else None

    def show(self, tick: Tick) -> None:
        """Redraws the line when it is time."""
        if not self._enabled:
            return
        now = time.perf_counter()
        if now < self._next_s:
            return
        if not self._redraws and not self._next_s:
            self._next_s = now + PLAIN_EVERY_S
            return
        self._next_s = now + (SHOW_EVERY_S if self._redraws else PLAIN_EVERY_S)
        round_trip = "   held" if tick.round_trip_us is None else f"{tick.round_trip_us / 1e3:4.2f} ms"
        actions = " ".join(f"{value:+.2f}" for value in tick.action)
        plant = "" if tick.plant is None else f"{tick.plant[0]} {tick.plant[1]:+.3f}  "
        text = f"misses {tick.misses}  {self._progress(tick)} {tick.t_s:5.1f} s  round trip {round_trip}  {plant}action {actions}"
        sys.stderr.write(f"\r{text[: self._width]}\x1b[K" if self._redraws else f"{text}\n")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def clear(self) -> None:
        """Makes room for other output, until the next ``show``."""
        if self._enabled and self._redraws:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def print_runs(runs: Sequence[RunResult]) -> None:
    """The tables to stdout, with as many boards side by side as fit; what went wrong and where the recordings are to stderr."""
    if not runs:
        return
    console = stdout if stdout.is_terminal else Console(highlight=False, markup=False, width=TABLE_WIDTH)
    fitting = max(1, (console.width - HEADING_WIDTH) // COLUMN_WIDTH)
    for start in range(0, len(runs), fitting):
        console.print(_table(runs[start : start + fitting]))
    for run in runs:
        for line in _remarks(run):
            stderr.print(f"{run.board}: {line}", soft_wrap=True)
    for run in runs:
        style = "bold green" if run.verdict.good else "bold red"
        console.print(f"{run.board}: {run.verdict.line}", style=style, soft_wrap=True)


def _remarks(run: RunResult) -> list[str]:
    remarks = []
    if run.tflm_check.skipped is not None:
        remarks.append(f"outputs were not compared with TensorFlow Lite Micro: {run.tflm_check.skipped}")
    if stalls := run.stalls_ms.count:
        worst_ms = run.stalls_ms.max
        remarks.append(f"this computer stalled {stalls} times (up to {worst_ms:.0f} ms); the plant's clock waited for it")
    if run.reboots:
        remarks.append(f"the board rebooted {run.reboots} times and was resumed")
    if run.injected_faults:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(run.injected_faults.items()))
        remarks.append(f"injected faults (seed {run.fault_seed}): {counts}")
    if run.recording is not None:
        remarks.append(f"recording {run.recording}")
    return remarks


def _table(runs: Sequence[RunResult]) -> Table:
    """A column for each board."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("board", no_wrap=True, style="bold")
    for run in runs:
        table.add_column(run.board, overflow="fold", style="" if run.verdict.good else "red")
    rows = [_facts(run) for run in runs]
    for heading in rows[0]:
        table.add_row(heading, *(row[heading] for row in rows))
    return table


def _facts(run: RunResult) -> dict[str, str]:
    """What is worth knowing about a run, by heading."""
    summary, memory = run.summary, run.memory
    misses = run.late + run.lost + run.unsent
    return {
        "policy": f"{run.bundle.path.resolve().name} ({run.bundle.id}), {run.environment}",
        "clock": f"{run.clock}, {run.steps} steps at {run.control_rate_hz:.0f} Hz",
        "processor": run.processor,
        "engine": f"{run.engine} {run.engine_version}",
        "firmware": f"{run.firmware_commit}, {_bytes(memory.flash)}",
        "arena, static RAM, stack": f"{_bytes(memory.arena_used)}, {_bytes(memory.ram)}, {_bytes(memory.stack)}",
        "instructions per inference": "-" if run.instructions is None else f"{run.instructions:,}",
        "on the board, ms p50 / p99": times(run.inference_us, ".3f", ("p50", "p99")),
        "round trip, ms p50 / p99 / max": times(run.round_trip_us, ".2f", ("p50", "p99", "max")),
        "tick jitter, ms p50 / p99 / max": times(run.jitter_us, ".2f", ("p50", "p99", "max")),
        "misses (late, lost), steps held": f"{misses} ({run.late}, {run.lost + run.unsent}), {run.held_steps}",
        "misses by host, board, link": " / ".join(str(count) for count in run.miss_causes.values()),
        "episodes without failure": f"{summary.episodes - summary.failed} of {summary.episodes}",
        "board equals tflm": _equal(run.tflm_check) + (", which is emulated" if tflm_is_emulated() else ""),
        **{metric.name: f"{summary.metrics[metric.name]:.4g}" for metric in run.metrics},
    }


def _equal(check: TflmCheck) -> str:
    if check.differing is None:
        return "not checked"
    return f"{check.checked - check.differing} of {check.checked}"


def _bytes(number: int) -> str:
    """A size that the board reported; it reports 0 for what it does not know."""
    return f"{number:,} B" if number else "-"


def times(times_us: Distribution, pattern: str, names: Sequence[str]) -> str:
    """Quantiles of microseconds in ms, "-" without any."""
    if not times_us.count:
        return "-"
    return " / ".join(format(getattr(times_us, name) / 1e3, pattern) for name in names)
