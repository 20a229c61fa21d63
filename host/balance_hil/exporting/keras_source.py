"""Keras models and SavedModels as policies: looked at before they are loaded, converted to TFLite, read as a chain of layers."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.checkpoint.chain import Activation, Dense, Limits, Network, Step, affine, network_of
from balance_hil.errors import CheckpointError, HarnessError, require
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.files import parse_json
from balance_hil.processes import tied
from balance_hil.tflite.graph import Operator, TfliteGraph, read_graph

MAX_BYTES = 256 << 20
_MAX_CONFIG_BYTES = 4 << 20
_TIMEOUT_S = 60.0
# 4 s of processor time, and 256 MiB beside what the library and its threads' stacks take, where the system has such limits.
_READ_H5 = """
import h5py, sys
if sys.platform == "linux":
    import re, resource
    held = int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
    for what, most in (resource.RLIMIT_CPU, 4), (resource.RLIMIT_DATA, held + (256 << 20)):
        resource.setrlimit(what, (most, most))
sys.stdout.write(h5py.File(sys.argv[1]).attrs["model_config"])
"""
_HINT = "save a chain of Dense layers with one input and one output, or convert it to ONNX and export that"
_FUSED: dict[str, list[Step]] = {
    "NONE": [],
    "RELU": [Activation("relu")],
    "TANH": [Activation("tanh")],
    "RELU_N1_TO_1": [Limits(-1.0, 1.0)],
    "RELU6": [Limits(0.0, 6.0)],
}
_ACTIVATIONS = {"RELU": "relu", "TANH": "tanh", "LOGISTIC": "sigmoid", "ELU": "elu", "LEAKY_RELU": "leaky_relu"}
_PASSED = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")


def check_keras_file(path: Path) -> None:
    """Raises CheckpointError for a file that is not a Keras model, or that would run its own code when it is loaded."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_BYTES >> 20} MiB", _HINT)
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive, archive.open("config.json") as part:
                config = parse_json(part.read(_MAX_CONFIG_BYTES))
        else:
            require("h5py", "export")
            config = parse_json(_h5_config(path))
    except HarnessError:
        raise
    except Exception as exc:  # zipfile, zlib and h5py share no base for what is damaged
        raise CheckpointError(f"{path} is not a Keras model, or damaged: {exc}", _HINT) from exc
    for table in _tables(config):
        name = table.get("class_name")
        module = str(table.get("module") or "keras")
        if name == "Lambda" or module.partition(".")[0] not in ("keras", "builtins"):
            raise CheckpointError(f"{path} contains its own code, {module}.{name}, which is not run", _HINT)


def _h5_config(path: Path) -> bytes:
    """The attribute model_config of an HDF5 file, read in a child process: a damaged file may crash or never end the library."""
    try:
        done = subprocess.run(tied([sys.executable, "-c", _READ_H5, str(path)]), capture_output=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise ValueError(f"it cannot be read in {_TIMEOUT_S:g} s") from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(said[-1] if said else f"the program that reads it ended with status {done.returncode}")
    if len(done.stdout) > _MAX_CONFIG_BYTES:
        raise ValueError(f"its configuration is larger than {_MAX_CONFIG_BYTES} bytes")
    return done.stdout


def read_network(model: Path, tensorflow: TensorFlowProcess, scratch: Path) -> Network:
    """Loads a Keras model or SavedModel in TensorFlow's process, where it stays, and reads what it computes.

    Raises:
        CheckpointError: it cannot be loaded, has several inputs or outputs, or is not a chain of dense layers.
    """
    if model.is_file():
        check_keras_file(model)
    file = scratch / "source.tflite"
    tensorflow.start("read", model=str(model.resolve()), float_model=str(file))
    refused = tensorflow.finish().get("refused")
    if refused:
        raise CheckpointError(f"{model} cannot be read: {refused}", _HINT)
    graph = read_graph(file.read_bytes())
    steps = _steps(graph)
    network = network_of(steps, graph.n_obs) if not isinstance(steps, str) else steps
    if isinstance(network, str):
        raise CheckpointError(f"{model} is not a chain of dense layers: {network}", _HINT)
    return network


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _steps(graph: TfliteGraph) -> list[Step] | str:
    steps: list[Step] = []
    value = graph.input.index
    skipped: set[int] = set()
    for operator in graph.operators:
        if operator.index in skipped:
            continue
        gate = _gate(graph, operator, value)
        if gate is not None:
            steps.append(Activation("silu"))
            value, skipped = gate.outputs[0], skipped | {gate.index}
            continue
        found = _step(graph, operator, value)
        if isinstance(found, str):
            return found
        steps += found
        value = operator.outputs[0]
    return steps if value == graph.output.index else "its output is not the end of the chain"


def _gate(graph: TfliteGraph, operator: Operator, value: int) -> Operator | None:
    """The product x * sigmoid(x), where ``operator`` is the sigmoid."""
    if operator.name != "LOGISTIC" or operator.inputs[0] != value:
        return None
    readers = [each for each in graph.operators if operator.outputs[0] in each.inputs]
    return readers[0] if len(readers) == 1 and readers[0].name == "MUL" and value in readers[0].inputs else None


def _step(graph: TfliteGraph, operator: Operator, value: int) -> list[Step] | str:
    name, place = operator.name, f"operator {operator.index}, {operator.name}"
    constants = [None if i < 0 else graph.tensors[i].data for i in operator.inputs if i != value]
    needed = [] if name in _PASSED else constants[:1] if name == "FULLY_CONNECTED" else constants  # a bias may be absent
    if operator.inputs.count(value) != 1 or any(data is None for data in needed):
        return f"{place}, does not follow the one before it alone"
    if operator.activation not in _FUSED:
        return f"{place}, has the activation {operator.activation}"
    fused = _FUSED[operator.activation]
    given = [np.asarray(data, np.float64) for data in constants if data is not None]
    match name:
        case "FULLY_CONNECTED":
            weight = given[0].astype(np.float32)
            bias = given[1].astype(np.float32).reshape(-1) if len(given) > 1 else np.zeros(len(weight), np.float32)
            return [Dense(weight, bias), *fused]
        case "ADD" | "SUB" | "MUL" | "DIV":
            found = affine(name.capitalize(), given[0], first=operator.inputs[0] == value)
            return f"{place}, is {found}" if isinstance(found, str) else [*found, *fused]
        case "MINIMUM" if given[0].size == 1:
            return [Limits(-np.inf, float(given[0].reshape(-1)[0]))]
        case "MAXIMUM" if given[0].size == 1:
            return [Limits(float(given[0].reshape(-1)[0]), np.inf)]
    if name in _ACTIVATIONS:
        return [Activation(_ACTIVATIONS[name])]
    return [] if name in _PASSED else f"{place}, is not supported"
