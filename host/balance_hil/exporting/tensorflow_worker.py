"""ONNX to TFLite in a process of its own: ``python -m balance_hil.exporting.tensorflow_worker``.

TensorFlow takes seconds to import, logs from C++ past every Python setting, and onnx2tf leaves through ``sys.exit`` when it
fails. In a child process the import overlaps with the recording of calibration data, the noise goes to the parent's log file,
and a crash is an exit status.

One JSON line on stdin starts the work; the log goes to stdout and stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """What the parent asks for. Paths are files; ``calibration`` is an ``.npy`` of float32 [n, n_obs]."""

    onnx: str
    calibration: str
    float_model: str
    int8_model: str
    per_tensor: bool
    seed: int

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def quiet_environment() -> dict[str, str]:
    """Variables that must be set before TensorFlow is imported: less logging, no GPU, repeatable kernels."""
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TF_ENABLE_ONEDNN_OPTS": "0", "TF_DETERMINISTIC_OPS": "1"}


def serve(requests: TextIO) -> None:
    """Imports TensorFlow at once, then converts what the one request asks for."""
    import onnx2tf
    import tensorflow as tf

    line = requests.readline()
    if not line:  # the parent gave up before it had calibration data
        return
    request = ConversionRequest(**json.loads(line))
    tf.keras.utils.set_random_seed(request.seed)
    model = _to_keras(onnx2tf, Path(request.onnx))
    # A graph of its own instead of onnx2tf's SavedModel: that one is written, read and traced again for each conversion.
    signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, "observation")]
    function = tf.function(lambda observation: model(observation), input_signature=signature).get_concrete_function()
    Path(request.float_model).write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert())
    observations = np.load(request.calibration)
    Path(request.int8_model).write_bytes(_quantize(tf, function, model, observations, request.per_tensor))


def _to_keras(onnx2tf: Any, onnx: Path) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        # onnx2tf may rewrite its input, so it gets a copy.
        copy = shutil.copy(onnx, Path(scratch) / "actor.onnx")
        return onnx2tf.convert(
            input_onnx_file_path=str(copy),
            output_folder_path=str(Path(scratch) / "unused"),
            batch_size=1,
            not_use_onnxsim=True,  # it runs another program, and a graph of dense layers leaves nothing to simplify
            disable_model_save=True,
            non_verbose=True,
        )


def _quantize(tf: Any, function: Any, model: Any, observations: NDArray[np.float32], per_tensor: bool) -> bytes:
    def representative_dataset() -> Iterator[list[NDArray[np.float32]]]:
        for observation in observations:
            yield [observation[np.newaxis, :]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    # The only switch there is; microcontroller packages of 2023 ignore per-channel scales silently.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = per_tensor
    int8_model: bytes = converter.convert()
    return int8_model


if __name__ == "__main__":
    os.environ.update(quiet_environment())
    serve(sys.stdin)
