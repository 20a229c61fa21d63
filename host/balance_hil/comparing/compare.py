"""One comparison: choose inputs, run every runtime and the board, attribute differences, give a verdict."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balance_hil.boards import Board
from balance_hil.boards.handshake import check_engine
from balance_hil.bundle import Bundle
from balance_hil.comparing.attribution import PairAttribution, attribute_pairs
from balance_hil.comparing.board_io import inspect_board
from balance_hil.comparing.comparison import BOARD, REFERENCE, Comparison, IoDifference
from balance_hil.comparing.conversion_variants import probe_observations
from balance_hil.comparing.float_io import compare_float_io
from balance_hil.comparing.identification import Identification, identify_all, separating_inputs
from balance_hil.comparing.inputs import (
    InputSet,
    golden_observations,
    make_inputs,
    observe,
    random_inputs,
    recorded_observations,
    spread,
)
from balance_hil.comparing.model_under_test import ModelUnderTest
from balance_hil.comparing.samples import Progress, Samples, collect, no_progress
from balance_hil.comparing.summarize import summarize
from balance_hil.errors import (
    HarnessError,
    MissingExtraError,
    ModelMismatchError,
    UnsupportedOperatorError,
    UsageError,
)
from balance_hil.paths import install_command
from balance_hil.quantize import FLOAT32, Float32Array, RawArray
from balance_hil.recording import read_recording
from balance_hil.runtimes import RUNTIME_NAMES
from balance_hil.runtimes.base import ModelRuntime, Runtime
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.runtimes.trial import fatal_runtimes

ROLLOUT, GOLDEN = "rollout", "golden"
OBSERVATION_SOURCES = (ROLLOUT, GOLDEN)
BOARD_IO_SAMPLES = 1000  # observations sent as float32, to see the board's own conversions


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What to compare, and on how many inputs."""

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
    model: ModelUnderTest | Bundle,
    config: CompareConfig = CompareConfig(),
    *,
    board: Board | None = None,
    on_progress: Progress = no_progress,
) -> Comparison:
    """Runs every runtime, and the board if there is one, on the same inputs; counts and attributes the differences.

    A desktop runtime that was not requested by name and is not installed, or rejects the model, is left out and listed in
    ``Comparison.skipped``. Whether the board can take the model is checked before any runtime is loaded.

    Raises:
        MissingExtraError: a runtime asked for, or the reference of a board, is not installed.
        UsageError: one runtime alone, without a board, is not a comparison.
        BundleError: an operator of the model does not fit its tensors.
        UnsupportedOperatorError: a runtime asked for, or the board, cannot execute the model; the message names the operator.
        ModelMismatchError: the board runs another model.
        HarnessError: the recording cannot be read, the board is lost, an input is not a number.
    """
    if isinstance(model, Bundle):
        model = ModelUnderTest.of(model)
    if board is not None:
        _check_board(board, model)
    with ExitStack() as stack:
        runtimes, skipped = _load(model, config, board is not None)
        for runtime in runtimes:
            stack.enter_context(runtime)
        inputs = _inputs(model, config, runtimes, on_progress)
        everyone = [*runtimes, board.as_runtime()] if board else runtimes
        separating = _separating(model, config.seed) if board and config.layer_samples else None
        samples = collect(
            everyone,
            inputs,
            layer_samples=config.layer_samples,
            layer_values=sum(model.graph.output_of(operator).size for operator in model.graph.operators),
            separating=separating,
            on_progress=on_progress,
        )
        arithmetics, attributions, not_attributed = _explain(model, samples, on_progress)
        inspection = None
        if board is not None:
            recorded = spread(inputs.observations[inputs.random :], BOARD_IO_SAMPLES)
            known = arithmetics[BOARD].variant if arithmetics else None
            inspection = inspect_board(board, model, recorded, known, config.seed)
        float_io: tuple[IoDifference, ...] = ()
        if model.whole is not None:
            probes = probe_observations(model.graph.input_quant, model.graph.n_obs, seed=config.seed)
            float_io = compare_float_io(model.whole, [r for r in runtimes if isinstance(r, ModelRuntime)], arithmetics, probes)
    return summarize(
        samples,
        model_id=model.id,
        board=board.info.board if board else None,
        skipped=skipped,
        arithmetics=arithmetics,
        attributions=attributions,
        not_attributed=not_attributed,
        graph=model.graph,
        inspection=inspection,
        float_io=float_io,
    )


def _check_board(board: Board, model: ModelUnderTest) -> None:
    """Raises unless the board runs this model and its engine supports it."""
    info = board.info
    if info.model_id != model.id:
        raise ModelMismatchError(
            f"the board runs the model {info.model_id}, this is {model.id}",
            "flash this model, or compare the one that the board runs",
        )
    check_engine(info, board.port)


def _load(model: ModelUnderTest, config: CompareConfig, with_board: bool) -> tuple[list[Runtime], dict[str, str]]:
    """The participating runtimes, and why the others are skipped."""
    impossible = [name for name in config.runtimes or () if name not in model.runtime_names]
    if impossible:
        raise UsageError(
            f"a .tflite alone cannot run on {', '.join(impossible)}", f"choose from {', '.join(model.runtime_names)}"
        )
    required = {*(config.runtimes or ()), *([REFERENCE] if with_board else [])}
    wanted = [name for name in model.runtime_names if config.runtimes is None or name in required]
    fatal = {} if model.is_sound else fatal_runtimes(model.model, wanted)
    loaded, skipped = [], {}
    for name in wanted:
        try:
            if name in fatal:
                raise UnsupportedOperatorError(
                    f"the runtime {name} cannot run this model: {fatal[name]}", "--runtimes chooses others"
                )
            runtime = model.load(name)
            runtime.act_batch(np.zeros((1, runtime.n_obs), np.float32))  # some reject a model only at the first inference
        except HarnessError as exc:
            if name in required:
                raise
            skipped[name] = f"{exc.message}; {exc.hint}"
        else:
            loaded.append(runtime)
    if not loaded:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise MissingExtraError(f"no runtime could be loaded: {reasons}", f"install them: {install_command('train,export,int8')}")
    if len(loaded) + with_board < 2:
        reasons = "".join(f"; {name}: {why}" for name, why in skipped.items())
        raise UsageError(
            f"there is nothing to compare: {loaded[0].name} alone takes part{reasons}", "name two runtimes, or a board"
        )
    return loaded, skipped


def _inputs(model: ModelUnderTest, config: CompareConfig, runtimes: list[Runtime], report: Progress) -> InputSet:
    if model.bundle is None:
        if config.recording is not None:
            raise UsageError("a recording belongs to a bundle, this is a .tflite alone", "compare the bundle: hil compare ppo")
        return random_inputs(model.graph.n_obs, model.graph.input_quant, config.samples, config.seed)
    observations, source = _observations(model.bundle, config, runtimes, report)
    return make_inputs(model.bundle, observations, random=config.samples, seed=config.seed, source=source)


def _observations(bundle: Bundle, config: CompareConfig, runtimes: list[Runtime], report: Progress) -> tuple[Float32Array, str]:
    """Recorded observations, float32 [n, n_obs], and where they come from."""
    if config.recording is not None:
        recording = read_recording(config.recording)
        observations = recorded_observations(recording.observation, config.samples, str(config.recording))
        if recording.missing:
            warnings.warn(f"{config.recording}: {recording.missing}", stacklevel=1)
        missing = f" ({recording.missing})" if recording.missing else ""
        return observations, f"recording {config.recording.name}{missing}"
    golden = "the bundle's golden vectors"
    if config.observations == GOLDEN or not bundle.spec.environment:
        return golden_observations(bundle, config.samples), golden
    from balance_hil.environment import open_for  # imports Gymnasium

    try:
        environment = open_for(bundle.spec)
    except HarnessError as exc:  # the environment cannot be opened here
        return golden_observations(bundle, config.samples), f"{golden}, for {exc.message}"
    pilot = next((r for r in runtimes if r.name == REFERENCE), runtimes[-1])
    report("recording observations", 0, config.samples)
    with environment:
        observations = observe(pilot, environment, config.samples, config.seed)
    report("recording observations", config.samples, config.samples)
    return observations, f"{bundle.spec.environment} under {pilot.name}, seed {config.seed}"


def _separating(model: ModelUnderTest, seed: int) -> RawArray | None:
    """Inputs that distinguish the known arithmetics; sent to a board as well, because random inputs may not distinguish all."""
    try:
        return separating_inputs(model.graph, seed=seed)
    except UnsupportedOperatorError:
        return None


def _explain(
    model: ModelUnderTest, samples: Samples, report: Progress
) -> tuple[Mapping[str, Identification], Mapping[tuple[str, str], PairAttribution], str]:
    """The arithmetic of each runtime, the causes of each pair's differences; empty, and why, where an emulator is missing.

    Float32 has none: it is compared by a tolerance.
    """
    if model.graph.kind == FLOAT32:
        return {}, {}, ""
    try:
        arithmetics = identify_all(model.graph, samples)
        variants = {name: found.closest.variant for name, found in arithmetics.items()}
        missing = EmulatedRuntime(model.graph, TFLM, partial=True).unsupported.values()
        return arithmetics, attribute_pairs(model.graph, samples, variants, report), next((exc.message for exc in missing), "")
    except UnsupportedOperatorError as exc:
        return {}, {}, exc.message
