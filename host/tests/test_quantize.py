from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import NonFiniteInputError
from balance_hil.quantize import FLOAT32, INT16X8, Normalization, QuantParams, bits_of, dequantize, quantize

scales = st.floats(min_value=2.0**-20, max_value=1024.0, width=32)
zero_points = st.integers(-128, 127)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def quantize_exactly(value, params):
    """The rule in exact arithmetic: one float32 division, then halves away from zero."""
    with np.errstate(over="ignore"):
        ratio = np.float32(value) / np.float32(params.scale)
    if np.isinf(ratio):
        return params.kind.high if ratio > 0 else params.kind.low
    exact = Fraction(float(ratio))
    magnitude = (abs(exact) + Fraction(1, 2)).__floor__()
    return max(params.kind.low, min(params.kind.high, (magnitude if exact >= 0 else -magnitude) + params.zero_point))


@given(finite, scales, zero_points)
def test_quantize_is_the_exact_rule(value, scale, zero_point):
    params = QuantParams(scale, zero_point)
    assert int(quantize(value, params)) == quantize_exactly(value, params)


@given(st.floats(-300, 300, width=32), scales, zero_points)
def test_quantize_is_the_exact_rule_in_the_range_that_matters(codes, scale, zero_point):
    params = QuantParams(scale, zero_point)
    value = np.float32(codes) * np.float32(scale)
    assert int(quantize(value, params)) == quantize_exactly(value, params)


@given(st.floats(-70_000, 70_000, width=32), scales)
def test_int16_is_quantized_by_the_exact_rule(codes, scale):
    params = QuantParams(scale, 0, INT16X8)
    value = np.float32(codes) * np.float32(scale)
    assert quantize(value, params).dtype == np.int16
    assert int(quantize(value, params)) == quantize_exactly(value, params)


@given(st.integers(INT16X8.low, INT16X8.high), scales)
def test_a_code_of_int16_survives_the_round_trip(code, scale):
    params = QuantParams(scale, 0, INT16X8)
    assert int(quantize(dequantize(code, params), params)) == code


@given(finite)
def test_float32_passes_as_it_is(value):
    params = QuantParams(1.0, 0, FLOAT32)
    assert quantize(value, params).tobytes() == dequantize(value, params).tobytes() == np.float32(value).tobytes()


@given(st.integers(-128, 126), st.integers(-8, 8), zero_points)
def test_ties_go_away_from_zero(k, exponent, zero_point):
    params = QuantParams(2.0**exponent, zero_point)
    tie = (k + 0.5) * params.scale  # exact: the scale is a power of two
    away = k + 1 if k >= 0 else k
    assert int(quantize(tie, params)) == max(-128, min(127, away + zero_point))


@pytest.mark.parametrize("value", [0.49999997, -0.49999997])
def test_the_number_just_below_a_half_rounds_down(value):
    assert int(quantize(value, QuantParams(1.0, 0))) == 0


@given(st.integers(-128, 127), scales, zero_points)
def test_a_code_survives_the_round_trip(code, scale, zero_point):
    params = QuantParams(scale, zero_point)
    assert int(quantize(dequantize(code, params), params)) == code


@given(st.integers(-128, 127), scales, zero_points)
def test_dequantize_rounds_once(code, scale, zero_point):
    exact = Fraction(float(np.float32(scale))) * (code - zero_point)
    assert dequantize(code, QuantParams(scale, zero_point)) == np.float32(float(exact))


@given(st.lists(finite, min_size=1, max_size=20), scales, zero_points)
def test_arrays_are_quantized_element_by_element(values, scale, zero_point):
    params = QuantParams(scale, zero_point)
    together = quantize(np.array(values, np.float32), params)
    assert together.dtype == np.int8
    assert together.tolist() == [int(quantize(value, params)) for value in values]


def test_quantize_is_monotonic():
    codes = quantize(np.linspace(-3, 3, 100_001, dtype=np.float32), QuantParams(0.0078, -3)).astype(int)
    assert np.all(np.diff(codes) >= 0)
    assert (codes[0], codes[-1]) == (-128, 127)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(NonFiniteInputError):
        quantize([0.0, bad], QuantParams(0.1, 0))


def test_huge_values_saturate_without_a_warning():
    with np.errstate(all="raise"):
        assert quantize([3e38, -3e38], QuantParams(1e-3, 5)).tolist() == [127, -128]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_normalization_hides_no_value_that_is_not_finite(bad):
    normalization = Normalization(np.zeros(2, np.float32), np.ones(2, np.float32), 10.0)
    with pytest.raises(NonFiniteInputError):
        normalization.apply([[0.0, bad]])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32])
def test_bits_tell_zeros_apart_and_equal_themselves(dtype):
    values = np.array([[0, 1], [-0.0, 1]]).astype(dtype)[:, ::-1]
    bits = bits_of(values)
    assert bits.shape == values.shape
    assert (bits[0] == bits[1]).tolist() == [True, dtype != np.float32]
    if dtype == np.float32:
        assert np.array_equal(*[bits_of(np.array([np.nan], dtype))] * 2)
