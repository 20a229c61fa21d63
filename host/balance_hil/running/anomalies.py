"""Recordings of what went wrong in a soak: each holds one anomaly and the second around it. Their number is bounded."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance_hil.recording import Step

AROUND_S = 0.5  # before an anomaly, and after it
FIRST, WORST = 100, 20  # recorded: the first ones, and after them those with the longest round trips
PER_EPISODE = 10  # more are counted and not recorded, so that memory is bounded
NOT_ANOMALIES = ("identified",)  # the end of a reboot


@dataclass
class Anomaly:
    """A fault, those that follow within AROUND_S, and the steps around them."""

    kind: str
    steps: list[tuple[float, Step]]  # simulated time since the run began, in seconds
    faults: list[tuple[float, int, int, str, str, Mapping[str, float]]] = field(default_factory=list)
    left: int = 0  # steps that are still to come
    worst_us: float = 0.0  # longest round trip of a late reply


class AnomalyCatcher:
    """Keeps the latest steps of an episode and what happens around faults. It takes the place of a recording.

    Args:
        control_period_s: of the environment.
    """

    def __init__(self, control_period_s: float) -> None:
        self.result: Mapping[str, Any] | None = None
        self.found: list[Anomaly] = []
        self.count = 0
        self._around = max(1, round(AROUND_S / control_period_s))
        self._recent: deque[tuple[float, Step]] = deque(maxlen=2 * self._around)
        self._open: Anomaly | None = None

    def step(self, run_s: float, step: Step) -> None:
        """See ``RecordingWriter.step``."""
        self._recent.append((run_s, step))
        if self._open is not None:
            self._open.steps.append((run_s, step))
            self._open.left -= 1
            if self._open.left <= 0:
                self._open = None

    def fault(self, run_s: float, episode: int, step: int, kind: str, detail: str = "", **numbers: float) -> None:
        """See ``RecordingWriter.fault``."""
        if self._open is None:
            if kind in NOT_ANOMALIES:
                return
            self._begin(kind, list(self._recent)[-self._around :])
        if self._open is not None:
            self._open.faults.append((run_s, episode, step, kind, detail, numbers))
            self._open.worst_us = max(self._open.worst_us, numbers.get("round_trip_us", 0.0))

    def injected(self, run_s: float, episode: int, step: int, fault: str, direction: str, values: Mapping[str, float]) -> None:
        """See ``RecordingWriter.injected``: a soak injects no faults."""

    def episode(self, run_s: float, result: Mapping[str, Any]) -> None:
        """See ``RecordingWriter.episode``."""
        if result["failed"]:
            self.end("failed", run_s, result["steps"], f"the episode with seed {result['seed']} failed")

    def end(self, kind: str, run_s: float, step: int, detail: str) -> None:
        """The episode ended with an anomaly."""
        self._open = None
        del self.found[PER_EPISODE - 1 :]  # this one is recorded in any case
        self._begin(kind, list(self._recent))
        if self._open is not None:
            self.fault(run_s, 0, step, kind, detail)

    def _begin(self, kind: str, steps: list[tuple[float, Step]]) -> None:
        self.count += 1
        if len(self.found) < PER_EPISODE:
            self._open = Anomaly(kind, steps, left=self._around)
            self.found.append(self._open)


class AnomalyFolder:
    """Records anomalies in a folder: the first ones, and the worst of the others.

    Args:
        folder: created with the first anomaly.
        write: writes one to a file.
    """

    def __init__(self, folder: Path, write: Callable[[Path, Anomaly], None]) -> None:
        self.folder = folder
        self.count = 0
        self._write = write
        self._worst: list[tuple[float, Path]] = []  # a heap: the mildest first

    def add(self, anomaly: Anomaly) -> None:
        """Records it if it belongs to the first or the worst. Raises RecordingError."""
        self.count += 1
        if self.count > FIRST and len(self._worst) == WORST and anomaly.worst_us <= self._worst[0][0]:
            return
        path = self.folder / f"{self.count:06}-{anomaly.kind}.mcap"
        self._write(path, anomaly)
        if self.count > FIRST:
            heapq.heappush(self._worst, (anomaly.worst_us, path))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)[1].unlink(missing_ok=True)
