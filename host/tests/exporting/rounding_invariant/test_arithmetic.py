"""Why the conditions suffice: with them every rounding rule gives the same integer; without one of them some rule does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.exporting.rounding_invariant.layout import MAX_ACCUMULATOR, MAX_SHIFT, MIN_SHIFT
from balance_hil.exporting.rounding_invariant.scales import best_grid
from balance_hil.runtimes.emulated.primitives import (
    multiply_double_rounding,
    multiply_ruy_x86,
    multiply_single_rounding,
    quantize_multiplier,
    round_half_away,
)


def results(accumulators, shift):
    """What each rule makes of int64 [n] accumulators times 2^-shift."""
    accumulators = np.asarray(accumulators, np.int64)
    mantissa, left = quantize_multiplier(2.0**-shift)
    return {
        "double": multiply_double_rounding(accumulators, mantissa, left),
        "single": multiply_single_rounding(accumulators, mantissa, left),
        "ruy": multiply_ruy_x86(accumulators, mantissa, left),
        "float64": round_half_away(accumulators.astype(np.float64) * 2.0**-shift).astype(np.int64),
        "float32": np.rint(accumulators.astype(np.float32) * np.float32(2.0**-shift)).astype(np.int64),
    }


def agree(accumulators, shift):
    found = list(results(accumulators, shift).values())
    return all(np.array_equal(found[0], other) for other in found[1:])


@given(
    st.lists(st.integers(-MAX_ACCUMULATOR // 4, MAX_ACCUMULATOR // 4 - 1), min_size=1, max_size=50),
    st.integers(MIN_SHIFT, MAX_SHIFT),
)
def test_accumulators_of_2_modulo_4_are_rounded_alike_by_every_rule(quarters, shift):
    assert agree(4 * np.array(quarters) + 2, shift)


def test_every_residue_of_every_shift_is_rounded_alike():
    for shift in range(MIN_SHIFT, 15):
        assert agree(np.arange(-(2 ** (shift + 1)) + 2, 2 ** (shift + 1), 4), shift), shift


@pytest.mark.parametrize(("remainder", "shift"), [(0, 3), (3, 3), (0, 7), (3, 7), (2, 2)])
def test_any_other_residue_or_a_shorter_shift_is_not(remainder, shift):
    assert not agree(np.arange(-4096, 4096, 4) + remainder, shift)


@pytest.mark.parametrize("spread", [0.02, 0.4, 1.0, 7.0])
def test_the_best_grid_is_a_power_of_two_that_fits(spread):
    values = np.random.default_rng(0).uniform(-spread, spread, 4000)
    grid = best_grid(values)
    assert abs(grid.zero_point) <= 2
    assert spread * 2 / 256 / 1.3 < grid.scale < spread * 2 / 256 * 2


def test_a_grid_from_zero_spends_every_code_above_it():
    grid = best_grid(np.random.default_rng(0).uniform(0.0, 0.9, 1000), from_zero=True)
    assert (grid.exponent, grid.zero_point) == (-8, -128)
