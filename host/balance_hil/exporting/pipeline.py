"""The export itself: every step in order, in a staging folder, published by one set of renames at the end."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import balance_hil
from balance_hil.bundle import (
    FLOAT_MODEL,
    FROM_CALIBRATION,
    MANIFEST,
    MODEL_CARD,
    MODEL_FILES,
    ONNX_MODEL,
    POLICY,
    SIGNALS,
    Bundle,
    model_id,
    write_bundle,
)
from balance_hil.checkpoint import Layer
from balance_hil.checkpoint.actor import act_through
from balance_hil.checkpoint.chain import Network, denormalized
from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import ExportError, HarnessError, UnsupportedOperatorError, UsageError
from balance_hil.exporting.calibration import Calibration, load_calibration, normalization_of, record_calibration, record_excited
from balance_hil.exporting.config import ExportConfig, ExportResult, ProgressCallback, Stage
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.exporting.episodes import EpisodeRuns, EpisodesRequest, StageEpisodes, load_stage
from balance_hil.exporting.keras_source import read_network
from balance_hil.exporting.model_card import write_model_card
from balance_hil.exporting.onnx_model import write_graph, write_onnx
from balance_hil.exporting.reference_check import check_against_source
from balance_hil.exporting.rounding_invariant import RoundingInvariant, make_rounding_invariant
from balance_hil.exporting.rounding_invariant.fine_tuning import RECORDED_ROWS, STREAM, make_samples
from balance_hil.exporting.source import PolicySource, Reference, as_trained, open_own_environment, open_source
from balance_hil.exporting.verdict import judge, saturation_warnings
from balance_hil.files import staging_folder
from balance_hil.golden import write_vectors
from balance_hil.metrics import Verdict, summarize
from balance_hil.quantize import ELEMENT_TYPES, FLOAT32, INT8
from balance_hil.rollout import evaluation_seeds
from balance_hil.runtimes.base import Runtime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.signals_header import signals_header
from balance_hil.tflite.edit import elementwise_in_int8
from balance_hil.tflite.graph import read_graph

# stage name -> runtime that executes it, file in the bundle
STAGES = {
    "torch": ("torch", POLICY),
    "onnx": ("onnx", ONNX_MODEL),
    "float32": ("float32", FLOAT_MODEL),
}
BOARD_STAGES = {kind: "tflm" if kind == FLOAT32.name else kind for kind in ELEMENT_TYPES}  # the last one, by element type
STAGES |= {name: ("tflm", MODEL_FILES[kind]) for kind, name in BOARD_STAGES.items()}
FLOAT_TOLERANCE = 1e-4  # of an output of -1..1: two float32 libraries sum in different orders, and that is all
REJECTED = ".rejected"  # added to the name of a bundle whose verdict is bad
_PACKAGES = ("torch", "stable-baselines3", "onnx", "onnx2tf", "tensorflow", "tflite-micro", "ai-edge-litert", "mujoco", "numpy")


def export(config: ExportConfig, progress: ProgressCallback = lambda name, done: None) -> ExportResult:
    """Makes a bundle out of a policy.

    An old bundle stays as it was unless everything has succeeded and the verdict is good. A bundle whose verdict is bad goes to a
    separate folder, ``NAME.rejected``, for inspection.

    Raises:
        CheckpointError: the policy cannot be read, or not without running its code.
        EnvironmentMismatchError: the policy does not fit the environment.
        ExportError: a step failed, or a float stage computes something else than its source; the disk is full, or the folder
            cannot be written.
        UnsupportedOperatorError: TFLM cannot run the board's model.
        MissingExtraError: a package of the extras ``train``, ``export`` or ``int8`` is not installed.
        What ``open_environment`` raises.
    """
    if config.episodes < 1:
        raise UsageError(f"the check needs at least one episode, not {config.episodes}", "give --episodes 1 or more")
    _check_quantize(config)
    started_s = time.perf_counter()
    config = as_trained(config)
    with staging_folder(Path(tempfile.gettempdir(), "hil-export")) as scratch, ExitStack() as stack:

        @cache
        def tensorflow() -> TensorFlowProcess:
            return stack.enter_context(TensorFlowProcess(scratch / "tensorflow.log"))

        def read_keras(model: Path) -> tuple[Network, Reference]:
            network = read_network(model, tensorflow(), scratch)
            return network, lambda observations: tensorflow().predict(observations, scratch)

        progress("source", 0.0)
        source = open_source(config, read_keras)
        progress("source", 1.0)
        try:
            with staging_folder(source.target) as staging:
                return _Export(config, progress, source, staging, scratch, tensorflow(), started_s).run()
        except OSError as exc:
            if isinstance(exc, HarnessError):  # some of the family are OSErrors, too
                raise
            raise ExportError(f"the bundle {source.target} cannot be written: {exc}", "choose another folder: --output") from exc


def _check_quantize(config: ExportConfig) -> None:
    if config.quantize not in ELEMENT_TYPES:
        raise UsageError(f"there is no element type {config.quantize!r}", f"choose one of {', '.join(ELEMENT_TYPES)}")
    if config.rounding_invariant and config.quantize != INT8.name:
        raise UsageError(f"only int8 models can be made rounding-invariant, not {config.quantize}", "leave --quantize out")
    if config.per_tensor and config.quantize == FLOAT32.name:
        raise UsageError("a float32 model has no scales of weights", "leave --per-tensor out")


class _Export:
    """The state of one export. ``staging`` becomes the bundle, ``scratch`` is thrown away."""

    def __init__(
        self,
        config: ExportConfig,
        progress: ProgressCallback,
        source: PolicySource,
        staging: Path,
        scratch: Path,
        tensorflow: TensorFlowProcess,
        started_s: float,
    ) -> None:
        self.config, self.progress, self.source, self.staging, self.scratch = config, progress, source, staging, scratch
        self.spec, self.started_s = source.spec, started_s
        self.tensorflow = tensorflow
        self.layers: tuple[Layer, ...] = source.layers
        self.normalization = source.normalization
        self.normalization_from = source.normalization_from
        self.warnings = list(source.notes)
        self.kind = ELEMENT_TYPES[config.quantize]
        self.board_stage = BOARD_STAGES[config.quantize]
        self.stage_names = [*(["torch"] if source.kind == "sb3" else []), "onnx", "float32", self.board_stage]

    def run(self) -> ExportResult:
        """Everything, in order. TensorFlow and the episodes of each stage run in child processes beside it."""
        for name, content in self.source.files.items():
            (self.staging / name).write_bytes(content)
        self._write_onnx()
        with EpisodeRuns(self.scratch / "episodes.log") as runs, self._environment() as env:
            if env is not None:
                self.max_steps = require_control_steps(env, self.config.max_steps)
            calibration, recorded = self._calibrate(env)
            self._normalize(calibration)
            rows = self._normalized(calibration.observations)
            self._start_conversion(rows)
            # While TensorFlow converts.
            samples = None
            if self.config.rounding_invariant:
                if not self.layers:
                    raise ExportError(
                        "only a chain of dense layers can be made rounding-invariant", "leave --rounding-invariant out"
                    )
                samples = make_samples(partial(act_through, self.layers), self._normalized(recorded), rows, self.config.seed)
            self.tensorflow.finish()
            self._make_whole()
            self.progress("TFLite", 1.0)
            with self._stage_runtime("float32") as runtime:
                checked = check_against_source(runtime.act_batch, self.source, calibration, self.config.seed)
            proof = self._make_rounding_invariant(rows, samples) if samples else None
            conversion_s = time.perf_counter() - self.started_s
            # Not before: they would take from the conversion the core that it needs.
            running = {name: self._run_stage(runs, name) for name in self.stage_names} if env is not None else {}
            model = self._artifacts(calibration)
            errors = self._errors(np.concatenate([calibration.observations, calibration.held_out]))
            ended = {name: future.result() for name, future in running.items()}
            stages = tuple(self._stage(name, errors[name], ended.get(name), env) for name in self.stage_names)
        verdict = judge({name: stage.episodes for name, stage in ended.items()}, self.config.margin)
        if self.board_stage in ended and self.kind != FLOAT32:
            saturated = ended[self.board_stage].saturated
            calibration.origin["saturated"] = saturated
            self.warnings += saturation_warnings([signal.name for signal in self.spec.observation], saturated)
        bundle = self._bundle(model, calibration, stages, proof, checked, verdict)
        (self.staging / SIGNALS).write_text(signals_header(self.spec, bundle.id))
        write_model_card(self.staging / MODEL_CARD, bundle, model.graph, self.config)
        published = write_bundle(self.staging, bundle)
        rejected = self.source.target.with_name(self.source.target.name + REJECTED)
        if verdict.good and (rejected / MANIFEST).is_file():
            shutil.rmtree(rejected)  # of an earlier export: it must not stay next to a good bundle
        return ExportResult(
            bundle=published,
            stages=stages,
            verdict=verdict,
            warnings=tuple(self.warnings),
            conversion_s=conversion_s,
            wall_s=time.perf_counter() - self.started_s,
        )

    @contextmanager
    def _environment(self) -> Iterator[Environment | None]:
        if not self.spec.environment:
            yield None
            return
        with open_own_environment(self.config, self.spec.environment) as env:
            yield env

    def _write_onnx(self) -> None:
        path = self.staging / ONNX_MODEL
        if self.source.graph is not None:
            write_graph(self.source.graph, self.spec, path)
        else:
            write_onnx(self.layers, path)

    def _calibrate(self, env: Environment | None) -> tuple[Calibration, NDArray[np.float32]]:
        """Calibration rows, and others that a fine-tuning learns from."""
        self.progress("calibration", 0.0)
        config = self.config
        with self._stage_runtime("onnx") as runtime:
            if config.calibration is not None:
                calibration = load_calibration(config.calibration, self.spec, config.seed)
            else:
                assert env is not None
                calibration = record_calibration(runtime.act_batch, env, config.seed)
            recorded = calibration.observations
            if config.rounding_invariant and env is not None:
                recorded = record_excited(runtime.act_batch, env, [config.seed, STREAM], RECORDED_ROWS)
        self.progress("calibration", 1.0)
        return calibration, recorded

    def _normalize(self, calibration: Calibration) -> None:
        """One scale serves all inputs: where they differ widely, they are normalized by what calibration saw."""
        if self.normalization is not None or self.kind == FLOAT32:
            return
        wanted = normalization_of(calibration.observations)
        if wanted is None:
            return
        if not self.layers:
            self.warnings.append("the observations differ widely in range, and one scale has to serve all of them")
            return
        self.normalization, self.normalization_from = wanted, FROM_CALIBRATION
        self.layers = denormalized(self.layers, wanted)
        self._write_onnx()

    def _normalized(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.normalization.apply(observations) if self.normalization else observations

    def _stage_runtime(self, name: str) -> Runtime:
        runtime, file = STAGES[name]
        normalization = self.source.normalization if name == "torch" else self.normalization
        return load_stage(runtime, self.staging / file, normalization, trust=self.config.trust)

    def _start_conversion(self, rows: NDArray[np.float32]) -> None:
        self.progress("TFLite", 0.0)
        calibration = self.scratch / "calibration.npy"
        np.save(calibration, rows)
        self.tensorflow.start(
            "convert",
            onnx=str(self.staging / ONNX_MODEL),
            calibration=str(calibration),
            models={kind: str(self.staging / MODEL_FILES[kind]) for kind in {FLOAT32.name, self.kind.name}},
            per_tensor=self.config.per_tensor,
            seed=self.config.seed,
        )

    @property
    def _model_file(self) -> Path:
        return self.staging / MODEL_FILES[self.kind.name]

    def _make_whole(self) -> None:
        """TensorFlow's converter leaves some operators in float, between DEQUANTIZE and QUANTIZE."""
        if self.kind == FLOAT32:
            return
        file = self._model_file
        model = elementwise_in_int8(file.read_bytes())
        file.write_bytes(model)
        graph = read_graph(model)
        floating = [operator.name for operator in graph.operators if graph.output_of(operator).type == "FLOAT32"]
        left = [name for name in floating if name not in ("QUANTIZE", "DEQUANTIZE")]
        if left:
            raise UnsupportedOperatorError(
                f"TensorFlow Lite has no {self.kind.name} form of {left[0]}",
                "use ReLU, Tanh, Sigmoid, ELU, LeakyReLU or SiLU in the policy",
            )

    def _make_rounding_invariant(self, rows: NDArray[np.float32], samples: Any) -> RoundingInvariant:
        """Puts a rounding-invariant model in the place of the ordinary one, which it is made from."""
        self.progress("fine-tuning", 0.0)
        file = self._model_file
        made = make_rounding_invariant(
            self.layers, file.read_bytes(), samples, rows, self.config.seed, lambda done: self.progress("fine-tuning", done)
        )
        file.write_bytes(made.model)
        return made

    def _run_stage(self, runs: EpisodeRuns, name: str) -> Future[StageEpisodes]:
        runtime, file = STAGES[name]
        normalization = self.source.normalization if name == "torch" else self.normalization
        request = EpisodesRequest(
            runtime=runtime,
            model=str(self.staging / file),
            normalization=normalization.to_dict() if normalization else None,
            trust=self.config.trust,
            environment=self.spec.environment,
            options=self.config.options,
            period_s=self.config.period_s,
            terminated=self.config.terminated,
            seeds=evaluation_seeds(self.config.episodes),
            max_steps=self.max_steps,
        )
        self.progress(f"episodes {name}", 0.0)
        future = runs.submit(request, lambda done: self.progress(f"episodes {name}", done))
        future.add_done_callback(lambda _: self.progress(f"episodes {name}", 1.0))
        return future

    def _artifacts(self, calibration: Calibration) -> TflmRuntime:
        board_model = self._model_file.read_bytes()
        model = TflmRuntime(board_model)
        write_vectors(self.staging, board_model, model, calibration.held_out, self.config.seed, self.normalization)
        return model

    def _errors(self, observations: NDArray[np.float32]) -> dict[str, NDArray[np.float64] | None]:
        """Output differences of each stage from the one before, float64 [n, n_act]; None for the first."""
        differences: dict[str, NDArray[np.float64] | None] = {}
        previous: NDArray[np.float32] | None = None
        before = ""
        for name in self.stage_names:
            with self._stage_runtime(name) as loaded:
                outputs = loaded.act_batch(observations)
            differences[name] = difference = None if previous is None else outputs.astype(np.float64) - previous
            if difference is not None and (name != self.board_stage or self.kind == FLOAT32):
                largest = float(np.max(np.abs(difference) / np.maximum(1.0, np.abs(outputs))))
                if largest > FLOAT_TOLERANCE:
                    raise ExportError(
                        f"the {name} policy differs from the {before} one by up to {largest:.3g}, which is more than rounding",
                        "check the installed versions of onnx2tf and tensorflow: hil doctor",
                    )
            previous, before = outputs, name
        return differences

    def _stage(
        self, name: str, difference: NDArray[np.float64] | None, ended: StageEpisodes | None, env: Environment | None
    ) -> Stage:
        runtime, file = STAGES[name]
        summary = summarize(ended.episodes, env.metrics) if ended is not None and env is not None else None
        return Stage(
            name=name,
            runtime=runtime,
            size_bytes=(self.staging / file).stat().st_size,
            max_error=None if difference is None else float(np.max(np.abs(difference))),
            rms_error=None if difference is None else float(np.sqrt(np.mean(difference**2))),
            success_rate=summary.success_rate if summary else None,
            metrics=dict(summary.metrics) if summary else {},
        )

    @property
    def _weights(self) -> str:
        return FLOAT32.name if self.kind == FLOAT32 else "per-tensor" if self.config.per_tensor else "per-channel"

    def _bundle(
        self,
        model: TflmRuntime,
        calibration: Calibration,
        stages: tuple[Stage, ...],
        proof: RoundingInvariant | None,
        checked: Mapping[str, Any],
        verdict: Verdict,
    ) -> Bundle:
        target = self.source.target
        has_environment = bool(self.spec.environment)
        return Bundle(
            path=target if verdict.good else target.with_name(target.name + REJECTED),
            id=model_id(self._model_file.read_bytes(), self.normalization),
            algorithm=self.source.algorithm,
            spec=self.spec,
            input_quant=model.input_quant,
            output_quant=model.output_quant,
            normalization=self.normalization,
            source=self.source.to_dict() | {"normalization": self.normalization_from},
            checked_against=checked,
            calibration=calibration.origin | {"weights": self._weights},
            training=self.source.training,
            versions=_versions(self.source),
            metrics={
                "stages": [stage.to_dict() for stage in stages],
                "episodes": self.config.episodes if has_environment else 0,
                "episode_steps": self.max_steps if has_environment else 0,
                "operators": model.graph.operator_counts(),
                "parameters": sum(tensor.size for tensor in model.graph.tensors if tensor.constant),
                "arena_used_bytes": model.arena_used_bytes,
                "arena_needed_bytes": model.needed_arena_bytes(),
                "verdict": verdict.to_dict(),
                "warnings": self.warnings,
            }
            | ({"rounding_invariant": proof.to_dict()} if proof else {}),
        )


def _versions(source: PolicySource) -> dict[str, str]:
    versions = {"balance_hil": balance_hil.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # stable-baselines3 is needed for training only
            continue
    maker, _, number = source.made_by.partition(" ")
    if maker in versions and number:
        versions[maker] = number  # what wrote the checkpoint
    return versions
