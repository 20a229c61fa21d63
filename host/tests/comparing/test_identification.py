"""Naming the arithmetic of a runtime from its layers or from its outputs alone."""

from __future__ import annotations

import numpy as np
import pytest

from balance_hil.comparing.identification import identify, identify_all, identify_by_outputs, separating_inputs
from balance_hil.comparing.inputs import random_inputs as input_set
from balance_hil.comparing.samples import collect
from balance_hil.runtimes.base import LayerTensor
from balance_hil.runtimes.emulated import KNOWN_VARIANTS, EmulatedRuntime, Kernels, Rounding, Variant
from balance_hil.runtimes.emulated.rules import (
    BUILTIN,
    REFERENCE,
    REFERENCE_TF_2_19,
    TFLM,
    TFLM_FIRST_SCALE,
    TFLM_FLOAT32_PRODUCT,
    TFLM_SINGLE_ROUNDING,
    XNNPACK,
)
from balance_hil.testing.synthetic_models import actor
from balance_hil.testing.verify_emulators import LITERT_RUNTIMES, random_inputs
from balance_hil.tflite.graph import read_graph

MODEL = actor((6, 32, 24, 2), "TANH", per_channel=True, seed=2)
GRAPH = read_graph(MODEL)
INPUTS = random_inputs(1500, 6, 5)


def _layers(variant: Variant, inputs=INPUTS, graph=GRAPH) -> list[LayerTensor]:
    return EmulatedRuntime(graph, variant).layers_raw_batch(inputs)


@pytest.mark.parametrize("variant", [TFLM, TFLM_FIRST_SCALE, BUILTIN, TFLM_SINGLE_ROUNDING], ids=lambda v: v.name)
def test_a_known_arithmetic_is_named_from_layers(variant):
    found = identify("board", GRAPH, INPUTS, _layers(variant))
    assert found.variant == variant
    assert found.closest.mismatches == 0
    assert found.samples == len(INPUTS)
    assert f"({variant.name})" in found.verdict
    assert f"{found.closest.values} values on 1500 inputs" in found.verdict


@pytest.mark.parametrize("reference", LITERT_RUNTIMES, ids=lambda s: s.name)
def test_a_real_runtime_is_among_the_candidates_left(reference):
    runtime = reference.make(MODEL)
    by_layers = identify(reference.name, GRAPH, INPUTS[:500], runtime.layers_raw_batch(INPUTS[:500]))
    by_outputs = identify_by_outputs(reference.name, GRAPH, INPUTS, runtime.infer_raw_batch(INPUTS))
    for found in (by_layers, by_outputs):
        assert reference.variant in [variant for group in found.groups for variant in group]


def test_advice_comes_with_the_variant():
    found = identify("board", GRAPH, INPUTS[:100], _layers(TFLM_FIRST_SCALE, INPUTS[:100]))
    assert "--per-tensor" in found.advice
    assert identify("board", GRAPH, INPUTS[:100], _layers(TFLM, INPUTS[:100])).advice == ""


def test_an_unlisted_combination_is_found():
    strange = Variant(name="strange", title="", rounding=Rounding.RUY_X86, kernels=Kernels.TFLM, first_scale_only=True)
    found = identify("board", GRAPH, INPUTS, _layers(strange))
    assert found.variant is not None
    assert found.variant not in KNOWN_VARIANTS
    assert (found.variant.rounding, found.variant.first_scale_only) == (Rounding.RUY_X86, True)


def test_a_runtime_like_no_other_is_not_named():
    layers = _layers(TFLM)
    layers[2].values[17, 5] ^= 1
    found = identify("board", GRAPH, INPUTS, layers)
    assert found.variant is None
    assert found.closest.mismatches == 2  # the value, and the tanh behind it, which was computed from another one
    assert found.closest.first_op == 2
    assert "computes like no known variant; the closest is tflm (2 of " in found.verdict


def test_a_choice_that_random_inputs_leave_is_settled_with_more():
    runtime = EmulatedRuntime(GRAPH, XNNPACK)
    runtime.name = "board"
    inputs = input_set(GRAPH.n_obs, GRAPH.input_quant, 3, 0)
    few = identify_all(GRAPH, collect([runtime], inputs, layer_samples=3))["board"]
    assert TFLM in few.unseparated or few.variant == TFLM
    assert "ask for more" in few.verdict
    samples = collect([runtime], inputs, layer_samples=3, separating=separating_inputs(GRAPH))
    assert samples.trace.even_tensors("board")[0].values.shape == (3, 32)
    found = identify_all(GRAPH, samples)["board"]
    assert 3 + 1 < found.samples <= 3 + 64
    assert TFLM not in found.unseparated
    assert found.variant != TFLM


def test_variants_equal_by_construction_are_one_group():
    """On a per-tensor model there are no channel scales to ignore."""
    graph = read_graph(actor((6, 8, 2), "RELU", per_channel=False, seed=0))
    found = identify(
        "board", graph, INPUTS[:200], _layers(TFLM_FIRST_SCALE, INPUTS[:200], graph), [TFLM_FLOAT32_PRODUCT, TFLM_FIRST_SCALE]
    )
    assert found.groups == ((TFLM_FLOAT32_PRODUCT, TFLM_FIRST_SCALE),)
    assert found.unseparated == ()
    assert "tflm-first-scale computes this model in the same way" in found.verdict


def test_variants_not_yet_separated_are_named():
    few = INPUTS[:3]
    found = identify_by_outputs("board", GRAPH, few, EmulatedRuntime(GRAPH, TFLM).infer_raw_batch(few), [TFLM, XNNPACK])
    assert found.unseparated == (XNNPACK,)
    assert "or like xnnpack" in found.verdict
    assert "ask for more to tell them apart" in found.verdict


@pytest.mark.parametrize("layers", [False, True], ids=["outputs", "layers"])
def test_separating_inputs_tell_the_variants_apart(layers):
    variants = (TFLM, XNNPACK, BUILTIN, TFLM_FIRST_SCALE)
    probes = separating_inputs(GRAPH, variants, layers=layers, rows=30, search=60_000)
    assert 6 <= len(probes) <= 30
    for variant in variants:
        if layers:
            found = identify("board", GRAPH, probes, _layers(variant, probes), variants)
        else:
            found = identify_by_outputs("board", GRAPH, probes, EmulatedRuntime(GRAPH, variant).infer_raw_batch(probes), variants)
        assert found.groups == ((variant,),)


def test_no_inputs_separate_what_is_alike():
    assert separating_inputs(GRAPH, (TFLM, TFLM_FLOAT32_PRODUCT), search=30_000).shape == (0, 6)


def test_hidden_layers_are_computed():
    """A runtime that fuses an operator away shows no tensor for it."""
    shown = [layer for layer in _layers(TFLM) if layer.operator != "FULLY_CONNECTED"]
    found = identify("board", GRAPH, INPUTS, shown, [XNNPACK, TFLM, REFERENCE, TFLM_SINGLE_ROUNDING])
    assert found.variant == TFLM


def test_order_of_candidates_is_the_order_of_preference():
    found = identify("board", GRAPH, INPUTS[:50], _layers(TFLM, INPUTS[:50]), [REFERENCE_TF_2_19, TFLM])
    assert found.variant == REFERENCE_TF_2_19
    assert np.all([score.mismatches == 0 for score in found.scores])
