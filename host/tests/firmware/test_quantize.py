"""The firmware's quantizer and the host's are the same function, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.quantize import Normalization, QuantParams, dequantize, quantize

from .probe import Probe

scales = st.floats(min_value=2.0**-40, max_value=2.0**20, width=32)
zero_points = st.integers(-128, 127)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
SCALES = [0.5, 1 / 128, 0.007838174700737, 0.1, 1 / 3, 3.0]


@given(scale=scales, zero_point=zero_points, values=st.lists(finite, min_size=1, max_size=50))
def test_quantize_any_value(probe: Probe, scale: float, zero_point: int, values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert np.array_equal(probe.quantize(array, scale, zero_point), quantize(array, QuantParams(scale, zero_point)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("zero_point", [-128, -1, 0, 1, 127])
def test_quantize_at_every_tie_and_beside_it(probe: Probe, scale: float, zero_point: int) -> None:
    ties = (np.arange(-300, 301) + 0.5).astype(np.float32) * np.float32(scale)
    values = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    assert np.array_equal(probe.quantize(values, scale, zero_point), quantize(values, QuantParams(scale, zero_point)))


def test_quantize_rounds_halves_away_from_zero_and_saturates(probe: Probe) -> None:
    values = np.array([0.5, -0.5, 1.5, -1.5, 0.49999997, 1e38, -1e38, 126.5, -128.5], np.float32)
    assert probe.quantize(values, 1.0, 0).tolist() == [1, -1, 2, -2, 0, 127, -128, 127, -128]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("zero_point", [-128, -7, 0, 127])
def test_dequantize_every_value(probe: Probe, scale: float, zero_point: int) -> None:
    values = np.arange(-128, 128).astype(np.int8)
    expected = dequantize(values, QuantParams(scale, zero_point))
    assert probe.dequantize(values, scale, zero_point).tobytes() == expected.tobytes()


@given(
    mean=finite,
    inverse_std=st.floats(min_value=2.0**-149, max_value=2.0**127, width=32),
    clip=st.floats(min_value=2.0**-149, max_value=2.0**127, width=32),
    values=st.lists(finite, min_size=1, max_size=50),
)
def test_normalize_any_value(probe: Probe, mean: float, inverse_std: float, clip: float, values: list[float]) -> None:
    array = np.array(values, np.float32)
    by = Normalization(np.full(len(values), mean), np.full(len(values), inverse_std), clip)
    assert probe.normalize(array, mean, inverse_std, clip).tobytes() == by.apply(array).tobytes()
