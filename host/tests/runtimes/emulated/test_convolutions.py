"""Convolutional operators and networks against the real runtimes: a small slice of hil verify --emulators."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.comparing.attribution import CAUSES, DROPPED_INPUT, LSTM_GATES, REQUANTIZATION_ROUNDING, Observed, attribute
from balance_hil.comparing.identification import identify
from balance_hil.errors import BundleError, HarnessError, UnsupportedOperatorError
from balance_hil.runtimes.emulated import EmulatedRuntime, Rounding, convolution, operators, tables
from balance_hil.runtimes.emulated.catalog import OPERATORS
from balance_hil.runtimes.emulated.requantize import Requantizer
from balance_hil.runtimes.emulated.rules import BUILTIN, ESP_NN_SKIP_NUDGE, TFLM, TINYENGINE, XNNPACK, of_channels
from balance_hil.testing import convolutional_models
from balance_hil.testing.convolutional_models import SAME, VALID, random_network, random_operator
from balance_hil.testing.synthetic_models import ModelBuilder
from balance_hil.testing.verify_emulators import LITERT_RUNTIMES, agreement, random_inputs
from balance_hil.tflite.codec import edit
from balance_hil.tflite.graph import read_graph

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
EVERY_RUNTIME = pytest.mark.parametrize("reference", LITERT_RUNTIMES, ids=lambda s: s.name)


def _agreement(reference, model, rows, seed):
    return agreement(
        reference.make(model), EmulatedRuntime(model, reference.variant), random_inputs(rows, read_graph(model).n_obs, seed)
    )


@EVERY_RUNTIME
@pytest.mark.parametrize("name", convolutional_models.OPERATORS)
def test_equals_the_runtime_on_an_operator(reference, name):
    if name == "ELU" and reference.name == "int8-reference":
        pytest.skip("the reference kernels lack ELU")
    for seed in range(6):  # two of them with powers of two, for ties
        found = _agreement(reference, random_operator(name, seed), 24, seed)
        assert (found.differing_outputs, found.differing_values) == (0, 0), seed


@pytest.fixture(scope="module")
def networks():
    """Models, inputs, and what every runtime computes."""
    made = []
    for seed, model in [*((seed, random_network(seed)) for seed in (0, 1, 2)), (0, random_operator("SPLIT", 0))]:
        inputs = random_inputs(64, read_graph(model).n_obs, seed)
        made.append((model, inputs, [(r, r.make(model)) for r in LITERT_RUNTIMES]))
    return made


def test_every_difference_of_networks_is_explained(networks):
    causes = set()
    for model, inputs, runtimes in networks:
        graph = read_graph(model)
        seen = [
            Observed(
                name=r.name, variant=r.variant, outputs=runtime.infer_raw_batch(inputs), layers=runtime.layers_raw_batch(inputs)
            )
            for r, runtime in runtimes
        ]
        for i, b in enumerate(seen):
            for a in seen[:i]:
                found = attribute(graph, inputs, a, b)
                assert found.unexplained == sum(layer.unexplained for layer in found.layers) == 0
                assert sum(found.causes.values()) == found.differing
                causes.update(cause for layer in found.layers for cause in layer.new)
    assert len(causes) >= 3
    assert causes <= set(CAUSES)


@EVERY_RUNTIME
def test_an_lstm_starts_from_zero_in_every_inference(reference):
    model = random_operator(LSTM, 1)
    inputs = np.repeat(random_inputs(2, read_graph(model).n_obs, 0), 2, axis=0)
    runtime, emulator = reference.make(model), EmulatedRuntime(model, reference.variant)
    outputs = runtime.infer_raw_batch(inputs)
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[1], outputs[2])
    assert np.array_equal(runtime.layers_raw_batch(inputs)[-1].values, outputs)
    assert np.array_equal(emulator.infer_raw_batch(inputs), outputs)


@EVERY_RUNTIME
def test_a_gate_of_an_lstm_saturates_as_in_the_runtime(reference):
    """The desktop adds the second of a gate's two products before it makes an int16 of it."""
    found = _agreement(reference, random_operator(LSTM, 50), 100, 50)
    assert (found.differing_outputs, found.differing_values) == (0, 0)


def test_the_gates_of_an_lstm_are_a_cause():
    model = random_operator(LSTM, 1)
    graph = read_graph(model)
    inputs = random_inputs(50, graph.n_obs, 0)
    seen = [Observed(name=r.name, variant=r.variant, outputs=r.make(model).infer_raw_batch(inputs)) for r in LITERT_RUNTIMES]
    found = attribute(graph, inputs, seen[0], seen[1])
    assert found.unexplained == 0
    assert set(found.causes) == {LSTM_GATES}
    assert attribute(graph, inputs, seen[1], seen[2]).differing == 0  # the desktop's kernels are one


@pytest.mark.parametrize(("place", "value"), [(1, -1), (9, 3), (16, 3), (20, 3)])
def test_what_an_lstm_may_have_besides_is_refused(place, value):
    """Coupled gates, peepholes, a projection, layer normalization."""

    def give(model):
        (operator,) = (o for o in model.subgraphs[0].operators if len(o.inputs) == 24)
        operator.inputs = [value if i == place else index for i, index in enumerate(operator.inputs)]

    with pytest.raises(UnsupportedOperatorError, match="peepholes"):
        EmulatedRuntime(edit(random_operator(LSTM, 1), give), TFLM)


def test_blocks_and_threads_change_nothing(networks, monkeypatch):
    for model, inputs, _ in networks[:2]:
        whole = EmulatedRuntime(model, BUILTIN, threads=1).infer_raw_batch(inputs)
        with monkeypatch.context() as patch:
            patch.setattr(convolution, "_BLOCK_BYTES", 1)
            patch.setattr("balance_hil.runtimes.emulated.interpreter._BLOCK_VALUES", 1)
            assert np.array_equal(EmulatedRuntime(model, BUILTIN, threads=3).infer_raw_batch(inputs), whole)


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["ADD", "MUL"])
def test_results_do_not_depend_on_the_number_of_rows(reference, name):
    """The optimized kernels compute what their vectors leave over otherwise: of one row, as in a control loop."""
    build = ModelBuilder()
    source = build.tensor((1, 37), 0.0625, -97)  # sums that wrap in the int16 of the vector loop
    other = build.elementwise("RELU", source, (0.25, -116))
    model = build.build(source, build.operator(name, (source, other), build.tensor((1, 37), 2.0**-9, 36)))
    inputs = random_inputs(9, 37, 0)
    runtime, emulator = reference.make(model), EmulatedRuntime(model, reference.variant)
    one_by_one = np.array([emulator.infer_raw(row) for row in inputs])
    assert np.array_equal(emulator.infer_raw_batch(inputs), one_by_one)
    assert np.array_equal(runtime.infer_raw_batch(inputs), one_by_one)


def _strided(size: int, stride: int, inside: int) -> bytes:
    build, rng = ModelBuilder(), np.random.default_rng(1)
    source = build.tensor((1, inside, inside, 2), 0.05, 3)
    shape = (4, size, size, 2)
    weights = build.tensor(shape, 0.01, data=rng.integers(-127, 128, shape, dtype=np.int8))
    outside = -(-inside // stride)
    target = build.tensor((1, outside, outside, 4), 0.06, -5)
    bias = build.bias(source, 0.01, np.array([100, -200, 3000, 0]))
    options = {"strideH": stride, "strideW": stride, "padding": SAME}
    return build.build(source, build.operator("CONV_2D", (source, weights, bias), target, **options))


@pytest.mark.parametrize(("size", "stride", "inside", "dead"), [(2, 3, 6, True), (1, 2, 6, False), (2, 2, 6, False)])
def test_an_input_that_xnnpack_drops_is_named(size, stride, inside, dead):
    model = _strided(size, stride, inside)
    graph, inputs = read_graph(model), random_inputs(200, 2 * inside**2, 0)
    seen = [Observed(name=r.name, variant=r.variant, outputs=r.make(model).infer_raw_batch(inputs)) for r in LITERT_RUNTIMES[:2]]
    found = attribute(graph, inputs, *seen)
    assert found.unexplained == 0
    assert found.causes.get(DROPPED_INPUT, 0) == (found.differing if dead else 0)
    assert (found.differing > 0.9 * found.outputs) == dead
    assert (len(np.unique(seen[1].outputs, axis=0)) == 1) == dead  # the bias alone, whatever the input


@pytest.mark.parametrize("rounding", [rule for rule in Rounding if rule not in (Rounding.FLOAT64, Rounding.REDUCED)])
def test_compiled_requantization_equals_the_rule(rounding):
    rng = np.random.default_rng(7)
    multipliers = np.concatenate([2.0 ** rng.integers(-14, 2, 20), rng.uniform(0, 0.01, 20), [1e-9, 0.0]])
    requantize = Requantizer(
        multipliers=multipliers, largest_accumulator=1 << 20, rounding=rounding, zero_point=-7, low=-100, high=90
    )
    sums = rng.integers(-(1 << 20), 1 << 20, (3000, len(multipliers) + 1), dtype=np.int32)
    outputs = np.full(sums.shape, 99, np.int8)
    requantize.rows(sums, 1, outputs)
    assert np.array_equal(outputs[:, 1:], requantize(sums[:, 1:].T).T)
    assert np.all(outputs[:, 0] == 99)


def test_rounding_goes_by_operator_group_and_channel():
    up, away = Rounding.RUY_X86, Rounding.DOUBLE
    assert of_channels(up, "CONV_2D", 1, 9) == ((slice(0, 9), up),)
    assert of_channels(up, "CONV_2D", 3, 9) == ((slice(0, 9), away),)
    assert of_channels(up, "DEPTHWISE_CONV_2D", 1, 27) == ((slice(0, 24), up), (slice(24, 27), away))
    assert of_channels(up, "TRANSPOSE_CONV", 1, 7) == ((slice(0, 7), away),)
    assert of_channels(Rounding.FLOAT64, "CONV_2D", 1, 9) == ((slice(0, 9), away),)


def _pointwise(depth, height, stride=1):
    rng, build = np.random.default_rng(3), ModelBuilder()
    source = build.tensor((1, height, 3, depth), 0.05, 3)
    weights = build.tensor((5, 1, 1, depth), 0.01, data=rng.integers(-127, 128, (5, 1, 1, depth), dtype=np.int8))
    outside = (-(-height // stride), -(-3 // stride))
    target = build.tensor((1, *outside, 5), 0.4, -5)
    options = {"strideH": stride, "strideW": stride, "padding": VALID}
    inputs = (source, weights, build.bias(source, 0.01, np.arange(5) * 100))
    return build.build(source, build.operator("CONV_2D", inputs, target, **options))


@pytest.mark.parametrize(("depth", "height", "stride", "pixels"), [(8, 3, 1, 8), (16, 6, 1, 16), (4, 3, 1, 0), (8, 3, 2, 0)])
def test_esp_nn_without_its_nudge_floors_whole_blocks_of_pixels(depth, height, stride, pixels):
    model = _pointwise(depth, height, stride)
    inputs = random_inputs(2000, read_graph(model).n_obs, 1)
    variants = (ESP_NN_SKIP_NUDGE, TFLM, replace(TFLM, rounding=Rounding.FLOORED))
    fast, right, floored = (EmulatedRuntime(model, v).infer_raw_batch(inputs).reshape(2000, -1, 5) for v in variants)
    assert np.any(floored != right)
    assert np.array_equal(fast[:, :pixels], floored[:, :pixels])
    assert np.array_equal(fast[:, pixels:], right[:, pixels:])


def test_tinyengine_truncates_and_ignores_the_fused_activation():
    """By hand: (33 - 3) * 2 * 0.07 = 4.2 and (-25 - 3) * 2 * 0.07 = -3.92 steps from zero point 5, RELU or not."""
    build = ModelBuilder()
    source = build.tensor((1, 1), 0.1, 3)
    weights = build.tensor((1, 1), 0.35, data=np.array([[2]], np.int8))
    target = build.tensor((1, 1), 0.5, 5)
    inputs = (source, weights, build.bias(source, 0.35, np.array([0])))
    model = build.build(source, build.operator("FULLY_CONNECTED", inputs, target, activation="RELU"))
    codes = np.array([[33], [-25]], np.int8)
    assert EmulatedRuntime(model, TINYENGINE).infer_raw_batch(codes).tolist() == [[9], [2]]
    assert EmulatedRuntime(model, TFLM).infer_raw_batch(codes).tolist() == [[9], [5]]


def test_tinyengine_adds_in_float32():
    build = ModelBuilder()
    a, b = build.tensor((1, 2), 0.5, 1), build.tensor((1, 2), 0.25, 0, data=np.array([[1, -1]], np.int8))
    model = build.build(a, build.operator("ADD", (a, b), build.tensor((1, 2), 0.5, -2)))
    assert EmulatedRuntime(model, TINYENGINE).infer_raw(np.array([1, 1], np.int8)).tolist() == [-2, -3]  # -1.5 and -2.5


@pytest.mark.parametrize("variant", [ESP_NN_SKIP_NUDGE, TINYENGINE], ids=lambda v: v.name)
def test_another_engine_is_named_and_explained(variant):
    model = _pointwise(8, 6)
    graph, inputs = read_graph(model), random_inputs(2000, read_graph(model).n_obs, 2)
    board = EmulatedRuntime(model, variant)
    layers = board.layers_raw_batch(inputs)
    assert identify("board", graph, inputs, layers).variant == variant
    right = EmulatedRuntime(model, TFLM).infer_raw_batch(inputs)
    pair = [
        Observed(name="board", variant=variant, outputs=board.infer_raw_batch(inputs), layers=layers),
        Observed(name="tflm", variant=TFLM, outputs=right),
    ]
    found = attribute(graph, inputs, *pair)
    assert found.differing == found.causes[REQUANTIZATION_ROUNDING] > 0
    assert found.unexplained == 0


def test_every_operator_of_the_catalog_has_code():
    assert set(OPERATORS) == operators._COMPILERS.keys() | tables._FUNCTIONS.keys() | {"LEAKY_RELU"}


def _changed(name, change):
    def apply(parsed):
        graph = parsed.subgraphs[0]
        change(graph, graph.operators[0])

    return edit(random_operator(name, 2), apply)


def _channels(graph, op):
    return int(graph.tensors[op.outputs[0]].shape[-1])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("CONV_2D", lambda graph, op: setattr(op.builtinOptions, "strideH", 0)),
        ("CONV_2D", lambda graph, op: setattr(op.builtinOptions, "dilationWFactor", -1)),
        ("CONV_2D", lambda graph, op: setattr(op.builtinOptions, "padding", 7)),
        ("AVERAGE_POOL_2D", lambda graph, op: setattr(graph.tensors[op.outputs[0]], "shape", [1, 50, 50, _channels(graph, op)])),
        ("MAX_POOL_2D", lambda graph, op: setattr(op.builtinOptions, "filterWidth", 0)),
        ("CONV_2D", lambda graph, op: setattr(graph.tensors[op.inputs[0]], "shape", [4, 4])),
        ("PAD", lambda graph, op: setattr(graph.tensors[op.outputs[0]], "shape", [1, 3, 3, 3])),
        ("MEAN", lambda graph, op: setattr(graph.tensors[op.outputs[0]], "shape", [1, 99])),
    ],
)
def test_a_window_that_does_not_fit_is_refused(name, change):
    with pytest.raises(BundleError, match=f"operator 0 \\({name}\\) of this model does not fit its tensors"):
        EmulatedRuntime(_changed(name, change), TFLM)


def test_a_convolution_that_would_take_minutes_is_refused(monkeypatch):
    build = ModelBuilder()
    source = build.tensor((1, 1000, 1000, 4), 0.05, 0)
    weights = build.tensor((64, 5, 5, 4), 0.01, data=np.ones((64, 5, 5, 4), np.int8))
    target = build.tensor((1, 500, 500, 64), 0.05, 0)
    options = {"strideH": 2, "strideW": 2, "padding": SAME}
    model = build.build(source, build.operator("CONV_2D", (source, weights), target, **options))
    monkeypatch.setattr(convolution, "_MOST_PRODUCTS", 1_599_999_999)
    with pytest.raises(UnsupportedOperatorError, match="1600000000 products for each input"):
        EmulatedRuntime(model, XNNPACK)


def test_garbled_numbers_are_refused_with_one_kind_of_error():
    rng = np.random.default_rng(3)
    for name in convolutional_models.OPERATORS:
        base = random_operator(name, 1)
        for _ in range(8):

            def change(parsed):
                graph = parsed.subgraphs[0]
                tensor = graph.tensors[rng.integers(len(graph.tensors))]
                if rng.random() < 0.5 and tensor.shape is not None and len(tensor.shape):
                    shape = [int(n) for n in tensor.shape]
                    shape[rng.integers(len(shape))] = int(rng.choice([0, 1, 2, 7, 100, -1]))
                    tensor.shape = shape
                else:
                    options = graph.operators[-1].builtinOptions
                    keys = [
                        key
                        for key, value in getattr(options, "__dict__", {}).items()
                        if isinstance(value, int) and not isinstance(value, bool)
                    ]
                    if keys:
                        setattr(options, str(rng.choice(keys)), int(rng.choice([-1, 0, 1, 2, 100])))

            with contextlib.suppress(HarnessError), np.errstate(all="ignore"):
                graph = read_graph(edit(base, change))
                for variant in (TFLM, XNNPACK):
                    outputs = EmulatedRuntime(graph, variant, threads=1).infer_raw_batch(np.zeros((3, graph.n_obs), np.int8))
                    assert outputs.shape == (3, graph.n_act)
