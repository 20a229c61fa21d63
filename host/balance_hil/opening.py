"""Opens what a user names as a policy: a bundle folder, or a ``.tflite`` with a table of its signals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.bundle import MODEL_FILES, Bundle, manifest_text, model_id, write_bundle
from balance_hil.environment import open_environment
from balance_hil.errors import BundleError, EnvironmentMismatchError, UsageError
from balance_hil.files import staging_folder
from balance_hil.golden import GOLDEN_ROWS, write_vectors
from balance_hil.model_image import SELF_TEST_ROWS
from balance_hil.paths import CACHE
from balance_hil.quantize import FLOAT32, QuantParams
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.signals import read_signals, unnamed_signals
from balance_hil.spec import PolicySpec
from balance_hil.tflite.edit import quantized_core, select_output

MODELS = CACHE / "models"  # bundles of models that have none, by id
_GOLDEN_VALUES = 1 << 22  # of all layers, in all vectors
_UNNAMED_PERIOD_S = 0.02  # of a model of which nobody said how often it runs; no command that reads it takes such a model


def is_model(path: Path) -> bool:
    """Whether ``path`` names a ``.tflite`` rather than a bundle."""
    return path.suffix == ".tflite" or path.is_file()


def open_policy(
    path: Path,
    *,
    spec: Path | None = None,
    output: str | None = None,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
    unnamed: bool = False,
) -> Bundle:
    """A bundle, or a ``.tflite`` of int8, int16x8 or float32 as one.

    A model gets a bundle in the user's cache, with the vectors and the header that a board's image needs; it has no float files,
    no training and no metrics. Its outputs are actions as they are.

    Args:
        path: bundle folder, or the model, of whose outputs one is taken.
        spec: ``signals.yaml`` of a model: names, units, limits, control period.
        output: name or position (from 0) of a model's output; None: the only one.
        environment: that a model is to run on; names and units are then the environment's, the control period that of ``spec``.
        options: of the environment.
        unnamed: a model needs no table: its signals are then obs_0, … and act_0, …, for a board without an environment.

    Raises:
        BundleError: no such bundle or model, or it is damaged.
        UsageError: an option that a bundle does not accept, a model without a signal table, or no such output.
        ConfigError: the signal table is wrong.
        EnvironmentMismatchError: the model does not fit the environment.
        What ``open_environment`` raises.
        ElementTypeError, UnsupportedOperatorError: the model cannot run on a board.
        ModelTooWideError: more signals than a bundle takes; required size and limit in bytes.
        MissingExtraError: the extra ``int8`` is not installed.
    """
    if not is_model(path):
        if spec is not None or output is not None:
            raise UsageError("--spec and --output are for a .tflite alone: a bundle has its own", "leave them out")
        return Bundle.load(path)
    try:
        whole = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}", "point at a .tflite or at a bundle folder") from exc
    model, _ = quantized_core(select_output(whole, output))
    runtime = TflmRuntime(model)
    table = read_signals(spec, runtime.n_obs, runtime.n_act) if spec else None
    if environment is not None:
        with open_environment(environment, options, period_s=table.control_period_s if table else None) as env:
            table = _fitting(path, runtime, env.spec)
    if table is None and unnamed:
        table = unnamed_signals(runtime.n_obs, runtime.n_act, _UNNAMED_PERIOD_S)
    if table is None:
        raise UsageError(
            f"{path} has no signal table, and names no environment to run in",
            "describe its inputs and outputs: --spec signals.yaml (docs/policies.md), or name -e ENVIRONMENT; to compare the "
            f"model itself: hil compare {path} --board native",
        )
    identity = model_id(model)
    target = MODELS / identity / path.stem
    bundle = Bundle(
        path=target,
        id=identity,
        algorithm="",
        spec=table,
        input_quant=runtime.input_quant,
        output_quant=runtime.output_quant,
        source={"kind": "tflite", "file": path.name, "output": output or "", "normalization": "", "made_by": ""},
        checked_against={"by": None, "why": "the model is the source"},
        metrics={"operators": runtime.graph.operator_counts(), "arena_used_bytes": runtime.arena_used_bytes},
    )
    manifest_text(bundle, {})  # raises before anything is computed
    with staging_folder(target) as staging:
        (staging / MODEL_FILES[runtime.graph.kind.name]).write_bytes(model)
        values = sum(runtime.graph.output_of(operator).size for operator in runtime.graph.operators)
        rows = min(GOLDEN_ROWS, max(SELF_TEST_ROWS, _GOLDEN_VALUES // values))
        write_vectors(staging, model, runtime, _rows(runtime), 0, rows=rows)
        return write_bundle(staging, bundle)


def _fitting(path: Path, model: TflmRuntime, environment: PolicySpec) -> PolicySpec:
    if (model.n_obs, model.n_act) != (environment.n_obs, environment.n_act):
        raise EnvironmentMismatchError(
            f"{path} takes {model.n_obs} observations and gives {model.n_act} outputs, {environment.environment} has "
            f"{environment.n_obs} and {environment.n_act}",
            "name the output that is the action: --output 1",
        )
    scaled = environment.action_map
    if scaled.kind == "box" and (set(scaled.scale) != {1.0} or set(scaled.offset) != {0.0}):
        raise EnvironmentMismatchError(
            f"the outputs of {path} are actions as they are; those of {environment.environment} are not limited to -1..1",
            "export the policy that the model was made of: hil export CHECKPOINT",
        )
    return environment


def _rows(model: TflmRuntime) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Observations, float32 [256, n_obs], that fill the model's input range."""
    quant: QuantParams = model.input_quant
    rng, shape = np.random.default_rng(0), (GOLDEN_ROWS, model.n_obs)
    if quant.kind == FLOAT32:
        return rng.uniform(-1, 1, shape).astype(np.float32)
    codes = rng.integers(quant.kind.low, quant.kind.high + 1, shape)
    return ((codes - quant.zero_point) * quant.scale).astype(np.float32)
