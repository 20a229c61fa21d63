"""What an inference costs on a board, part by part: the result of PROFILE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from balance_hil.protocol.messages import ProfileResult

CostUnit = Literal["cycles", "instructions", "us"]


@dataclass(frozen=True)
class Profile:
    """Mean cost of one inference and of its parts, each run ``repeats`` times in a loop of its own.

    ``unit`` says of what: cycles of a processor whose clock is known, instructions of one that QEMU counts, else microseconds of
    the board's clock, which on an emulated board are those of this computer.
    """

    unit: CostUnit
    repeats: int
    total: float  # from the frame of INFER to that of ACTION
    total_us: float  # the same on the board's clock
    decode: float  # the frame of INFER
    quantize: float  # checks and normalization included
    engine: float  # the model
    operators: tuple[tuple[str, float], ...]  # name and cost of each; empty: the engine runs only whole models
    dequantize: float
    encode: float  # the frame of ACTION

    @property
    def parts(self) -> dict[str, float]:
        """What the total is made of: each operator, or the engine where they are not known."""
        operators = {f"{index} {name}": cost for index, (name, cost) in enumerate(self.operators)} or {"engine": self.engine}
        return {
            "decode": self.decode,
            "quantize": self.quantize,
            **operators,
            "dequantize": self.dequantize,
            "encode": self.encode,
        }

    @property
    def costs(self) -> dict[str, int]:
        """Everything by name, in whole cycles or instructions: first the total, last what it is made of."""
        named = {"total": self.total, "engine": self.engine, **self.parts}
        return {name: round(cost) for name, cost in named.items()}


def profile_of(result: ProfileResult, operators: Sequence[str], unit: CostUnit, per_us: float) -> Profile:
    """A board's answer, with ``per_us`` of ``unit`` in a microsecond of its clock."""
    return Profile(
        unit=unit,
        repeats=result.repeats,
        total=result.total_us * per_us,
        total_us=result.total_us,
        decode=result.decode_us * per_us,
        quantize=result.quantize_us * per_us,
        engine=result.engine_us * per_us,
        operators=tuple((name, float(us) * per_us) for name, us in zip(operators, result.operators_us, strict=False)),
        dequantize=result.dequantize_us * per_us,
        encode=result.encode_us * per_us,
    )
