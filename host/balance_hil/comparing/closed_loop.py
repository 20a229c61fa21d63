"""Two runtimes in closed loop on the same seeds: where the trajectories diverge, and whether success and metrics differ.

The simulation is deterministic, so both episodes of a seed are equal, bit for bit, up to the first action that differs. That
observation is then compared layer by layer, and with TensorFlow Lite Micro as the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import connect
from balance_hil.boards.bench import starts_here
from balance_hil.bundle import Bundle
from balance_hil.environment import Environment, open_for, require_control_steps
from balance_hil.errors import MissingExtraError, UsageError
from balance_hil.farm.campaign import HERE, Campaign, Task, content_hash
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, Metric, Verdict, summarize
from balance_hil.paired import PairedDifference, SuccessDifference, paired_difference, success_difference
from balance_hil.quantize import Float32Array
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep, rollout
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import ModelRuntime, Runtime

REFERENCE = "tflm"
BOARD = "board"  # the name of a board among runtimes
_BATCH = 10  # episodes side by side
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
    lsb: float  # (b - a) in steps of the raw output; a whole number between two ModelRuntimes
    outputs_differing: int  # elements of the action that differ in that step
    unlike_tflm: str | None  # which one differs from tflm: "a", "b", "both"; None: unknown
    first_layer: int | None  # operator whose output differs first, on equal raw inputs; None: none seen
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


@dataclass(frozen=True, kw_only=True)
class ClosedLoopConfig:
    """Which episodes."""

    episodes: int = 20
    seed: int = 1  # first episode, counted from the evaluation seeds
    max_steps: int | None = None  # None: the environment's

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0 or (self.max_steps is not None and self.max_steps < 1):
            raise UsageError("a closed loop needs at least one episode of at least one step", "give --episodes 20 --steps 6000")


@dataclass
class _Difference:
    """The first step of a seed in which the outputs differ."""

    step: int
    observation: Float32Array  # float32 [n_obs], the same for both
    a: Float32Array  # float32 [n_act], as the runtime gave it
    b: Float32Array
    applied_step: int | None = None  # first step in which the plant was given different actions; None: never, clipping hid it


@dataclass(frozen=True)
class Opened:
    """What the episodes of a pair of runtimes need."""

    bundle: Bundle
    environment: Environment
    a: Runtime  # a desktop runtime, or a board's ``as_runtime()``
    b: Runtime


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runtimes by name, which are opened wherever their episodes run."""

    bundle: Path
    a: str  # a name of RUNTIME_NAMES, or BOARD
    b: str
    board: str = "native"
    access: Mapping[str, Any] = field(default_factory=dict)  # further arguments of ``connect``

    @contextmanager
    def open(self) -> Iterator[Opened]:
        """Raises HarnessError: what ``Bundle.load``, ``connect`` and ``load_runtime`` raise."""
        bundle = Bundle.load(self.bundle)
        with ExitStack() as stack:
            runtimes = [
                stack.enter_context(connect(self.board, bundle, **self.access)).as_runtime()
                if name == BOARD
                else stack.enter_context(load_runtime(name, bundle))
                for name in (self.a, self.b)
            ]
            yield Opened(bundle, stack.enter_context(open_for(bundle.spec)), *runtimes)

    def depends_on(self) -> dict[str, Any]:
        """See ``Task``."""
        board = {"board": self.board, **self.access} if BOARD in (self.a, self.b) else {}
        return {"a": self.a, "b": self.b, "SHA-256 of the policy": content_hash(self.bundle), **board}


def closed_loop(
    pair: Pair,
    config: ClosedLoopConfig,
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> ClosedLoop:
    """Runs the same episodes under both runtimes, a few in each task of a campaign, and compares them.

    Args:
        pair: both runtimes.
        config: which episodes.
        on_progress: gets the completed share, 0..1, and how the last task ended.
        campaign: a physical board is used by one task at a time, on this computer.

    Raises:
        UsageError: a physical board is not on the cluster.
        HarnessError: what ``Pair.open``, ``Campaign.run`` and ``rollout`` raise (a lost board, an action that is not a number).
    """
    if BOARD in (pair.a, pair.b) and not starts_here(pair.board, pair.access.get("port")):
        campaign = campaign.of_one_at_a_time(pair.board)
    first = EVALUATION_SEED_BASE + config.seed
    seeds = range(first, first + config.episodes)
    depends_on = {"steps": config.max_steps, **pair.depends_on()}
    batches = [seeds[start : start + _BATCH] for start in range(0, len(seeds), _BATCH)]
    tasks = [Task(f"seeds {each[0]} to {each[-1]}", (pair, each, config.max_steps), depends_on) for each in batches]
    found: dict[int, dict[str, Any]] = {}
    for done, (task, result) in enumerate(campaign.run(_drive_batch, tasks), start=1):
        found[task.arguments[1][0]] = result
        on_progress(done / len(tasks), f"{task.name}: outputs differ in {len(result['divergences'])}")
    results = [found[batch[0]] for batch in batches]
    episodes_a, episodes_b = ([EpisodeMetrics(**each) for result in results for each in result[who]] for who in ("a", "b"))
    bundle = Bundle.load(pair.bundle)
    with open_for(bundle.spec) as environment:
        metrics = environment.metrics
    tests = len(metrics) + 1  # and success
    success = success_difference([not e.failed for e in episodes_a], [not e.failed for e in episodes_b], tests=tests)
    return ClosedLoop(
        bundle=bundle.id,
        environment=environment.spec.environment,
        a=results[0]["names"][0],
        b=results[0]["names"][1],
        seeds=tuple(seeds),
        divergences=tuple(Divergence(**each) for result in results for each in result["divergences"]),
        success=success,
        metrics=tuple(_metrics(metrics, episodes_a, episodes_b, tests)),
        summary_a=summarize(episodes_a, metrics),
        summary_b=summarize(episodes_b, metrics),
        episodes_a=tuple(episodes_a),
        episodes_b=tuple(episodes_b),
    )


def _drive_batch(pair: Pair, seeds: Sequence[int], max_steps: int | None) -> dict[str, Any]:
    """Runs in a worker process."""
    with pair.open() as opened:
        episodes_a, episodes_b, divergences = _drive(opened, seeds, max_steps)
        return {
            "names": [opened.a.name, opened.b.name],
            "a": [episode.to_dict() for episode in episodes_a],
            "b": [episode.to_dict() for episode in episodes_b],
            "divergences": [asdict(divergence) for divergence in divergences],
        }


def _drive(
    opened: Opened, seeds: Sequence[int], max_steps: int | None
) -> tuple[list[EpisodeMetrics], list[EpisodeMetrics], list[Divergence]]:
    """The episodes under a, those under b, and the first differing output of each seed."""
    environment = opened.environment
    limit = require_control_steps(environment, max_steps)
    actions: list[Float32Array] = []  # of a by step, float32 [n_seeds, n_act]
    differences: dict[int, _Difference] = {}  # by index of the seed
    together = set(range(len(seeds)))  # indices of the seeds whose trajectories have not diverged

    def remember(step: RolloutStep, outputs: Float32Array) -> None:
        row = np.full((len(seeds), environment.spec.n_act), np.nan, np.float32)
        row[step.episodes] = outputs
        actions.append(row)

    def compare(step: RolloutStep, outputs: Float32Array) -> None:
        if not together:
            return
        before = actions[step.step]  # while one seed has not diverged, both passes have this step
        for place, index in enumerate(step.episodes):
            x, y = before[index], outputs[place]
            if index not in together or not np.any(y != x):
                continue
            found = differences.setdefault(index, _Difference(step.step, step.observations[place].copy(), x.copy(), y.copy()))
            if np.any(environment.spec.clip(x) != environment.spec.clip(y)):  # trajectories diverge from here on
                found.applied_step = step.step
                together.discard(index)

    def drive(runtime: Runtime, look: Callable[[RolloutStep, Float32Array], None]) -> list[EpisodeMetrics]:
        policy = _Policy(runtime)
        return rollout(policy, environment, seeds, max_steps=limit, on_step=lambda step: look(step, policy.outputs), n_threads=1)

    return drive(opened.a, remember), drive(opened.b, compare), _describe(opened.bundle, opened.a, opened.b, seeds, differences)


class _Policy:
    """A policy for ``rollout`` that keeps the latest unclipped output of the runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.outputs: Float32Array = np.empty((0, runtime.n_act), np.float32)

    def __call__(self, observations: Float32Array) -> Float32Array:
        self.outputs = np.asarray(self._runtime.act_batch(observations), np.float32)
        return self.outputs


# --- the observation at which they diverge -------------------------------------------------------------------------------


def _describe(
    bundle: Bundle, a: Runtime, b: Runtime, seeds: Sequence[int], differences: Mapping[int, _Difference]
) -> list[Divergence]:
    found = sorted(differences.items())
    if not found:
        return []
    observations = np.stack([difference.observation for _, difference in found])
    layers = _first_layers(bundle, a, b, observations)
    third = _third_opinion(bundle, a, b, observations)
    divergences = []
    for row, (index, difference) in enumerate(found):
        element = int(np.flatnonzero(difference.a != difference.b)[0])
        layer, operator = layers[row] or (None, None)
        divergences.append(
            Divergence(
                seed=seeds[index],
                step=difference.step,
                t_s=difference.step * bundle.spec.control_period_s,
                output=element,
                signal=bundle.spec.action[element].name,
                a=float(difference.a[element]),
                b=float(difference.b[element]),
                lsb=_lsb(difference.a[element], difference.b[element], bundle),
                outputs_differing=int(np.count_nonzero(difference.a != difference.b)),
                unlike_tflm=None if third is None else _who(difference, third[row]),
                first_layer=layer,
                first_operator=operator,
                trajectory_step=difference.applied_step,
            )
        )
    return divergences


def _lsb(a: np.float32, b: np.float32, bundle: Bundle) -> float:
    """(b - a) in steps of the raw output; thousandths hide that actions are rounded to float32."""
    return round((float(b) - float(a)) / bundle.output_quant.scale, 3)


def _first_layers(bundle: Bundle, a: Runtime, b: Runtime, observations: Float32Array) -> list[tuple[int, str] | None]:
    """For each observation the first operator whose output differs, given equal raw inputs; None: none, or a float runtime."""
    found: list[tuple[int, str] | None] = [None] * len(observations)
    if not (isinstance(a, ModelRuntime) and isinstance(b, ModelRuntime)):
        return found
    inputs = bundle.quantized(observations)
    by_op = {tensor.op: tensor for tensor in b.layers_raw_batch(inputs)}
    for x in a.layers_raw_batch(inputs):
        if x.op not in by_op:  # one of the two fuses it away
            continue
        for row in np.flatnonzero(np.any(x.values != by_op[x.op].values, axis=1)).tolist():
            found[row] = found[row] or (x.op, x.operator)
    return found


def _third_opinion(bundle: Bundle, a: Runtime, b: Runtime, observations: Float32Array) -> NDArray[np.float32] | None:
    """Actions of the reference, float32 [n, n_act]; None when one of the two is no ModelRuntime, or it is not installed."""
    if not (isinstance(a, ModelRuntime) and isinstance(b, ModelRuntime)):
        return None
    with ExitStack() as stack:
        try:
            reference = stack.enter_context(load_runtime(REFERENCE, bundle))
        except MissingExtraError:
            return None
        return reference.act_batch(observations)


def _who(difference: _Difference, reference: Float32Array) -> str:
    wrong = [name for name, values in (("a", difference.a), ("b", difference.b)) if np.any(values != reference)]
    return "both" if len(wrong) == 2 else wrong[0]  # they differ, so at least one is not the reference


# --- statistics -------------------------------------------------------------------------------------------------------


def _metrics(
    metrics: Sequence[Metric], a: Sequence[EpisodeMetrics], b: Sequence[EpisodeMetrics], tests: int
) -> list[PairedDifference]:
    """Every metric over the seeds in which neither failed: the errors of a failed episode are not comparable."""
    both = [(x.metrics, y.metrics) for x, y in zip(a, b, strict=True) if not (x.failed or y.failed)]
    rows = [
        paired_difference(m.name, m.unit, [x[m.name] for x, _ in both], [y[m.name] for _, y in both], tests=tests)
        for m in metrics
    ]
    return [row for row in rows if row is not None]
