"""A soak: real-time episodes back to back for hours, their statistics, and a recording of each anomaly.

An episode is a run of its own (``running.run``), so whatever holds for a run holds here. After an error an emulated board is
power-cycled, a physical one identified again, and the soak goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.distribution import Distribution
from balance_hil.documents import GrowthDocument, OneSoakDocument, SoakMinuteDocument, SoakStatisticsDocument
from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import HarnessError
from balance_hil.interrupt import Interrupt
from balance_hil.metrics import Verdict
from balance_hil.recording import RecordingWriter
from balance_hil.recording.format import step_encoder
from balance_hil.running.anomalies import Anomaly, AnomalyCatcher, AnomalyFolder
from balance_hil.running.config import RunConfig, Tick
from balance_hil.running.episode import RunLog
from balance_hil.running.resources import Resources, resources_of
from balance_hil.running.result import RunResult, equals_tflm
from balance_hil.running.run import metadata, prepare
from balance_hil.running.trace import TflmCheck, disk_errors

MINUTE_S = 60.0
MAX_EPISODE_S = 60.0  # statistics are taken between episodes
MAX_ERRORS_IN_A_ROW = 3  # after which the board is given up
MAX_KEPT_ERRORS = 10
# Growth in the second half of the soak. A leak grows on; caches and the room for anomalies are filled once.
MAX_GROWTH = Resources(memory_bytes=4 << 20, descriptors=2, threads=2)
COUNTS = ("late", "lost", "unsent", "rejected", "reboots", "held_steps")


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """One soak on one board."""

    duration_s: float
    first_seed: int  # the episodes' seeds count up from here
    run: RunConfig  # of an episode; its seeds and clock are not used
    folder: Path  # of the recordings of anomalies


@dataclass
class Statistics:
    """Of some episodes."""

    episodes: int = 0
    failed: int = 0
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # COUNTS
    causes: Counter[str] = field(default_factory=Counter)  # of late and lost replies
    anomalies: int = 0
    round_trip_us: Distribution = field(default_factory=Distribution)
    inference_us: Distribution = field(default_factory=Distribution)
    jitter_us: Distribution = field(default_factory=Distribution)
    stalls_ms: Distribution = field(default_factory=Distribution)

    def add(self, run: RunResult, anomalies: int) -> None:
        """Adds one episode."""
        self.episodes += len(run.episodes)
        self.failed += sum(episode.failed for episode in run.episodes)
        self.steps += run.steps
        self.counts.update({name: getattr(run, name) for name in COUNTS})
        self.causes.update(run.miss_causes)
        self.anomalies += anomalies
        for name in ("round_trip_us", "inference_us", "jitter_us", "stalls_ms"):
            getattr(self, name).merge(getattr(run, name))

    def to_document(self) -> SoakStatisticsDocument:
        """Plain JSON types."""
        counts, causes = self.counts, self.causes
        return {
            "episodes": self.episodes,
            "failed": self.failed,
            "steps": self.steps,
            "late": counts["late"],
            "lost": counts["lost"],
            "unsent": counts["unsent"],
            "rejected": counts["rejected"],
            "reboots": counts["reboots"],
            "held_steps": counts["held_steps"],
            "miss_causes": {"host": causes["host"], "board": causes["board"], "link": causes["link"]},
            "anomalies": self.anomalies,
            "round_trip_us": self.round_trip_us.to_document(),
            "inference_us": self.inference_us.to_document(),
            "jitter_us": self.jitter_us.to_document(),
            "stalls": {"count": self.stalls_ms.count, "total_ms": round(self.stalls_ms.total, 1)},
        }


@dataclass(kw_only=True)
class SoakResult:
    """One soak. ``host`` is the growth of this program in the second half, ``emulator`` that of an emulated board's processes."""

    board: str
    processor: str
    engine: str
    port: str
    bundle: Bundle
    environment: str
    folder: Path
    duration_s: float  # asked for
    elapsed_s: float = 0.0
    total: Statistics = field(default_factory=Statistics)
    minutes: list[SoakMinuteDocument] = field(default_factory=list)  # at the end; until then only the newest
    checked: int = 0  # replies compared with tflm
    differing: int | None = 0  # None: not compared
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    recoveries: int = 0  # after errors
    given_up: bool = False
    host: Resources | None = None
    emulator: Resources | None = None
    growth_steps: int = 0  # control steps in which they grew
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """Good when nothing failed, nothing was wrong, the board never rebooted and nothing grew. Misses are reported only."""
        reasons = ["interrupted"] if self.interrupted else []
        if self.given_up:
            reasons.append(f"given up after {self.elapsed_s:.0f} of {self.duration_s:.0f} s")
        if self.errors:
            reasons.append(f"{self.errors} episodes ended in an error; the first: {self.first_errors[0]}")
        if not self.total.episodes:
            reasons.append("no episode was run")
        if self.total.failed:
            reasons.append(f"{self.total.failed} of {self.total.episodes} episodes failed")
        if self.differing:
            reasons.append(f"{self.differing} of {self.checked} outputs differ from TensorFlow Lite Micro")
        if rejected := self.total.counts["rejected"]:
            reasons.append(f"{rejected} replies were wrong and not applied")
        if reboots := self.total.counts["reboots"]:
            reasons.append(f"the board rebooted {reboots} times")
        for of, growth in (("this program", self.host), ("the emulator", self.emulator)):
            reasons += [] if growth is None else self._grown(of, growth)
        return Verdict(tuple(reasons))

    def _grown(self, of: str, growth: Resources) -> list[str]:
        reasons = []
        if growth.memory_bytes > MAX_GROWTH.memory_bytes:
            per_step = growth.memory_bytes / max(1, self.growth_steps)
            reasons.append(
                f"the memory of {of} grew by {growth.memory_bytes / 2**20:.1f} MiB, {per_step:.0f} bytes a control step"
            )
        for name in ("descriptors", "threads"):
            if getattr(growth, name) > getattr(MAX_GROWTH, name):
                reasons.append(f"{of} has {getattr(growth, name)} more {name}")
        return reasons

    def to_dict(self) -> OneSoakDocument:
        """One soak of the document of ``hil soak --json``."""
        steps = self.growth_steps
        check = TflmCheck(checked=self.checked, differing=self.differing, skipped=None)
        return {
            "bundle": {"name": self.bundle.path.resolve().name, "id": self.bundle.id, "path": str(self.bundle.path)},
            "board": self.board,
            "processor": self.processor,
            "engine": self.engine,
            "port": self.port,
            "environment": self.environment,
            "duration_s": round(self.duration_s, 1),
            "elapsed_s": round(self.elapsed_s, 1),
            **self.total.to_document(),
            "equals_tflm": equals_tflm(check),
            "errors": self.errors,
            "first_errors": self.first_errors,
            "recoveries": self.recoveries,
            "growth": {"host": _growth(self.host, steps), "emulator": _growth(self.emulator, steps)},
            "anomaly_recordings": str(self.folder) if self.total.anomalies else None,
            "minutes": self.minutes,
            "interrupted": self.interrupted,
            "verdict": self.verdict.to_dict(),
        }


def _growth(growth: Resources | None, steps: int) -> GrowthDocument | None:
    if growth is None:
        return None
    return {**growth.to_document(), "memory_bytes_per_step": round(growth.memory_bytes / max(1, steps), 2)}


def soak(
    board: Board,
    bundle: Bundle,
    config: SoakConfig,
    environment: Environment,
    on_tick: Callable[[Tick], None] | None = None,
    on_minute: Callable[[SoakResult], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> SoakResult:
    """Runs real-time episodes one after the other until ``config.duration_s`` is over; the last one is finished.

    Ctrl-C ends it at the next control step; the result says so.

    Args:
        board: identified; it must run ``bundle``.
        bundle: the policy.
        config: what to do.
        environment: from ``open_plant``; it stays open.
        on_tick: called once per control step, while the loop waits; it must be quick.
        on_minute: called between episodes, about once a minute and at the end; the newest minute is the last one.
        on_wait: called with a message when an episode waits for other runs on this computer to end.

    Raises:
        ModelMismatchError: the board runs another model.
        RecordingError: an anomaly cannot be recorded, or a temporary file cannot be written.
    """
    return _Soak(board, bundle, config, environment, on_tick, on_minute, on_wait).run()


class _Soak:
    def __init__(
        self,
        board: Board,
        bundle: Bundle,
        config: SoakConfig,
        env: Environment,
        on_tick: Callable[[Tick], None] | None,
        on_minute: Callable[[SoakResult], None] | None,
        on_wait: Callable[[str], None] | None,
    ) -> None:
        self._board, self._bundle, self._config, self._env = board, bundle, config, env
        self._on_tick, self._on_minute, self._on_wait = on_tick, on_minute, on_wait
        max_steps = min(require_control_steps(env, config.run.max_steps), round(MAX_EPISODE_S / env.spec.control_period_s))
        self._run_config = replace(config.run, clock="realtime", recording=None, max_steps=max(1, max_steps))
        self._folder = AnomalyFolder(config.folder, self._record)
        self._catcher = AnomalyCatcher(env.spec.control_period_s, step_encoder(bundle.spec, env.trace), env.scene)
        self._minute = Statistics()
        with disk_errors():
            self._minutes = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by ``run``
        self._held: dict[str, Resources] = {}  # at the end of the last minute of the first half
        self._steps_before = 0  # until then
        self._seed = config.first_seed
        self.result = SoakResult(
            board=board.name,
            processor=board.info.processor,
            engine=f"{board.info.engine} {board.info.engine_version}",
            port=board.port,
            bundle=bundle,
            environment=env.spec.environment,
            folder=config.folder,
            duration_s=config.duration_s,
        )

    def run(self) -> SoakResult:
        result, start_s = self.result, time.monotonic()
        next_minute_s = min(MINUTE_S, self._config.duration_s / 10)  # the first one is shorter in a short soak
        errors_in_a_row = 0
        with Interrupt() as stop, self._minutes, contextlib.closing(self._catcher):
            while not result.given_up and not result.interrupted and result.elapsed_s < self._config.duration_s:
                error = self._episode(stop)
                errors_in_a_row = 0 if error is None else errors_in_a_row + 1
                if error is not None:
                    result.given_up = errors_in_a_row == MAX_ERRORS_IN_A_ROW or not self._recover()
                result.elapsed_s = time.monotonic() - start_s
                if result.elapsed_s >= next_minute_s:
                    self._end_minute()
                    next_minute_s = result.elapsed_s + MINUTE_S
            if self._minute.episodes:
                self._end_minute()
            with disk_errors():
                self._minutes.seek(0)
                result.minutes = [json.loads(line) for line in self._minutes]
        return result

    def _episode(self, stop: Interrupt) -> HarnessError | None:
        """Runs the next episode. Returns the error that ended it."""
        result = self.result
        config = replace(self._run_config, seeds=[self._seed])
        self._seed += 1
        catcher = self._catcher
        catcher.clear()
        injections = self._board.faults.injections if self._board.faults else None
        log = RunLog([catcher], self._on_tick, timed=True, injections=injections, on_wait=self._on_wait)
        error = None
        with prepare(self._board, self._bundle, config, self._env, log, stop) as episode:
            try:
                episode.execute()
            except KeyboardInterrupt:
                result.interrupted = True
            except HarnessError as exc:
                error = exc
            run = episode.result(interrupted=result.interrupted or error is not None)
        if error is not None:
            result.errors += 1
            if len(result.first_errors) < MAX_KEPT_ERRORS:
                result.first_errors.append(error.message)
            catcher.end(type(error).__name__, log.before_s, run.steps, error.message)
        for anomaly in catcher.found:
            self._folder.add(anomaly)
        result.folder = self._folder.folder
        for statistics in (result.total, self._minute):
            statistics.add(run, catcher.count)
        if run.tflm_check.differing is not None and result.differing is not None:
            result.checked += run.tflm_check.checked
            result.differing += run.tflm_check.differing
        elif error is None and not result.interrupted:
            result.differing = None
        return error

    def _recover(self) -> bool:
        """Brings the board back after an error; False where that fails."""
        try:
            if self._board.process_ids:
                self._board.power_cycle()
            else:
                self._board.identify()
        except HarnessError as exc:
            self.result.first_errors = [*self.result.first_errors, exc.message][:MAX_KEPT_ERRORS]
            return False
        self.result.recoveries += 1
        return True

    def _end_minute(self) -> None:
        result = self.result
        held = {"host": resources_of([os.getpid()]), "emulator": resources_of(self._board.process_ids)}
        for of, resources in held.items():
            if resources is not None:
                if of not in self._held or result.elapsed_s <= self._config.duration_s / 2:
                    self._held[of] = resources
                    self._steps_before = result.total.steps
                setattr(result, of, resources.since(self._held[of]))
        result.growth_steps = result.total.steps - self._steps_before
        minute: SoakMinuteDocument = {
            "elapsed_s": round(result.elapsed_s, 1),
            **self._minute.to_document(),
            "host": held["host"].to_document() if held["host"] else None,
            "emulator": held["emulator"].to_document() if held["emulator"] else None,
        }
        result.minutes = [minute]
        with disk_errors():
            self._minutes.write(json.dumps(minute) + "\n")
            self._minutes.flush()
        self._minute = Statistics()
        if self._on_minute is not None:
            self._on_minute(result)

    def _record(self, path: Path, anomaly: Anomaly) -> None:
        """Writes an anomaly as a recording. Raises RecordingError."""
        meta: dict[str, Any] = metadata(self._board, self._bundle, replace(self._run_config, seeds=[self._seed - 1]), self._env)
        with RecordingWriter(
            path, meta, self._bundle.spec, self._env.trace, start_ns=time.time_ns(), scene=self._env.scene
        ) as writer:
            self._catcher.write(anomaly, writer)
            verdict = Verdict((f"excerpt of a soak: {anomaly.kind}: {anomaly.detail}",))
            writer.result = {"metrics": {}, "verdict": verdict.to_dict()}
