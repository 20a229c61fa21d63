"""Requantization: the rules, and the same in compiled code."""

from __future__ import annotations

import dataclasses
from math import frexp

import numpy as np
import pytest

from balance_hil.runtimes.emulated.chain import Chain, Dense
from balance_hil.runtimes.emulated.requantize import Requantizer, Rule, Scales
from balance_hil.runtimes.emulated.rules import REFERENCE, TFLM, TFLM_FIRST_SCALE, TFLM_FLOAT32_PRODUCT, XNNPACK, Rounding

ROUNDINGS = [rounding for rounding in Rounding if rounding is not Rounding.REDUCED]  # of int8
COMPILED = [rounding for rounding in ROUNDINGS if rounding is not Rounding.TRUNCATED]
# 2^-6 puts every 64th accumulator exactly on a tie; 0.01 and pi / 2000 are what layers have; 0.7 has no shift; 1e-9 never
# leaves 0.
MULTIPLIERS = [2.0**-6, 2.0**-9, 0.01, np.pi / 2000, 0.0625 - 1e-9, 0.4, 0.7, 1e-9]


def _requantizer(rounding, multiplier, low=-128, high=127):
    return Requantizer(
        multipliers=np.array([multiplier, multiplier * 0.999]),
        largest_accumulator=1 << 19,
        rounding=rounding,
        zero_point=-7,
        low=low,
        high=high,
    )


_PAIRS = np.stack(np.meshgrid(*[np.arange(-128, 128, dtype=np.int8)] * 2), axis=-1).reshape(-1, 2)  # every two int8 values


@pytest.mark.parametrize("rounding", COMPILED)
@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_compiled_code_equals_the_rule_for_every_accumulator_in_reach(rounding, multiplier):
    reach = int(min(140 / multiplier, 1 << 17))
    offsets = np.arange(-reach, reach, 32_000)  # with weights 1 and 127, every sum within 16,000 of each
    low, high = (-128, 127) if multiplier < 0.01 else (-7, 90)
    requantize = dataclasses.replace(
        _requantizer(rounding, multiplier, low, high), multipliers=multiplier * np.where(np.arange(len(offsets)) % 2, 0.999, 1)
    )
    weights = np.tile(np.array([1, 127], np.int8), (len(offsets), 1))
    outputs = Chain([Dense(weights, offsets, requantize)], [True]).outputs(_PAIRS)[0]
    assert np.array_equal(outputs.T, requantize(weights.astype(np.int64) @ _PAIRS.T + offsets[:, np.newaxis]))


@pytest.mark.parametrize(("multiplier", "rule"), [(2.0**-6, Rule.FLOAT64), (0.01, Rule.FLOAT64), (np.pi / 2000, Rule.NEAREST)])
def test_float64_products_are_rounded_the_quick_way_where_none_is_a_tie(multiplier, rule):
    """50 times 0.01 is a tie in float64, though 0.01 is not a float64."""
    assert _requantizer(Rounding.FLOAT64, multiplier).form.rule is rule


@pytest.mark.parametrize("rounding", COMPILED)
def test_what_compiled_code_cannot_take_has_no_form(rounding):
    good = _requantizer(rounding, 0.01)
    assert good.form is not None
    assert dataclasses.replace(good, largest_accumulator=1 << 30).form is None
    floats = rounding in (Rounding.FLOAT32, Rounding.FLOAT64)
    assert (dataclasses.replace(good, multipliers=np.array([3.7])).form is None) == (not floats)  # a left shift
    assert (dataclasses.replace(good, multipliers=np.array([1e-9]), largest_accumulator=1 << 20).form is None) == (not floats)
    assert dataclasses.replace(good, multipliers=np.array([9.0])).form is None  # steps beyond float32's fractions


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_clamps_to_the_fused_activation(rounding):
    accumulators = np.array([[-500_000, 0, 500_000]] * 2, np.float32)
    assert _requantizer(rounding, 0.01, low=-7, high=90)(accumulators).tolist() == [[-7, -7, 90]] * 2


def test_rules_differ_exactly_at_ties():
    """(k + 1/2) steps: what each rule makes of a positive and a negative tie."""
    accumulators = np.array([[32.0, -32.0, 96.0, -96.0]], np.float32)
    results = {
        rounding: Requantizer(
            multipliers=np.array([1 / 64]), largest_accumulator=100, rounding=rounding, zero_point=0, low=-128, high=127
        )(accumulators)[0].tolist()
        for rounding in ROUNDINGS
    }
    assert results == {
        Rounding.DOUBLE: [1, -1, 2, -2],
        Rounding.SINGLE: [1, 0, 2, -1],
        Rounding.RUY_X86: [1, 0, 2, -1],
        Rounding.FLOAT64: [1, -1, 2, -2],
        Rounding.FLOAT32: [0, 0, 2, -2],
        Rounding.FLOORED: [1, -1, 2, -2],
        Rounding.TRUNCATED: [0, 0, 1, -1],
    }


def test_a_floored_product_lacks_the_nudge_of_the_first_rounding():
    accumulators = np.array([[3, -3, 2, -2]])
    double = dataclasses.replace(_requantizer(Rounding.DOUBLE, 0.6), zero_point=0, multipliers=np.array([0.6]))  # one rounding
    assert double(accumulators).tolist() == [[2, -2, 1, -1]]
    assert dataclasses.replace(double, rounding=Rounding.FLOORED)(accumulators).tolist() == [[1, -2, 1, -2]]


def test_multipliers_of_the_variants():
    scales = Scales(input=0.1, weights=(0.003, 0.007), output=0.05)
    wide = np.float64(np.float32(0.1)) * np.array([0.003, 0.007], np.float32).astype(np.float64) / np.float64(np.float32(0.05))
    assert np.array_equal(scales.multipliers(TFLM, 2), wide)
    first = np.float64(np.float32(0.1) * np.float32(0.003)) / np.float64(
        np.float32(0.05)
    )  # the per-tensor code, product in float32
    assert np.array_equal(scales.multipliers(TFLM_FIRST_SCALE, 2), [first, first])
    assert np.array_equal(scales.multipliers(XNNPACK, 2), scales.multipliers(XNNPACK, 2).astype(np.float32))


def test_per_tensor_product_in_float32_or_float64():
    scales = Scales(input=0.1, weights=(0.003,), output=0.05)
    product = np.float32(0.1) * np.float32(0.003)
    assert scales.multipliers(TFLM_FLOAT32_PRODUCT, 1) == np.float64(product) / np.float64(np.float32(0.05))
    assert scales.multipliers(TFLM, 1) != scales.multipliers(TFLM_FLOAT32_PRODUCT, 1)
    assert scales.multipliers(REFERENCE, 1) == scales.multipliers(TFLM, 1)
    assert frexp(float(scales.multipliers(TFLM, 3)[2]))[1] == -7  # broadcast to the channels
    assert dataclasses.replace(scales, weights=(0.0,)).multipliers(TFLM, 1) == 0.0
