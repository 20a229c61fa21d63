"""Confidence intervals against values that others have published or that follow from the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.evaluating.robustness_table import bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (50, 50, 0.9287, 1.0),
    ],
)
def test_wilson_gives_the_published_limits(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    successes, trials = case
    interval, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    assert interval.low == pytest.approx(1.0 - mirrored.high)


def test_wilson_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)


def test_a_bootstrap_interval_is_near_the_normal_one_and_covers():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        values = rng.normal(5.0, 1.0, 40)
        interval = bootstrap(values, [100] * 40)
        covered += interval.low <= 5.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.3)


def test_an_rms_weighs_episodes_by_their_steps():
    assert bootstrap([3.0, 4.0], [100, 100], rms=True).value == pytest.approx(np.sqrt(12.5))
    assert bootstrap([3.0, 400.0], [100, 0], rms=True).value == pytest.approx(3.0)


def test_equal_episodes_leave_no_doubt_and_no_episodes_say_nothing():
    interval = bootstrap([2.0] * 5, [10] * 5, rms=True)
    assert (interval.value, interval.low, interval.high) == pytest.approx((2.0, 2.0, 2.0))
    assert bootstrap([], [], rms=True).value == 0.0
