"""Paired statistics against textbook values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.paired import (
    bootstrap_interval,
    mcnemar_exact,
    paired_difference,
    sign_flip_test,
    success_difference,
)


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (1, 10, 24 / 2048), (3, 3, 1.0)])
def test_mcnemar(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p)
    assert mcnemar_exact(only_b, only_a) == mcnemar_exact(only_a, only_b)


def test_survival_is_counted_pair_by_pair() -> None:
    a = [True] * 9 + [False] * 3
    b = [True] * 2 + [False] * 7 + [True] + [False] * 2
    found = success_difference(a, b, tests=4)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, 7, 1, 2)
    assert found.p_value == pytest.approx(2 * 9 / 256)
    assert not found.differs, "0.07 is not below 0.05 / 4"
    assert found.discordant_bound is None
    assert success_difference([True] * 20, [False] * 20, tests=4).differs


def test_nothing_seen_is_not_nothing_there() -> None:
    found = success_difference([True] * 59, [True] * 59)
    assert found.p_value == 1.0
    assert found.discordant_bound == pytest.approx(0.0495, abs=1e-3)  # the rule of three: 3 / 59


def test_sign_flips_are_exact_for_few_pairs() -> None:
    assert sign_flip_test(np.ones(8)) == 2 / 2**8
    assert sign_flip_test(np.array([3.0, -1.0])) == 1.0
    uneven = np.random.default_rng(4).uniform(0.1, 1.0, 4)
    assert sign_flip_test(uneven) == 2 / 2**4, "another order of summation is no smaller difference"


def test_sign_flips_of_many_pairs_follow_the_normal_distribution() -> None:
    differences = np.random.default_rng(3).normal(0.0, 1.0, 60)
    differences += 2.0 * np.sqrt(np.mean(differences**2) / 60) - differences.mean()  # two standard errors: p about 0.05
    assert sign_flip_test(differences) == pytest.approx(0.05, abs=0.02)
    assert sign_flip_test(differences + 1.0) < 0.001
    assert sign_flip_test(np.zeros(60)) == 1.0


@given(st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=9))
def test_the_labels_mean_nothing(values: list[float]) -> None:
    differences = np.array(values)
    assert sign_flip_test(differences) == sign_flip_test(-differences)
    assert 2 / 2 ** len(values) <= sign_flip_test(differences) <= 1.0


def test_the_test_holds_its_level() -> None:
    """Skewed differences, nothing between the labels: at most about 5 % false alarms in 400 experiments."""
    rng = np.random.default_rng(5)
    experiments = rng.exponential(1.0, (400, 10)) * rng.choice([-1.0, 1.0], (400, 10))
    alarms = sum(sign_flip_test(differences) < 0.05 for differences in experiments)
    assert alarms <= 34  # mean 20, standard deviation 4.4


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(5.0, 2.0, 200)
    half = 1.96 * values.std() / np.sqrt(200)
    low, high = bootstrap_interval(values, 0.95)
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)
    assert bootstrap_interval(values, 0.99)[0] < low
    assert bootstrap_interval(np.full(12, 3.0), 0.95) == (3.0, 3.0)


def test_few_pairs_are_said_to_be_few() -> None:
    few = paired_difference("speed", "rad/s", [1.0] * 6, [9.0] * 6, tests=4)
    assert few is not None
    assert few.too_few
    assert few.interval is None
    assert not few.differs
    enough = paired_difference("speed", "rad/s", [1.0] * 10, [9.0] * 10, tests=4)
    assert enough is not None
    assert enough.differs
    assert not enough.too_few
    assert (enough.mean_difference, enough.interval) == (8.0, (8.0, 8.0))
    assert paired_difference("speed", "rad/s", [], []) is None
