"""Faulty conversions and outputs, made here in plain numpy as careless firmware makes them, are each called by their name."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from balance_hil.comparing.board_io import UNKNOWN, Exchange, _wraps, diagnose, diagnose_input, diagnose_model, diagnose_output
from balance_hil.comparing.conversion_variants import (
    InputConversion,
    input_conversions,
    output_conversions,
    probe_observations,
    wrong_normalizations,
)
from balance_hil.quantize import Normalization, QuantParams, dequantize, quantize
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.testing.synthetic_models import actor

MODEL = EmulatedRuntime(actor((6, 16, 3), "TANH", per_channel=True, seed=5), TFLM)
QUANT, OUT = QuantParams(float(np.float32(0.03137)), -11), MODEL.output_quant
PROBES = probe_observations(QUANT, 6)
F = np.float32
S = F(QUANT.scale)


def _sat(integers):
    return np.clip(integers, -128, 127).astype(np.int8)


def _half_away(x):
    return np.sign(x) * np.floor(np.abs(x).astype(np.float64) + 0.5)


FAULTY_INPUTS = {
    "truncates instead of rounding": lambda x: _sat(np.trunc(x / S) - 11),
    "adds the zero point and truncates instead of rounding": lambda x: _sat(np.trunc(x / S + F(-11))),
    "rounds down": lambda x: _sat(np.floor(x / S) - 11),
    "adds 0.5 and truncates": lambda x: _sat(np.trunc(x / S + F(0.5)) - 11),
    "rounds ties to even": lambda x: _sat(np.rint(x / S) - 11),
    "rounds ties up": lambda x: _sat(np.floor(x / S + F(0.5)) - 11),
    "divides in float64": lambda x: _sat(_half_away(x.astype(np.float64) / np.float64(S)) - 11),
    "multiplies by the reciprocal": lambda x: _sat(_half_away(x * (F(1) / S)) - 11),
    "multiplies by the scale": lambda x: _sat(_half_away(x * S) - 11),
    "wraps around instead of saturating": lambda x: (_half_away(x / S).astype(np.int64) - 11).astype(np.int8),
    "saturates at -127": lambda x: np.clip(_half_away(x / S) - 11, -127, 127).astype(np.int8),
    "omits the zero point": lambda x: _sat(_half_away(x / S)),
    "subtracts the zero point": lambda x: _sat(_half_away(x / S) + 11),
    "has its scale rounded to 4 decimals": lambda x: _sat(_half_away(x / F(0.0314)) - 11),
    "has its scale rounded to 3 decimals": lambda x: _sat(_half_away(x / F(0.031)) - 11),
    "takes the parameters of the other end of the model": lambda x: quantize(x, OUT),
    "truncates instead of rounding and wraps around instead of saturating": lambda x: (
        np.trunc(x / S).astype(np.int64) - 11
    ).astype(np.int8),
    "swaps the bytes of the observation": lambda x: quantize(np.nan_to_num(x.byteswap(), nan=0, posinf=0, neginf=0), QUANT),
    "permutes the inputs: it takes 0, 2, 1, 3, 4, 5 for 0, 1, 2, 3, 4, 5": lambda x: quantize(x[:, [0, 2, 1, 3, 4, 5]], QUANT),
    "repeats inputs: it takes 3 for 4": lambda x: quantize(x[:, [0, 1, 2, 3, 3, 5]], QUANT),
    "gives a stale input: that of 1 request before": lambda x: quantize(np.roll(x, 1, axis=0), QUANT),
}


def test_a_healthy_input_has_no_fault():
    (found,) = diagnose_input(PROBES, quantize(PROBES, QUANT), QUANT, OUT)
    assert (found.fault, found.healthy, found.differing, found.samples) == ("", True, 0, PROBES.size)


@pytest.mark.parametrize("fault", FAULTY_INPUTS)
def test_faulty_input_is_named(fault):
    inputs = FAULTY_INPUTS[fault](PROBES)
    (found,) = diagnose_input(PROBES, inputs, QUANT, OUT)
    assert found.fault == fault
    assert found.alternatives == ()
    assert not found.healthy
    assert found.differing == np.count_nonzero(inputs != quantize(PROBES, QUANT))


@pytest.mark.parametrize("zero_point", [-128, -60, 0, 77, 127])
@pytest.mark.parametrize(("scale", "n_obs"), [(0.0078, 2), (0.1234, 2), (1.7, 2), (0.1234, 3072)])
def test_every_single_fault_shows_in_the_probes_whatever_the_parameters(scale, zero_point, n_obs):
    quant = QuantParams(float(F(scale)), zero_point)
    probes = probe_observations(quant, n_obs)
    right = quantize(probes, quant)
    harmless = {"omits the zero point", "subtracts the zero point"} if zero_point == 0 else set()
    for conversion in input_conversions(quant):
        if len(conversion.faults) == 1 and conversion.faults[0] not in harmless:
            assert np.any(conversion.apply(probes) != right), conversion.faults


def test_the_probes_of_a_wide_input_are_sent_in_seconds_and_hold_every_value():
    wide = probe_observations(QUANT, 3072)
    assert wide.size <= 1 << 17
    assert set(np.unique(wide)) == set(np.unique(PROBES))
    assert probe_observations(QUANT, 200_000).shape == (8, 200_000)


def test_conversions_come_with_the_fewest_faults_first():
    conversions = list(input_conversions(QUANT, OUT))
    assert conversions[0] == InputConversion(params=QUANT)
    assert np.array_equal(conversions[0].apply(PROBES), quantize(PROBES, QUANT))
    assert [len(r.faults) for r in conversions] == sorted(len(r.faults) for r in conversions)


def test_a_strange_input_is_not_given_a_wrong_name():
    inputs = quantize(PROBES, QUANT)
    inputs[5, 3] ^= 64
    (found,) = diagnose_input(PROBES, inputs, QUANT, OUT)
    assert (found.fault, found.differing) == (UNKNOWN, 1)


# Means far from 0 and factors far from 1; a clip within int8's range.
BY = Normalization(
    mean=np.array([0.3, -2.0, 40.0, 1e-3, 0.0, -7.7]), inverse_std=np.array([3.0, 0.7, 0.02, 90.0, 1.7, 0.013]), clip=2.5
)
NORMALIZED = probe_observations(QUANT, 6, normalization=BY)


def test_a_healthy_normalization_has_no_fault():
    found = diagnose_input(NORMALIZED, quantize(NORMALIZED, QUANT, BY), QUANT, OUT, BY)
    assert [(f.stage, f.fault, f.differing, f.samples) for f in found] == [
        ("normalization", "", 0, NORMALIZED.size),
        ("input", "", 0, NORMALIZED.size),
    ]


@pytest.mark.parametrize(
    ("fault", "apply"), list(wrong_normalizations(BY)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_normalization_is_named(fault, apply):
    normalization, after = diagnose_input(NORMALIZED, quantize(apply(NORMALIZED), QUANT), QUANT, OUT, BY)
    assert normalization.fault == fault
    assert normalization.alternatives == ()
    assert normalization.differing > 0
    assert after.healthy


@pytest.mark.parametrize("fault", [name for name in FAULTY_INPUTS if not re.match("swaps|permutes|repeats|gives", name)])
def test_a_faulty_quantizer_behind_a_healthy_normalization_is_named(fault):
    by = Normalization(BY.mean, BY.inverse_std, 1e5)  # a clip within int8's range would hide what the quantizer does beyond it
    probes = probe_observations(QUANT, 6, normalization=by)
    normalization, after = diagnose_input(probes, FAULTY_INPUTS[fault](by.apply(probes)), QUANT, OUT, by)
    assert normalization.healthy
    assert after.fault == fault


@pytest.mark.parametrize("fault", [name for name in FAULTY_INPUTS if re.match("swaps|permutes|repeats|gives", name)])
def test_observations_in_the_wrong_place_are_seen_through_the_normalization(fault):
    rearrange = {
        "swaps": lambda x: np.nan_to_num(x.byteswap(), nan=0, posinf=0, neginf=0),
        "permutes": lambda x: x[:, [0, 2, 1, 3, 4, 5]],
        "repeats": lambda x: x[:, [0, 1, 2, 3, 3, 5]],
        "gives": lambda x: np.roll(x, 1, axis=0),
    }[fault.split()[0]]
    normalization, after = diagnose_input(NORMALIZED, quantize(rearrange(NORMALIZED), QUANT, BY), QUANT, OUT, BY)
    assert normalization.healthy
    assert after.fault == fault


INPUTS = quantize(PROBES, MODEL.input_quant)
OTHER = EmulatedRuntime(actor((6, 16, 3), "TANH", per_channel=True, seed=6), TFLM)


@cache  # not at import: it would compile the emulators' loops in each process that collects tests
def right_outputs():
    return MODEL.infer_raw_batch(INPUTS)


@cache
def right_actions():
    return dequantize(right_outputs(), OUT)


FAULTY_MODELS = {
    "permutes the outputs: it takes 2, 0, 1 for 0, 1, 2": lambda: right_outputs()[:, [2, 0, 1]],
    "repeats outputs: it takes 0 for 1": lambda: right_outputs()[:, [0, 0, 2]],
    "gives a stale output: that of 2 requests before": lambda: np.roll(right_outputs(), 2, axis=0),
    "reads the output of operator 2 (FULLY_CONNECTED) instead of the model's output": lambda: (
        MODEL.layers_raw_batch(INPUTS)[2].values
    ),
    "reads the output of operator 1 (TANH) from element 4 on instead of the model's output": lambda: MODEL.layers_raw_batch(
        INPUTS
    )[1].values[:, 4:7],
    "reads the input instead of the model's output": lambda: INPUTS[:, :3],
    "runs the model earlier": lambda: OTHER.infer_raw_batch(INPUTS),
    "always gives the same output": lambda: np.zeros_like(right_outputs()),
    "runs another model": lambda: np.random.default_rng(0).integers(-128, 128, right_outputs().shape).astype(np.int8),
    "wraps the output around instead of saturating": lambda: np.where(right_outputs() == 127, -128, right_outputs()).astype(
        np.int8
    ),
}


@pytest.mark.parametrize("fault", FAULTY_MODELS)
def test_faulty_output_is_named(fault):
    found = diagnose_model(INPUTS, FAULTY_MODELS[fault](), MODEL, {"earlier": OTHER})
    assert found.fault == fault


def test_outputs_that_wrap_around_more_than_half_are_named_so():
    far = np.random.default_rng(0).integers(-900, 900, right_outputs().shape)
    saturated = np.clip(far, -128, 127).astype(np.int8)
    assert _wraps(saturated, far.astype(np.int8))
    assert not _wraps(saturated, np.clip(far, -120, 120).astype(np.int8))
    assert not _wraps(saturated, np.clip(far, -127, 127).astype(np.int8))


def test_a_little_different_output_is_not_called_another_model():
    outputs = right_outputs().copy()
    outputs[::50] += np.int8(1)
    assert diagnose_model(INPUTS, outputs, MODEL).fault == UNKNOWN


FAULTY_ACTIONS = {
    "divides the raw output by 127": lambda: (right_outputs() / F(127)).astype(F),
    "sends the raw output": lambda: right_outputs().astype(F),
    "reads the output as unsigned": lambda: (
        F(OUT.scale) * (right_outputs().view(np.uint8).astype(F) - F(OUT.zero_point))
    ).astype(F),
    "swaps the bytes of the action": lambda: right_actions().byteswap(),
    "permutes the actions: it takes 1, 0, 2 for 0, 1, 2": lambda: right_actions()[:, [1, 0, 2]],
    "gives a stale action: that of 1 request before": lambda: np.roll(right_actions(), 1, axis=0),
    "takes the parameters of the other end of the model": lambda: dequantize(right_outputs(), QUANT),
    "has its scale rounded to 4 decimals": lambda: (F(0.0078) * right_outputs().astype(F)).astype(F),
}


def test_a_healthy_action_has_no_fault():
    assert diagnose_output(right_outputs(), right_actions(), OUT, QUANT).healthy


@pytest.mark.parametrize("fault", FAULTY_ACTIONS)
def test_faulty_action_is_named(fault):
    assert diagnose_output(right_outputs(), FAULTY_ACTIONS[fault](), OUT, QUANT).fault == fault


def test_forgotten_zero_point_of_the_output():
    quant = QuantParams(0.01, 9)
    actions = (F(0.01) * right_outputs().astype(F)).astype(F)
    assert diagnose_output(right_outputs(), actions, quant).fault == "omits the zero point"
    assert next(output_conversions(quant)).fault == "right"


def test_diagnosis_names_the_faulty_stage_alone():
    inputs = FAULTY_INPUTS["rounds down"](PROBES)
    model = EmulatedRuntime(MODEL.graph, TFLM)
    model.input_quant = QUANT
    outputs = model.infer_raw_batch(inputs)
    exchange = Exchange(observations=PROBES, inputs=inputs, outputs=outputs, actions=dequantize(outputs, OUT))
    assert [(f.stage, f.fault) for f in diagnose(exchange, model)] == [("input", "rounds down"), ("model", ""), ("output", "")]
