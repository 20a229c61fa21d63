"""Quantization-aware fine-tuning: the integer network learns to imitate its float teacher.

The forward pass is the integer arithmetic itself, computed on float32 numbers that hold integers below 2^24: exact, and the same
that every runtime computes. Backwards, rounding counts as the identity (straight-through estimator) and a clamp passes no
gradient where it acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.exporting.calibration import ActBatch, Float32Array
from balance_hil.exporting.rounding_invariant.layout import (
    BIAS_REMAINDER,
    FIXED_OUTPUTS,
    WEIGHT_LEVELS,
    WEIGHT_STEP,
    DenseCodes,
    Grid,
    Step,
)
from balance_hil.quantize import QuantParams, quantize

FloatArray = NDArray[np.float64]
RECORDED_ROWS = 6000
STREAM = 2  # of the seed sequence; calibration is 0, held-out rows are 1
_COPIES = 3  # of every recorded row, moved a little: the teacher labels as many as one likes
_SPREAD = 0.025  # of those moves, standard deviation as a share of an input's range
_UNIFORM_SHARE = 0.05
_CHECKS = 40  # how often the network is validated; the best one is kept
_BATCH = 512
_LEARNING_RATE = 3e-3
_LEARNING_RATE_END = 3e-5


@dataclass(frozen=True)
class Samples:
    """Observations float32 [n, n_obs] and what the teacher does, float32 [n, n_act]."""

    observations: Float32Array
    actions: Float32Array


def make_samples(teacher: ActBatch, recorded: Float32Array, calibration: Float32Array, seed: int) -> Samples:
    """Inputs of the network and the teacher's outputs; the same seed gives the same ones.

    Args:
        teacher: the float network.
        recorded: float32 [n, n_obs], normalized where the policy is; no row of the calibration.
        calibration: float32 [m, n_obs], normalized likewise; gives the range of each input.
        seed: of moves and uniform rows.
    """
    rng = np.random.default_rng([seed, STREAM, 0])
    low, high = calibration.min(axis=0), calibration.max(axis=0)
    moves = _SPREAD * (high - low)
    moved = [np.clip(recorded + rng.normal(0.0, 1.0, recorded.shape) * moves, low, high) for _ in range(_COPIES)]
    uniform = rng.uniform(low, high, (round(len(recorded) * _UNIFORM_SHARE), recorded.shape[1]))
    observations: Float32Array = np.concatenate([recorded, *moved, uniform]).astype(np.float32)
    return Samples(observations, teacher(observations))


@dataclass(frozen=True)
class FineTuned:
    """The best network of a run; errors are RMS of actions on the validation rows."""

    layers: tuple[DenseCodes, ...]
    rms_before: float
    rms_after: float


class FakeQuantNetwork:
    """The integer network with float parameters behind its codes.

    Args:
        steps: the chain.
        given: grid of the input.
        grids: of every step's output.
        weights, biases, exponents: one array for each dense step: float [out, in], float [out], int [out].

    Raises:
        MissingExtraError: torch is not installed.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        given: Grid,
        grids: tuple[Grid, ...],
        weights: list[FloatArray],
        biases: list[FloatArray],
        exponents: list[NDArray[np.int64]],
    ) -> None:
        require("torch", "export")
        import torch

        self._torch = torch
        self._steps, self._given, self._grids, self._exponents = steps, given, grids, exponents
        dense = [i for i, step in enumerate(steps) if step.dense]
        inputs = [given, *grids]
        # Parameters are in units of their own step, so that one learning rate suits every layer.
        self.weights = [
            torch.tensor(w / (WEIGHT_STEP * np.ldexp(1.0, e))[:, np.newaxis], dtype=torch.float32, requires_grad=True)
            for w, e in zip(weights, exponents, strict=True)
        ]
        self.biases = [
            torch.tensor((b / np.ldexp(1.0, e + inputs[i].exponent)) / WEIGHT_STEP, dtype=torch.float32, requires_grad=True)
            for i, b, e in zip(dense, biases, exponents, strict=True)
        ]

    def output_codes(self, inputs: Any) -> Any:
        """Codes of the output, torch float32 [n, n_act] with gradient, for codes of the input [n, n_obs]."""
        values, grid, dense = inputs, self._given, 0
        for step, result in zip(self._steps, self._grids, strict=True):
            if step.dense:
                values = self._dense(dense, values - grid.zero_point, (grid, result))
                dense += 1
            elif step.kind in FIXED_OUTPUTS:
                values = self._table(step.kind, values, grid)
            low, high = result.limits(step.clamp)
            values = self._torch.clamp(values, low, high)
            grid = result
        return values

    def actions(self, inputs: Any) -> Any:
        """Dequantized output, torch float32 [n, n_act]."""
        last = self._grids[-1]
        return (self.output_codes(inputs) - last.zero_point) * last.scale

    def codes(self) -> tuple[DenseCodes, ...]:
        """The integers as they are now."""
        layers = []
        for index, exponents in enumerate(self._exponents):
            weight, bias = self._codes(index)
            layers.append(DenseCodes(weight.detach().numpy().astype(np.int8), bias.detach().numpy().astype(np.int32), exponents))
        return tuple(layers)

    def infer_raw_batch(self, inputs: NDArray[np.int8], layers: tuple[DenseCodes, ...]) -> NDArray[np.int8]:
        """Output codes, int8 [n, n_act], for input codes, int8 [n, n_obs], with the integers of ``layers``, which it keeps."""
        torch = self._torch
        with torch.no_grad():
            for index, layer in enumerate(layers):
                self.weights[index].copy_(torch.from_numpy(layer.weights.astype(np.float32) / WEIGHT_STEP))
                self.biases[index].copy_(torch.from_numpy(layer.bias.astype(np.float32) / WEIGHT_STEP))
            codes: NDArray[np.float32] = self.output_codes(torch.from_numpy(inputs.astype(np.float32))).numpy()
        return codes.astype(np.int8)

    def _codes(self, index: int) -> tuple[Any, Any]:
        weight = self._round(self._torch.clamp(self.weights[index], -WEIGHT_LEVELS, WEIGHT_LEVELS))
        offset = BIAS_REMAINDER / WEIGHT_STEP
        bias = self._round(self.biases[index] - offset) + offset
        return weight * WEIGHT_STEP, bias * WEIGHT_STEP

    def _dense(self, index: int, centered: Any, grids: tuple[Grid, Grid]) -> Any:
        given, result = grids
        weight, bias = self._codes(index)
        accumulator = centered @ weight.T + bias
        factor = np.ldexp(1.0, self._exponents[index] + given.exponent - result.exponent).astype(np.float32)
        # Never a tie: any rounding to nearest gives the same.
        return self._round(accumulator * self._torch.from_numpy(factor)) + result.zero_point

    def _table(self, kind: str, codes: Any, grid: Grid) -> Any:
        torch = self._torch
        exponent, zero_point = FIXED_OUTPUTS[kind]
        function: Callable[[Any], Any] = torch.tanh if kind == "TANH" else torch.sigmoid
        return self._round(function((codes - grid.zero_point) * grid.scale) * 2.0**-exponent) + zero_point

    def _round(self, values: Any) -> Any:
        return values + (self._torch.round(values) - values).detach()


def fine_tune(
    network: FakeQuantNetwork,
    given: Grid,
    training: Samples,
    validation: Samples,
    *,
    steps: int,
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> FineTuned:
    """Trains the network to give the teacher's actions; keeps the state with the least error on the validation rows.

    Args:
        network: is changed.
        given: grid of the input.
        training: rows to learn from.
        validation: other rows.
        steps: optimizer steps of 512 rows; 0 only measures.
        progress: receives how much is done, 0..1.
        seed: of the batches. One thread: the same seed gives the same bytes.
    """
    import torch

    def prepare(samples: Samples) -> tuple[Any, Any]:
        codes = quantize(samples.observations, QuantParams(given.scale, given.zero_point))
        return torch.from_numpy(codes.astype(np.float32)), torch.from_numpy(samples.actions)

    def rms() -> float:
        with torch.no_grad():
            return float(torch.sqrt(torch.mean((network.actions(known) - wanted).double() ** 2)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs, targets = prepare(training)
        known, wanted = prepare(validation)
        before = best = rms()
        layers = network.codes()
        units = WEIGHT_LEVELS  # a weight of full scale: the learning rate is a fraction of it
        optimizer = torch.optim.Adam([*network.weights, *network.biases], lr=_LEARNING_RATE * units)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (_LEARNING_RATE_END / _LEARNING_RATE) ** (step / max(1, steps))
        )
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            rows = torch.randint(len(inputs), (_BATCH,), generator=generator)
            loss = torch.mean((network.actions(inputs[rows]) - targets[rows]) ** 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, steps // _CHECKS) == 0:
                progress((step + 1) / steps)
                if (reached := rms()) < best:
                    best, layers = reached, network.codes()
        return FineTuned(layers, before, best)
    finally:
        torch.set_num_threads(threads)
