"""The emulators of int16 activations against the real runtimes, layer by layer."""

from itertools import combinations

import numpy as np
import pytest

from balance_hil.comparing.attribution import REDUCED_MULTIPLIER, REQUANTIZATION_ROUNDING, Observed, attribute
from balance_hil.errors import UnsupportedOperatorError
from balance_hil.quantize import INT16X8
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.catalog import IN_INT16
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.testing.convolutional_models import INT16_OPERATORS, random_network, random_operator
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.testing.verify_emulators import INT16_RUNTIMES, agreement, random_inputs
from balance_hil.tflite.codec import edit, schema
from balance_hil.tflite.graph import read_graph

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
    # The kernels take the third and the fourth for powers of two, too, and compute some operators in another way then.
    for scale in (float(np.exp(rng.uniform(np.log(1e-6), np.log(1e-2)))), 2.0**-12, 2.0**-12 * 1.0006, 2.0**-11 * 0.9994):
        build = ModelBuilder(INT16X8)
        x = build.tensor((1, 65536), scale)
        scale = 1 / 32768 if name in ("TANH", "LOGISTIC") else float(np.exp(rng.uniform(np.log(1e-5), np.log(1e-2))))
        settings = {"alpha": 0.1} if name == "LEAKY_RELU" else {}
        model = build.build(x, build.operator(name, (x,), build.tensor((1, 65536), scale), **settings))
        inputs = np.arange(-32768, 32768, dtype=np.int16)[np.newaxis]
        wanted = reference.make(model).infer_raw_batch(inputs)
        assert np.array_equal(EmulatedRuntime(model, reference.variant).infer_raw_batch(inputs), wanted)


@EVERY_RUNTIME
@pytest.mark.parametrize("name", INT16_OPERATORS)
def test_equals_the_runtime_on_an_operator(reference, name):
    for seed in (0, 1, 3, 4):  # two of them with powers of two, for ties
        model = random_operator(name, seed, INT16X8)
        assert_equal(reference, model, read_graph(model).n_obs, 12)


def test_the_vector_loop_of_a_sum_rounds_inputs_once():
    """One sum in 100,000 differs; this one does. What is left over from the loop, the 17th, does not."""
    build = ModelBuilder(INT16X8)
    scales = 0.0002608589129522443, 0.00033678964246064425
    source = build.tensor((1, 17), scales[0])
    other = build.tensor((1, 17), scales[1], data=np.full((1, 17), -184, np.int16), kind="INT16")
    model = build.build(source, build.operator("ADD", (source, other), build.tensor((1, 17), scales[1])))
    inputs = np.full((1, 17), 21949, np.int16)
    for reference in INT16_RUNTIMES:
        wanted = reference.make(model).infer_raw_batch(inputs)
        assert wanted.tolist() == [[*[16816 if reference.name == "int16x8-builtin" else 16817] * 16, 16817]]
        assert np.array_equal(EmulatedRuntime(model, reference.variant).infer_raw_batch(inputs), wanted)


def test_a_sum_with_a_constant_does_not_depend_on_the_number_of_rows():
    """Given several rows at once, the desktop's kernels would broadcast the constant in another loop."""
    model = random_operator("ADD", 4, INT16X8)
    inputs = random_inputs(120, read_graph(model).n_obs, 4, INT16X8)
    for reference in INT16_RUNTIMES:
        wanted = reference.make(model).infer_raw_batch(inputs)
        assert np.array_equal(EmulatedRuntime(model, reference.variant).infer_raw_batch(inputs), wanted)


def test_every_operator_of_the_table_is_tried():
    copies = {name for name, rules in IN_INT16.items() if rules.tflm in ("copies", "computes none")}
    assert set(IN_INT16) - copies <= {name.split()[-1] for name in INT16_OPERATORS} | {"FULLY_CONNECTED"}


@EVERY_RUNTIME
def test_equals_the_runtime_on_networks(reference):
    for seed in (3, 6):
        model = random_network(seed, element=INT16X8)
        assert_equal(reference, model, read_graph(model).n_obs, 20)


def test_every_difference_of_networks_is_explained():
    causes = set()
    for name, seed in (("network", 3), ("network", 6), ("SOFTMAX", 2), ("TANH", 0)):
        model = random_network(seed, element=INT16X8) if name == "network" else random_operator(name, seed, INT16X8)
        graph = read_graph(model)
        inputs = random_inputs(60, graph.n_obs, seed, INT16X8)
        seen = [Observed(name=r.name, variant=r.variant, outputs=r.make(model).infer_raw_batch(inputs)) for r in INT16_RUNTIMES]
        for a, b in combinations(seen, 2):
            found = attribute(graph, inputs, a, b)
            assert found.unexplained == 0
            causes.update(found.causes)
    assert {REDUCED_MULTIPLIER, REQUANTIZATION_ROUNDING} <= causes


@pytest.mark.parametrize("name", ["DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"])
def test_a_bias_that_kernels_misread_is_refused(name):
    """They read 64 bits where the model has 32."""
    model = random_operator(name, 1, INT16X8)

    def narrow(parsed):
        graph = parsed.subgraphs[0]
        tensor = graph.tensors[graph.operators[0].inputs[-1]]
        tensor.type = schema().TensorType.INT32
        buffer = parsed.buffers[tensor.buffer]
        buffer.data = np.frombuffer(buffer.data.tobytes()[: len(buffer.data) // 2], np.uint8)

    with pytest.raises(UnsupportedOperatorError, match=f"{name} .* with a bias of 32 bits"):
        EmulatedRuntime(edit(model, narrow), TFLM)


def test_an_operator_that_is_not_emulated_in_int16_is_named():
    build = ModelBuilder(INT16X8)
    x = build.tensor((1, 4), 0.001)
    model = build.build(x, build.elementwise("RELU_N1_TO_1", x, (0.001, 0)))
    with pytest.raises(UnsupportedOperatorError, match=r"RELU_N1_TO_1 \(number 0\) in int16"):
        EmulatedRuntime(model, TFLM)
