"""What every way of executing a policy has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from balance_hil.quantize import Float32Array, Normalization, QuantParams, RawArray, dequantize, quantize


class Runtime(ABC):
    """Executes one policy. Use it as a context manager or call ``close``."""

    name: str
    n_obs: int
    n_act: int
    normalization: Normalization | None = None  # applied to every observation first

    @abstractmethod
    def act_batch(self, observations: Float32Array) -> Float32Array:
        """Outputs, float32 [n, n_act], for observations, float32 [n, n_obs], as the environment gives them."""

    def normalized(self, observations: Float32Array) -> Float32Array:
        """What the network takes, float32 [n, n_obs]."""
        rows = np.asarray(observations, np.float32)
        return rows if self.normalization is None else self.normalization.apply(rows)

    def act(self, observation: Float32Array) -> Float32Array:
        """Action, float32 [n_act], for one observation, float32 [n_obs]."""
        action: Float32Array = self.act_batch(observation[np.newaxis, :])[0]
        return action

    def close(self) -> None:  # noqa: B027 (most runtimes hold nothing)
        """Releases what the runtime holds; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class LayerTensor:
    """Output tensor of one operator for a batch."""

    op: int  # index in the execution order, the argument of the protocol's TENSOR
    operator: str  # "FULLY_CONNECTED", ...
    values: RawArray  # [n, size], of the model's element type


class ModelRuntime(Runtime):
    """A runtime of a board's model: also takes and returns raw values, of the model's element type.

    Observations are quantized and actions dequantized by ``balance_hil.quantize`` in every one, so that two of them
    can differ in the model's arithmetic alone.
    """

    input_quant: QuantParams
    output_quant: QuantParams

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of raw values."""
        return self.input_quant.kind.dtype

    @abstractmethod
    def infer_raw_batch(self, inputs: RawArray) -> RawArray:
        """Raw outputs [n, n_act] for raw inputs [n, n_obs]."""

    @abstractmethod
    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """Output of every operator, in execution order, for raw inputs [n, n_obs]."""

    def infer_raw(self, inputs: RawArray) -> RawArray:
        """Raw output [n_act] for one raw input [n_obs]."""
        outputs: RawArray = self.infer_raw_batch(inputs[np.newaxis, :])[0]
        return outputs

    def act_batch(self, observations: Float32Array) -> Float32Array:
        """Normalize, quantize, infer, dequantize. Raises NonFiniteInputError on NaN or infinity."""
        return dequantize(self.infer_raw_batch(self.quantized(observations)), self.output_quant)

    def quantized(self, observations: Float32Array) -> RawArray:
        """Raw inputs [n, n_obs] for observations, float32 [n, n_obs]. Raises NonFiniteInputError on NaN or infinity."""
        return quantize(observations, self.input_quant, self.normalization)
