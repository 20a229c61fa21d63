"""TensorFlow Lite Micro on the desktop, through the official ``tflite-micro`` wheel: the reference for every board."""

from __future__ import annotations

import platform
import re
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.errors import ArenaTooSmallError, UnsupportedOperatorError, require
from balance_hil.quantize import RawArray
from balance_hil.runtimes.base import LayerTensor, ModelRuntime
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.runtimes.tflm_arena import needed_arena_bytes
from balance_hil.tflite.graph import TfliteGraph, read_graph

if TYPE_CHECKING:
    from balance_hil.runtimes.emulated import EmulatedRuntime

# More than any supported policy needs; if this fails, memory is not the cause.
_AMPLE_BYTES_PER_MODEL_BYTE = 10
_AMPLE_MIN_BYTES = 1 << 16
# Allocation took 1.3 times the allocator's count on every policy measured; from this factor on nothing is tried out first.
_SAFE_FACTOR = 2


class TflmRuntime(ModelRuntime):
    """The ``tflm`` runtime, which a board must equal bit for bit: one model in one interpreter. Not thread-safe.

    Where no wheel exists, an emulator that computes the same bits stands in, and a warning says so; it has no arenas (0).

    Args:
        model: bytes of a ``.tflite`` of any element type.
        arena_bytes: size of the tensor arena; None takes more than enough.

    Raises:
        ElementTypeError, UnsupportedOperatorError, ArenaTooSmallError, BundleError, MissingExtraError.
    """

    name = "tflm"

    def __init__(self, model: bytes, arena_bytes: int | None = None) -> None:
        self.graph = read_graph(model)
        self.n_obs, self.n_act = self.graph.n_obs, self.graph.n_act
        self.input_quant, self.output_quant = self.graph.input_quant, self.graph.output_quant
        self._model = bytes(model)
        self._preserving: Any = None
        self._emulator = _stand_in(self.graph) if is_emulated() else None
        self.arena_bytes = self.arena_used_bytes = 0
        if self._emulator is not None:
            return
        self.arena_bytes = _ample(self.graph, model)
        self._interpreter = _interpreter(self._model, self.arena_bytes)
        self.arena_used_bytes = _arena_used(self._interpreter)  # by the allocator's own count
        if arena_bytes is not None:
            self._check_arena(arena_bytes)
            self.arena_bytes = arena_bytes
            self._interpreter = _interpreter(self._model, arena_bytes)

    def needed_arena_bytes(self) -> int:
        """Smallest arena that works, in bytes, found by trial (about a quarter of a second)."""
        return 0 if self._emulator else needed_arena_bytes(self._model, _ample(self.graph, self._model))

    def _check_arena(self, arena_bytes: int) -> None:
        """Checked beforehand, because the wheel may crash the process if the arena is too small."""
        if arena_bytes >= _SAFE_FACTOR * self.arena_used_bytes:
            return
        needed = self.needed_arena_bytes()
        if arena_bytes < needed:
            raise ArenaTooSmallError(
                f"the tensor arena is too small: the model needs {needed} bytes, the arena has {arena_bytes}",
                f"give it at least {needed} bytes, or train a smaller network",
                needed,
            )

    def infer_raw_batch(self, inputs: RawArray) -> RawArray:
        """See ModelRuntime. One inference after the other."""
        if self._emulator is not None:
            return self._emulator.infer_raw_batch(inputs)
        rows = self._shaped(inputs)
        outputs = np.empty((len(rows), self.n_act), self.dtype)
        set_input, invoke, get_output = self._interpreter.set_input, self._interpreter.invoke, self._interpreter.get_output
        for i in range(len(rows)):
            if self.graph.is_recurrent:
                self._interpreter.reset()
            set_input(rows[i], 0)
            invoke()
            outputs[i] = get_output(0).reshape(-1)
        return outputs

    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """See ModelRuntime."""
        return [
            LayerTensor(operator.index, operator.name, values)
            for operator, values in zip(self.graph.operators, self.layers_batch(inputs), strict=True)
            if self.graph.shows(operator)
        ]

    def layers(self, inputs: RawArray) -> list[RawArray]:
        """Output of every operator in execution order, raw [size] each, for one raw input [n_obs]."""
        return [layer[0] for layer in self.layers_batch(inputs[np.newaxis, :])]

    def layers_batch(self, inputs: RawArray) -> list[RawArray]:
        """Output of every operator in execution order, raw [n, size] each, for raw inputs [n, n_obs]."""
        rows = self._shaped(inputs)
        tensors = [self.graph.output_of(operator) for operator in self.graph.operators]
        layers = [np.zeros((len(rows), tensor.size), self.dtype) for tensor in tensors]
        if self._emulator is not None:
            known = {layer.op: layer.values for layer in self._emulator.layers_raw_batch(inputs)}
            return [known.get(operator.index, zeros) for operator, zeros in zip(self.graph.operators, layers, strict=True)]
        interpreter = self._preserving_interpreter()
        for i in range(len(rows)):
            if self.graph.is_recurrent:
                interpreter.reset()
            interpreter.set_input(rows[i], 0)
            interpreter.invoke()
            for layer, tensor in zip(layers, tensors, strict=True):
                layer[i] = interpreter.GetTensor(tensor.index, 0)["tensor_data"].reshape(-1)
        return layers

    def _shaped(self, inputs: RawArray) -> RawArray:
        """Each row in the shape of the model's input."""
        return np.ascontiguousarray(inputs, dtype=self.dtype).reshape(len(inputs), *self.graph.input.shape)

    def _preserving_interpreter(self) -> Any:
        """A second interpreter that keeps intermediate tensors, in a separate arena: they do not fit in a minimal one."""
        if self._preserving is None:
            self._preserving = _interpreter(self._model, _ample(self.graph, self._model), preserve=True)
        return self._preserving


def run_whole(model: bytes, inputs: NDArray[Any]) -> NDArray[Any]:
    """Output [n, ...] of a model with any type of input, for inputs [n, ...], one row after the other.

    Raises what ``TflmRuntime`` raises.
    """
    graph = read_graph(model)
    interpreter = _interpreter(bytes(model), _ample(graph, model))
    shape = tuple(int(n) for n in interpreter.get_input_details(0)["shape"])
    outputs = []
    for row in inputs:
        if graph.is_recurrent:
            interpreter.reset()
        interpreter.set_input(np.ascontiguousarray(row.reshape(shape)), 0)
        interpreter.invoke()
        outputs.append(np.array(interpreter.get_output(0)).reshape(-1))
    return np.stack(outputs)


def load(name: str, bundle: Bundle) -> TflmRuntime:
    """The runtime ``tflm`` for a bundle."""
    return TflmRuntime(bundle.model())


def _ample(graph: TfliteGraph, model: bytes) -> int:
    """Room for all tensors at once, of up to 8 bytes a value, and for what belongs to the model."""
    values = sum(tensor.size for tensor in graph.tensors if not tensor.constant)
    return _AMPLE_BYTES_PER_MODEL_BYTE * len(model) + 8 * values + _AMPLE_MIN_BYTES


def _interpreter(model: bytes, arena_bytes: int, *, preserve: bool = False) -> Any:
    runtime = _wheel()
    kinds = runtime.InterpreterConfig
    kind = kinds.kPreserveAllTensors if preserve else kinds.kAllocationRecording
    failed = None
    with captured_stderr() as captured:
        try:
            return runtime.Interpreter.from_bytes(model, arena_size=arena_bytes, intrepreter_config=kind)
        except Exception as exc:  # the exception says only "failed to allocate tensors"; the cause is on stderr
            failed = exc
    raise UnsupportedOperatorError(
        f"TensorFlow Lite Micro cannot run {_refused_operator(captured.text)}",
        "replace the operator in the network that you export; what runs in int8 stands in docs/operators.md",
    ) from failed


def persistent_bytes(model: bytes) -> int:
    """Bytes of arena that belong to a model all the time: what is not shared by its tensors. Raises what TflmRuntime raises."""
    return _arena_used(_interpreter(bytes(model), _ample(read_graph(model), model)), "tail")


def _arena_used(interpreter: Any, part: str = "total") -> int:
    with captured_stderr() as captured:
        interpreter.print_allocations()
    match = re.search(rf"Arena allocation {part} (\d+) bytes", captured.text)
    if match is None:
        raise RuntimeError(f"the tflite-micro wheel printed no arena size: {captured.text!r}")
    return int(match[1])


def _refused_operator(text: str) -> str:
    if match := re.search(r"Didn't find op for builtin opcode '?(\w+)'?", text):
        return f"the operator {match[1]}"
    if match := re.search(r"Node (\w+) \(number (\d+)\) failed to prepare", text):
        reason = text.splitlines()[0].rpartition("/")[2]
        return f"the operator {match[1]} (number {match[2]}) of this model in int8: {reason}"
    return "this model: " + (" / ".join(text.split("\n")[:2]).strip() or "no reason given")


def is_emulated() -> bool:
    """Whether an emulator stands in for TensorFlow Lite Micro: there is no wheel for this kind of computer."""
    return not wheel_exists() and find_spec("tflite_micro") is None


def wheel_exists() -> bool:
    """Whether there is a tflite-micro wheel for this kind of computer, installed or not."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 12)


def _stand_in(graph: TfliteGraph) -> EmulatedRuntime:
    from balance_hil.runtimes.emulated import EmulatedRuntime
    from balance_hil.runtimes.emulated.rules import TFLM

    here = f"{platform.system()} {platform.machine()} with Python {sys.version_info.major}.{sys.version_info.minor}"
    warnings.warn(
        f"tflm is emulated here, bit for bit: its wheel exists for Linux x86-64 and Python up to 3.11 only, this is {here}",
        stacklevel=3,
    )
    return EmulatedRuntime(graph, TFLM)


def _wheel() -> Any:
    require("tflite_micro", "int8")
    from tflite_micro.python.tflite_micro import runtime

    return runtime
