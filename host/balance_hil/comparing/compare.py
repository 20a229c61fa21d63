"""One whole comparison: choose inputs, load the runtimes, run them and the board, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.comparing.comparison import BOARD, REFERENCE, Comparison, EndsDifference
from balance_hil.comparing.evidence import Progress, collect, no_progress
from balance_hil.comparing.float_ends import compare_ends
from balance_hil.comparing.inputs import (
    InputSet,
    golden_observations,
    make_inputs,
    observe,
    random_inputs,
    recorded_observations,
    spread,
)
from balance_hil.comparing.inspection import inspect_board
from balance_hil.comparing.judging import judge
from balance_hil.comparing.probes import probe_observations
from balance_hil.comparing.reasons import Reasons, find_reasons, separate
from balance_hil.comparing.subject import Subject
from balance_hil.errors import CheckpointError, MissingExtraError, ModelMismatchError, UsageError
from balance_hil.recording import read_recording
from balance_hil.runtimes import RUNTIME_NAMES
from balance_hil.runtimes.base import Float32Array, Int8Runtime, Runtime

ROLLOUT, GOLDEN = "rollout", "golden"
OBSERVATION_SOURCES = (ROLLOUT, GOLDEN)
BOARD_IO_SAMPLES = 1000  # observations sent as float32, to see the board's own conversions


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What to compare, on how much."""

    samples: int = 10_000  # random inputs, and as many recorded ones
    seed: int = 1
    runtimes: tuple[str, ...] | None = None  # None: every desktop runtime that is installed
    observations: str = ROLLOUT  # where recorded inputs come from when there is no recording
    recording: Path | None = None
    layer_samples: int = 200  # inputs whose intermediate tensors are fetched; 0: none

    def __post_init__(self) -> None:
        if self.samples < 1 or self.layer_samples < 0:
            raise UsageError(
                f"cannot compare {self.samples} samples and {self.layer_samples} layer samples", "give positive numbers"
            )
        unknown = [name for name in self.runtimes or () if name not in RUNTIME_NAMES]
        if unknown:
            raise UsageError(f"no such runtime: {', '.join(unknown)}", f"choose from {', '.join(RUNTIME_NAMES)}")
        if self.observations not in OBSERVATION_SOURCES:
            raise UsageError(
                f"no such source of observations: {self.observations}", f"choose from {', '.join(OBSERVATION_SOURCES)}"
            )


def compare(
    subject: Subject, config: CompareConfig, *, board: Board | None = None, on_progress: Progress = no_progress
) -> Comparison:
    """Gives every runtime, and the board if there is one, the same inputs, counts what differs and says why.

    A desktop runtime that was not asked for by name and is not installed is left out and named in ``Comparison.skipped``.

    Raises:
        MissingExtraError: a runtime asked for, or the reference of a board, is not installed.
        UnsupportedOperatorError: a runtime cannot execute the model; the message names the operator.
        ModelMismatchError: the board runs another model.
        HarnessError: the recording cannot be read, the board is lost, an input is no number.
    """
    if board is not None:
        _check_model(board, subject)
    with ExitStack() as stack:
        runtimes, skipped = _load(subject, config, board is not None)
        for runtime in runtimes:
            stack.enter_context(runtime)
        inputs = _inputs(subject, config, runtimes, on_progress)
        remote = board.as_runtime() if board else None
        everyone = [*runtimes, remote] if remote else runtimes
        evidence = collect(everyone, inputs, layer_samples=config.layer_samples, on_progress=on_progress)
        reasons = find_reasons(subject.graph, evidence, on_progress)
        inspection = None
        if board is not None and remote is not None:
            reasons = separate(subject.graph, evidence, reasons, remote)
            identified = reasons.runtimes.get(BOARD)
            observations = spread(inputs.observations[inputs.random :], BOARD_IO_SAMPLES)
            inspection = inspect_board(board, subject, observations, identified.variant if identified else None, config.seed)
        ends = _ends(subject, runtimes, reasons, config.seed)
    return judge(
        evidence,
        bundle_id=subject.id,
        board=board.info.board if board else None,
        board_io=inspection.io if inspection else None,
        skipped=skipped,
        reasons=reasons,
        findings=inspection.findings if inspection else (),
        ends=ends,
    )


def _ends(subject: Subject, runtimes: Sequence[Runtime], reasons: Reasons, seed: int) -> tuple[EndsDifference, ...]:
    if subject.ends is None:
        return ()
    variants = {name: found.closest.variant for name, found in reasons.runtimes.items() if name != BOARD}
    observations = probe_observations(subject.graph.input_quant, subject.graph.n_obs, seed=seed)
    return compare_ends(subject.ends, [r for r in runtimes if isinstance(r, Int8Runtime)], variants, observations)


def _check_model(board: Board, subject: Subject) -> None:
    """A bundle's board was checked when it was connected; this one is for a model alone."""
    if board.info.model_id != subject.id:
        raise ModelMismatchError(
            f"the board runs the model {board.info.model_id}, this is {subject.id}",
            "flash this model, or compare the one that the board runs",
        )


def _load(subject: Subject, config: CompareConfig, with_board: bool) -> tuple[list[Runtime], Mapping[str, str]]:
    impossible = [name for name in config.runtimes or () if name not in subject.runtime_names]
    if impossible:
        raise UsageError(
            f"a .tflite alone cannot run on {', '.join(impossible)}", f"choose from {', '.join(subject.runtime_names)}"
        )
    wanted = [name for name in subject.runtime_names if config.runtimes is None or name in config.runtimes]
    required = set(config.runtimes or ())
    if with_board:
        required.add(REFERENCE)
        wanted = [name for name in subject.runtime_names if name in wanted or name == REFERENCE]
    loaded, skipped = [], {}
    for name in wanted:
        try:
            loaded.append(subject.load(name))
        except (MissingExtraError, CheckpointError) as exc:
            if name in required:
                raise
            skipped[name] = f"{exc.message}; {exc.hint}"
    if not loaded:
        raise UsageError("no runtime could be loaded", "install them: pip install 'balance-hil[train,export,int8]'")
    return loaded, skipped


def _inputs(subject: Subject, config: CompareConfig, runtimes: list[Runtime], report: Progress) -> InputSet:
    if subject.bundle is None:
        if config.recording is not None:
            raise UsageError(
                "a recording belongs to a bundle, this is a .tflite alone", "compare the bundle: hil compare models/ppo"
            )
        return random_inputs(subject.graph.n_obs, subject.graph.input_quant, config.samples, config.seed)
    observations, source = _observations(subject.bundle, config, runtimes, report)
    return make_inputs(subject.bundle, observations, random=config.samples, seed=config.seed, source=source)


def _observations(bundle: Bundle, config: CompareConfig, runtimes: list[Runtime], report: Progress) -> tuple[Float32Array, str]:
    """Recorded observations, float32 [n, n_obs], and where they come from."""
    if config.recording is not None:
        recording = read_recording(config.recording)
        observations = recorded_observations(recording.observation, config.samples, str(config.recording))
        return observations, f"recording {config.recording.name}"
    if config.observations == GOLDEN:
        return golden_observations(bundle, config.samples), "the bundle's golden vectors"
    pilot = next((r for r in runtimes if r.name == REFERENCE), runtimes[-1])
    report("recording observations", 0, config.samples)
    observations = observe(pilot, bundle.spec, config.samples, config.seed)
    report("recording observations", config.samples, config.samples)
    return observations, f"{bundle.spec.environment} under {pilot.name}, seed {config.seed}"
