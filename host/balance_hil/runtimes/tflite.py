"""TensorFlow Lite on the desktop (``ai-edge-litert``): the float policy, and models of each element type by its kernels."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import FLOAT_MODEL, Bundle
from balance_hil.errors import BundleError, ElementTypeError, UnsupportedOperatorError, UsageError, require
from balance_hil.quantize import INT16X8, Float32Array, RawArray
from balance_hil.runtimes.base import LayerTensor, ModelRuntime, Runtime
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.tflite.graph import TfliteGraph, read_graph

# Two packages carry the same interpreter, with kernels of different age.
LITERT = "ai_edge_litert.interpreter"
TENSORFLOW = "tensorflow.lite.python.interpreter"

# The last word of a runtime's name -> OpResolverType of the interpreter
_KERNELS = {
    "float32": "AUTO",
    "xnnpack": "AUTO",  # what desktop users get by default
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",  # optimized kernels (ruy), no XNNPACK
    "reference": "BUILTIN_REF",  # plain C++ loops
}


# Operators that the optimized kernels compute in vectors of so many values, and what is left over in another way.
_IN_LANES, _LANES = ("ADD", "MUL", "QUANTIZE", "DEQUANTIZE"), 16
_LARGEST_BATCH = 1 << 24  # values of all tensors


def kernels_of(name: str) -> str:
    """OpResolverType of the runtime ``name``."""
    return _KERNELS[name.rpartition("-")[2]]


class Session:
    """An interpreter that is given as many rows at once as there are; single-threaded, so that results and timings repeat.

    A model with fixed inner shapes (a RESHAPE to constants) runs row by row, and so does any one with ``one_by_one``.

    Args:
        model: bytes of a ``.tflite``.
        kernels: name of the interpreter's OpResolverType.
        preserve: keep intermediate tensors.
        package: whose interpreter: LITERT or TENSORFLOW.
        one_by_one: whether results depend on how many rows there are.

    Raises:
        UnsupportedOperatorError: these kernels reject the model; ``run`` raises it, too.
    """

    def __init__(
        self, model: bytes, kernels: str, *, preserve: bool = False, package: str = LITERT, one_by_one: bool = False
    ) -> None:
        require(package.partition(".")[0], "int8" if package == LITERT else "export")
        with captured_stderr():  # TensorFlow logs the devices found there
            interpreter = importlib.import_module(package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # expected: preserving tensors costs memory
            try:
                self._interpreter = interpreter.Interpreter(
                    model_content=model,
                    num_threads=1,
                    experimental_op_resolver_type=interpreter.OpResolverType[kernels],
                    experimental_preserve_all_tensors=preserve,
                )
                (details,), (output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            except (RuntimeError, ValueError) as exc:
                raise _refused(str(exc)) from exc
        self._input, self._shape = int(details["index"]), tuple(int(n) for n in details["shape"])
        self._output = int(output["index"])
        self._rows = 0
        self._one_by_one = one_by_one or len(self._shape) < 2 or self._shape[0] != 1

    def run(self, inputs: NDArray[Any], tensors: Sequence[int] | None = None) -> list[NDArray[Any]]:
        """Runs inputs, [n, ...] with n at least 1.

        Args:
            inputs: the rows.
            tensors: which tensors to return, intermediate ones only with ``preserve``; None: the output alone.

        Returns:
            Each of them, [n, size].
        """
        wanted = [self._output] if tensors is None else tensors
        if self._rows == 0 or (not self._one_by_one and len(inputs) != self._rows):
            self._resize(len(inputs))
        if not self._one_by_one:
            return self._invoke(inputs.reshape(len(inputs), *self._shape[1:]), len(inputs), wanted)
        parts = [self._invoke(row.reshape(self._shape), 1, wanted) for row in inputs]
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _invoke(self, inputs: NDArray[Any], rows: int, tensors: Sequence[int]) -> list[NDArray[Any]]:
        self._interpreter.reset_all_variables()  # an inference does not depend on the one before
        self._interpreter.set_tensor(self._input, inputs)
        try:
            self._interpreter.invoke()
        except RuntimeError as exc:
            raise _refused(str(exc)) from exc
        return [self._interpreter.get_tensor(index).reshape(rows, -1) for index in tensors]

    def _resize(self, rows: int) -> None:
        batch = (rows, *self._shape[1:])
        self._one_by_one = self._one_by_one or bool(self._refusal(batch)) or not self._batched(rows)
        refusal = self._refusal(self._shape) if self._one_by_one else ""
        if refusal:
            raise _refused(refusal)
        self._rows = rows

    def _refusal(self, shape: tuple[int, ...]) -> str:
        """Allocates tensors for inputs of ``shape``; why that is impossible, "" where it is not."""
        self._interpreter.resize_tensor_input(self._input, shape)
        with captured_stderr() as captured:  # logs its delegate there
            try:
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as exc:
                failed: Exception | None = exc
            else:
                failed = None
        return f"{failed} {captured.text}".strip() if failed else ""

    def _batched(self, rows: int) -> bool:
        """Whether the output has grown with the input."""
        return int(self._interpreter.get_output_details()[0]["shape"][0]) == rows


def _refused(why: str) -> UnsupportedOperatorError:
    reason = " ".join(why.split())
    return UnsupportedOperatorError(f"TensorFlow Lite cannot run this model: {reason}", "choose another runtime: --runtimes tflm")


class TfliteFloatRuntime(Runtime):
    """The float32 ``.tflite`` on the default kernels (XNNPACK)."""

    name = "float32"

    def __init__(self, model: bytes) -> None:
        graph = read_graph(model)
        if graph.input.type != "FLOAT32" or graph.output.type != "FLOAT32":
            raise UsageError("the runtime float32 needs a float model", "give it policy_float32.tflite")
        self.n_obs, self.n_act = graph.n_obs, graph.n_act
        self._session = Session(model, kernels_of(self.name))

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """See Runtime."""
        if len(observations) == 0:
            return np.empty((0, self.n_act), np.float32)
        return np.asarray(self._session.run(self.normalized(observations))[0], np.float32)


class TfliteModelRuntime(ModelRuntime):
    """A ``.tflite`` on one of the three sets of kernels.

    Args:
        name: one of ``balance_hil.runtimes.model_runtime_names``, but tflm.
        model: bytes of a ``.tflite`` of that element type.
        package: whose interpreter: LITERT or TENSORFLOW.

    Raises:
        ElementTypeError: of no supported element type.
    """

    def __init__(self, name: str, model: bytes, package: str = LITERT) -> None:
        self.name = name
        self._package = package
        self.graph: TfliteGraph = read_graph(model)
        if self.graph.kind.name != name.rpartition("-")[0]:
            raise ElementTypeError(f"the runtime {name} does not run {self.graph.kind.name} models", "choose another: --runtime")
        self.n_obs, self.n_act = self.graph.n_obs, self.graph.n_act
        self.input_quant, self.output_quant = self.graph.input_quant, self.graph.output_quant
        self._model = model
        self._rows = _rows_at_once(self.graph)
        self._session = Session(model, kernels_of(name), package=package, one_by_one=self._rows == 1)
        self._preserving: Session | None = None

    def infer_raw_batch(self, inputs: RawArray) -> RawArray:
        """See ModelRuntime."""
        if len(inputs) == 0:
            return np.empty((0, self.n_act), self.dtype)
        return np.asarray(np.concatenate([self._session.run(rows)[0] for rows in self._blocks(inputs)]), self.dtype)

    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """See ModelRuntime."""
        if self._preserving is None:
            one_by_one = self._rows == 1
            kernels = kernels_of(self.name)
            self._preserving = Session(self._model, kernels, preserve=True, package=self._package, one_by_one=one_by_one)
        operators = [operator for operator in self.graph.operators if self.graph.shows(operator)]
        tensors = [self.graph.output_of(operator) for operator in operators]
        values = [np.empty((len(inputs), tensor.size), self.dtype) for tensor in tensors]
        start = 0
        for rows in self._blocks(inputs):
            for layer, part in zip(values, self._preserving.run(rows, [tensor.index for tensor in tensors]), strict=True):
                layer[start : start + len(rows)] = part
            start += len(rows)
        return [LayerTensor(operator.index, operator.name, layer) for operator, layer in zip(operators, values, strict=True)]

    def _blocks(self, inputs: RawArray) -> list[RawArray]:
        rows = np.asarray(inputs, self.dtype)
        return [rows[start : start + self._rows] for start in range(0, len(rows), self._rows)]


def _rows_at_once(graph: TfliteGraph) -> int:
    """How many rows fit in memory together; 1 where results depend on their number, which a control loop never has."""
    in_lanes = [graph.output_of(operator).size for operator in graph.operators if operator.name in _IN_LANES]
    # Of several rows, a constant as large as the output is broadcast: in int16 another loop computes that.
    constants = [graph.tensors[i] for op in graph.operators if op.name == "ADD" for i in op.inputs if graph.tensors[i].constant]
    if any(size % _LANES for size in in_lanes) or (constants and graph.kind == INT16X8):
        return 1
    return max(1, _LARGEST_BATCH // sum(tensor.size for tensor in graph.tensors if not tensor.constant))


def load(name: str, bundle: Bundle) -> Runtime:
    """One of this module's four runtimes for a bundle."""
    if name == "float32":
        if not bundle.file(FLOAT_MODEL).is_file():
            raise BundleError(f"{bundle.path} holds no float model", "choose another runtime: --runtime tflm")
        return TfliteFloatRuntime(bundle.file(FLOAT_MODEL).read_bytes())
    return TfliteModelRuntime(name, bundle.model())
