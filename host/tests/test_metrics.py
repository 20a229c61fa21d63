"""Episode metrics against numpy."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import SimulationDivergedError, UnsupportedEnvironmentError
from balance_hil.metrics import (
    DEFAULT_METRICS,
    EpisodeAccumulator,
    EpisodeMetrics,
    Metric,
    Verdict,
    metric_of,
    summarize,
)

REDUCTIONS = ("sum", "mean", "rms", "max", "last")
OF_NUMPY = {
    "sum": np.sum,
    "mean": np.mean,
    "rms": lambda v: np.sqrt(np.mean(np.square(v))),
    "max": np.max,
    "last": lambda v: v[-1],
}
METRICS = (
    *DEFAULT_METRICS,
    Metric(name="action_rate", unit="1", source="action_rate"),
    *(Metric(name=f"error_{r}", unit="rad", source="error_rad", reduction=r) for r in REDUCTIONS),
)
NUMBER = st.floats(-1, 1)
STEP = st.tuples(st.tuples(NUMBER, NUMBER), st.floats(-50, 50), st.floats(-50, 50))


def collect(steps, seed=1, failed=False, as_array=False):
    accumulator = EpisodeAccumulator(seed, METRICS)
    for outputs, reward, error in steps:
        accumulator.add(np.array(outputs) if as_array else list(outputs), reward, {"error_rad": error})
    return accumulator.finish(failed)


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_named(reward):
    accumulator = EpisodeAccumulator(7, DEFAULT_METRICS)
    accumulator.add([0.0], reward, {})
    with pytest.raises(SimulationDivergedError, match=f"the metric 'return' of the episode with seed 7 is {reward}"):
        accumulator.finish(failed=False)


@given(st.lists(STEP, min_size=1, max_size=30), st.booleans())
def test_an_episode_is_what_numpy_says(steps, as_array):
    metrics = collect(steps, as_array=as_array)
    outputs = np.array([(0.0, 0.0)] + [step[0] for step in steps])
    assert metrics.steps == metrics.metrics["length"] == len(steps)
    assert metrics.metrics["return"] == pytest.approx(sum(step[1] for step in steps))
    assert metrics.metrics["action_rate"] == pytest.approx(np.abs(np.diff(outputs, axis=0)).mean())
    for reduction in REDUCTIONS:
        assert metrics.metrics[f"error_{reduction}"] == pytest.approx(OF_NUMPY[reduction]([step[2] for step in steps]))


@given(st.lists(st.lists(STEP, min_size=1, max_size=9), min_size=1, max_size=5))
def test_means_of_a_summary_are_those_of_all_steps_together(episodes):
    finished = [collect(steps, failed=i % 2 == 1) for i, steps in enumerate(episodes)]
    summary = summarize(finished, METRICS)
    everything = [step[2] for steps in episodes for step in steps]
    assert (summary.episodes, summary.failed) == (len(episodes), len(episodes) // 2)
    assert summary.success_rate == (summary.episodes - summary.failed) / summary.episodes
    assert summary.steps == len(everything)
    for reduction in ("mean", "rms"):
        assert summary.metrics[f"error_{reduction}"] == pytest.approx(OF_NUMPY[reduction](everything))
    for reduction in ("sum", "max", "last"):
        each = [episode.metrics[f"error_{reduction}"] for episode in finished]
        assert summary.metrics[f"error_{reduction}"] == pytest.approx(np.mean(each))


def test_an_episode_without_steps_and_no_episodes_are_zero():
    nothing = dict.fromkeys((metric.name for metric in METRICS), 0.0)
    assert EpisodeAccumulator(4, METRICS).finish(True) == EpisodeMetrics(seed=4, steps=0, failed=True, metrics=nothing)
    assert summarize([], METRICS).success_rate == 0.0


def test_a_short_episode_counts_for_little():
    one = collect([((1.0, 1.0), 0.0, 0.0)])
    many = collect([((0.0, 0.0), 0.0, 0.0)] * 99)
    assert summarize([one, many], METRICS).metrics["action_rate"] == pytest.approx(0.01)


def test_a_summary_is_plain_json():
    document = json.loads(json.dumps(summarize([collect([((0.5, 0.0), 1.0, 2.0)])], METRICS).to_dict()))
    assert (document["episodes"], document["metrics"]["return"]) == (1, 1.0)


def test_a_source_that_info_lacks_is_named():
    with pytest.raises(UnsupportedEnvironmentError, match="'error_sum' reads 'error_rad'") as caught:
        EpisodeAccumulator(1, METRICS).add([0.0], 0.0, {"error_deg": 1.0})
    assert "error_deg" in caught.value.hint


def test_a_metric_is_a_plain_table_as_well():
    assert metric_of({"name": "height", "unit": "m", "source": "z_m", "reduction": "max"}) == Metric(
        name="height", unit="m", source="z_m", reduction="max"
    )
    for wrong in ({"name": "height"}, {"name": "h", "unit": "m", "source": "z", "reduction": "median"}):
        with pytest.raises((TypeError, ValueError)):
            metric_of(wrong)


def test_a_verdict_says_why():
    assert Verdict().line == "PASS"
    bad = Verdict(("2 of 3 episodes failed", "1 of 9 outputs differs"))
    assert (bad.good, bad.line) == (False, "FAIL: 2 of 3 episodes failed; 1 of 9 outputs differs")
