"""Deterministic actor to ONNX.

The graph is written node by node instead of traced: nothing but the actor can get into it (no value head, no log-probability,
no Exp), every name is ours, and the same weights give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.checkpoint import Layer
from balance_hil.checkpoint.onnx_actor import OnnxActor
from balance_hil.errors import ExportError, require
from balance_hil.spec import PolicySpec

OPSET = 17  # what onnx2tf 1.29 is tested with most
IR_VERSION = 9
INPUT_NAME = "observation"
OUTPUT_NAME = "action"
_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "leaky_relu": "LeakyRelu"}


def write_onnx(layers: Sequence[Layer], path: Path) -> None:
    """Writes dense layers as a checked ONNX model: input ``observation`` [batch, n_obs], output ``action`` [batch, n_act].

    Raises:
        ExportError: the model does not pass the ONNX checker.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", "export")
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], INPUT_NAME
    for i, layer in enumerate(layers):
        name, activation, is_last = f"layer_{i}", layer.activation, i == len(layers) - 1
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
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", layers[0].weight.shape[1]])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", len(layers[-1].bias)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="balance_hil")
    model.ir_version = IR_VERSION
    _write(model, path, "the actor", "report this with the checkpoint attached")


def write_graph(actor: OnnxActor, spec: PolicySpec, path: Path) -> None:
    """Writes an ONNX graph as it is, with the limits of the actions behind it: outputs of -1..1 where ``spec`` has limits.

    Raises:
        ExportError: the result does not pass the ONNX checker.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(actor.graph)
    graph = model.graph
    scaled = spec.action_map.kind == "box" and spec.action[0].min is not None
    if scaled:
        last = graph.output[0].name
        middle, half = (np.array(v, np.float32) for v in (spec.action_map.offset, spec.action_map.scale))
        steps = [("Sub", middle, np.any(middle != 0)), ("Mul", 1 / half, np.any(half != 1))]
        for kind, constant, needed in steps:
            if needed:
                graph.initializer.append(numpy_helper.from_array(np.asarray(constant, np.float32), f"{OUTPUT_NAME}_{kind}_by"))
                graph.node.append(helper.make_node(kind, [last, f"{OUTPUT_NAME}_{kind}_by"], [f"{OUTPUT_NAME}_{kind}"]))
                last = f"{OUTPUT_NAME}_{kind}"
        limits = {f"{OUTPUT_NAME}_min": -1.0, f"{OUTPUT_NAME}_max": 1.0}
        graph.initializer.extend(numpy_helper.from_array(np.float32(v), n) for n, v in limits.items())
        graph.node.append(helper.make_node("Clip", [last, *limits], [OUTPUT_NAME]))
        shape = graph.output[0].type.tensor_type
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, shape.elem_type, [1, actor.n_act]))
    _write(model, path, str(actor.path), "save it with a newer exporter")


def _write(model: Any, path: Path, name: str, hint: str) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"{name} does not pass the ONNX checker: {exc}", hint) from exc
    path.write_bytes(model.SerializeToString(deterministic=True))
