"""A model with several outputs seen as one with a single output, which is all that a runtime here has to know."""

from __future__ import annotations

from typing import Any

from balance_hil.errors import BundleError, UsageError, require

_EXTRA = "int8"  # ai_edge_litert carries the schema


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
    require("ai_edge_litert", _EXTRA)
    from ai_edge_litert import schema_py_generated as schema

    try:
        parsed = schema.ModelT.InitFromPackedBuf(model, 0)
        graph = parsed.subgraphs[0]
        outputs = [int(index) for index in graph.outputs]
        names = [graph.tensors[index].name.decode() for index in outputs]
    except Exception as exc:  # flatbuffers raises struct.error, TypeError, IndexError, ... on a cut or garbled file
        raise BundleError(f"this is no TensorFlow Lite model, or it is cut off ({exc})", "point at a .tflite file") from exc
    chosen = _position(names, wanted)
    return model if len(outputs) == 1 else _packed(parsed, graph, outputs[chosen])


def _position(names: list[str], wanted: str | None) -> int:
    choices = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    if wanted is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"the model has {len(names)} outputs", f"choose one with --output: {choices}")
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise UsageError(f"the model has no output {wanted!r}", f"choose one of {choices}")


def _packed(parsed: Any, graph: Any, output: int) -> bytes:
    import flatbuffers

    needed, kept = {output}, []
    for operator in reversed(graph.operators):
        if needed.intersection(int(index) for index in operator.outputs):
            needed.update(int(index) for index in operator.inputs)
            kept.append(operator)
    graph.operators = kept[::-1]  # a runtime need not compute the others, and then cannot show them
    graph.outputs = [output]
    parsed.signatureDefs = []  # they name outputs that are gone
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())
