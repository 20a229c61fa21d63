"""Whole models: made, proved, tried on every runtime; and spoiled ones refused."""

import functools

import numpy as np
import pytest

from balance_hil.bundle import INT8_MODEL
from balance_hil.checkpoint import Actor, Layer
from balance_hil.errors import ExportError
from balance_hil.exporting import ExportConfig, export, pipeline
from balance_hil.exporting.rounding_invariant import fine_tuning, make, make_rounding_invariant, prove
from balance_hil.exporting.rounding_invariant.fine_tuning import Samples
from balance_hil.exporting.rounding_invariant.make import check_agreement, differing_outputs
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.spec import ActionMap
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.tflite.codec import edit, schema
from balance_hil.tflite.graph import read_graph

ACTIVATIONS = {"RELU": "relu", "TANH": "tanh", "LOGISTIC": "sigmoid"}


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    monkeypatch.setattr(make, "FINE_TUNING_STEPS", 80)
    monkeypatch.setattr(make, "AGREEMENT_SAMPLES", 2000)


def float_actor(model, activation, bound):
    """The float network that an int8 model stands for."""
    graph = read_graph(model)
    weights, biases = [], []
    for operator in graph.operators:
        if operator.name == "FULLY_CONNECTED":
            for store, index in ((weights, operator.inputs[1]), (biases, operator.inputs[2])):
                tensor = graph.tensors[index]
                scales = np.array(tensor.scales).reshape(-1, *[1] * (tensor.data.ndim - 1))
                store.append((tensor.data * scales).astype(np.float32))
    kinds = [ACTIVATIONS[activation]] * (len(weights) - 1) + [bound]
    ones = np.ones(len(weights[-1]), np.float32)
    return Actor(
        algorithm="ppo",
        layers=tuple(Layer(*parts) for parts in zip(weights, biases, kinds, strict=True)),
        action_map=ActionMap.of_box(-ones, ones),
    )


@functools.cache
def ordinary(activation, per_channel, squash):
    return actor(
        (5, 12, 12, 2),
        activation,
        per_channel=per_channel,
        seed=3,
        squash="TANH" if squash else None,
        fused="NONE" if squash else "RELU_N1_TO_1",
    )


@functools.cache
def made(activation="RELU", per_channel=True, squash=False):
    model = ordinary(activation, per_channel, squash)
    teacher = float_actor(model, activation, "tanh" if squash else "clip")
    rows = np.random.default_rng(1).normal(0.0, 0.7, (3000, 5)).astype(np.float32)
    return make_rounding_invariant(teacher.layers, model, Samples(rows[:2000], teacher.act_batch(rows[:2000])), rows[2000:], 0)


@pytest.mark.parametrize(
    ("activation", "per_channel", "squash"),
    [
        ("RELU", True, False),
        ("RELU", False, True),
        ("TANH", True, True),
        ("TANH", False, False),
        ("LOGISTIC", True, False),
        ("LOGISTIC", False, True),
    ],
)
def test_every_kind_of_actor_gives_the_same_bits_on_every_runtime(activation, per_channel, squash):
    result = made(activation, per_channel, squash)
    assert result.proof == prove(result.model)
    assert differing_outputs(result.model, 3000, seed=9) == {"int8-xnnpack": 0, "int8-builtin": 0, "int8-reference": 0}
    assert result.tuned.rms_after <= result.tuned.rms_before
    assert result.tuned.rms_after < 3 * result.ordinary_rms_error


def test_operators_names_and_shapes_stay_and_constants_are_aligned():
    before, after = read_graph(ordinary("TANH", True, True)), read_graph(made("TANH", True, True).model)
    assert [(o.name, o.activation, o.inputs, o.outputs) for o in before.operators] == [
        (o.name, o.activation, o.inputs, o.outputs) for o in after.operators
    ]
    assert [(t.name, t.shape, t.type) for t in before.tensors] == [(t.name, t.shape, t.type) for t in after.tensors]


def test_constants_are_aligned_to_16_bytes():
    model = made().model
    root = schema().Model.GetRootAs(model, 0)
    lengths = []
    for i in range(root.BuffersLength()):
        buffer = root.Buffers(i)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            assert buffer._tab.Vector(field) % 16 == 0
            lengths.append(buffer.DataLength())
    assert sorted(lengths) == sorted([60, 48, 144, 48, 24, 8])


def test_the_same_seed_gives_the_same_bytes():
    assert made().model == made.__wrapped__().model


def test_fine_tuning_mends_what_the_grid_costs(monkeypatch):
    monkeypatch.setattr(make, "FINE_TUNING_STEPS", 400)
    tuned = made.__wrapped__().tuned
    assert tuned.rms_after < 0.95 * tuned.rms_before


def test_a_network_unlike_the_written_model_is_refused(monkeypatch):
    class Tweaked(fine_tuning.FakeQuantNetwork):
        def codes(self):
            layers = super().codes()
            layers[-1].bias[:] += 4096
            return layers

        def infer_raw_batch(self, inputs, layers):
            layers[-1].bias[:] -= 4096
            return super().infer_raw_batch(inputs, layers)

    monkeypatch.setattr(make, "FakeQuantNetwork", Tweaked)
    with pytest.raises(ExportError, match="fine-tuned network and the written model differ"):
        made.__wrapped__()


# --- models that are not rounding-invariant --------------------------------------------------------------------------------


def edited(model, change):
    """The model with one tensor changed: ``change(tensors, buffers)`` through the schema's objects."""

    def inside(parsed):
        graph = parsed.subgraphs[0]
        change(graph, lambda index: parsed.buffers[graph.tensors[index].buffer])

    return edit(model, inside)


def add_to_constant(which, amount):
    def change(graph, buffer_of):
        buffer = buffer_of(graph.operators[1].inputs[which])
        dtype = np.int8 if which == 1 else np.int32
        values = np.frombuffer(bytes(buffer.data), dtype).copy()
        values[0] += amount
        buffer.data = values.view(np.uint8)

    return change


def scale_tensor(which, factor):
    def change(graph, buffer_of):
        operator = graph.operators[1]
        index = operator.outputs[0] if which == "output" else operator.inputs[which]
        quantization = graph.tensors[index].quantization
        quantization.scale = quantization.scale * np.float32(factor)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_to_constant(1, 1), "weight that is not a multiple of 4"),
        (add_to_constant(2, 2), "bias that is not 2 modulo 4"),
        (add_to_constant(2, 1 << 25), "accumulators of up to"),
        (scale_tensor(1, 1.1), "not a power of two"),
        (scale_tensor("output", 0.75), "not a power of two"),
        (scale_tensor(1, 128.0), "shifts by"),
        (scale_tensor(1, 2.0**-30), "shifts by"),
    ],
)
def test_each_broken_condition_is_named(change, message):
    model = made().model
    with pytest.raises(ExportError, match=message):
        prove(edited(model, change))


def test_an_ordinary_model_is_not_rounding_invariant_and_runtimes_show_it():
    model = ordinary("RELU", True, False)
    with pytest.raises(ExportError, match="not a power of two"):
        prove(model)
    with pytest.raises(ExportError, match="differ from TFLM's on 20000 random inputs"):
        check_agreement(model, 20_000, 0)


def test_an_operator_that_is_not_known_is_named():
    build = ModelBuilder()
    first, second = build.tensor([1, 4], 0.5), build.tensor([1, 4], 0.5)
    build.operator("HARD_SWISH", [first], second)
    with pytest.raises(ExportError, match="operator 0 is HARD_SWISH"):
        prove(build.build(first, second))


@pytest.mark.parametrize(("kind", "exponent"), [("TANH", -8), ("TANH", 1), ("LOGISTIC", -7)])
def test_table_functions_with_entries_near_a_tie_are_refused(kind, exponent):
    build = ModelBuilder()
    scale, zero_point = (2.0**-7, 0) if kind == "TANH" else (2.0**-8, -128)
    first, second = build.tensor([1, 4], 2.0**exponent), build.tensor([1, 4], scale, zero_point)
    build.operator(kind, [first], second)
    with pytest.raises(ExportError, match="input scale"):
        prove(build.build(first, second))


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize(("kind", "exponents"), [("TANH", range(-7, 1)), ("LOGISTIC", range(-6, 1))])
def test_table_functions_on_allowed_grids_agree_on_every_code(kind, exponents, zero_point):
    from balance_hil.runtimes.tflite import TfliteModelRuntime

    scale, offset = (2.0**-7, 0) if kind == "TANH" else (2.0**-8, -128)
    codes = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    for exponent in exponents:
        build = ModelBuilder()
        first, second = build.tensor([1, 256], 2.0**exponent, zero_point), build.tensor([1, 256], scale, offset)
        build.operator(kind, [first], second)
        model = build.build(first, second)
        expected = TflmRuntime(model).infer_raw_batch(codes)
        for name in ("int8-xnnpack", "int8-builtin", "int8-reference"):
            assert np.array_equal(TfliteModelRuntime(name, model).infer_raw_batch(codes), expected), (name, exponent)


# --- as part of an export ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("episodes_here")
def test_export_records_what_was_made(tmp_path, ppo_bundle, converted, monkeypatch):
    converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    monkeypatch.setattr(pipeline, "RECORDED_ROWS", 200)
    told = []
    config = ExportConfig(source=ppo_bundle.path, output=tmp_path / "proof", episodes=1, max_steps=100, rounding_invariant=True)
    bundle = export(config, lambda name, done: told.append(name)).bundle
    recorded = bundle.metrics["rounding_invariant"]
    assert recorded["outputs_unlike_tflm"] == {"int8-xnnpack": 0, "int8-builtin": 0, "int8-reference": 0}
    assert recorded["smallest_shift"] >= 3
    assert 0 < recorded["validation_rms_error"] <= recorded["validation_rms_error_before_fine_tuning"]
    assert recorded["fine_tuning_rows"] == 200 * 4 + 10
    prove(bundle.file(INT8_MODEL).read_bytes())
    assert "fine-tuning" in told
    assert "--rounding-invariant" in bundle.file("README.md").read_text()


def test_the_shipped_model_is_rounding_invariant(ppo_bundle):
    from balance_hil.bundle import Bundle

    shipped = Bundle.load(ppo_bundle.path.parent / "ppo-rounding-invariant")
    prove(shipped.model())
    recorded = shipped.metrics["rounding_invariant"]
    assert recorded["validation_rms_error"] < 1.5 * recorded["validation_rms_error_ordinary"]
