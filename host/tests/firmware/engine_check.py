"""Runs the compact engine's check program and TensorFlow Lite Micro over the same inputs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.tflite.graph import TfliteGraph, read_graph

RunCheck = Callable[[Path, Path, Path], subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class EngineResult:
    """``layers`` and ``outputs`` are None when the model was refused."""

    accepted: bool
    message: str  # the line that the program printed
    arena_bytes: int
    layers: list[np.ndarray] | None  # int8 [n, size] for every operator with an int8 output
    outputs: np.ndarray | None


def int8_layer_sizes(graph: TfliteGraph) -> list[int]:
    """Elements of the output of every operator that computes int8."""
    tensors = [graph.output_of(op) for op in graph.operators]
    return [tensor.size for tensor in tensors if tensor.type == "INT8"]


def run_engine(run: RunCheck, model: bytes, inputs: np.ndarray, folder: Path) -> EngineResult:
    """The compact engine's results for int8 [n, n_obs]."""
    (folder / "model.tflite").write_bytes(model)
    (folder / "inputs.bin").write_bytes(np.ascontiguousarray(inputs, np.int8).tobytes())
    done = run(folder / "model.tflite", folder / "inputs.bin", folder / "outputs.bin")
    assert done.returncode in (0, 1), f"the check program ended with {done.returncode}: {done.stdout}{done.stderr}"
    words = done.stdout.split()
    arena_bytes = int(words[words.index("arena") + 1]) if "arena" in words else 0
    if done.returncode == 1:
        return EngineResult(False, done.stdout, arena_bytes, None, None)
    graph = read_graph(model)
    sizes = [*int8_layer_sizes(graph), graph.n_act]
    values = np.fromfile(folder / "outputs.bin", np.int8).reshape(len(inputs), sum(sizes))
    parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
    return EngineResult(True, done.stdout, arena_bytes, parts[:-1], parts[-1])


def tflm_layers(model: bytes, inputs: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """TFLM's int8 outputs of every operator that has one, and the outputs."""
    tflm = TflmRuntime(model)
    interpreter = tflm._preserving_interpreter()
    tensors = [tflm.graph.output_of(op) for op in tflm.graph.operators]
    int8_tensors = [tensor for tensor in tensors if tensor.type == "INT8"]
    layers = [np.empty((len(inputs), tensor.size), np.int8) for tensor in int8_tensors]
    for i in range(len(inputs)):
        interpreter.set_input(inputs[i].reshape(tflm.graph.input.shape), 0)
        interpreter.invoke()
        for layer, tensor in zip(layers, int8_tensors, strict=True):
            layer[i] = interpreter.GetTensor(tensor.index, 0)["tensor_data"].reshape(-1)
    return layers, tflm.infer_raw_batch(inputs)


def assert_equals_tflm(run: RunCheck, model: bytes, inputs: np.ndarray, folder: Path) -> None:
    """Every intermediate tensor and every output, bit for bit."""
    result = run_engine(run, model, inputs, folder)
    assert result.accepted, result.message
    assert result.layers is not None
    expected_layers, expected = tflm_layers(model, inputs)
    for k, (got, want) in enumerate(zip(result.layers, expected_layers, strict=True)):
        assert np.array_equal(got, want), f"tensor {k}: {np.count_nonzero(got != want)} of {got.size} differ"
    assert np.array_equal(result.outputs, expected)
