"""Numbers in a text line: parsed and written without the C library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .probe import Probe

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(values=st.lists(finite, min_size=1, max_size=8))
def test_numbers_as_python_writes_them(probe: Probe, values: list[float]) -> None:
    status, parsed = probe.parse(",".join(repr(v) for v in values).encode())
    assert (status, parsed) == ("ok", values)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_comes_out_within_one_float32(probe: Probe, value: float) -> None:
    _, (parsed,) = probe.parse(repr(value).encode())
    with np.errstate(over="ignore"):
        expected = np.float32(value)
        allowed = [expected, np.nextafter(expected, np.float32(-np.inf)), np.nextafter(expected, np.float32(np.inf))]
    assert parsed in allowed


@given(values=st.lists(finite, min_size=1, max_size=20))
def test_what_is_written_identifies_the_float32(probe: Probe, values: list[float]) -> None:
    array = np.array(values, np.float32)
    texts = probe.format(array)
    assert np.array([float(t) for t in texts], np.float32).tobytes() == array.tobytes()
    assert max(map(len, texts)) <= 16


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (0.1, "0.100000001"),
        (100.0, "100"),
        (12345.678, "12345.6777"),
        (0.0001, "9.99999975e-05"),
        (0.00012207031, "0.000122070313"),
        (123456792.0, "123456792"),
        (1e9, "1e+09"),
        (-1.17549435e-38, "-1.17549435e-38"),
        (3.4028235e38, "3.40282347e+38"),
    ],
)
def test_how_numbers_look(probe: Probe, value: float, text: str) -> None:
    assert probe.format(np.array([value], np.float32)) == [text]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b" 1 ,\t-2.5e1, +.5,3.", [1.0, -25.0, 0.5, 3.0]),
        (b"0.00000000000000000000000000000000000000000000000001e50", [1.0]),
        (b"100000000000000000000000000000000000000000000000000E-50", [1.0]),
        (b"1e-999999999999", [0.0]),
        (b"0e999", [0.0]),
        (b"inf,-Infinity,1e39", [np.inf, -np.inf, np.inf]),
    ],
)
def test_spellings(probe: Probe, line: bytes, values: list[float]) -> None:
    assert probe.parse(line) == ("ok", values)


def test_nan_is_a_number_that_is_refused_later(probe: Probe) -> None:
    status, (value,) = probe.parse(b"NaN")
    assert status == "ok"
    assert np.isnan(value)


@pytest.mark.parametrize(
    "line", [b",", b"1,", b",1", b"1 2", b"hello", b"1e", b"1e+", b"-", b".", b"--1", b"0x10", b"1,,2", b"nanx"]
)
def test_malformed(probe: Probe, line: bytes) -> None:
    assert probe.parse(line) == ("malformed_line", [])


def test_too_many_numbers(probe: Probe) -> None:
    assert probe.parse(b",".join([b"1"] * 8))[0] == "ok"
    assert probe.parse(b",".join([b"1"] * 9)) == ("wrong_count", [])
