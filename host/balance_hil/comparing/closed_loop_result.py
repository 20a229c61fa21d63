"""What a closed-loop comparison found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from balance_hil.comparing.paired import PairedDifference, SurvivalDifference
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary

METHOD = (
    "tracking: mean paired difference b - a over the seeds that both survived, sign-flip permutation test, percentile bootstrap "
    "interval over seeds (10000 resamples); survival: exact McNemar test; all two-sided, family-wise error 5 % by Bonferroni "
    "over 4 tests"
)


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first differing answer of one seed. Up to that step both episodes are equal, bit for bit."""

    seed: int
    step: int  # control step, counts from 0
    t_s: float
    output: int  # element of the action; the lowest one that differs
    signal: str  # its name
    a: float  # action of a, float32
    b: float
    lsb: float  # (b - a) in steps of the int8 output; a whole number between int8 runtimes
    outputs_differing: int  # elements of the action that differ in that step
    departed: str | None  # who does not answer what tflm answers: "a", "b", "both"; None: unknown
    first_layer: int | None  # operator whose output differs first, on equal int8 inputs; None: none seen
    first_operator: str | None
    trajectory_step: int | None  # first step in which another action reached the wheels; None: never


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Everything that one closed-loop comparison found. ``to_dict`` is the ``--json`` document."""

    bundle: str  # id
    environment: str
    a: str
    b: str
    seeds: tuple[int, ...]
    partings: tuple[Parting, ...]  # of the seeds whose answers differ somewhere, by seed
    survival: SurvivalDifference
    tracking: tuple[PairedDifference, ...]  # empty when no seed was survived by both
    summary_a: EvaluationSummary
    summary_b: EvaluationSummary
    episodes_a: tuple[EpisodeMetrics, ...]  # by seed
    episodes_b: tuple[EpisodeMetrics, ...]

    @property
    def parted(self) -> int:
        """How many seeds' trajectories parted."""
        return sum(parting.trajectory_step is not None for parting in self.partings)

    @property
    def differs(self) -> tuple[str, ...]:
        """Names of what differs beyond chance: "survival" and metrics."""
        survival = ("survival",) if self.survival.differs else ()
        return survival + tuple(row.metric for row in self.tracking if row.differs)

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        if not self.partings:
            return f"{self.a} and {self.b} drive the same {len(self.seeds)} episodes, bit for bit"
        parted = f"trajectories of {self.a} and {self.b} part in {self.parted} of {len(self.seeds)} episodes"
        if self.differs:
            return f"{parted}; what differs beyond chance: {', '.join(self.differs)}"
        if not self.tracking or self.tracking[0].too_few:
            return f"{parted}; too few episodes were survived by both to judge tracking"
        return f"{parted}; survival and tracking do not differ beyond chance"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; docs/replay.md explains the keys."""
        document = asdict(self)
        for name in ("seeds", "partings", "tracking", "episodes_a", "episodes_b"):
            document[name] = list(document[name])
        return document | {
            "parted": self.parted,
            "differs": list(self.differs),
            "method": METHOD,
            "verdict": self.verdict,
        }
