"""What ``hil run`` shows: one line while it runs, a table afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from balance_hil.cli.console import stderr
from balance_hil.runtimes.tflm import is_emulated as tflm_is_emulated

if TYPE_CHECKING:
    from balance_hil.distribution import Distribution
    from balance_hil.running import RunResult, Tick
    from balance_hil.running.trace import TflmCheck

SHOW_EVERY_S = 0.1
MAX_LAYERS = 6
PLAIN_EVERY_S = 10.0  # where stderr is not a terminal


class LiveLine:
    """One line on stderr, redrawn ten times a second; a new line every ten seconds where stderr is not a terminal.

    It is called between two control deadlines, so it writes the line itself (20 us): rich's Live would take the interpreter for a
    millisecond at a time, from a thread of its own at any moment.
    """

    def __init__(self, progress: Callable[[Tick], str], *, enabled: bool, send: Callable[[str], None] | None = None) -> None:
        self._progress = progress  # how far it is, at the start of the line
        self._enabled = enabled
        self._send = send  # takes the text instead of stderr, ten times a second
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
        often = self._redraws or self._send is not None
        if not often and not self._next_s:
            self._next_s = now + PLAIN_EVERY_S
            return
        self._next_s = now + (SHOW_EVERY_S if often else PLAIN_EVERY_S)
        round_trip = "   held" if tick.round_trip_us is None else f"{tick.round_trip_us / 1e3:4.2f} ms"
        actions = " ".join(f"{value:+.2f}" for value in tick.action)
        plant = "" if tick.plant is None else f"{tick.plant[0]} {tick.plant[1]:+.3f}  "
        text = f"misses {tick.misses}  {self._progress(tick)} {tick.t_s:5.1f} s  round trip {round_trip}  {plant}action {actions}"
        if self._send is not None:
            self._send(text)
            return
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


def remarks(run: RunResult) -> list[str]:
    """What went wrong on this computer or the board, and where the recording is."""
    lines = []
    if run.tflm_check.skipped is not None:
        lines.append(f"outputs were not compared with TensorFlow Lite Micro: {run.tflm_check.skipped}")
    if stalls := run.stalls_ms.count:
        worst_ms = run.stalls_ms.max
        lines.append(f"this computer stalled {stalls} times (up to {worst_ms:.0f} ms); the plant's clock waited for it")
    if run.reboots:
        lines.append(f"the board rebooted {run.reboots} times and was resumed")
    if run.injected_faults:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(run.injected_faults.items()))
        lines.append(f"injected faults (seed {run.fault_seed}): {counts}")
    if run.interventions:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(run.interventions.items()))
        lines.append(f"the run was changed by hand, so it does not repeat: {counts}")
    if run.recording is not None:
        lines.append(f"recording {run.recording}")
    return lines


def facts(run: RunResult) -> dict[str, str]:
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
        "cost of an inference": _cost(run),
        "cost of its layers": _layers(run),
        "on the board, ms p50 / p99": times(run.inference_us, ".3f", ("p50", "p99")),
        "round trip, ms p50 / p99 / max": times(run.round_trip_us, ".2f", ("p50", "p99", "max")),
        "tick jitter, ms p50 / p99 / max": times(run.jitter_us, ".2f", ("p50", "p99", "max")),
        "misses (late, lost), steps held": f"{misses} ({run.late}, {run.lost + run.unsent}), {run.held_steps}",
        "misses by host, board, link": " / ".join(str(count) for count in run.miss_causes.values()),
        "episodes without failure": f"{summary.episodes - summary.failed} of {summary.episodes}",
        "board equals tflm": _equal(run.tflm_check) + (", which is emulated" if tflm_is_emulated() else ""),
        **{metric.name: f"{summary.metrics[metric.name]:.4g}" for metric in run.metrics},
    }


def _cost(run: RunResult) -> str:
    """Cycles where the board's times are its processor's, else instructions."""
    if run.cycles is not None:
        return f"{run.cycles:,} cycles, {run.inference_us.p50:.0f} us"
    return "-" if run.instructions is None else f"{run.instructions:,} instructions"


def _layers(run: RunResult) -> str:
    """In the order of the model; of one with many layers the first."""
    if run.cost is None:
        return "-"
    layers = [cost for name, cost in run.cost["parts"].items() if name[0].isdigit()]
    more = " …" if len(layers) > MAX_LAYERS else ""
    return " / ".join(f"{cost:,}" for cost in layers[:MAX_LAYERS]) + f"{more} {run.cost['unit']}" if layers else "-"


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
