"""The chain of operators of an int8 actor, and the grid that its numbers are to lie on: powers of two everywhere.

real = 2^exponent * (code - zero point)          a tensor
M = 2^(input + weight - output exponent)         the factor of a dense layer, per output channel; M = 2^-shift
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import ExportError
from balance_hil.quantize import INT8_MAX, INT8_MIN
from balance_hil.tflite.graph import TfliteGraph

WEIGHT_STEP = 4  # weights are multiples of it
BIAS_REMAINDER = 2  # biases are this modulo WEIGHT_STEP
WEIGHT_LEVELS = INT8_MAX // WEIGHT_STEP  # steps on each side of zero: -124..124
MIN_SHIFT = 3
MAX_SHIFT = 24
MAX_ACCUMULATOR = 1 << 24  # float32 holds every integer up to it

# Operators whose output parameters TensorFlow Lite prescribes: exponent and zero point.
FIXED_OUTPUTS = {"TANH": (-7, 0), "LOGISTIC": (-8, INT8_MIN)}
# Exponents of their input with which no entry of the function's table comes so near a tie that fixed point (TFLM) and floating
# point (desktop) round it differently: every code and every zero point was tried.
TABLE_INPUTS = {"TANH": range(-7, 1), "LOGISTIC": range(-6, 1)}
CLAMPS = {
    "NONE": (-np.inf, np.inf),
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
_DENSE = "FULLY_CONNECTED"
KNOWN_OPERATORS = (_DENSE, *FIXED_OUTPUTS, *(name for name in CLAMPS if name != "NONE"))


@dataclass(frozen=True)
class Grid:
    """Quantization of one activation tensor."""

    exponent: int
    zero_point: int

    @property
    def scale(self) -> float:
        """2^exponent, exact in float32."""
        return float(np.ldexp(1.0, self.exponent))

    def limits(self, activation: str) -> tuple[int, int]:
        """Smallest and largest code that a fused activation lets pass."""
        low, high = CLAMPS[activation]
        floor = self.zero_point + low / self.scale
        ceiling = self.zero_point + high / self.scale
        return int(max(INT8_MIN, floor)), int(min(INT8_MAX, ceiling))


@dataclass(frozen=True)
class Step:
    """One operator of the chain. ``weight`` and ``bias`` are tensor indices, -1 but for FULLY_CONNECTED."""

    operator: int
    kind: str
    activation: str  # fused into FULLY_CONNECTED, otherwise "NONE"
    output: int  # tensor index
    weight: int = -1
    bias: int = -1
    per_channel: bool = False

    @property
    def dense(self) -> bool:
        """Whether it is FULLY_CONNECTED."""
        return self.kind == _DENSE

    @property
    def clamp(self) -> str:
        """The clamp that it applies: the fused one, or itself for a RELU that stands alone."""
        return self.kind if self.kind in CLAMPS else self.activation


@dataclass(frozen=True)
class DenseCodes:
    """Integers of one dense layer."""

    weights: NDArray[np.int8]  # [outputs, inputs], multiples of 4
    bias: NDArray[np.int32]  # [outputs], 2 modulo 4
    exponents: NDArray[np.int64]  # [outputs], of the weight scales


def read_chain(graph: TfliteGraph) -> tuple[Step, ...]:
    """The operators of an int8 actor, each fed by the one before.

    Raises:
        ExportError: an operator that this export does not support, a branch, a dense layer without bias, or a shared constant.
    """
    steps: list[Step] = []
    value = graph.input.index
    constants: set[int] = set()
    for operator in graph.operators:
        if operator.name not in KNOWN_OPERATORS or operator.activation not in CLAMPS:
            what = operator.name if operator.name not in KNOWN_OPERATORS else f"the fused activation {operator.activation}"
            raise _refuse(f"operator {operator.index} is {what}; known are {', '.join(KNOWN_OPERATORS)}")
        if operator.inputs[0] != value:
            raise _refuse(f"operator {operator.index} does not follow the one before it")
        value = operator.outputs[0]
        weight = bias = -1
        if operator.name == _DENSE:
            weight, bias = (*operator.inputs, -1)[1:3]
            if bias < 0:
                raise _refuse(f"operator {operator.index} has no bias")
            if {weight, bias} & constants:
                raise _refuse(f"operator {operator.index} shares its weights with another one")
            constants |= {weight, bias}
        per_channel = weight >= 0 and len(graph.tensors[weight].scales) > 1
        steps.append(Step(operator.index, operator.name, operator.activation, value, weight, bias, per_channel))
    return tuple(steps)


def _refuse(reason: str) -> ExportError:
    return ExportError(f"this model cannot be made rounding-invariant: {reason}", "export it without --rounding-invariant")
