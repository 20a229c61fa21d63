"""What a closed-loop comparison found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, Verdict
from balance_hil.paired import PairedDifference, SuccessDifference

SCHEMA = "balance_hil/closed-loop@2"
METHOD = (
    "metrics: mean paired difference b - a over the seeds in which neither failed, "
    "sign-flip permutation test, percentile bootstrap "
    "interval over seeds (10000 resamples); success: exact McNemar test; all two-sided, family-wise error 5 % by Bonferroni "
    "over all tests"
)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first differing output of one seed. Up to that step both episodes are equal, bit for bit."""

    seed: int
    step: int  # control step, counts from 0
    t_s: float
    output: int  # element of the action; the lowest one that differs
    signal: str  # its name
    a: float  # action of a, float32
    b: float
    lsb: float  # (b - a) in steps of the int8 output; a whole number between int8 runtimes
    outputs_differing: int  # elements of the action that differ in that step
    unlike_tflm: str | None  # which one differs from tflm: "a", "b", "both"; None: unknown
    first_layer: int | None  # operator whose output differs first, on equal int8 inputs; None: none seen
    first_operator: str | None
    trajectory_step: int | None  # first step in which another action reached the plant; None: never


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Result of one closed-loop comparison. ``to_dict`` is the ``--json`` document."""

    bundle: str  # id
    environment: str
    a: str
    b: str
    seeds: tuple[int, ...]
    divergences: tuple[Divergence, ...]  # of the seeds with differing outputs, by seed
    success: SuccessDifference
    metrics: tuple[PairedDifference, ...]  # empty when in no seed both did without failure
    summary_a: EvaluationSummary
    summary_b: EvaluationSummary
    episodes_a: tuple[EpisodeMetrics, ...]  # by seed
    episodes_b: tuple[EpisodeMetrics, ...]

    @property
    def diverged(self) -> int:
        """Number of seeds whose trajectories diverged."""
        return sum(divergence.trajectory_step is not None for divergence in self.divergences)

    @property
    def differs(self) -> tuple[str, ...]:
        """Names of what differs beyond chance: "success" and metrics."""
        success = ("success",) if self.success.differs else ()
        return success + tuple(row.metric for row in self.metrics if row.differs)

    @property
    def verdict(self) -> Verdict:
        """Good when nothing differs beyond chance."""
        if not self.differs:
            return Verdict()
        return Verdict((f"{self.a} and {self.b} differ beyond chance in {', '.join(self.differs)}",))

    @property
    def summary(self) -> str:
        """One-sentence summary of a comparison with a good verdict."""
        if not self.divergences:
            return f"{self.a} and {self.b} drive the same {len(self.seeds)} episodes, bit for bit"
        diverged = f"trajectories of {self.a} and {self.b} diverge in {self.diverged} of {len(self.seeds)} episodes"
        if not self.metrics or self.metrics[0].too_few:
            return f"{diverged}; too few episodes without failure of either to judge the metrics"
        return f"{diverged}; success and metrics do not differ beyond chance"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; docs/json.md explains the keys."""
        document = {"schema": SCHEMA, **asdict(self)}
        for name in ("seeds", "divergences", "metrics", "episodes_a", "episodes_b"):
            document[name] = list(document[name])
        return document | {
            "diverged": self.diverged,
            "differs": list(self.differs),
            "method": METHOD,
            "summary": self.summary,
            "verdict": self.verdict.to_dict(),
        }
