"""Recordings of what went wrong in a soak: each holds one anomaly and the second around it. Their number is bounded."""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.errors import RecordingError
from balance_hil.recording import RecordingWriter, Step
from balance_hil.recording.format import Encode
from balance_hil.recording.foxglove import Scene
from balance_hil.running.trace import BUFFER_BYTES, disk_errors

AROUND_S = 0.5  # before an anomaly, and after it
FIRST, WORST = 100, 20  # recorded: the first ones, and after them those with the longest round trips
PER_EPISODE = 10  # more are counted and not recorded
NOT_ANOMALIES = ("identified",)  # the end of a reboot


@dataclass
class Anomaly:
    """A fault, those that follow within AROUND_S, and the steps around them."""

    kind: str
    detail: str  # of the first fault
    at: int = 0  # of its first entry in the catcher's file
    entries: int = 0
    left: int = 0  # steps that are still to come
    worst_us: float = 0.0  # longest round trip of a late reply


class AnomalyCatcher:
    """Keeps the latest steps of an episode, and what happens around faults. It takes the place of a recording.

    Anomalies are in a temporary file without a name: however many there are, they take no memory.

    Args:
        control_period_s: of the environment.
        encode: a ``step_encoder``.
        scene: of the environment; None: nothing is shown in 3D.

    Raises:
        RecordingError: the file cannot be written or read; so do all methods.
    """

    def __init__(self, control_period_s: float, encode: Encode, scene: Scene | None) -> None:
        self.result: Mapping[str, Any] | None = None
        self.found: list[Anomaly] = []
        self.count = 0
        self._encode, self._scene = encode, scene
        self._around = max(1, round(AROUND_S / control_period_s))
        self._recent: deque[tuple[Any, ...]] = deque(maxlen=2 * self._around)  # as ``RecordingWriter.encoded_step`` takes them
        self._open: Anomaly | None = None
        with disk_errors():
            self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES)  # noqa: SIM115 - closed by ``close``

    def clear(self) -> None:
        """A new episode begins."""
        self.found.clear()
        self.count = 0
        self._recent.clear()
        self._open = None
        with disk_errors():
            self._file.seek(0)
            self._file.truncate()

    def close(self) -> None:
        """Deletes the file."""
        with disk_errors():
            self._file.close()

    def step(self, run_s: float, step: Step) -> None:
        """See ``RecordingWriter.step``."""
        poses = None if self._scene is None or step.state is None else self._scene.poses(step.state)
        self._recent.append((run_s, self._encode(step), poses))
        if self._open is not None:
            self._keep("encoded_step", *self._recent[-1])
            self._open.left -= 1
            if self._open.left <= 0:
                self._open = None

    def fault(self, run_s: float, episode: int, step: int, kind: str, detail: str = "", **numbers: float) -> None:
        """See ``RecordingWriter.fault``."""
        if self._open is None:
            if kind in NOT_ANOMALIES:
                return
            self._begin(kind, detail, list(self._recent)[-self._around :])
        if self._open is not None:
            self._keep("fault", run_s, episode, step, kind, detail, **numbers)
            self._open.worst_us = max(self._open.worst_us, numbers.get("round_trip_us", 0.0))

    def injected(self, run_s: float, episode: int, step: int, fault: str, direction: str, values: Mapping[str, float]) -> None:
        """See ``RecordingWriter.injected``."""
        if self._open is not None:
            self._keep("injected", run_s, episode, step, fault, direction, values)

    def episode(self, run_s: float, result: Mapping[str, Any]) -> None:
        """See ``RecordingWriter.episode``."""
        if result["failed"]:
            self.end("failed", run_s, result["steps"], f"the episode with seed {result['seed']} failed")

    def end(self, kind: str, run_s: float, step: int, detail: str) -> None:
        """The episode ended with an anomaly."""
        self._open = None
        del self.found[PER_EPISODE - 1 :]  # this one is recorded in any case
        self._begin(kind, detail, list(self._recent))
        self._keep("fault", run_s, 0, step, kind, detail)

    def write(self, anomaly: Anomaly, writer: RecordingWriter) -> None:
        """Writes one of ``found`` to a recording."""
        with disk_errors():
            self._file.seek(anomaly.at)
            for _ in range(anomaly.entries):
                method, arguments, numbers = pickle.load(self._file)  # noqa: S301 - this process wrote it; it has no name
                getattr(writer, method)(*arguments, **numbers)

    def _begin(self, kind: str, detail: str, before: Iterable[tuple[Any, ...]]) -> None:
        self.count += 1
        if len(self.found) < PER_EPISODE:
            with disk_errors():
                self._open = Anomaly(kind, detail, self._file.seek(0, os.SEEK_END), left=self._around)
            self.found.append(self._open)
            for step in before:
                self._keep("encoded_step", *step)

    def _keep(self, method: str, *arguments: Any, **numbers: float) -> None:
        """Adds an entry to the open anomaly: a call of ``RecordingWriter``."""
        assert self._open is not None
        self._open.entries += 1
        with disk_errors():
            pickle.dump((method, arguments, numbers), self._file, pickle.HIGHEST_PROTOCOL)


def _new_folder(path: Path) -> Path:
    """Creates ``path``, or, where another soak has it, path-2 and so on. Raises RecordingError."""
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as exc:
            raise RecordingError(f"cannot create {folder}: {exc.strerror}", "run it in a folder that can be written") from exc
        return folder
    raise AssertionError


class AnomalyFolder:
    """Records anomalies in a folder: the first ones, and the worst of the others.

    Args:
        folder: created with the first anomaly, under the name FOLDER-2, -3, … if it is there already.
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
        if self.count == 1:
            self.folder = _new_folder(self.folder)
        if self.count > FIRST and len(self._worst) == WORST and anomaly.worst_us <= self._worst[0][0]:
            return
        path = self.folder / f"{self.count:06}-{anomaly.kind}.mcap"
        self._write(path, anomaly)
        if self.count > FIRST:
            heapq.heappush(self._worst, (anomaly.worst_us, path))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)[1].unlink(missing_ok=True)
