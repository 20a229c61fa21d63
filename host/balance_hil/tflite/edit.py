"""Reduces a model to one of its outputs, or to its core without the float input and output that many converters add.

A board's firmware runs the core and converts observations and actions itself. Desktop runtimes run the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.errors import BundleError, ElementTypeError, UsageError
from balance_hil.quantize import FLOAT32
from balance_hil.tflite.codec import edit, pack, unpack
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph, read_graph, tensor_name

_EXPORT = "export a quantized model: hil export FOLDER (it writes policy_int8.tflite)"


@dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A model with a float input or output, and the operators that its core lacks."""

    model: bytes
    graph: TfliteGraph
    quantize: Operator | None  # from the float input; None: the input is quantized
    dequantize: Operator | None  # to the float output; None: the output is quantized


def select_output(model: bytes, wanted: str | None) -> bytes:
    """``model`` with one of its outputs alone, and the operators that this output depends on.

    Args:
        model: bytes of a ``.tflite``.
        wanted: name or position (from 0) of the output; None: the only one.

    Raises:
        BundleError: not a TensorFlow Lite model.
        UsageError: no such output, or several and none chosen; the hint names them.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    parsed = unpack(model)
    graph = parsed.subgraphs[0]
    outputs = [int(index) for index in _listed(graph.outputs)]
    if not all(0 <= index < len(graph.tensors) for index in outputs):
        raise BundleError("an output of this model is a tensor that it does not have", "export it again: hil export")
    output = outputs[_position([tensor_name(graph.tensors[index], index) for index in outputs], wanted)]
    if len(outputs) == 1:
        return model
    needed, kept = {output}, []
    for operator in reversed(_listed(graph.operators)):
        if needed.intersection(int(index) for index in _listed(operator.outputs)):
            needed.update(int(index) for index in _listed(operator.inputs))
            kept.append(operator)
    graph.operators = kept[::-1]  # a runtime need not compute the others, and then cannot show them
    graph.outputs = [output]
    parsed.signatureDefs = []  # they name outputs that are gone
    return pack(parsed)


def _listed(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _position(names: list[str], wanted: str | None) -> int:
    choices = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    if not names:
        raise BundleError("this model has no output", "export the deterministic actor: hil export FOLDER")
    if wanted is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"the model has {len(names)} outputs", f"choose one with --output: {choices}")
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise UsageError(f"the model has no output {wanted!r}", f"choose one of {choices}")


def quantized_core(model: bytes) -> tuple[bytes, WholeModel | None]:
    """``model`` without a QUANTIZE of its float input and a DEQUANTIZE to its float output; and the whole, where there are any.

    A float32 model has neither, and is returned as it is.

    Args:
        model: bytes of a ``.tflite`` with one input and one output.

    Raises:
        BundleError: not a TensorFlow Lite model, or with several inputs or outputs.
        ElementTypeError: a float input that is not quantized at once, or a float output that no DEQUANTIZE computes.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    graph = read_graph(model)
    quantize = dequantize = None
    if graph.kind == FLOAT32:
        return model, None
    if graph.input.type == "FLOAT32":
        readers = [operator for operator in graph.operators if graph.input.index in operator.inputs]
        quantize = _only(readers, "QUANTIZE", f"input {graph.input.name!r} goes to", graph.output_of)
    if graph.output.type == "FLOAT32":
        writers = [operator for operator in graph.operators if graph.output.index in operator.outputs]
        dequantize = _only(
            writers, "DEQUANTIZE", f"output {graph.output.name!r} comes from", lambda op: graph.tensors[op.inputs[0]]
        )
    if quantize is None and dequantize is None:
        return model, None
    whole = WholeModel(model=model, graph=graph, quantize=quantize, dequantize=dequantize)
    return _without_ends(whole), whole


def _only(operators: list[Operator], name: str, where: str, quantized_end: Any) -> Operator:
    """The one operator there should be at a float end, with quantized values on its other side."""
    if len(operators) == 1 and operators[0].name == name:
        tensor: Tensor = quantized_end(operators[0])
        if tensor.type in ("INT8", "INT16"):
            return operators[0]
    found = ", ".join(dict.fromkeys(operator.name for operator in operators)) or "nothing"
    raise ElementTypeError(f"the model's float {where} {found}, not one {name} of int8 or int16", _EXPORT)


def _without_ends(whole: WholeModel) -> bytes:
    parsed = unpack(whole.model)
    subgraph = parsed.subgraphs[0]
    if whole.quantize is not None:
        subgraph.inputs = [whole.quantize.outputs[0]]
    if whole.dequantize is not None:
        subgraph.outputs = [whole.dequantize.inputs[0]]
    if list(subgraph.inputs) == list(subgraph.outputs):
        raise BundleError("this model does nothing but quantize and dequantize", "point at a model with quantized operators")
    gone = {operator.index for operator in (whole.quantize, whole.dequantize) if operator is not None}
    subgraph.operators = [operator for index, operator in enumerate(subgraph.operators) if index not in gone]
    parsed.signatureDefs = []  # they name inputs and outputs that are gone
    return pack(parsed)


def elementwise_in_int8(model: bytes) -> bytes:
    """``model`` with every DEQUANTIZE, ELU, QUANTIZE in a row joined to an ELU of int8, which is one table of 256 entries.

    TensorFlow's converter leaves ELU in float; the int8 kernel is there on desktop and on boards.

    Raises:
        BundleError: not a TensorFlow Lite model, or with several inputs or outputs.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    graph = read_graph(model)
    readers: dict[int, list[Operator]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    writers = {operator.outputs[0]: operator for operator in graph.operators}
    joined = []
    for operator in graph.operators:
        before, after = writers.get(operator.inputs[0]), readers.get(operator.outputs[0], [])
        if operator.name != "ELU" or before is None or before.name != "DEQUANTIZE" or [o.name for o in after] != ["QUANTIZE"]:
            continue
        if graph.tensors[before.inputs[0]].type == graph.output_of(after[0]).type == "INT8":
            joined.append((before, operator, after[0]))
    if not joined:
        return model

    def change(parsed: Any) -> None:
        subgraph = parsed.subgraphs[0]
        gone = set()
        for before, operator, after in joined:
            subgraph.operators[operator.index].inputs = [before.inputs[0]]
            subgraph.operators[operator.index].outputs = [after.outputs[0]]
            gone.add(after.index)
            if len(readers[before.outputs[0]]) == 1:
                gone.add(before.index)
        subgraph.operators = [each for i, each in enumerate(subgraph.operators) if i not in gone]

    return edit(model, change)
