"""Deterministic actor to ONNX.

The graph is written node by node instead of traced: nothing but the actor can get into it (no value head, no log-probability,
no Exp), every name is ours, and the same weights give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from balance_hil.checkpoint import Actor
from balance_hil.errors import ExportError, require

OPSET = 17  # what onnx2tf 1.29 is tested with most
IR_VERSION = 9
INPUT_NAME = "observation"
OUTPUT_NAME = "action"
_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "leaky_relu": "LeakyRelu"}


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
    for i, layer in enumerate(actor.layers):
        name, activation, is_last = f"layer_{i}", layer.activation, i == len(actor.layers) - 1
        constants += [
            numpy_helper.from_array(layer.weight, f"{name}_weight"),
            numpy_helper.from_array(layer.bias, f"{name}_bias"),
        ]
        dense = OUTPUT_NAME if is_last and not activation else name
        nodes.append(helper.make_node("Gemm", [value, f"{name}_weight", f"{name}_bias"], [dense], name=name, transB=1))
        value = dense
        if not activation:
            continue
        output = OUTPUT_NAME if is_last else f"{name}_{activation}"
        if activation == "clip":
            limits = ["action_min", "action_max"]
            if not any(constant.name in limits for constant in constants):
                constants += [numpy_helper.from_array(np.float32(v), n) for n, v in zip(limits, (-1.0, 1.0), strict=True)]
            nodes.append(helper.make_node("Clip", [dense, *limits], [output], name=output))
        elif activation == "silu":
            nodes.append(helper.make_node("Sigmoid", [dense], [f"{output}_gate"], name=f"{output}_gate"))
            nodes.append(helper.make_node("Mul", [dense, f"{output}_gate"], [output], name=output))
        else:
            alpha = {"alpha": 0.01} if activation == "leaky_relu" else {}
            nodes.append(helper.make_node(_OPERATORS[activation], [dense], [output], name=output, **alpha))
        value = output
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
    path.write_bytes(model.SerializeToString(deterministic=True))
