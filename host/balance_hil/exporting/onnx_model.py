"""Deterministic actor to ONNX.

The graph is written node by node instead of traced: nothing but the actor can get into it (no value head, no log-probability,
no Exp), every name is ours, and the same weights give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from balance_hil.checkpoint import Actor
from balance_hil.errors import ExportError, require

OPSET = 17  # what onnx2tf 1.29 is tested with most
IR_VERSION = 9
INPUT_NAME = "observation"
OUTPUT_NAME = "action"
ALLOWED_OPERATORS = frozenset({"Gemm", "Relu", "Tanh", "Sigmoid", "Clip"})
_ACTIVATION_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def write_onnx(actor: Actor, path: Path) -> None:
    """Writes the actor as a checked ONNX model: input ``observation`` [batch, n_obs], output ``action`` [batch, n_act].

    Raises:
        ExportError: onnx's checker refuses the model.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", "export")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], INPUT_NAME
    for i, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
        layer = f"layer_{i}"
        constants += [numpy_helper.from_array(weight, f"{layer}_weight"), numpy_helper.from_array(bias, f"{layer}_bias")]
        nodes.append(helper.make_node("Gemm", [value, f"{layer}_weight", f"{layer}_bias"], [layer], name=layer, transB=1))
        value = layer
        if i < len(actor.weights) - 1:
            value = f"{layer}_{actor.activation}"
            nodes.append(helper.make_node(_ACTIVATION_OPERATORS[actor.activation], [layer], [value], name=value))
    if actor.bound == "tanh":
        nodes.append(helper.make_node("Tanh", [value], [OUTPUT_NAME], name=OUTPUT_NAME))
    else:
        constants += [numpy_helper.from_array(np.float32(v), n) for n, v in (("action_min", -1.0), ("action_max", 1.0))]
        nodes.append(helper.make_node("Clip", [value, "action_min", "action_max"], [OUTPUT_NAME], name=OUTPUT_NAME))
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", actor.n_obs])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", actor.n_act])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="balance_hil")
    model.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"onnx's checker refuses the actor: {exc}", "report this with the checkpoint attached") from exc
    check_operators(node.op_type for node in nodes)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_operators(operators: Iterable[str]) -> None:
    """Raises ExportError for an operator that a deterministic actor has no use for, such as Exp."""
    foreign = sorted(set(operators) - ALLOWED_OPERATORS)
    if foreign:
        raise ExportError(f"the ONNX graph holds {', '.join(foreign)}", "export the deterministic actor alone")
