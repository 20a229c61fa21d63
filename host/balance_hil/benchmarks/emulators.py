"""``hil bench emulators``: inferences per second of the emulators in a batch, beside the interpreters called row by row.

Row by row is the loop that a user of an interpreter writes: set the input, invoke, copy the output into an array, without the
layers that this package has above an interpreter. "Every layer" copies every operator's output, as attributing differences needs;
"output" the last one alone. The interpreters use one thread; the emulators are measured on one and on every core. Models: the
shipped bundles and random 6-64-64-2 actors with ReLU and with tanh. The contenders take turns in short blocks, and the fastest
block of each counts: other programs can only slow one down.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from balance_hil.benchmarks import row
from balance_hil.bundle import Bundle
from balance_hil.paths import MODELS
from balance_hil.quantize import RawArray
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.runtimes.tflite import LITERT, TENSORFLOW, kernels_of
from balance_hil.testing.synthetic_models import actor
from balance_hil.testing.verify_emulators import LITERT_RUNTIMES, TENSORFLOW_RUNTIMES, RuntimeUnderTest, random_inputs
from balance_hil.tflite.graph import TfliteGraph, read_graph

BUNDLES = ("ppo", "sac", "td3", "ddpg", "a2c")
BLOCKS = 40
ROWS_ONE_BY_ONE = 200
ROWS_TOGETHER = 40_000

Way = Callable[[], object]


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    models = {f"models/{bundle}": Bundle.load(MODELS / bundle).model() for bundle in BUNDLES}
    for activation in ("RELU", "TANH"):
        models[f"{activation.lower()} 6-64-64-2"] = actor((6, 64, 64, 2), activation, per_channel=True, seed=0)
    references = LITERT_RUNTIMES + (TENSORFLOW_RUNTIMES if find_spec("tensorflow") else ())
    return [
        each for name, model in models.items() for reference in references for each in _against_reference(reference, name, model)
    ]


def _against_reference(reference: RuntimeUnderTest, title: str, model: bytes) -> list[dict[str, Any]]:
    graph = read_graph(model)
    inputs = random_inputs(ROWS_TOGETHER, graph.n_obs, 0)
    few = inputs[:ROWS_ONE_BY_ONE]
    one, every = (EmulatedRuntime(graph, reference.variant, threads=threads) for threads in (1, None))
    layers = [graph.output_of(operator).index for operator in graph.operators]
    outputs = _row_by_row(reference, model, graph, [graph.output.index], few)
    every_layer = _row_by_row(reference, model, graph, layers, few)
    ways: dict[str, tuple[Way, Way, Way]] = {
        "output": (outputs, lambda: one.infer_raw_batch(inputs), lambda: every.infer_raw_batch(inputs)),
        "every layer": (every_layer, lambda: one.layers_raw_batch(inputs), lambda: every.layers_raw_batch(inputs)),
    }
    rows = []
    for metric, contenders in ways.items():
        slow, *fast = _rates(contenders, (len(few), len(inputs), len(inputs)))
        what = f"{title}, {reference.name}"
        rows.append(row(f"{what}: row by row", metric, slow, "inferences/s"))
        for threads, rate in zip(("one thread", "all cores"), fast, strict=True):
            rows.append(row(f"{what}: emulator, {threads}", metric, rate, "inferences/s", f"{what}: row by row", rate / slow))
    return rows


def _rates(ways: Sequence[Way], rows: Sequence[int]) -> list[float]:
    """Rows per second of some ways, each in its fastest block."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + BLOCKS):
        for way, seen in zip(ways, times, strict=True):
            start_s = time.perf_counter()
            way()
            seen.append(time.perf_counter() - start_s)
    return [count / min(seen[1:]) for count, seen in zip(rows, times, strict=True)]


def _row_by_row(reference: RuntimeUnderTest, model: bytes, graph: TfliteGraph, tensors: Sequence[int], rows: RawArray) -> Way:
    """The loop over ``rows`` with nothing but the interpreter's own functions; copies ``tensors`` of each row."""
    results = [np.empty((len(rows), graph.tensors[tensor].size), np.int8) for tensor in tensors]
    load = _micro if reference in LITERT_RUNTIMES and reference.name == "tflm" else _lite
    set_input, invoke, get = load(reference, model, graph, preserve=len(tensors) > 1)

    def loop() -> list[RawArray]:
        for i in range(len(rows)):
            set_input(rows[i : i + 1])
            invoke()
            for result, tensor in zip(results, tensors, strict=True):
                result[i] = get(tensor)
        return results

    return loop


def _lite(reference: RuntimeUnderTest, model: bytes, graph: TfliteGraph, preserve: bool) -> tuple[Callable[..., Any], ...]:
    """What sets the input, invokes and gets a tensor of TensorFlow Lite's interpreter."""
    package = TENSORFLOW if reference in TENSORFLOW_RUNTIMES else LITERT
    kernels = kernels_of(reference.name.replace(" ", "-"))
    with captured_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the memory cost of preserving tensors is intended
        module = importlib.import_module(package)
        interpreter = module.Interpreter(
            model_content=model,
            num_threads=1,
            experimental_op_resolver_type=module.OpResolverType[kernels],
            experimental_preserve_all_tensors=preserve,
        )
        interpreter.allocate_tensors()
    index, set_tensor = graph.input.index, interpreter.set_tensor
    return lambda row: set_tensor(index, row), interpreter.invoke, interpreter.get_tensor


def _micro(reference: RuntimeUnderTest, model: bytes, graph: TfliteGraph, preserve: bool) -> tuple[Callable[..., Any], ...]:
    """The same of TensorFlow Lite Micro's."""
    from tflite_micro.python.tflite_micro import runtime

    kinds = runtime.InterpreterConfig
    with captured_stderr():
        interpreter = runtime.Interpreter.from_bytes(
            model, intrepreter_config=kinds.kPreserveAllTensors if preserve else kinds.kAllocationRecording
        )
    set_input, get_output, get_tensor = interpreter.set_input, interpreter.get_output, interpreter.GetTensor
    if not preserve:
        return lambda row: set_input(row, 0), interpreter.invoke, lambda _: get_output(0)
    return lambda row: set_input(row, 0), interpreter.invoke, lambda tensor: get_tensor(tensor, 0)["tensor_data"]
