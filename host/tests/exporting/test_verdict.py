"""When an exported policy is as good as its original."""

import numpy as np
import pytest

from balance_hil.exporting.verdict import judge, saturation_warnings, worse_return
from balance_hil.metrics import EpisodeMetrics


def episodes(returns, failed=()):
    return [EpisodeMetrics(seed=i, steps=10, failed=i in failed, metrics={"return": float(r)}) for i, r in enumerate(returns)]


GOOD = np.array([100.0, 110, 90, 105, 95, 100, 102, 98, 101, 99])


def test_the_same_is_good():
    assert judge({"torch": episodes(GOOD), "int8": episodes(GOOD)}, 0.05).good


def test_no_episodes_are_no_reason():
    assert judge({}, 0.05).good


def test_a_policy_that_fails_in_every_episode_is_bad():
    falls = episodes(GOOD, failed=range(10))
    assert judge({"torch": falls, "int8": falls}, 0.05).reasons == ("the torch policy fails in every episode",)


@pytest.mark.parametrize(("failed", "good"), [((), True), ((3,), True), ((3, 4), False)])
def test_int8_may_fail_as_often_as_the_original(failed, good):
    verdict = judge({"torch": episodes(GOOD, failed=(1,)), "int8": episodes(GOOD, failed=failed)}, 0.05)
    assert verdict.good == good
    if not good:
        assert verdict.reasons == ("the int8 policy fails in 2 of 10 episodes, the torch one in 1",)


@pytest.mark.parametrize(
    ("factor", "margin", "worse"), [(0.96, 0.05, False), (0.85, 0.05, True), (0.85, 0.2, False), (1.1, 0.0, False)]
)
def test_a_return_that_is_worse_than_the_margin_is_bad(factor, margin, worse):
    found = worse_return(episodes(GOOD), episodes(GOOD * factor), margin)
    assert (found is not None) == worse
    if worse:
        assert "85" in found


def test_negative_returns_are_judged_by_their_size():
    assert worse_return(episodes(-GOOD), episodes(-GOOD * 1.03), 0.05) is None
    assert worse_return(episodes(-GOOD), episodes(-GOOD * 1.3), 0.05) is not None


def test_chance_is_no_reason():
    scattered = GOOD + 60 * np.array([-1, 1, -1, 1, -1, 1, 1, -1, -1, -1])
    assert scattered.mean() < 0.95 * GOOD.mean()
    assert worse_return(episodes(GOOD), episodes(scattered), 0.05) is None


@pytest.mark.parametrize(("factor", "worse"), [(0.5, True), (0.97, False)])
def test_of_few_episodes_the_mean_decides(factor, worse):
    assert (worse_return(episodes(GOOD[:2]), episodes(GOOD[:2] * factor), 0.05) is not None) == worse


def test_saturated_inputs_are_named_with_numbers():
    (line,) = saturation_warnings(["pitch", "speed", "target"], [0.0, 0.123, 0.0099])
    assert "speed in 12.3% of steps" in line
    assert "pitch" not in line
    assert "target" not in line
    assert saturation_warnings(["pitch"], [0.0]) == ()
