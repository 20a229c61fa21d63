"""The export itself: every step in order, in a staging folder, published by one set of renames at the end."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from concurrent.futures import Future
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import balance_hil
from balance_hil.bundle import (
    FLOAT_MODEL,
    GOLDEN,
    HEADER,
    INT8_MODEL,
    MODEL_CARD,
    ONNX_MODEL,
    POLICY,
    Bundle,
    model_id,
    staging_folder,
    write_bundle,
)
from balance_hil.checkpoint import Actor, read_checkpoint
from balance_hil.environment import open_environment
from balance_hil.errors import ExportError, HarnessError, UsageError
from balance_hil.exporting.calibration import Calibration, load_calibration, record_calibration
from balance_hil.exporting.config import ExportConfig, ExportResult, ProgressCallback, Stage
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.exporting.golden import golden_observations, write_golden
from balance_hil.exporting.model_card import write_model_card
from balance_hil.exporting.onnx_model import write_onnx
from balance_hil.exporting.rounding_invariant import RoundingInvariant, make_rounding_invariant
from balance_hil.exporting.rounding_invariant.fine_tuning import Samples
from balance_hil.exporting.rounding_invariant.samples import record_samples
from balance_hil.exporting.source import ExportSource, find_source
from balance_hil.exporting.survival import SurvivalChecks
from balance_hil.exporting.survival_worker import SurvivalRequest, load_stage
from balance_hil.exporting.tensorflow_worker import ConversionRequest
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, summarize
from balance_hil.model_image import ModelImage
from balance_hil.rollout import evaluation_seeds
from balance_hil.runtimes.tflm import TflmModel

# stage name -> runtime that executes it, file in the bundle
STAGES = {
    "torch": ("torch", POLICY),
    "onnx": ("onnx", ONNX_MODEL),
    "float32": ("float32", FLOAT_MODEL),
    "int8": ("tflm", INT8_MODEL),
}
FLOAT_TOLERANCE = 1e-4  # of an action of -1..1: two float32 libraries sum in different orders, and that is all
_PACKAGES = ("torch", "stable-baselines3", "onnx", "onnx2tf", "tensorflow", "tflite-micro", "ai-edge-litert", "mujoco", "numpy")


def export(config: ExportConfig, progress: ProgressCallback = lambda name, done: None) -> ExportResult:
    """Makes a bundle out of a checkpoint. An old bundle stays as it was unless everything has succeeded.

    Raises:
        CheckpointError: the checkpoint cannot be read, or not without running its code.
        EnvironmentMismatchError: the policy does not fit the environment.
        ExportError: a stage failed, differs from the one before, or int8 survives less than float; the disk is full, or the
            folder cannot be written.
        UnsupportedOperatorError: TFLM cannot run the int8 model.
        MissingExtraError: a package of the extras ``train``, ``export`` or ``int8`` is not installed.
    """
    if config.episodes < 1:
        raise UsageError(f"a check needs at least one episode, not {config.episodes}", "give --episodes 1 or more")
    source = find_source(config)
    try:
        staging = staging_folder(source.target)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                return _Export(config, progress, source, staging, Path(scratch)).run()
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as exc:
        if isinstance(exc, HarnessError):  # some of the family are OSErrors, too
            raise
        raise ExportError(f"the bundle {source.target} cannot be written: {exc}", "choose another folder: --output") from exc


class _Export:
    """The state of one export. ``staging`` becomes the bundle, ``scratch`` is thrown away."""

    def __init__(
        self, config: ExportConfig, progress: ProgressCallback, source: ExportSource, staging: Path, scratch: Path
    ) -> None:
        self.config, self.progress, self.source, self.staging, self.scratch = config, progress, source, staging, scratch
        self.spec = source.spec
        self.started_s = time.perf_counter()

    def run(self) -> ExportResult:
        """Everything, in order. TensorFlow and the survival checks run in child processes beside it."""
        with (
            TensorFlowProcess(self.scratch / "tensorflow.log") as tensorflow,
            SurvivalChecks(self.scratch / "survival.log") as checks,
        ):
            actor = self._read()
            write_onnx(actor, self.staging / ONNX_MODEL)
            calibration = self._calibrate(actor)
            self._start_conversion(tensorflow, calibration)
            # While TensorFlow converts.
            samples = record_samples(actor.act_batch, self.spec, self.config.seed) if self.config.rounding_invariant else None
            tensorflow.finish()
            self.progress("TFLite", 1.0)
            proof = self._make_rounding_invariant(actor, calibration, samples) if samples else None
            conversion_s = time.perf_counter() - self.started_s
            # Not before: they would take from the conversion the core that it needs.
            episodes = {name: self._check(checks, name) for name in STAGES}
            model = self._artifacts(calibration)
            errors = self._errors(np.concatenate([calibration.observations, calibration.held_out]))
            with open_environment(self.spec.environment) as env:
                summaries = {name: summarize(episodes[name].result(), env.metrics) for name in STAGES}
            stages = tuple(self._stage(name, errors[name], summaries[name]) for name in STAGES)
        _compare_survival(stages)
        bundle = self._bundle(actor, model, calibration, stages, proof)
        write_model_card(self.staging / MODEL_CARD, bundle, model.graph, self.config)
        published = write_bundle(self.staging, bundle)
        return ExportResult(
            bundle=published, stages=stages, conversion_s=conversion_s, wall_s=time.perf_counter() - self.started_s
        )

    def _read(self) -> Actor:
        self.progress("checkpoint", 0.0)
        self.source.copy_to(self.staging)
        actor = read_checkpoint(self.staging / POLICY, trust=self.config.trust)
        self.source.check_fit(actor)
        self.progress("checkpoint", 1.0)
        return actor

    def _calibrate(self, actor: Actor) -> Calibration:
        self.progress("calibration", 0.0)
        config, spec = self.config, self.spec
        if config.calibration is not None:
            calibration = load_calibration(config.calibration, actor.act_batch, spec, config.seed)
        else:
            calibration = record_calibration(actor.act_batch, spec, config.seed)
        self.progress("calibration", 1.0)
        return calibration

    def _start_conversion(self, tensorflow: TensorFlowProcess, calibration: Calibration) -> None:
        self.progress("TFLite", 0.0)
        rows = self.scratch / "calibration.npy"
        np.save(rows, calibration.observations)
        tensorflow.start(
            ConversionRequest(
                onnx=str(self.staging / ONNX_MODEL),
                calibration=str(rows),
                float_model=str(self.staging / FLOAT_MODEL),
                int8_model=str(self.staging / INT8_MODEL),
                per_tensor=self.config.per_tensor,
                seed=self.config.seed,
            )
        )

    def _make_rounding_invariant(self, actor: Actor, calibration: Calibration, samples: Samples) -> RoundingInvariant:
        """Puts a rounding-invariant model in the place of the ordinary one, which it is made from."""
        self.progress("fine-tuning", 0.0)
        file = self.staging / INT8_MODEL
        made = make_rounding_invariant(
            actor,
            file.read_bytes(),
            samples,
            calibration.observations,
            self.config.seed,
            lambda done: self.progress("fine-tuning", done),
        )
        file.write_bytes(made.model)
        return made

    def _check(self, checks: SurvivalChecks, name: str) -> Future[list[EpisodeMetrics]]:
        runtime, file = STAGES[name]
        request = SurvivalRequest(
            runtime=runtime,
            model=str(self.staging / file),
            trust=self.config.trust,
            environment=self.spec.environment,
            seeds=evaluation_seeds(self.config.episodes),
            max_steps=self.config.max_steps or self.spec.episode_steps,
        )
        self.progress(f"episodes {name}", 0.0)
        future = checks.submit(request, lambda done: self.progress(f"episodes {name}", done))
        future.add_done_callback(lambda _: self.progress(f"episodes {name}", 1.0))
        return future

    def _artifacts(self, calibration: Calibration) -> TflmModel:
        int8_model = (self.staging / INT8_MODEL).read_bytes()
        model = TflmModel(int8_model)
        observations = golden_observations(model.input_quant, calibration.held_out, self.config.seed)
        golden = write_golden(self.staging / GOLDEN, model, observations)
        image = ModelImage(model=int8_model, inputs=golden["input_int8"], outputs=golden["output_int8"])
        image.write_header(self.staging / HEADER)
        return model

    def _errors(self, observations: NDArray[np.float32]) -> dict[str, NDArray[np.float64] | None]:
        """Action differences of each stage from the one before, float64 [n, n_act]; None for the first."""
        differences: dict[str, NDArray[np.float64] | None] = {}
        previous: NDArray[np.float32] | None = None
        for name, (runtime, file) in STAGES.items():
            with load_stage(runtime, self.staging / file, trust=self.config.trust) as loaded:
                actions = loaded.act_batch(observations)
            differences[name] = None if previous is None else actions.astype(np.float64) - previous
            previous = actions
        for before, name in (("torch", "onnx"), ("onnx", "float32")):
            difference = differences[name]
            largest = 0.0 if difference is None else float(np.max(np.abs(difference)))
            if largest > FLOAT_TOLERANCE:
                raise ExportError(
                    f"the {name} policy differs from the {before} one by up to {largest:.3g}, which is more than rounding",
                    "check the installed versions of onnx2tf and tensorflow: hil doctor",
                )
        return differences

    def _stage(self, name: str, difference: NDArray[np.float64] | None, summary: EvaluationSummary) -> Stage:
        runtime, file = STAGES[name]
        return Stage(
            name=name,
            runtime=runtime,
            size_bytes=(self.staging / file).stat().st_size,
            max_error=None if difference is None else float(np.max(np.abs(difference))),
            rms_error=None if difference is None else float(np.sqrt(np.mean(difference**2))),
            success_rate=summary.success_rate,
            metrics=dict(summary.metrics),
        )

    def _bundle(
        self,
        actor: Actor,
        model: TflmModel,
        calibration: Calibration,
        stages: tuple[Stage, ...],
        proof: RoundingInvariant | None,
    ) -> Bundle:
        return Bundle(
            path=self.source.target,
            id=model_id((self.staging / INT8_MODEL).read_bytes()),
            algorithm=str(self.source.training.get("algorithm") or actor.algorithm),
            spec=self.spec,
            input_quant=model.input_quant,
            output_quant=model.output_quant,
            calibration=calibration.origin | {"weights": "per-tensor" if self.config.per_tensor else "per-channel"},
            training=self.source.training,
            versions=_versions(actor),
            metrics={
                "stages": [stage.to_dict() for stage in stages],
                "episodes": self.config.episodes,
                "episode_steps": self.config.max_steps or self.spec.episode_steps,
                "operators": model.graph.operator_counts(),
                "parameters": sum(w.size for w in actor.weights) + sum(b.size for b in actor.biases),
                "arena_used_bytes": model.arena_used_bytes,
                "arena_needed_bytes": model.needed_arena_bytes(),
            }
            | ({"rounding_invariant": proof.to_dict()} if proof else {}),
        )


def _compare_survival(stages: tuple[Stage, ...]) -> None:
    by_name = {stage.name: stage for stage in stages}
    int8, floating = by_name["int8"], by_name["float32"]
    if int8.success_rate < floating.success_rate:
        raise ExportError(
            f"the int8 policy succeeds in {int8.success_rate:.0%} of the episodes, the float one in {floating.success_rate:.0%}",
            "calibrate with rows that cover more (leave --calibration and --per-tensor out), or train longer: hil train --resume",
        )


def _versions(actor: Actor) -> dict[str, str]:
    versions = {"balance_hil": balance_hil.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # stable-baselines3 is needed for training only
            continue
    if actor.sb3_version:
        versions["stable-baselines3"] = actor.sb3_version  # what wrote the checkpoint
    return versions
