"""The ``.tflite`` flatbuffer as objects and back, with the schema of ``ai_edge_litert``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from balance_hil.errors import BundleError, require

_MOST_TABLES = 50_000  # tensors, operators, buffers, ...: a network of a thousand layers has some 10,000
_LARGEST_BYTES = 1 << 28
_COPIES = 4  # limit on repeated reads of names: in a malicious file all tensors may share one huge name
_BUFFER_ALIGNMENT = 16  # required by schema.fbs; kernels on microcontrollers load whole words


class _Budgeted(bytes):
    """Bytes of which only so many are handed out as copies (strings); vectors are views."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.copied += len(value) if isinstance(key, slice) else 1
        if self.copied > _COPIES * len(self) + _MOST_TABLES:
            raise ValueError("names longer than the file")
        return value


def schema() -> Any:
    """The generated module: ``TensorT``, ``BuiltinOperator``, ... Raises MissingExtraError."""
    require("ai_edge_litert", "int8")
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def unpack(model: bytes) -> Any:
    """The file as a ``ModelT`` with at least one subgraph.

    Depth is bounded by the schema; the number of tables and what is copied are bounded here. What the numbers in it mean is not
    checked: ``graph.read_graph`` does that.

    Raises:
        BundleError: no TensorFlow Lite model, cut off, corrupt, or beyond those bounds.
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    module = schema()
    if len(model) < 8 or model[4:8] != b"TFL3":
        raise BundleError("this is not a TensorFlow Lite model", "point at a .tflite file, or export one: hil export FOLDER")
    try:
        if len(model) > _LARGEST_BYTES:
            raise ValueError(f"{len(model)} bytes")
        buffer = _Budgeted(model)
        tables = 0
        for count in _tables(module.Model.GetRootAs(buffer, 0)):
            tables += count
            if tables > _MOST_TABLES:
                raise ValueError(f"more than {_MOST_TABLES} tables")
        parsed = module.ModelT.InitFromPackedBuf(buffer, 0)
        parsed.subgraphs[0].tensors[0], parsed.buffers[0]
    except Exception as exc:  # flatbuffers raises struct.error, TypeError, IndexError, ... on a cut or garbled file
        raise BundleError(f"this TensorFlow Lite model is cut off or garbled ({exc})", "export it again: hil export") from exc
    return parsed


def pack(parsed: Any) -> bytes:
    """A ``ModelT`` as a file, its constants aligned as kernels require."""
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]  # the base class has no types
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803  # its names
            # The generated code uses an alignment of 1 for the bytes of constants.
            return super().StartVector(elemSize, numElems, _BUFFER_ALIGNMENT if elemSize == 1 else alignment)

    builder = Builder(1 << 14)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def edit(model: bytes, change: Callable[[Any], object]) -> bytes:
    """``model`` after ``change`` of its ``ModelT``. Raises what ``unpack`` raises."""
    parsed = unpack(model)
    change(parsed)
    return pack(parsed)


def _tables(root: Any) -> Iterator[int]:
    """How many tables hang from each table that unpacking would visit, outer ones first."""
    yield root.SubgraphsLength() + root.OperatorCodesLength() + root.BuffersLength() + root.MetadataLength()
    yield root.SignatureDefsLength()
    for signature in map(root.SignatureDefs, range(root.SignatureDefsLength())):
        yield signature.InputsLength() + signature.OutputsLength()
    for graph in map(root.Subgraphs, range(root.SubgraphsLength())):
        yield graph.TensorsLength() + graph.OperatorsLength()
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            sparsity = tensor.Sparsity()
            yield tensor.VariantTensorsLength() + (sparsity.DimMetadataLength() if sparsity else 0)
