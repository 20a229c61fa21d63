"""Runtimes of a made-up three-layer int8 model whose differences are known, because the test put them there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.quantize import QuantParams
from balance_hil.runtimes.base import LayerTensor, ModelRuntime, Runtime
from balance_hil.spec import PolicySpec, Signal

INPUT_QUANT = QuantParams(scale=0.0078125, zero_point=0)
OUTPUT_QUANT = QuantParams(scale=0.0078125, zero_point=1)
OPERATORS = ("FULLY_CONNECTED", "RELU", "FULLY_CONNECTED")
_RNG = np.random.default_rng(1)
W0 = _RNG.integers(-20, 20, size=(6, 8))
W2 = _RNG.integers(-20, 20, size=(8, 2))


@dataclass
class FakeInt8(ModelRuntime):
    """``wrong[op]`` LSB are added to the first value of operator ``op`` wherever the first input is above ``above``."""

    name: str
    wrong: dict[int, int] = field(default_factory=dict)
    above: int = -129
    n_obs: int = 6
    n_act: int = 2
    hidden_ops: tuple[int, ...] = ()
    layer_rows: int = 0  # rows of the last layers_raw_batch

    def __post_init__(self) -> None:
        self.input_quant, self.output_quant = INPUT_QUANT, OUTPUT_QUANT

    def _tensors(self, inputs: NDArray[np.int8]) -> list[NDArray[np.int8]]:
        x0 = self._bend(0, inputs, np.clip((inputs.astype(np.int64) @ W0) >> 6, -100, 100))
        x1 = self._bend(1, inputs, np.maximum(x0, 0))
        return [t.astype(np.int8) for t in (x0, x1, self._bend(2, inputs, np.clip((x1 @ W2) >> 5, -100, 100)))]

    def _bend(self, op: int, inputs: NDArray[np.int8], values: NDArray[np.int64]) -> NDArray[np.int64]:
        bent = values.copy()
        bent[inputs[:, 0] > self.above, 0] += self.wrong.get(op, 0)
        return bent

    def infer_raw_batch(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        return self._tensors(inputs)[-1]

    def layers_raw_batch(self, inputs: NDArray[np.int8]) -> list[LayerTensor]:
        self.layer_rows = len(inputs)
        tensors = enumerate(zip(OPERATORS, self._tensors(inputs), strict=True))
        return [LayerTensor(op, name, values) for op, (name, values) in tensors if op not in self.hidden_ops]


@dataclass
class FakeFloat(Runtime):
    """Answers the first two observations, shifted."""

    name: str
    shift: float = 0.0
    n_obs: int = 6
    n_act: int = 2

    def act_batch(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(observations[:, :2] + np.float32(self.shift), dtype=np.float32)


def fake_bundle() -> Bundle:
    """Enough of a bundle for what does not read its files."""

    def table(n: int) -> tuple[Signal, ...]:
        return tuple(Signal(index=i, name=f"s{i}", unit="1", min=-1.0, max=1.0) for i in range(n))

    spec = PolicySpec(environment="Fake-v1", observation=table(6), action=table(2), control_period_s=0.005)
    return Bundle(
        path=Path("nowhere"), id="0" * 12, algorithm="ppo", spec=spec, input_quant=INPUT_QUANT, output_quant=OUTPUT_QUANT
    )
