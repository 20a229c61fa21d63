"""A compiled operator of one variant, and the error for unsupported operators."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import INT8, INT16X8, QuantParams
from balance_hil.runtimes.emulated.catalog import OPERATORS
from balance_hil.runtimes.emulated.chain import Dense, Table
from balance_hil.tflite.graph import Tensor

Values = NDArray[Any]  # int8 or float32 [n, *shape]
Run = Callable[[Sequence[Values]], Values]


@dataclass(frozen=True)
class Kernel:
    """An operator of a model in the arithmetic of one variant."""

    run: Run  # the values of its non-constant inputs, in the operator's order -> its output
    arithmetic: Hashable  # where it is equal, two variants compute this operator alike whatever the input
    stage: Dense | Table | None = None  # the same for compiled code, where that can compute it
    others: tuple[Run, ...] = ()  # of an operator with several outputs: the second one, the third, ...
    drops_input: bool = False  # it computes the bias alone


def unsupported(what: str) -> UnsupportedOperatorError:
    """The error for something that the emulator does not support."""
    return UnsupportedOperatorError(
        f"the emulator does not support {what}",
        f"it supports {', '.join(OPERATORS)} in int8; use a real runtime (--runtime tflm)",
    )


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantization of an int8 or int16 activation tensor.

    Raises:
        UnsupportedOperatorError: the tensor is neither, or has not one scale.
    """
    kind = next((kind for kind in (INT8, INT16X8) if kind.tensor == tensor.type), None)
    if kind is None or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise unsupported(f"the tensor {tensor.name!r} of type {tensor.type} with {len(tensor.scales)} scales as an activation")
    return QuantParams(tensor.scales[0], tensor.zero_points[0], kind)


def with_constants(sources: Sequence[Tensor], run: Run) -> Run:
    """Fills the constant inputs in, as one row each, so that the kernel is a function of the computed ones alone."""
    constants = [None if s.data is None else s.data.reshape(1, *s.shape) for s in sources]

    def filled(inputs: Sequence[Values]) -> Values:
        given = iter(inputs)
        return run([next(given) if constant is None else constant for constant in constants])

    return filled
