"""``hil bench int16``: what activations in int16 gain: the same policies in int8 and in int16x8, beside their float32.

Both models are made by the TensorFlow converter of the bundle's ONNX actor and the same calibration rows, and run by TensorFlow
Lite Micro on the desktop. The error is that of the output, whose range is -1 to 1, over observations that calibration did not
see.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.benchmarks import row
from balance_hil.bundle import FLOAT_MODEL, ONNX_MODEL, Bundle
from balance_hil.environment import open_for
from balance_hil.exporting.calibration import record_calibration
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.paths import MODELS
from balance_hil.quantize import ELEMENT_TYPES
from balance_hil.runtimes.tflite import TfliteFloatRuntime
from balance_hil.runtimes.tflm import TflmRuntime


def run() -> list[dict[str, Any]]:
    """Rows of the benchmark, for every shipped policy."""
    folders = sorted(path.parent for path in MODELS.glob(f"*/{ONNX_MODEL}"))
    rows = []
    with tempfile.TemporaryDirectory() as scratch, TensorFlowProcess(Path(scratch, "tensorflow.log")) as tensorflow:
        for folder in folders:
            rows += _measure(Bundle.load(folder), tensorflow, Path(scratch))
    return rows


def _measure(bundle: Bundle, tensorflow: TensorFlowProcess, scratch: Path) -> list[dict[str, Any]]:
    runtime = TfliteFloatRuntime(bundle.file(FLOAT_MODEL).read_bytes())
    with open_for(bundle.spec) as env:
        calibration = record_calibration(runtime.act_batch, env, seed=0)
    files = {name: scratch / f"{name}.tflite" for name in ELEMENT_TYPES}
    np.save(scratch / "rows.npy", calibration.observations)
    models = {name: str(file) for name, file in files.items()}
    onnx, given = str(bundle.file(ONNX_MODEL)), str(scratch / "rows.npy")
    tensorflow.start("convert", onnx=onnx, calibration=given, models=models, per_tensor=False, seed=0)
    tensorflow.finish()
    right = runtime.act_batch(calibration.held_out)
    found: list[dict[str, Any]] = []
    for name in ("int8", "int16x8"):
        with TflmRuntime(files[name].read_bytes()) as quantized:
            actions = quantized.act_batch(calibration.held_out)
        error = float(np.sqrt(np.mean((actions - right) ** 2)))
        found += [
            row(bundle.path.name, f"{name} action error, RMS", error, "of 1"),
            row(bundle.path.name, f"{name} model", files[name].stat().st_size, "B"),
        ]
    for narrow, wide in zip(found[:2], found[2:], strict=True):
        wide |= {"ratio": wide["value"] / narrow["value"], "baseline": narrow["metric"]}
    return found
