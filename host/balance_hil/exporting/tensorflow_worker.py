"""TensorFlow in a separate process: ``python -m balance_hil.exporting.tensorflow_worker``.

TensorFlow takes seconds to import, logs from C++ past every Python setting, and onnx2tf leaves through ``sys.exit`` when it
fails. In a child process the import overlaps with the recording of calibration data, the noise goes to the parent's log file,
and a crash is an exit status.

stdin takes JSON lines, one for each task; stdout gives a line of JSON when it is done. All other output goes to stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray


def quiet_environment() -> dict[str, str]:
    """Variables that must be set before TensorFlow is imported: less logging, no GPU, repeatable kernels, Keras 3.

    onnx2tf sets the older Keras when it is imported, later, in time: TensorFlow loads Keras on first use.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TF_USE_LEGACY_KERAS": "0"}
    return quiet | {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_DETERMINISTIC_OPS": "1"}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Imports TensorFlow at once, then serves requests until the end of stdin."""
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras would import it for pictures, a tenth of the time
    import tensorflow as tf

    worker = _Worker(tf)
    for line in requests:
        request = json.loads(line)
        result = getattr(worker, request.pop("task"))(**request)
        answers.write(json.dumps(result or {}) + "\n")
        answers.flush()


class _Worker:
    """One method for each task. Paths are files; an answer with a reason reports a user's mistake."""

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._loaded: Any = None

    def convert(self, onnx: str, calibration: str, models: dict[str, str], per_tensor: bool, seed: int) -> None:
        """ONNX to TFLite of each element type in ``models``, which names the files, float32 among them.

        ``calibration`` is an ``.npy`` of float32 [n, n_obs], normalized.
        """
        import onnx2tf

        tf = self._tf
        tf.keras.utils.set_random_seed(seed)
        model = _to_keras(onnx2tf, Path(onnx))
        # A graph of its own instead of onnx2tf's SavedModel: that one is written, read and traced again for each conversion.
        signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, "observation")]
        function = tf.function(lambda observation: model(observation), input_signature=signature).get_concrete_function()
        Path(models["float32"]).write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert())
        observations = np.load(calibration)
        for kind in models.keys() - {"float32"}:
            Path(models[kind]).write_bytes(_quantize(tf, function, model, observations, per_tensor, int16=kind == "int16x8"))

    def read(self, model: str, float_model: str) -> dict[str, str]:
        """A Keras model or SavedModel to float32 TFLite; answers with a reason where it is not a policy."""
        tf = self._tf
        try:
            if Path(model).is_dir():
                _refuse_operators(Path(model) / "saved_model.pb")
                self._loaded = tf.saved_model.load(model)
                function = self._loaded.signatures["serving_default"]
                (name, spec), *others = function.structured_input_signature[1].items()
                size, call = int(spec.shape[-1]), lambda x: next(iter(function(**{name: x}).values()))
            else:
                self._loaded = tf.keras.models.load_model(model, compile=False, safe_mode=True)
                others = self._loaded.inputs[1:]
                size, call = int(self._loaded.inputs[0].shape[-1]), lambda x: self._loaded(x, training=False)
        except Exception as exc:  # Keras and TensorFlow raise ValueError, TypeError, OSError, KeyError, ... for what they reject
            return {"refused": " ".join(str(exc).split())[:300]}
        if others:
            return {"refused": "it has several inputs"}
        self._call = tf.function(call, input_signature=[tf.TensorSpec((1, size), tf.float32)])
        concrete = self._call.get_concrete_function()
        if isinstance(concrete.structured_outputs, list | tuple | dict):
            return {"refused": "it has several outputs"}
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        frozen = convert_variables_to_constants_v2(concrete)  # Keras's variables would stay such in TFLite
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], self._loaded)
        Path(float_model).write_bytes(converter.convert())
        return {}

    def predict(self, rows: str, outputs: str) -> None:
        """The model's own answers, ``.npy`` of float32 [n, n_act], to ``rows``, ``.npy`` of float32 [n, n_obs]."""
        answers = [np.asarray(self._call(row[np.newaxis, :])).reshape(-1) for row in np.load(rows)]
        np.save(outputs, np.asarray(answers, np.float32))


def _refuse_operators(graph: Path) -> None:
    """A SavedModel is a program: operators that read or write files, or call Python, are none that a policy needs."""
    from tensorflow.core.protobuf import saved_model_pb2

    parsed = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    nodes = [node.op for meta in parsed.meta_graphs for node in meta.graph_def.node]
    nodes += [
        node.op for meta in parsed.meta_graphs for function in meta.graph_def.library.function for node in function.node_def
    ]
    of_the_saver = {"ShardedFilename", "MergeV2Checkpoints"}  # which is not run
    foreign = ("PyFunc", "File", "Reader", "Dataset", "Library", "Print", "Socket")
    for operator in sorted(set(nodes) - of_the_saver):
        if any(word in operator for word in foreign):
            raise ValueError(f"it has the operator {operator}, which a policy has no use for")


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


def _quantize(tf: Any, function: Any, model: Any, observations: NDArray[np.float32], per_tensor: bool, int16: bool) -> bytes:
    def representative_dataset() -> Iterator[list[NDArray[np.float32]]]:
        for observation in observations:
            yield [observation[np.newaxis, :]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    sets = tf.lite.OpsSet
    wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [wide if int16 else sets.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int16 if int16 else tf.int8
    # The only switch there is; microcontroller packages of 2023 ignore per-channel scales silently.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = per_tensor
    converted: bytes = converter.convert()
    return converted


def answers_apart() -> TextIO:
    """The real stdout; everything that is printed from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    os.environ.update(quiet_environment())
    with answers_apart() as stdout:
        serve(sys.stdin, stdout)
