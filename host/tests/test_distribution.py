import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil import distribution
from balance_hil.distribution import EXACT, LARGEST, RELATIVE_ERROR, SMALLEST, Distribution

QUANTILES = (0.0, 0.001, 0.5, 0.9, 0.99, 0.999, 1.0)
numbers = st.floats(min_value=0, max_value=LARGEST)


def within(got, wanted):
    return abs(got - wanted) <= RELATIVE_ERROR * wanted * (1 + 1e-9) + SMALLEST


@given(st.lists(numbers, min_size=1, max_size=200), st.floats(0, 1))
def test_few_numbers_give_the_quantiles_of_numpy(values, share):
    seen = Distribution.of(values)
    assert seen.quantile(share) == np.quantile(values, share)
    assert (seen.count, seen.max) == (len(values), max(values))
    assert seen.total == pytest.approx(sum(values))


@given(st.lists(numbers, min_size=5, max_size=200), st.sampled_from(QUANTILES))
def test_many_numbers_give_quantiles_within_the_stated_error(values, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "EXACT", 4)
        seen = Distribution.of(values)
        assert within(seen.quantile(share), np.quantile(values, share))


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(["lognormal", "pareto", "two places"]))
def test_a_long_run_of_timings(seed, shape):
    rng = np.random.default_rng(seed)
    values = {
        "lognormal": lambda: rng.lognormal(6, 1, 2 * EXACT),
        "pareto": lambda: 300 * (1 + rng.pareto(1.5, 2 * EXACT)),
        "two places": lambda: np.where(rng.random(2 * EXACT) < 0.99, 412.5, 90_000.0),
    }[shape]()
    seen = Distribution.of(values)
    for share in QUANTILES:
        assert within(seen.quantile(share), np.quantile(values, share))
    assert seen.quantile(0) == values.min()
    assert seen.quantile(1) == values.max() == seen.max
    assert seen.mean == pytest.approx(values.mean())


@pytest.mark.parametrize(("a", "b"), list(itertools.product([0, 10, EXACT - 5, EXACT + 5], repeat=2)))
def test_merging_gives_the_distribution_of_all_numbers(a, b):
    rng = np.random.default_rng(a)
    first, second = rng.exponential(300, a), rng.exponential(9000, b)
    merged, together = Distribution.of(first), Distribution.of([*first, *second])
    merged.merge(Distribution.of(second))
    assert merged.count == a + b
    assert merged.total == pytest.approx(together.total)
    assert [merged.quantile(share) for share in QUANTILES] == [together.quantile(share) for share in QUANTILES]


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(ValueError, match="finite numbers"):
        Distribution().add(value)


def test_nothing_seen_is_no_distribution():
    assert Distribution().to_document() is None
    assert Distribution.of([1.26, 3]).to_document() == {"p50": 2.1, "p99": 3.0, "p999": 3.0, "max": 3.0}
