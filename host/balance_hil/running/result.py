"""What a run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from balance_hil.boards import BoardInfo
from balance_hil.bundle import Bundle
from balance_hil.distribution import Distribution
from balance_hil.documents import CostDocument, EqualsTflmDocument, MemoryDocument, OneRunDocument
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, Metric, Verdict, summarize
from balance_hil.running.config import Clock
from balance_hil.running.misses import Cause
from balance_hil.running.trace import TflmCheck
from balance_hil.runtimes.tflm import is_emulated

Priority = Literal["real-time", "normal"]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of the board as it reports it, in bytes; 0: unknown."""

    arena_used: int
    arena_size: int
    stack: int  # the most that was in use, as far as measured
    ram: int  # static, the arena included
    flash: int  # the image: code, constants, the model

    @classmethod
    def of(cls, info: BoardInfo, stack: int | None = None) -> Memory:
        """From INFO, with the stack high-water mark of a later STATS."""
        return cls(
            arena_used=info.arena_used,
            arena_size=info.arena_size,
            stack=info.stack if stack is None else stack,
            ram=info.ram,
            flash=info.flash,
        )

    def to_document(self) -> MemoryDocument:
        """Plain JSON types."""
        return cast(MemoryDocument, asdict(self))


OUTCOME = (
    "metrics",
    "late",
    "lost",
    "unsent",
    "rejected",
    "reboots",
    "injected_faults",
    "interventions",
    "equals_tflm",
    "verdict",
)
OUTCOME_TIMED = ("memory_bytes", "miss_causes", "bad_frames", "cycles_per_inference", "cost")
OUTCOME_REALTIME = ("stalls", "priority", "control_rate_hz")
MAX_REBOOTS = 3  # in a run: a board that keeps rebooting fails it even if the plant survives


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run. Timings are microseconds of the run's clock, but for ``inference_us``, which is the board's."""

    bundle: Bundle
    board: str
    processor: str
    engine: str
    engine_version: str
    firmware_commit: str
    port: str
    memory: Memory
    cost: CostDocument | None  # of one inference; None: not known
    cycles_per_us: float | None  # of the processor; None: its times are not its own
    environment: str
    clock: Clock
    metrics: Sequence[Metric]
    episodes: Sequence[EpisodeMetrics]
    round_trip_us: Distribution
    inference_us: Distribution
    jitter_us: Distribution  # realtime only: how late control steps began
    stalls_ms: Distribution  # realtime only: each time this computer fell behind by more than a control period
    steps: int
    wall_s: float  # of the control loop, without start and checks
    priority: Priority  # that this computer gave the loop and an emulated board
    late: int
    lost: int
    unsent: int
    rejected: int  # invalid replies, not applied
    first_rejected: str
    miss_causes: Mapping[Cause, int]  # of late and lost replies; see ``running.misses``
    reboots: int
    held_steps: int
    longest_hold: int
    bad_frames: int
    injected_faults: dict[str, int]
    faults: Sequence[str]  # that were to be injected
    fault_seed: int | None  # None: none
    interventions: dict[str, int]  # by hand, on the live page: count of each kind
    tflm_check: TflmCheck
    interrupted: bool  # by Ctrl-C: this is what was done until then
    recording: Path | None

    @property
    def summary(self) -> EvaluationSummary:
        """Success and metrics over all episodes."""
        return summarize(self.episodes, self.metrics)

    @property
    def control_rate_hz(self) -> float:
        """Control steps per second of wall time."""
        return self.steps / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def verdict(self) -> Verdict:
        """Good when no episode failed, nothing differs from tflm and the board stayed up. (Too many losses end a run.)"""
        reasons = ["interrupted"] if self.interrupted else []
        if failed := [episode for episode in self.episodes if episode.failed]:
            which = ", ".join(f"seed {episode.seed} after {episode.steps} steps" for episode in failed)
            reasons.append(f"{len(failed)} of {len(self.episodes)} episodes failed: {which}")
        if not self.episodes:
            reasons.append("no episode was run")
        check = self.tflm_check
        if check.differing:
            reasons.append(
                f"{check.differing} of {check.checked} outputs differ from TensorFlow Lite Micro; see where: hil compare"
            )
        if self.rejected:
            reasons.append(f"{self.rejected} replies were wrong and not applied; {self.first_rejected}")
        own_reboots = self.reboots - sum(self.injected_faults.get(name, 0) for name in ("reboot", "power-cycle"))
        if own_reboots > MAX_REBOOTS:
            reasons.append(
                f"the board rebooted {own_reboots} times, {MAX_REBOOTS} are allowed: look at its supply and reset cause"
            )
        return Verdict(tuple(reasons))

    def outcome(self) -> dict[str, Any]:
        """What a recording keeps of it: JSON types, in lockstep and on the device clock only what repeats."""
        timed = {"lockstep": (), "device": OUTCOME_TIMED, "realtime": (*OUTCOME_TIMED, *OUTCOME_REALTIME)}
        names = (*OUTCOME, *timed[self.clock])
        return {name: value for name, value in self.to_dict().items() if name in names}

    @property
    def instructions(self) -> int | None:
        """Of one inference; None: not counted."""
        return self.cost["parts"]["engine"] if self.cost is not None and self.cost["unit"] == "instructions" else None

    @property
    def cycles(self) -> int | None:
        """Median of the cycles of one inference, to about a microsecond's; None where they mean nothing."""
        if self.cycles_per_us is None or not self.inference_us.count:
            return None
        return round(self.inference_us.quantile(0.5) * self.cycles_per_us)

    def to_dict(self) -> OneRunDocument:
        """One run of the document of ``hil run --json``."""
        summary, check, causes = self.summary, self.tflm_check, self.miss_causes
        return {
            "bundle": {"name": self.bundle.path.resolve().name, "id": self.bundle.id, "path": str(self.bundle.path)},
            "board": self.board,
            "processor": self.processor,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "firmware_commit": self.firmware_commit,
            "port": self.port,
            "memory_bytes": self.memory.to_document(),
            "instructions_per_inference": self.instructions,
            "cycles_per_inference": self.cycles,
            "cost": self.cost,
            "environment": self.environment,
            "clock": self.clock,
            "episodes": [episode.to_dict() for episode in self.episodes],
            "success_rate": summary.success_rate,
            "metrics": dict(summary.metrics),
            "round_trip_us": self.round_trip_us.to_document(),
            "inference_us": self.inference_us.to_document(),
            "jitter_us": self.jitter_us.to_document(),
            "late": self.late,
            "lost": self.lost,
            "unsent": self.unsent,
            "rejected": self.rejected,
            "miss_causes": {"host": causes["host"], "board": causes["board"], "link": causes["link"]},
            "reboots": self.reboots,
            "held_steps": self.held_steps,
            "longest_hold_steps": self.longest_hold,
            "stalls": {"count": self.stalls_ms.count, "total_ms": round(self.stalls_ms.total, 1)},
            "bad_frames": self.bad_frames,
            "injected_faults": self.injected_faults,
            "faults": list(self.faults),
            "fault_seed": self.fault_seed,
            "interventions": self.interventions,
            "priority": self.priority,
            "control_rate_hz": round(self.control_rate_hz, 1),
            "equals_tflm": equals_tflm(check),
            "interrupted": self.interrupted,
            "recording": str(self.recording) if self.recording else None,
            "verdict": self.verdict.to_dict(),
        }


def equals_tflm(check: TflmCheck) -> EqualsTflmDocument | None:
    """Plain JSON types; None where nothing was compared."""
    if check.differing is None:
        return None
    return {"checked": check.checked, "differing": check.differing, "emulated": is_emulated()}
