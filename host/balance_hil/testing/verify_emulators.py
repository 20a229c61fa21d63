"""Compares the emulators with the real runtimes, value by value, which validates attribution.

``balance_hil.benchmarks.verify_emulators`` runs it over many models; a small slice of it is in the tests.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.quantize import INT8_MAX, INT8_MIN
from balance_hil.runtimes.base import Int8Array, Int8Runtime
from balance_hil.runtimes.emulated import rules
from balance_hil.runtimes.emulated.interpreter import EmulatedRuntime, computed_inputs
from balance_hil.runtimes.emulated.rules import Variant
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.runtimes.tflite import TENSORFLOW, TfliteInt8Runtime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import actor


@dataclass(frozen=True, kw_only=True)
class RuntimeUnderTest:
    """A real runtime and the variant that must equal it."""

    name: str
    variant: Variant
    make: Callable[[bytes], Int8Runtime]


LITERT_RUNTIMES = (
    RuntimeUnderTest(name="tflm", variant=rules.TFLM, make=TflmRuntime),
    RuntimeUnderTest(name="int8-xnnpack", variant=rules.XNNPACK, make=lambda m: TfliteInt8Runtime("int8-xnnpack", m)),
    RuntimeUnderTest(name="int8-builtin", variant=rules.BUILTIN, make=lambda m: TfliteInt8Runtime("int8-builtin", m)),
    RuntimeUnderTest(name="int8-reference", variant=rules.REFERENCE, make=lambda m: TfliteInt8Runtime("int8-reference", m)),
)
TENSORFLOW_RUNTIMES = (
    RuntimeUnderTest(
        name="tf2.19 xnnpack", variant=rules.XNNPACK, make=lambda m: TfliteInt8Runtime("int8-xnnpack", m, TENSORFLOW)
    ),
    RuntimeUnderTest(
        name="tf2.19 builtin", variant=rules.BUILTIN, make=lambda m: TfliteInt8Runtime("int8-builtin", m, TENSORFLOW)
    ),
    RuntimeUnderTest(
        name="tf2.19 reference",
        variant=rules.REFERENCE_TF_2_19,
        make=lambda m: TfliteInt8Runtime("int8-reference", m, TENSORFLOW),
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


def agreement(runtime: Int8Runtime, emulator: EmulatedRuntime, inputs: Int8Array) -> Agreement:
    """Runs both on ``inputs``, int8 [n, n_obs]."""
    outputs = runtime.infer_int8_batch(inputs)
    layers = {layer.op: layer.values for layer in runtime.layers_int8_batch(inputs)}
    graph = emulator.graph
    tensors: dict[int, NDArray[Any]] = {graph.input.index: inputs.reshape(-1, *graph.input.shape)}
    compared = differing = 0
    for operator in graph.operators:
        target = graph.output_of(operator)
        computed = emulator.apply(operator, [tensors[i] for i in computed_inputs(graph, operator)])
        if target.type != "INT8":  # a runtime shows int8 tensors only
            tensors[target.index] = computed
            continue
        real = layers[operator.index].reshape(-1, *target.shape)
        tensors[target.index] = real
        compared += real.size
        differing += int(np.count_nonzero(real != computed))
    return Agreement(outputs.size, int(np.count_nonzero(outputs != emulator.infer_int8_batch(inputs))), compared, differing)


def random_inputs(count: int, n_obs: int, seed: int) -> Int8Array:
    """Uniform int8 [count, n_obs]."""
    return np.random.default_rng(seed).integers(INT8_MIN, INT8_MAX, (count, n_obs), dtype=np.int8, endpoint=True)


_SHAPES = ((6, 32, 32, 2), (6, 64, 64, 2), (8, 24, 2), (5, 48, 16, 3))


def converted_models(count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` actors from the TensorFlow converter: activations × per-channel and per-tensor × shapes, with running seeds.

    Raises:
        MissingExtraError: tensorflow is not installed.
    """
    cases = list(product(_SHAPES, ("tanh", "relu", "relu6", "sigmoid"), (True, False)))
    for seed in range(count):
        shape, kind, per_channel = cases[seed % len(cases)]
        name = f"{kind} {'x'.join(map(str, shape))} {'per-channel' if per_channel else 'per-tensor'} seed {seed}"
        yield name, _converted(shape, kind, per_channel, seed)


def synthetic_models(count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` actors written operator by operator, with the activations that the converter's actors lack."""
    for seed in range(count):
        kind = ("HARD_SWISH", "RELU_N1_TO_1", "TANH", "LOGISTIC")[seed % 4]
        per_channel = seed // 4 % 2 == 0
        shape = _SHAPES[seed % len(_SHAPES)]
        name = f"synthetic {kind} {'x'.join(map(str, shape))} {'per-channel' if per_channel else 'per-tensor'} seed {seed}"
        yield name, actor(shape, kind, per_channel=per_channel, seed=seed, squash=("TANH", None)[seed % 2])


def _converted(sizes: Sequence[int], kind: str, per_channel: bool, seed: int) -> bytes:
    require("tensorflow", "export")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with captured_stderr():  # logs the devices found there
        import tensorflow as tf

    rng = np.random.default_rng(seed)
    activation = {"relu6": tf.nn.relu6}.get(kind, kind)
    model = tf.keras.Sequential([tf.keras.Input((sizes[0],))])
    for units in sizes[1:-1]:
        model.add(tf.keras.layers.Dense(units, activation=activation))
    model.add(tf.keras.layers.Dense(sizes[-1], activation="tanh"))
    for layer in model.layers:
        depth, units = layer.get_weights()[0].shape
        # Neurons of unequal size, so that scales per channel differ as they do in a trained network.
        weights = rng.normal(0.0, 1.5 / np.sqrt(depth), (depth, units)) * rng.uniform(0.2, 2.0, units)
        layer.set_weights([weights, rng.normal(0.0, 0.3, units)])
    calibration = rng.normal(0.0, 1.0, (256, sizes[0])).astype(np.float32) * np.float32(rng.uniform(0.3, 3.0))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[np.newaxis]] for row in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel
    with contextlib.redirect_stdout(io.StringIO()), _native_stdout_to_stderr():  # both log their progress
        return bytes(converter.convert())


@contextlib.contextmanager
def _native_stdout_to_stderr() -> Iterator[None]:
    """Redirects the output of C++ code from stdout, which is reserved for data."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
