"""LLVM vectors for the compiled loops: loads, stores and constants, written for llvmlite.

Vectors are 512 bits wide. A processor with narrower registers gets several of its own instructions for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

LANES = 16  # 32-bit numbers of a vector
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
BYTES = ir.VectorType(I8, 4 * LANES)
SHORTS = ir.VectorType(I16, 2 * LANES)
INTS = ir.VectorType(I32, LANES)
LONGS = ir.VectorType(I64, LANES // 2)
FLOATS = ir.VectorType(F32, LANES)
DOUBLES = ir.VectorType(F64, LANES)  # two registers

ADDRESS = types.intp  # of memory, as a number: ``array.ctypes.data``
_ALIGNMENT = {I8: 1, I16: 2, I32: 4, I64: 8, F32: 4, F64: 8}


def fixed(kind: Any, value: float) -> Any:
    """The vector of type ``kind`` with ``value`` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def indices(numbers: Sequence[int]) -> Any:
    """Which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))


def number(value: int) -> Any:
    """A constant offset or count."""
    return ir.Constant(I64, value)


def splat(build: Any, value: Any, kind: Any) -> Any:
    """The vector of type ``kind`` with the scalar ``value`` in every lane."""
    empty = ir.Constant(kind, ir.Undefined)
    return build.shuffle_vector(build.insert_element(empty, value, I32(0)), empty, indices([0] * kind.count))


def load(build: Any, address: Any, offset: Any, kind: Any, align: int | None = None) -> Any:
    """The scalar or vector of type ``kind`` at ``offset`` elements from ``address``; aligned as an element is, unless given."""
    return build.load(_pointer(build, address, offset, kind), align=_ALIGNMENT[_element(kind)] if align is None else align)


def store(build: Any, value: Any, address: Any, offset: Any) -> None:
    """Writes a scalar or vector ``offset`` elements from ``address``."""
    build.store(value, _pointer(build, address, offset, value.type), align=_ALIGNMENT[_element(value.type)])


def call(build: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """The result, of type ``kind``, of an LLVM intrinsic."""
    function = build.module.globals.get(name)
    if function is None:
        function = ir.Function(build.module, ir.FunctionType(kind, [a.type for a in arguments]), name)
    return build.call(function, arguments)


def has(context: Any, feature: str) -> bool:
    """Whether code is generated for a processor with ``feature``, by LLVM's name: "avx512vnni"."""
    return f"+{feature}" in context.codegen().magic_tuple()[-1].split(",")


def _pointer(build: Any, address: Any, offset: Any, kind: Any) -> Any:
    element = build.gep(build.inttoptr(address, _element(kind).as_pointer()), [offset])
    return build.bitcast(element, kind.as_pointer()) if isinstance(kind, ir.VectorType) else element


def _element(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind
