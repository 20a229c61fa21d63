"""The emulators of int16 activations against the real runtimes, layer by layer."""

import numpy as np
import pytest

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import INT16X8
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.testing.verify_emulators import INT16_RUNTIMES, agreement, random_inputs

EVERY_RUNTIME = pytest.mark.parametrize("reference", INT16_RUNTIMES, ids=lambda runtime: runtime.name)


def assert_equal(reference, model, n_obs, rows=400):
    result = agreement(reference.make(model), EmulatedRuntime(model, reference.variant), random_inputs(rows, n_obs, 0, INT16X8))
    assert (result.differing_outputs, result.differing_values) == (0, 0)
    assert result.values


@EVERY_RUNTIME
@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("activation", ["TANH", "LOGISTIC", "RELU", "RELU6"])
def test_equals_the_runtime_on_an_actor(reference, activation, per_channel):
    assert_equal(reference, actor((6, 24, 17, 2), activation, per_channel=per_channel, seed=3, element=INT16X8), 6)


@EVERY_RUNTIME
@pytest.mark.parametrize("bias", ["INT32", None], ids=["32-bit-bias", "no-bias"])
def test_equals_the_runtime_with_other_sums(reference, bias):
    rng = np.random.default_rng(1)
    build = ModelBuilder(INT16X8)
    x = build.tensor((1, 40), 1 / 16384)
    scales = rng.uniform(0.001, 0.01, 30).astype(np.float32)
    inputs = [x, build.tensor((30, 40), scales.tolist(), data=rng.integers(-127, 128, (30, 40)).astype(np.int8))]
    kind = 2 if bias else 4  # INT32, INT64 of the schema: by it the reference kernels read a bias
    if bias:
        inputs.append(build.tensor((30,), (scales / 16384).tolist(), data=rng.integers(-9999, 9999, 30, np.int32), kind=bias))
    model = build.build(x, build.operator("FULLY_CONNECTED", inputs, build.tensor((1, 30), 1 / 9000), quantizedBiasType=kind))
    assert_equal(reference, model, 40, 1500)


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["TANH", "LOGISTIC", "LEAKY_RELU", "RELU"])
def test_equals_the_runtime_on_every_int16_value(reference, name):
    rng = np.random.default_rng(2)
    for _ in range(3):
        build = ModelBuilder(INT16X8)
        x = build.tensor((1, 65536), float(np.exp(rng.uniform(np.log(1e-6), np.log(1e-2)))))
        scale = 1 / 32768 if name in ("TANH", "LOGISTIC") else float(np.exp(rng.uniform(np.log(1e-5), np.log(1e-2))))
        settings = {"alpha": 0.1} if name == "LEAKY_RELU" else {}
        model = build.build(x, build.operator(name, (x,), build.tensor((1, 65536), scale), **settings))
        inputs = np.arange(-32768, 32768, dtype=np.int16)[np.newaxis]
        wanted = reference.make(model).infer_int8_batch(inputs)
        assert np.array_equal(EmulatedRuntime(model, reference.variant).infer_int8_batch(inputs), wanted)


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
def test_equals_the_runtime_on_two_operands(reference, name):
    rng = np.random.default_rng(4)
    for _ in range(3):
        build = ModelBuilder(INT16X8)
        x = build.tensor((1, 33), float(rng.uniform(1e-5, 1e-3)))
        y = build.operator("TANH", (x,), build.tensor((1, 33), 1 / 32768))
        z = build.operator(name, (x, y), build.tensor((1, 33), float(rng.uniform(1e-5, 1e-3))))
        assert_equal(reference, build.build(x, z), 33)


def test_an_operator_that_is_not_emulated_in_int16_is_named():
    build = ModelBuilder(INT16X8)
    x = build.tensor((1, 4, 4, 1), 0.001)
    y = build.tensor((1, 2, 2, 1), 0.001)
    model = build.build(x, build.operator("AVERAGE_POOL_2D", (x,), y, filterHeight=2, filterWidth=2, strideH=2, strideW=2))
    with pytest.raises(UnsupportedOperatorError, match=r"AVERAGE_POOL_2D \(number 0\) in int16"):
        EmulatedRuntime(model, TFLM)
