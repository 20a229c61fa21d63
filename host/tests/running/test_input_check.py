from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from balance_hil.quantize import FLOAT32, INT16X8, Normalization, QuantParams
from balance_hil.running.input_check import InputCheck

N_OBS = 6
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR = st.floats(-4, 4, width=32)
BY = Normalization(np.linspace(-2, 3, N_OBS), np.geomspace(0.01, 100, N_OBS), 5.0)


@pytest.fixture(scope="module", params=["plain", "normalized", "never saturates"])
def checked(request):
    from ..comparing.fakes import fake_bundle

    scale = 0.3 if request.param == "never saturates" else 0.05  # the clip keeps it within +-17 steps
    normalization = None if request.param == "plain" else BY
    bundle = replace(fake_bundle(), input_quant=QuantParams(float(np.float32(scale)), -7), normalization=normalization)
    return bundle, InputCheck(bundle)


@settings(max_examples=300)
@given(
    observation=arrays(np.float32, N_OBS, elements=NEAR | FINITE), element=st.integers(0, N_OBS - 1), other=st.integers(1, 255)
)
def test_it_accepts_what_the_host_computes_and_nothing_else(checked, observation, element, other):
    bundle, check = checked
    values = bundle.quantized(observation)
    assert check(observation, values)
    values[element] = (int(values[element]) + 128 + other) % 256 - 128
    assert not check(observation, values)


def test_ties_and_their_neighbors(checked):
    bundle, check = checked
    for code in np.arange(-100, 100) + 0.5:
        tie = np.full(N_OBS, np.float32(code) * np.float32(bundle.input_quant.scale), np.float32)
        for observation in (tie, np.nextafter(tie, np.float32(np.inf)), np.nextafter(tie, np.float32(-np.inf))):
            right = bundle.quantized(observation)
            assert check(observation, right)
            for wrong in (right.astype(int) + 1, right.astype(int) - 1):
                assert not check(observation, wrong.clip(-128, 127).astype(np.int8)) or np.any(abs(wrong) > 127)


def test_another_length_is_no_input(checked):
    bundle, check = checked
    observation = np.zeros(N_OBS, np.float32)
    assert not check(observation, bundle.quantized(observation)[:-1])


@settings(max_examples=100)
@given(observation=arrays(np.float32, N_OBS, elements=NEAR | FINITE), element=st.integers(0, N_OBS - 1), byte=st.integers(0, 3))
def test_other_element_types_are_compared_by_their_bits(checked, observation, element, byte):
    for kind, scale in ((INT16X8, 1e-4), (FLOAT32, 1.0)):
        bundle = replace(checked[0], input_quant=QuantParams(scale, 0, kind))
        values = bundle.quantized(observation)
        assert InputCheck(bundle)(observation, values)
        values = values.copy()
        values.view(np.int8)[element * values.itemsize + byte % values.itemsize] ^= 1
        assert not InputCheck(bundle)(observation, values)
