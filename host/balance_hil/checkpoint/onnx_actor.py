"""Reads an actor that is saved as ONNX: by rsl_rl, mjlab, Isaac Lab, torch or anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.chain import Activation, Dense, Limits, Network, Step, affine, network_of, split_normalization
from balance_hil.errors import CheckpointError, first_line, require
from balance_hil.interrupt import entered
from balance_hil.quantize import Normalization

MAX_BYTES = 256 << 20  # of the model and its weights together
_MAX_NODES = 10_000
_OUTPUTS = ("actions", "action", "mean")  # which one is meant where there are several
_HINT = "export the deterministic actor alone: one input [batch, observations], one output [batch, actions]"
_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Elu": "elu", "LeakyRelu": "leaky_relu"}
_ALPHA = {"Elu": 1.0, "LeakyRelu": 0.01}
_PASSED = ("Identity", "Dropout", "Flatten", "Reshape", "Cast", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxActor:
    """An ONNX model that was read.

    ``network`` is a chain of dense layers that computes the same. Where there is none, ``reason`` says why, and ``graph`` is the
    model as it is, without the ``normalization`` in front of it.
    """

    path: Path  # as the user named it
    model: bytes  # in one piece, with its weights inside and one output
    n_obs: int
    n_act: int
    network: Network | None
    reason: str = ""
    graph: bytes = b""
    normalization: Normalization | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def names(self, key: str, count: int) -> tuple[str, ...]:
        """Names that the metadata lists under ``key``, separated by commas; none where their number is not ``count``."""
        names = tuple(name.strip() for name in self.metadata.get(key, "").split(",") if name.strip())
        return names if len(names) == count and len(set(names)) == count else ()


def read_onnx(path: Path) -> OnnxActor:
    """Reads an ``.onnx`` file and the weights beside it.

    Raises:
        CheckpointError: damaged, too large, not a policy with one input and one output of numbers, or weights outside its folder.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    require("onnx", "export")
    require("onnxruntime", "int8")
    import onnx

    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_BYTES >> 20} MiB", _HINT)
        model = onnx.load(path, load_external_data=False)
        _load_weights(path, model)
        onnx.checker.check_model(model)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror or exc}", "check the path and its permissions") from exc
    except CheckpointError:
        raise
    except Exception as exc:  # protobuf's DecodeError, onnx's ValidationError and ValueError share no base
        raise CheckpointError(f"{path} is not an ONNX model, or damaged: {first_line(exc)}", _HINT) from exc
    n_obs, output = _ends(path, model)
    del model.graph.output[:]
    model.graph.output.append(output)
    content = model.SerializeToString(deterministic=True)
    n_act = _n_act(path, content, n_obs)
    read = OnnxActor(
        path=path,
        model=content,
        n_obs=n_obs,
        n_act=n_act,
        network=None,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )
    simplified = _simplified(content)
    try:
        steps, values, reason = _steps(simplified)
        network = reason or network_of(steps, n_obs)
        if isinstance(network, Network):
            return replace(read, network=network, normalization=network.normalization)
        normalization, rest = split_normalization(steps, n_obs)
    except (LookupError, TypeError, ValueError, ArithmeticError) as exc:  # its sizes do not fit, though ONNX Runtime ran it
        raise CheckpointError(f"{path} has a constant of a size that does not fit its nodes: {exc}", _HINT) from exc
    cut = len(steps) - len(rest) if normalization else 0
    return replace(read, reason=network, graph=_without_front(simplified, values[: cut + 1]), normalization=normalization)


def run_onnx(model: bytes, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs, float32 [n, n_act], of a model with one input and one output; a static batch of 1 gets its rows one by one."""
    session = _session(model)
    source = session.get_inputs()[0]
    rows = np.asarray(observations, np.float32)
    flat = len(source.shape) == 1
    parts = [rows] if not flat and not isinstance(source.shape[0], int) else [rows[i : i + 1] for i in range(len(rows))]
    outputs = []
    for part in parts:
        output = session.run(None, {source.name: part[0] if flat else part})[0]
        outputs.append(np.asarray(output, np.float32).reshape(len(part), -1))
    return np.concatenate(outputs)


def _load_weights(path: Path, model: Any) -> None:
    """Reads what the model keeps in other files, if they lie in its own folder."""
    import onnx
    from onnx import external_data_helper

    folder = path.resolve().parent
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or folder not in file.parents:
            raise CheckpointError(f"{path} keeps weights outside its folder: {location!r}", "save the model in one file")
        if not file.is_file():
            raise CheckpointError(f"{path} needs its weights, {location}, beside it", f"copy {location} there, too")
        if file.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{file} is larger than {MAX_BYTES >> 20} MiB", _HINT)
    external_data_helper.load_external_data_for_model(model, str(folder))


def _ends(path: Path, model: Any) -> tuple[int, Any]:
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        recurrent = [value.name for value in inputs if value.name.lower() in ("h_in", "c_in", "hidden_in", "state_in")]
        what = f"is recurrent ({recurrent[0]}): a board keeps no state" if recurrent else f"has {len(inputs)} inputs: {names}"
        raise CheckpointError(f"{path} {what}", _HINT)
    if len(graph.node) > _MAX_NODES:
        raise CheckpointError(f"{path} has {len(graph.node)} nodes", _HINT)
    outputs = list(graph.output)
    output = outputs[0] if len(outputs) == 1 else next((v for name in _OUTPUTS for v in outputs if v.name == name), None)
    if output is None:
        raise CheckpointError(f"{path} has {len(outputs)} outputs: {', '.join(v.name for v in outputs)}", _HINT)
    kind = inputs[0].type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != 1 or not 1 <= len(sizes) <= 2 or sizes[-1] < 1 or (len(sizes) == 2 and sizes[0] > 1):
        raise CheckpointError(
            f"the input {inputs[0].name} of {path} is not float32 [batch, observations] of a known size: {sizes}", _HINT
        )
    return int(sizes[-1]), output


def _session(model: bytes, optimized: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _n_act(path: Path, model: bytes, n_obs: int) -> int:
    try:
        outputs = run_onnx(model, np.zeros((1, n_obs), np.float32))
    except Exception as exc:  # its exception classes are private and share no other base
        raise CheckpointError(f"ONNX Runtime cannot run {path}: {first_line(exc)}", _HINT) from exc
    return int(outputs.shape[1])


def _simplified(model: bytes) -> Any:
    """The model with constants computed and simple pairs of nodes joined."""
    import onnx

    with entered(tempfile.TemporaryDirectory) as scratch:
        file = Path(scratch) / "optimized.onnx"
        _session(model, str(file))
        return onnx.load(file)


def _steps(model: Any) -> tuple[list[Step], list[str], str]:
    """The nodes as a line of steps, the names of the values before, between and after them, and why the line ends early."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    value = next(v.name for v in graph.input if v.name not in constants)
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    steps: list[Step] = []
    values, end = [value], graph.output[0].name
    while value != end:
        nodes = readers.get(value, [])
        gate = next((node for node in nodes if node.op_type == "Sigmoid"), None)
        product = next((node for node in nodes if node.op_type == "Mul"), None)
        if len(nodes) == 2 and gate is not None and product is not None and gate.output[0] in product.input:
            found: Sequence[Step] | str = [Activation("silu")]
            value = product.output[0]
        elif len(nodes) != 1:
            return steps, values, f"{value} goes to {len(nodes)} nodes"
        else:
            found = _step(nodes[0], value, constants)
            value = nodes[0].output[0]
        if isinstance(found, str):
            return steps, values, found
        steps += found
        values = [*values, value] if found else [*values[:-1], value]
    return steps, values, ""


def _without_front(model: Any, values: Sequence[str]) -> bytes:
    """The model without the nodes that make the last of ``values`` out of the first, its input."""
    graph = model.graph
    gone = set(values[1:])
    kept = [node for node in graph.node if not gone & set(node.output)]
    for node in kept:
        for i, name in enumerate(node.input):
            if name in gone:
                node.input[i] = values[0]
    del graph.node[:]
    graph.node.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))


def _step(node: Any, value: str, constants: Mapping[str, NDArray[Any]]) -> Sequence[Step] | str:
    kind = node.op_type
    attributes = {attribute.name: attribute for attribute in node.attribute}
    others = [constants.get(name) for name in node.input if name and name != value]
    if any(other is None for other in others) or list(node.input).count(value) != 1:
        return f"{kind} {node.name} joins two values"
    given = [np.asarray(other) for other in others]
    if kind in _PASSED:
        return []
    if kind in _ACTIVATIONS:
        alpha = attributes["alpha"].f if "alpha" in attributes else _ALPHA.get(kind)
        if alpha is not None and not np.isclose(alpha, _ALPHA[kind]):
            return f"{kind} with alpha {alpha:g}"
        return [Activation(_ACTIVATIONS[kind])]
    if kind in ("Sub", "Add", "Mul", "Div"):
        return affine(kind, given[0], first=node.input[0] == value)
    if kind == "Clip":
        low = float(given[0]) if given else float(attributes["min"].f) if "min" in attributes else -np.inf
        high = float(given[1]) if len(given) > 1 else float(attributes["max"].f) if "max" in attributes else np.inf
        return [Activation("relu")] if (low, high) == (0.0, np.inf) else [Limits(low, high)]
    if kind in ("Gemm", "MatMul") and node.input[0] == value and given[0].ndim == 2:
        weight = np.asarray(given[0], np.float32)
        transposed = kind == "Gemm" and "transB" in attributes and attributes["transB"].i == 1
        alpha, beta = (attributes[name].f if name in attributes else 1.0 for name in ("alpha", "beta"))
        if "transA" in attributes and attributes["transA"].i:
            return f"Gemm {node.name} with transA"
        weight = (weight if transposed else weight.T) * np.float32(alpha)
        bias = np.broadcast_to(given[1].reshape(-1) * beta if len(given) > 1 else 0.0, (len(weight),))
        return [Dense(np.ascontiguousarray(weight, np.float32), np.asarray(bias, np.float32))]
    return f"{kind} {node.name} is not part of a chain of dense layers"
