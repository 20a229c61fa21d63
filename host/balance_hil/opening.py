"""Opens what a user names as a policy: a bundle folder, or an int8 ``.tflite`` with a table of its signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from balance_hil.bundle import GOLDEN, HEADER, INT8_MODEL, Bundle, model_id, staging_folder, write_bundle
from balance_hil.errors import BundleError, EnvironmentMismatchError, UsageError
from balance_hil.golden import golden_observations, write_golden
from balance_hil.model_image import ModelImage
from balance_hil.paths import CACHE
from balance_hil.quantize import QuantParams
from balance_hil.runtimes.tflm import TflmModel
from balance_hil.signals import read_signals
from balance_hil.spec import PolicySpec
from balance_hil.tflite.edit import int8_core, select_output

MODELS = CACHE / "models"  # bundles of models that have none, by id
_ROWS = 256


def is_model(path: Path) -> bool:
    """Whether ``path`` is meant as a ``.tflite`` and not as a bundle."""
    return path.suffix == ".tflite" or path.is_file()


def open_policy(
    path: Path, *, spec: Path | None = None, output: str | None = None, environment: PolicySpec | None = None
) -> Bundle:
    """A bundle, or an int8 ``.tflite`` as one.

    A model gets a bundle in the user's cache, with the vectors and the header that a board's image needs; it has no float files,
    no training and no metrics. Its outputs are actions as they are.

    Args:
        path: bundle folder, or the model, of whose outputs one is taken.
        spec: ``signals.yaml`` of a model: names, units, limits, control period.
        output: name or position (from 0) of a model's output; None: the only one.
        environment: table of the environment that a model is to run on, instead of ``spec``.

    Raises:
        BundleError: no such bundle or model, or it is damaged.
        UsageError: an option that a bundle does not take, none that says what a model's numbers are, or no such output.
        ConfigError: the signal table is wrong.
        EnvironmentMismatchError: the model does not fit the environment.
        ModelNotInt8Error, UnsupportedOperatorError: the model cannot run on a board.
        MissingExtraError: the extra ``int8`` is not installed.
    """
    if not is_model(path):
        if spec is not None or output is not None:
            raise UsageError("--spec and --output are for a .tflite alone: a bundle has its own", "leave them out")
        return Bundle.load(path)
    try:
        whole = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}", "point at an int8 .tflite or at a bundle folder") from exc
    model, _ = int8_core(select_output(whole, output))
    runtime = TflmModel(model)
    table = _table(path, runtime.n_obs, runtime.n_act, spec, environment)
    identity = model_id(model)
    target = MODELS / identity / path.stem
    staging = staging_folder(target)
    (staging / INT8_MODEL).write_bytes(model)
    golden = write_golden(staging / GOLDEN, runtime, golden_observations(runtime.input_quant, _rows(runtime), 0))
    ModelImage(model=model, inputs=golden["input_int8"], outputs=golden["output_int8"]).write_header(staging / HEADER)
    return write_bundle(
        staging,
        Bundle(
            path=target,
            id=identity,
            algorithm="",
            spec=table,
            input_quant=runtime.input_quant,
            output_quant=runtime.output_quant,
            source={"kind": "tflite", "file": path.name, "output": output or "", "normalization": "", "made_by": ""},
            checked_against={"by": None, "why": "the model is the source"},
            metrics={"operators": runtime.graph.operator_counts(), "arena_used_bytes": runtime.arena_used_bytes},
        ),
    )


def _table(path: Path, n_obs: int, n_act: int, spec: Path | None, environment: PolicySpec | None) -> PolicySpec:
    if environment is None:
        if spec is None:
            raise UsageError(
                f"nothing says what the numbers of {path} are",
                "describe them: --spec signals.yaml (docs/policies.md), or name -e ENVIRONMENT",
            )
        return read_signals(spec, n_obs, n_act)
    if (n_obs, n_act) != (environment.n_obs, environment.n_act):
        raise EnvironmentMismatchError(
            f"{path} takes {n_obs} observations and gives {n_act} outputs, {environment.environment} has {environment.n_obs} and "
            f"{environment.n_act}",
            "name the output that is the action: --output 1",
        )
    scaled = environment.action_map
    if scaled.kind == "box" and (set(scaled.scale) != {1.0} or set(scaled.offset) != {0.0}):
        raise EnvironmentMismatchError(
            f"the outputs of {path} are actions as they are; those of {environment.environment} are not limited to -1..1",
            "export the policy that the model was made of: hil export CHECKPOINT",
        )
    return environment


def _rows(model: TflmModel) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Observations, float32 [256, n_obs], that fill the model's input range."""
    quant: QuantParams = model.input_quant
    codes = np.random.default_rng(0).integers(-128, 128, (_ROWS, model.n_obs))
    return ((codes - quant.zero_point) * quant.scale).astype(np.float32)
