"""Every differing value gets the cause that was put there, at the layer where it was put."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from balance_hil.comparing.attribution import (
    ACTIVATION_TABLE,
    CLAMP_BOUND,
    ELEMENTWISE_ROUNDING,
    IGNORED_CHANNEL_SCALES,
    REQUANTIZATION_ROUNDING,
    SCALE_PRODUCT,
    Observed,
    attribute,
    attribute_pairs,
)
from balance_hil.comparing.identification import identify_all
from balance_hil.comparing.inputs import InputSet
from balance_hil.comparing.samples import Samples, Trace, collect
from balance_hil.runtimes.emulated import EmulatedRuntime, Kernels, Rounding, Variant
from balance_hil.runtimes.emulated.rules import BUILTIN, TFLM, TFLM_FIRST_SCALE, XNNPACK
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.testing.verify_emulators import LITERT_RUNTIMES, random_inputs
from balance_hil.tflite.graph import read_graph

MODEL = actor((6, 32, 24, 2), "TANH", per_channel=True, seed=2)
GRAPH = read_graph(MODEL)
INPUTS = random_inputs(4000, 6, 6)


def _observed(name: str, variant: Variant, *, layers: bool = True, graph=GRAPH, inputs=INPUTS) -> Observed:
    emulator = EmulatedRuntime(graph, variant)
    return Observed(
        name=name,
        variant=variant,
        outputs=emulator.infer_raw_batch(inputs),
        layers=emulator.layers_raw_batch(inputs) if layers else None,
    )


def _adds_up(found) -> None:
    assert sum(found.causes.values()) + found.unexplained == found.differing
    for layer in found.layers:
        assert sum(layer.new.values()) + layer.propagated + layer.unexplained == layer.differing
        assert sum(layer.new_channels) == sum(layer.new.values())


@pytest.mark.parametrize("layers", [True, False], ids=["with layers", "outputs only"])
def test_rounding_arises_in_fully_connected_and_propagates_through_tanh(layers):
    found = attribute(GRAPH, INPUTS, _observed("a", TFLM, layers=layers), _observed("b", XNNPACK, layers=layers))
    _adds_up(found)
    assert found.differing > 50
    assert found.causes == {REQUANTIZATION_ROUNDING: found.differing}
    assert found.unexplained == 0
    assert found.first_op == 0
    first, tanh = found.layers[:2]
    assert first.new == {REQUANTIZATION_ROUNDING: first.differing}
    assert (first.propagated, first.max_new_lsb) == (0, 1)
    assert (tanh.new, tanh.propagated) == ({}, tanh.differing)
    assert tanh.differing > 0


def test_ignored_channel_scales():
    found = attribute(GRAPH, INPUTS, _observed("a", TFLM), _observed("b", TFLM_FIRST_SCALE))
    _adds_up(found)
    assert found.differing > 0.5 * found.outputs
    assert found.causes == {IGNORED_CHANNEL_SCALES: found.differing}
    assert found.layers[0].new_channels[0] == 0  # the first channel's scale is right


def test_one_cause_for_each_value_when_several_rules_differ():
    board = replace(XNNPACK, first_scale_only=True)
    found = attribute(GRAPH, INPUTS, _observed("a", TFLM), _observed("b", board))
    _adds_up(found)
    assert found.unexplained == 0
    assert found.layers[0].new[IGNORED_CHANNEL_SCALES] > found.layers[0].new[REQUANTIZATION_ROUNDING] > 0


def test_product_precision():
    """Scales whose float32 product rounds up, and accumulators that the last bit of the multiplier moves across a tie."""
    build = ModelBuilder()
    x = build.tensor((1, 1), 0.0999, 0)
    weights = build.tensor((3, 1), 0.0333, data=np.array([[127], [90], [45]], np.int8))
    bias = build.tensor((3,), 0.0999 * 0.0333, data=np.array([2**21, -(2**21), 3], np.int32), kind="INT32")
    model = build.build(x, build.operator("FULLY_CONNECTED", (x, weights, bias), build.tensor((1, 3), 61.7, 0)))
    graph, inputs = read_graph(model), np.arange(-128, 128, dtype=np.int8)[:, np.newaxis]
    wide = replace(TFLM, rounding=Rounding.SINGLE)
    observed = [
        _observed(str(v.float64_product), v, graph=graph, inputs=inputs) for v in (wide, replace(wide, float64_product=False))
    ]
    found = attribute(graph, inputs, *observed)
    _adds_up(found)
    assert set(found.causes) <= {SCALE_PRODUCT}
    assert found.unexplained == 0


def test_activation_table():
    """A scale at which one of the 256 inputs of LOGISTIC is 8e-6 steps from a tie: the fixed-point function misses it."""
    build = ModelBuilder()
    x = build.tensor((1, 1), 0.006399080157279968, -51)
    model = build.build(x, build.operator("LOGISTIC", (x,), build.tensor((1, 1), 1 / 256, -128)))
    graph, inputs = read_graph(model), np.arange(-128, 128, dtype=np.int8)[:, np.newaxis]
    found = attribute(graph, inputs, *(_observed(v.name, v, graph=graph, inputs=inputs) for v in (TFLM, BUILTIN)))
    _adds_up(found)
    assert (found.differing, found.causes, found.unexplained) == (1, {ACTIVATION_TABLE: 1}, 0)


def test_clamp_bound():
    """6 / scale on a tie: XNNPACK rounds the bound of RELU6 to even, the others away from zero."""
    build = ModelBuilder()
    x = build.tensor((1, 1), 0.5, 0)
    weights = build.tensor((1, 1), 1.0, data=np.array([[1]], np.int8))
    scale = 6 / 24.5
    model = build.build(x, build.operator("FULLY_CONNECTED", (x, weights), build.tensor((1, 1), scale, 0), activation="RELU6"))
    graph, inputs = read_graph(model), np.array([[100]], np.int8)
    board = replace(TFLM, kernels=Kernels.XNNPACK)
    found = attribute(graph, inputs, *(_observed(v.kernels.name, v, graph=graph, inputs=inputs) for v in (TFLM, board)))
    assert np.float32(6) / np.float32(scale) == 24.5
    assert found.causes == {CLAMP_BOUND: 1}


def test_elementwise_rounding():
    build = ModelBuilder()
    x = build.tensor((1, 16), 0.1, 0)
    model = build.build(x, build.operator("ADD", (x, x), build.tensor((1, 16), 0.377, 0)))
    graph, inputs = read_graph(model), random_inputs(2000, 16, 1)
    found = attribute(graph, inputs, *(_observed(v.name, v, graph=graph, inputs=inputs) for v in (TFLM, XNNPACK)))
    _adds_up(found)
    assert set(found.causes) <= {ELEMENTWISE_ROUNDING}
    assert found.unexplained == 0


def test_a_fault_that_no_rule_explains_is_unexplained_where_it_is():
    board = _observed("b", TFLM)
    layers = list(board.layers or ())
    layers[2].values[:, 7] += np.int8(1)  # a flipped weight, say: one channel of the second FULLY_CONNECTED
    rest = EmulatedRuntime(GRAPH, TFLM)
    tensors = layers[2].values.reshape(-1, 1, 24)
    for operator in GRAPH.operators[3:]:
        tensors = rest.apply(operator, [tensors])
        layers[operator.index].values[:] = tensors.reshape(len(INPUTS), -1)
    board = replace(board, outputs=layers[-1].values.copy(), layers=layers)
    found = attribute(GRAPH, INPUTS, _observed("a", TFLM), board)
    _adds_up(found)
    assert found.unexplained == found.differing > 0
    assert [layer.unexplained > 0 for layer in found.layers] == [False, False, True, False, False, False]
    assert found.layers[3].propagated == found.layers[3].differing
    assert found.first_op == 2


def test_a_single_wrong_output_is_unexplained_among_explained_ones():
    a, b = _observed("a", TFLM, layers=False), _observed("b", XNNPACK, layers=False)
    alike = int(np.flatnonzero(np.all(a.outputs == b.outputs, axis=1))[0])
    unlike = int(np.flatnonzero((a.outputs[:, 0] != b.outputs[:, 0]) & (a.outputs[:, 1] == b.outputs[:, 1]))[0])
    b.outputs[[alike, unlike], 1] += np.int8(1)
    found = attribute(GRAPH, INPUTS, a, b)
    _adds_up(found)
    assert found.unexplained == 3  # in the row that differed before, none of the two outputs is trusted


def test_equal_runtimes_have_no_causes():
    found = attribute(GRAPH, INPUTS, _observed("a", TFLM), _observed("b", TFLM))
    assert (found.differing, found.causes, found.unexplained, found.first_op) == (0, {}, 0, None)


@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("activation", ["TANH", "RELU", "RELU6", "LOGISTIC", "HARD_SWISH"])
def test_all_pairs_of_real_runtimes_are_explained(activation, per_channel):
    model = actor((6, 24, 24, 2), activation, per_channel=per_channel, seed=8)
    runtimes = [reference.make(model) for reference in LITERT_RUNTIMES]
    samples = collect(runtimes, _input_set(random_inputs(1500, 6, 3)), layer_samples=100)
    variants, found = _explained(read_graph(model), samples)
    assert variants == {reference.name: reference.variant for reference in LITERT_RUNTIMES}
    assert list(found) == list(combinations(samples.outputs, 2))
    for (a, b), pair in found.items():
        assert pair.outputs.unexplained == pair.layers.unexplained == 0
        assert pair.outputs.differing == np.count_nonzero(samples.outputs[a] != samples.outputs[b])
        assert (pair.outputs.inputs, pair.layers.inputs) == (1500, 100)
        for over in (pair.outputs, pair.layers):
            _adds_up(over)


def _input_set(inputs) -> InputSet:
    return InputSet(observations=inputs.astype(np.float32), raw=inputs, random=len(inputs), seed=0, source="")


def _explained(graph, samples):
    variants = {name: found.closest.variant for name, found in identify_all(graph, samples).items()}
    return variants, attribute_pairs(graph, samples, variants)


def test_an_unknown_board_is_searched_for_in_the_family():
    outputs = {
        name: EmulatedRuntime(GRAPH, v).infer_raw_batch(INPUTS) for name, v in (("tflm", TFLM), ("board", TFLM_FIRST_SCALE))
    }
    trace = Trace(inputs=INPUTS[:0], rows=np.empty(0, np.intp), even=0, tensors={})
    samples = Samples(inputs=_input_set(INPUTS), output_quant=GRAPH.output_quant, actions={}, outputs=outputs, trace=trace)
    identified = identify_all(GRAPH, samples)
    assert identified["board"].variant == TFLM_FIRST_SCALE
    assert len(identified["tflm"].scores) == 1  # what is expected fits: nothing else was tried
    (pair,) = _explained(GRAPH, samples)[1].values()
    assert pair.layers is None
    assert pair.outputs.causes == {IGNORED_CHANNEL_SCALES: pair.outputs.differing}


@pytest.mark.parametrize("with_layers", [True, False])
def test_blocks_change_nothing(with_layers):
    inputs = random_inputs(5001, 6, 0)
    a = _observed("a", XNNPACK, layers=with_layers, inputs=inputs)
    b = _observed("b", TFLM_FIRST_SCALE, layers=with_layers, inputs=inputs)
    b.outputs[4000] = ~a.outputs[4000]  # values that nothing explains, in the last block
    rows: list[int] = []
    whole = attribute(GRAPH, inputs, a, b, block_rows=8192)
    assert attribute(GRAPH, inputs, a, b, block_rows=1024, on_rows=rows.append) == whole
    assert rows == [1024] * 4 + [905]
    assert whole.unexplained == 2
    assert sum(whole.causes.values()) + whole.unexplained == whole.differing
