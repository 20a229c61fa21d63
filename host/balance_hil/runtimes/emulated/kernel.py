"""A compiled operator of one variant, and the error for unsupported operators."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import QuantParams
from balance_hil.runtimes.emulated.chain import Dense, Table
from balance_hil.tflite.graph import Tensor

Values = NDArray[Any]  # int8 or float32 [n, *shape]
Run = Callable[[Sequence[Values]], Values]

SUPPORTED_OPERATORS = (
    "FULLY_CONNECTED",
    "TANH",
    "LOGISTIC",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "HARD_SWISH",
    "ADD",
    "MUL",
    "QUANTIZE",
    "DEQUANTIZE",
    "RESHAPE",
    "CONCATENATION",
)


@dataclass(frozen=True)
class Kernel:
    """An operator of a model in the arithmetic of one variant."""

    run: Run  # the values of its non-constant inputs, in the operator's order -> its output
    arithmetic: Hashable  # where it is equal, two variants compute this operator alike whatever the input
    stage: Dense | Table | None = None  # the same for compiled code, where that can compute it


def unsupported(what: str) -> UnsupportedOperatorError:
    """The error for something that the emulator does not support."""
    return UnsupportedOperatorError(
        f"the emulator does not support {what}",
        f"it supports {', '.join(SUPPORTED_OPERATORS)} in int8; use a real runtime (--runtime tflm)",
    )


def quant_of(tensor: Tensor) -> QuantParams:
    """Quantization of an int8 activation tensor.

    Raises:
        UnsupportedOperatorError: the tensor is not int8 with one scale.
    """
    if tensor.type != "INT8" or len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
        raise unsupported(f"the tensor {tensor.name!r} of type {tensor.type} with {len(tensor.scales)} scales as an activation")
    return QuantParams(tensor.scales[0], tensor.zero_points[0])
