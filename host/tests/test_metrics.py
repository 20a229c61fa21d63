"""Episode metrics against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics, summarize

NUMBER = st.floats(-1, 1)
STEP = st.tuples(st.tuples(NUMBER, NUMBER), st.floats(-50, 50), st.floats(-50, 50))


def collect(steps, seed=1, survived=True, as_array=False):
    accumulator = EpisodeAccumulator(seed)
    for action, speed, yaw in steps:
        info = {"speed_error_rad_s": speed, "wheel_speed_difference_error_rad_s": yaw}
        accumulator.add(np.array(action) if as_array else list(action), info)
    return accumulator.finish(survived)


@given(st.lists(STEP, min_size=1, max_size=30), st.booleans())
def test_an_episode_is_what_numpy_says(steps, as_array):
    metrics = collect(steps, as_array=as_array)
    actions = np.array([(0.0, 0.0)] + [step[0] for step in steps])
    assert metrics.steps == len(steps)
    assert metrics.action_rate == pytest.approx(np.abs(np.diff(actions, axis=0)).mean())
    assert metrics.speed_error_rms_rad_s == pytest.approx(np.sqrt(np.mean([step[1] ** 2 for step in steps])))
    assert metrics.wheel_speed_difference_error_rms_rad_s == pytest.approx(np.sqrt(np.mean([step[2] ** 2 for step in steps])))


@given(st.lists(st.lists(STEP, min_size=1, max_size=9), min_size=1, max_size=5))
def test_a_summary_is_that_of_all_steps_together(episodes):
    summary = summarize([collect(steps, survived=i % 2 == 0) for i, steps in enumerate(episodes)])
    everything = [step for steps in episodes for step in steps]
    assert summary.episodes == len(episodes)
    assert summary.survived == (len(episodes) + 1) // 2
    assert summary.survival == summary.survived / summary.episodes
    assert summary.steps == len(everything)
    assert summary.speed_error_rms == pytest.approx(np.sqrt(np.mean([step[1] ** 2 for step in everything])))
    assert summary.wheel_speed_difference_error_rms == pytest.approx(np.sqrt(np.mean([step[2] ** 2 for step in everything])))


def test_an_episode_without_steps_and_no_episodes_are_zero():
    assert EpisodeAccumulator(4).finish(False) == EpisodeMetrics(
        seed=4, steps=0, survived=False, speed_error_rms_rad_s=0.0, wheel_speed_difference_error_rms_rad_s=0.0, action_rate=0.0
    )
    assert summarize([]).survival == 0.0


def test_a_short_episode_counts_for_little():
    one = collect([((1.0, 1.0), 0.0, 0.0)])
    many = collect([((0.0, 0.0), 0.0, 0.0)] * 99)
    assert summarize([one, many]).action_rate == pytest.approx(0.01)


def test_a_summary_is_plain_json():
    import json

    assert json.loads(json.dumps(summarize([collect([((0.5, 0.0), 1.0, 2.0)])]).to_dict()))["episodes"] == 1
