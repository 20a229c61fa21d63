"""ONNX Runtime on the desktop: the exported actor in float32."""

from __future__ import annotations

import numpy as np

from balance_hil.bundle import ONNX_MODEL, Bundle
from balance_hil.errors import BundleError, require
from balance_hil.quantize import Float32Array
from balance_hil.runtimes.base import Runtime


class OnnxRuntime(Runtime):
    """An actor with one input [batch, n_obs] and one output [batch, n_act], on one thread."""

    name = "onnx"

    def __init__(self, model: bytes) -> None:
        require("onnxruntime", "int8")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its exception classes are private and share no other base
            raise BundleError(f"ONNX Runtime cannot load this model: {exc}", "export it again: hil export FOLDER") from exc
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BundleError(
                f"a policy has one input and one output, this ONNX model has {len(inputs)} and {len(outputs)}",
                "export the deterministic actor alone: hil export FOLDER",
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._one_by_one = isinstance(inputs[0].shape[0], int)  # a batch of a fixed size, which is 1
        self.n_obs, self.n_act = int(inputs[0].shape[-1]), int(outputs[0].shape[-1])

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """See Runtime."""
        rows = np.ascontiguousarray(self.normalized(observations))
        parts = [rows[i : i + 1] for i in range(len(rows))] if self._one_by_one else [rows]
        return np.concatenate([self._session.run([self._output], {self._input: part})[0] for part in parts] or [rows[:, :0]])


def load(name: str, bundle: Bundle) -> OnnxRuntime:
    """The runtime ``onnx`` for a bundle. Raises BundleError where the policy came as a Keras model."""
    if not bundle.file(ONNX_MODEL).is_file():
        raise BundleError(f"the bundle {bundle.path} holds no {ONNX_MODEL}", "choose another runtime: --runtime float32")
    return OnnxRuntime(bundle.file(ONNX_MODEL).read_bytes())
