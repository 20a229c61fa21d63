"""One whole comparison: choose inputs, load the runtimes, run them and the board, judge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.comparing.comparison import REFERENCE, BoardIo, Comparison, judge
from balance_hil.comparing.evidence import Progress, collect, no_progress
from balance_hil.comparing.inputs import (
    InputSet,
    golden_observations,
    make_inputs,
    observe,
    recorded_observations,
    spread,
)
from balance_hil.errors import CheckpointError, MissingExtraError, UsageError
from balance_hil.quantize import dequantize, quantize
from balance_hil.recording import read_recording
from balance_hil.runtimes import RUNTIME_NAMES, load_runtime
from balance_hil.runtimes.base import Float32Array, Runtime

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
    bundle: Bundle, config: CompareConfig, *, board: Board | None = None, on_progress: Progress = no_progress
) -> Comparison:
    """Gives every runtime, and the board if there is one, the same inputs and counts what differs.

    A desktop runtime that was not asked for by name and is not installed is left out and named in ``Comparison.skipped``.

    Raises:
        MissingExtraError: a runtime asked for, or the reference of a board, is not installed.
        HarnessError: the recording cannot be read, the board is lost, an input is no number.
    """
    with ExitStack() as stack:
        runtimes, skipped = _load(bundle, config, board is not None)
        for runtime in runtimes:
            stack.enter_context(runtime)
        inputs = _inputs(bundle, config, runtimes, on_progress)
        everyone = [*runtimes, board.as_runtime()] if board else runtimes
        evidence = collect(everyone, inputs, layer_samples=config.layer_samples, on_progress=on_progress)
        board_io = _board_io(board, bundle, spread(inputs.observations[inputs.random :], BOARD_IO_SAMPLES)) if board else None
    return judge(evidence, bundle_id=bundle.id, board=board.info.board if board else None, board_io=board_io, skipped=skipped)


def _load(bundle: Bundle, config: CompareConfig, with_board: bool) -> tuple[list[Runtime], Mapping[str, str]]:
    wanted = [name for name in RUNTIME_NAMES if config.runtimes is None or name in config.runtimes]
    required = set(config.runtimes or ())
    if with_board:
        required.add(REFERENCE)
        wanted = [name for name in RUNTIME_NAMES if name in wanted or name == REFERENCE]
    loaded, skipped = [], {}
    for name in wanted:
        try:
            loaded.append(load_runtime(name, bundle))
        except (MissingExtraError, CheckpointError) as exc:
            if name in required:
                raise
            skipped[name] = f"{exc.message}; {exc.hint}"
    if not loaded:
        raise UsageError("no runtime could be loaded", "install them: pip install 'balance-hil[train,export,int8]'")
    return loaded, skipped


def _inputs(bundle: Bundle, config: CompareConfig, runtimes: list[Runtime], report: Progress) -> InputSet:
    observations: Float32Array
    if config.recording is not None:
        recording = read_recording(config.recording)
        observations = recorded_observations(recording.observation, config.samples, str(config.recording))
        source = f"recording {config.recording.name}"
    elif config.observations == GOLDEN:
        observations, source = golden_observations(bundle, config.samples), "the bundle's golden vectors"
    else:
        pilot = next((r for r in runtimes if r.name == REFERENCE), runtimes[-1])
        report("recording observations", 0, config.samples)
        observations = observe(pilot, bundle.spec.environment, config.samples, config.seed)
        report("recording observations", config.samples, config.samples)
        source = f"{bundle.spec.environment} under {pilot.name}, seed {config.seed}"
    return make_inputs(bundle, observations, random=config.samples, seed=config.seed, source=source)


def _board_io(board: Board, bundle: Bundle, observations: Float32Array) -> BoardIo:
    """Sends ``observations``, float32 [n, n_obs], as floats and checks what the board made of them and of its outputs."""
    actions = board.infer_batch(observations)
    inputs = np.stack([action.input for action in actions])
    outputs = np.stack([action.output for action in actions])
    returned = np.stack([action.action for action in actions])
    return BoardIo(
        observations=len(observations),
        input_differing=int(np.count_nonzero(inputs != quantize(observations, bundle.input_quant))),
        action_differing=int(np.count_nonzero(returned != dequantize(outputs, bundle.output_quant))),
    )
