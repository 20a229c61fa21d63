"""Compares the emulators with the real runtimes, value by value, which validates attribution.

``hil verify --emulators`` runs it over many models; a small slice of it is in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT16X8, ElementType, RawArray
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.runtimes.emulated import rules
from balance_hil.runtimes.emulated.interpreter import EmulatedRuntime, computed_inputs
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.runtimes.tflite import TENSORFLOW, TfliteModelRuntime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.convolutional_models import NETWORK_OPERATORS, random_network
from balance_hil.testing.synthetic_models import actor


@dataclass(frozen=True, kw_only=True)
class RuntimeUnderTest:
    """A real runtime and the variant that must equal it."""

    name: str
    variant: Variant
    make: Callable[[bytes], ModelRuntime]


LITERT_RUNTIMES = (
    RuntimeUnderTest(name="tflm", variant=rules.TFLM, make=TflmRuntime),
    RuntimeUnderTest(name="int8-xnnpack", variant=rules.XNNPACK, make=lambda m: TfliteModelRuntime("int8-xnnpack", m)),
    RuntimeUnderTest(name="int8-builtin", variant=rules.BUILTIN, make=lambda m: TfliteModelRuntime("int8-builtin", m)),
    RuntimeUnderTest(name="int8-reference", variant=rules.REFERENCE, make=lambda m: TfliteModelRuntime("int8-reference", m)),
)
INT16_RUNTIMES = (
    RuntimeUnderTest(name="tflm", variant=rules.TFLM, make=TflmRuntime),
    *(
        RuntimeUnderTest(name=name, variant=variant, make=partial(TfliteModelRuntime, name))
        for name, variant in (("int16x8-builtin", rules.BUILTIN), ("int16x8-reference", rules.REFERENCE))
    ),
)
TENSORFLOW_RUNTIMES = (
    RuntimeUnderTest(
        name="tf2.19 xnnpack", variant=rules.XNNPACK, make=lambda m: TfliteModelRuntime("int8-xnnpack", m, TENSORFLOW)
    ),
    RuntimeUnderTest(
        name="tf2.19 builtin", variant=rules.BUILTIN, make=lambda m: TfliteModelRuntime("int8-builtin", m, TENSORFLOW)
    ),
    RuntimeUnderTest(
        name="tf2.19 reference",
        variant=rules.REFERENCE_TF_2_19,
        make=lambda m: TfliteModelRuntime("int8-reference", m, TENSORFLOW),
    ),
)


@dataclass(frozen=True)
class Agreement:
    """How far one emulator agrees with one runtime on one model."""

    outputs: int  # final outputs compared, the emulator running on its own
    differing_outputs: int
    values: int  # outputs of operators compared, each operator given the runtime's own inputs
    differing_values: int

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.outputs + other.outputs,
            self.differing_outputs + other.differing_outputs,
            self.values + other.values,
            self.differing_values + other.differing_values,
        )


def agreement(runtime: ModelRuntime, emulator: EmulatedRuntime, inputs: RawArray) -> Agreement:
    """Runs both on ``inputs``, int8 [n, n_obs]."""
    outputs = runtime.infer_raw_batch(inputs)
    layers = {layer.op: layer.values for layer in runtime.layers_raw_batch(inputs)}
    graph = emulator.graph
    tensors: dict[int, NDArray[Any]] = {graph.input.index: inputs.reshape(-1, *graph.input.shape)}
    compared = differing = 0
    for operator in graph.operators:
        target = graph.output_of(operator)
        computed, *others = emulator.apply_all(operator, [tensors[i] for i in computed_inputs(graph, operator)])
        tensors.update(zip(operator.outputs[1:], others, strict=True))
        if not graph.shows(operator):
            tensors[target.index] = computed
            continue
        real = layers[operator.index].reshape(-1, *target.shape)
        tensors[target.index] = real
        compared += real.size
        differing += int(np.count_nonzero(real != computed))
    return Agreement(outputs.size, int(np.count_nonzero(outputs != emulator.infer_raw_batch(inputs))), compared, differing)


def random_inputs(count: int, n_obs: int, seed: int, kind: ElementType = INT8) -> RawArray:
    """Uniform over the range of raw values, [count, n_obs]."""
    return np.random.default_rng(seed).integers(kind.low, kind.high, (count, n_obs), dtype=kind.dtype, endpoint=True)


_SHAPES = ((6, 32, 32, 2), (6, 64, 64, 2), (8, 24, 2), (5, 48, 16, 3))


def synthetic_model(seed: int) -> bytes:
    """An actor written operator by operator, with an activation that the converter's actors lack."""
    kind = ("HARD_SWISH", "RELU_N1_TO_1", "TANH", "LOGISTIC")[seed % 4]
    shape = _SHAPES[seed % len(_SHAPES)]
    return actor(shape, kind, per_channel=seed // 4 % 2 == 0, seed=seed, squash=("TANH", None)[seed % 2])


def network(seed: int) -> bytes:
    """A convolutional network written operator by operator; every sixth may have an LSTM."""
    return random_network(seed, NETWORK_OPERATORS if seed % 6 == 5 else ())


def int16_model(seed: int) -> bytes:
    """An actor with int16 activations."""
    kind = ("TANH", "LOGISTIC", "RELU", "RELU6")[seed % 4]
    shape = _SHAPES[seed % len(_SHAPES)]
    return actor(shape, kind, per_channel=seed // 4 % 2 == 0, seed=seed, squash=("TANH", None)[seed % 2], element=INT16X8)


def int16_network(seed: int) -> bytes:
    """A convolutional network with int16 activations, written operator by operator."""
    return random_network(seed, element=INT16X8)
