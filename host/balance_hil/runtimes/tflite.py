"""TensorFlow Lite on the desktop (``ai-edge-litert``): one float runtime and three int8 ones that round differently."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import FLOAT_MODEL, Bundle
from balance_hil.errors import UnsupportedOperatorError, UsageError, require
from balance_hil.runtimes.base import Float32Array, Int8Array, Int8Runtime, LayerTensor, Runtime
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.runtimes.tflite_graph import TfliteGraph, read_graph

# Two packages carry the same interpreter, with kernels of different age.
LITERT = "ai_edge_litert.interpreter"
TENSORFLOW = "tensorflow.lite.python.interpreter"

# name of the runtime -> OpResolverType of the interpreter
_KERNELS = {
    "float32": "AUTO",
    "int8-xnnpack": "AUTO",  # what desktop users get by default
    "int8-builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",  # optimised kernels (ruy), no XNNPACK
    "int8-reference": "BUILTIN_REF",  # plain C++ loops
}


class _Session:
    """An interpreter whose batch size follows its input; single-threaded, so that results and timings repeat."""

    def __init__(self, model: bytes, kernels: str, *, preserve: bool = False, package: str = LITERT) -> None:
        require(package.partition(".")[0], "int8" if package == LITERT else "export")
        interpreter = importlib.import_module(package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # preserving tensors costs memory: we know
            self._interpreter = interpreter.Interpreter(
                model_content=model,
                num_threads=1,
                experimental_op_resolver_type=interpreter.OpResolverType[kernels],
                experimental_preserve_all_tensors=preserve,
            )
        self._input = int(self._interpreter.get_input_details()[0]["index"])
        self._output = int(self._interpreter.get_output_details()[0]["index"])
        self._rows = 0

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Output [n, ...] for input [n, ...]."""
        if len(inputs) != self._rows:
            self._resize(inputs.shape)
        self._interpreter.set_tensor(self._input, inputs)
        self._interpreter.invoke()
        output: NDArray[Any] = self._interpreter.get_tensor(self._output)
        return output

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the last run, [n, ...]; intermediate ones only with ``preserve``."""
        values: NDArray[Any] = self._interpreter.get_tensor(index)
        return values

    def _resize(self, shape: tuple[int, ...]) -> None:
        self._interpreter.resize_tensor_input(self._input, shape)
        with captured_stderr() as captured:  # announces its delegate there
            try:
                self._interpreter.allocate_tensors()
                failed = None
            except (RuntimeError, ValueError) as exc:
                failed = exc
        if failed is not None:
            raise UnsupportedOperatorError(
                f"TensorFlow Lite cannot run this model: {failed} {captured.text}".strip(),
                "export it again: hil export models/ppo",
            ) from failed
        self._rows = shape[0]


class TfliteFloatRuntime(Runtime):
    """The float32 ``.tflite`` on the default kernels (XNNPACK)."""

    name = "float32"

    def __init__(self, model: bytes) -> None:
        graph = read_graph(model)
        if graph.input.type != "FLOAT32" or graph.output.type != "FLOAT32":
            raise UsageError("the runtime float32 needs a float model", "give it policy_float32.tflite")
        self.n_obs, self.n_act = graph.n_obs, graph.n_act
        self._session = _Session(model, _KERNELS[self.name])

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """See Runtime."""
        if len(observations) == 0:
            return np.empty((0, self.n_act), np.float32)
        return np.asarray(self._session.run(np.asarray(observations, np.float32)), np.float32)


class TfliteInt8Runtime(Int8Runtime):
    """The int8 ``.tflite`` on one of the three sets of kernels.

    Args:
        name: "int8-xnnpack", "int8-builtin" or "int8-reference".
        model: bytes of an int8 ``.tflite``.
        package: whose interpreter: LITERT or TENSORFLOW.

    Raises:
        ModelNotInt8Error: input or output is not int8.
    """

    def __init__(self, name: str, model: bytes, package: str = LITERT) -> None:
        self.name = name
        self._package = package
        self.graph: TfliteGraph = read_graph(model)
        self.n_obs, self.n_act = self.graph.n_obs, self.graph.n_act
        self.input_quant, self.output_quant = self.graph.input_quant, self.graph.output_quant
        self._model = model
        self._session = _Session(model, _KERNELS[name], package=package)
        self._preserving: _Session | None = None

    def infer_int8_batch(self, inputs: Int8Array) -> Int8Array:
        """See Int8Runtime."""
        if len(inputs) == 0:
            return np.empty((0, self.n_act), np.int8)
        return np.asarray(self._session.run(np.asarray(inputs, np.int8)), np.int8)

    def layers_int8_batch(self, inputs: Int8Array) -> list[LayerTensor]:
        """See Int8Runtime."""
        if self._preserving is None:
            self._preserving = _Session(self._model, _KERNELS[self.name], preserve=True, package=self._package)
        rows = len(inputs)
        if rows:
            self._preserving.run(np.asarray(inputs, np.int8))
        layers = []
        for operator in self.graph.operators:
            tensor = self.graph.output_of(operator)
            values = self._preserving.tensor(tensor.index).reshape(rows, -1) if rows else np.empty((0, tensor.size))
            layers.append(LayerTensor(operator.index, operator.name, np.asarray(values, np.int8)))
        return layers


def load(name: str, bundle: Bundle) -> Runtime:
    """One of this module's four runtimes for a bundle."""
    if name == "float32":
        return TfliteFloatRuntime(bundle.file(FLOAT_MODEL).read_bytes())
    return TfliteInt8Runtime(name, bundle.int8_model())
