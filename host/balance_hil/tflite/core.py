"""A model with a float input or output, as many exporters write it, taken apart: its int8 core, and the two ends around it.

What a board's firmware runs is the core: it converts observations and actions itself. What a desktop user runs is the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balance_hil.errors import BundleError, ModelNotInt8Error, require
from balance_hil.tflite.graph import Operator, TfliteGraph, read_graph


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The whole model and the operators that its core lacks."""

    model: bytes
    graph: TfliteGraph
    quantize: Operator | None  # from the float input; None: the input is int8
    dequantize: Operator | None  # to the float output; None: the output is int8


def int8_core(model: bytes) -> tuple[bytes, Ends | None]:
    """``model`` without a QUANTIZE of its float input and a DEQUANTIZE to its float output; and those ends, where there are any.

    Args:
        model: bytes of a ``.tflite`` with one input and one output.

    Raises:
        BundleError: not a TensorFlow Lite model, or with several inputs or outputs.
        ModelNotInt8Error: a float input that is not quantized at once, or a float output that no DEQUANTIZE computes.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    graph = read_graph(model)
    quantize = _reader_of_float_input(graph) if graph.input.type == "FLOAT32" else None
    dequantize = _writer_of_float_output(graph) if graph.output.type == "FLOAT32" else None
    if quantize is None and dequantize is None:
        return model, None
    ends = Ends(model=model, graph=graph, quantize=quantize, dequantize=dequantize)
    return _without(model, quantize, dequantize), ends


def _reader_of_float_input(graph: TfliteGraph) -> Operator:
    readers = [operator for operator in graph.operators if graph.input.index in operator.inputs]
    if len(readers) != 1 or readers[0].name != "QUANTIZE" or graph.output_of(readers[0]).type != "INT8":
        names = ", ".join(dict.fromkeys(operator.name for operator in readers)) or "nothing"
        raise ModelNotInt8Error(
            f"the model's float input {graph.input.name!r} goes to {names}, not to one QUANTIZE to int8",
            "export an int8 model: hil export models/ppo (it writes policy_int8.tflite)",
        )
    return readers[0]


def _writer_of_float_output(graph: TfliteGraph) -> Operator:
    writer = next((operator for operator in graph.operators if graph.output.index in operator.outputs), None)
    if writer is None or writer.name != "DEQUANTIZE" or graph.tensors[writer.inputs[0]].type != "INT8":
        name = writer.name if writer else "nothing"
        raise ModelNotInt8Error(
            f"the model's float output {graph.output.name!r} comes from {name}, not from a DEQUANTIZE of int8",
            "export an int8 model: hil export models/ppo (it writes policy_int8.tflite)",
        )
    return writer


def _without(model: bytes, *operators: Operator | None) -> bytes:
    require("ai_edge_litert", "int8")
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    parsed: Any = schema.ModelT.InitFromPackedBuf(model, 0)
    subgraph = parsed.subgraphs[0]
    dropped = [operator for operator in operators if operator is not None]
    for operator in dropped:
        if operator.name == "QUANTIZE":
            subgraph.inputs = [operator.outputs[0]]
        else:
            subgraph.outputs = [operator.inputs[0]]
    if list(subgraph.inputs) == list(subgraph.outputs):
        raise BundleError("this model does nothing but quantize and dequantize", "point at a model with operators in int8")
    gone = {operator.index for operator in dropped}
    subgraph.operators = [operator for index, operator in enumerate(subgraph.operators) if index not in gone]
    parsed.signatureDefs = []  # they name inputs and outputs that are gone
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())
