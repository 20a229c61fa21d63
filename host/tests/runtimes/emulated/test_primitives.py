"""The vectorised arithmetic against plain Python integers, which never overflow and show the rounding plainly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.runtimes.emulated import primitives as p

no_deadline = settings(deadline=None)  # other programs may have the machine
int32 = st.integers(p.INT32_MIN, p.INT32_MAX)
mantissas = st.integers(1 << 30, p.INT32_MAX)
accumulators = st.integers(-(1 << 23), 1 << 23)
right_shifts = st.integers(-20, 0)


def _one(function, *values):
    return int(function(*(np.array([v], np.int64) for v in values))[0])


def _half_away(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2)) if x >= 0 else math.ceil(x - Fraction(1, 2))


def _half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@no_deadline
@given(a=int32, b=int32)
def test_doubling_high_mul_rounds_half_up_and_saturates(a, b):
    assert _one(p.saturating_rounding_doubling_high_mul, a, b) == min(_half_up(Fraction(a * b, 1 << 31)), p.INT32_MAX)


@no_deadline
@given(x=int32, e=st.integers(0, 31))
def test_divide_by_pot_rounds_half_away(x, e):
    assert _one(p.rounding_divide_by_pot, x, e) == _half_away(Fraction(x, 1 << e))


@no_deadline
@given(x=accumulators, m=mantissas, shift=right_shifts)
def test_double_rounding_rounds_twice(x, m, shift):
    expected = _half_away(Fraction(_half_up(Fraction(x * m, 1 << 31)), 1 << -shift))
    assert _one(p.multiply_double_rounding, x, m, shift) == expected


@no_deadline
@given(x=accumulators, m=mantissas, shift=right_shifts)
def test_single_rounding_rounds_once(x, m, shift):
    assert _one(p.multiply_single_rounding, x, m, shift) == _half_up(Fraction(x * m, 1 << (31 - shift)))


@no_deadline
@given(x=accumulators, m=mantissas, shift=right_shifts)
def test_ruy_rounds_twice_with_ties_up(x, m, shift):
    expected = _half_up(Fraction(_half_up(Fraction(x * m, 1 << 31)), 1 << -shift))
    assert _one(p.multiply_ruy_x86, x, m, shift) == expected


@no_deadline
@given(x=st.integers(-1000, 1000), m=mantissas, shift=st.integers(1, 10))
def test_left_shifts_multiply(x, m, shift):
    expected = _half_up(Fraction((x << shift) * m, 1 << 31))
    assert _one(p.multiply_double_rounding, x, m, shift) == expected
    assert _one(p.multiply_ruy_x86, x, m, shift) == expected


@no_deadline
@given(multiplier=st.floats(1e-9, 1e9))
def test_quantized_multiplier_is_the_nearest(multiplier):
    mantissa, shift = p.quantize_multiplier(multiplier)
    assert 1 << 30 <= mantissa < 1 << 31
    assert mantissa * 2.0 ** (shift - 31) == pytest.approx(multiplier, rel=2**-31)


def test_quantized_multiplier_at_the_edges():
    assert p.quantize_multiplier(0.0) == (0, 0)
    assert p.quantize_multiplier(2.0**-40) == (0, 0)  # flushed
    assert p.quantize_multiplier(math.nextafter(1.0, 0.0)) == (1 << 30, 1)  # the mantissa would be 2^31


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_half_away(dtype):
    below_half = np.nextafter(dtype(0.5), dtype(0))  # adding 0.5 to it gives 1.0 in float32
    x = np.array([0.5, -0.5, 1.5, -1.5, 2.5, -2.5, below_half, -below_half, 0.0], dtype)
    assert p.round_half_away(x).tolist() == [1, -1, 2, -2, 3, -3, 0, 0, 0]
    assert p.round_half_away(x).dtype == dtype


def test_fixed_point_tanh_and_logistic_are_close_to_the_functions():
    x = np.linspace(-7.9, 7.9, 4001)
    fixed = np.rint(x * (1 << 27)).astype(np.int64)
    assert np.max(np.abs(p.gemmlowp_tanh(fixed) / (1 << 31) - np.tanh(x))) < 2e-6
    assert np.max(np.abs(p.gemmlowp_logistic(fixed) / (1 << 31) - 1 / (1 + np.exp(-x)))) < 2e-6


def test_fixed_point_functions_at_zero():
    zero = np.zeros(1, np.int64)
    assert p.gemmlowp_tanh(zero) == 0
    assert p.gemmlowp_logistic(zero) == 1 << 30
