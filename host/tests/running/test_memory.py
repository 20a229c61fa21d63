import gc
import sys
import tracemalloc

import pytest

from balance_hil.distribution import EXACT
from balance_hil.recording import RecordingWriter, Step
from balance_hil.running import RunConfig, SoakConfig, open_plant, run, soak
from balance_hil.running.trace import TflmCheck, Trace

FEW, MANY = 100, 800  # control steps between which memory is measured
ALLOWED_BYTES_PER_STEP = 2  # lists of timings and evidence and the index of the recording took 60 to 100


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lockstep", "realtime"])
def test_memory_does_not_grow_with_the_length_of_a_run(clock, board, linear_bundle, tmp_path, monkeypatch, way):
    def check(trace, bundle, *, with_tflm):
        assert trace.count == MANY + 1
        return TflmCheck(checked=trace.count, differing=None, skipped="it has no model")

    monkeypatch.setattr(Trace, "check", check)
    held = {}

    def measure(tick):
        if tick.step in (FEW, MANY):
            gc.collect()
            held[tick.step] = tracemalloc.get_traced_memory()[0]

    config = RunConfig(seeds=[3], clock=way, max_steps=MANY + 1, recording=tmp_path / "run.mcap")
    tracemalloc.start()
    try:
        run(board, linear_bundle, config, measure)
    finally:
        tracemalloc.stop()
    assert MANY < EXACT, "the histogram behind it is of constant size anyhow"
    assert (held[MANY] - held[FEW]) / (MANY - FEW) < ALLOWED_BYTES_PER_STEP


def objects():
    gc.collect()
    return sys.getallocatedblocks()


def test_memory_does_not_grow_with_the_number_of_late_replies(clock, board, firmware, linear_bundle, tmp_path):
    firmware.delay_s = lambda number: 0.006 * (number % 3 == 0)
    config = RunConfig(seeds=[3], max_steps=MANY + 1, max_lost=MANY, check_tflm=False, recording=tmp_path / "run.mcap")
    held = {}

    def measure(tick):
        if tick.step in (FEW, MANY):
            held[tick.step] = objects()

    result = run(board, linear_bundle, config, measure)
    assert result.late > 250
    assert held[MANY] - held[FEW] < 200  # of the chunk of the recording that is not yet written


@pytest.mark.slow
def test_memory_does_not_grow_with_the_hours_of_a_recording(linear_bundle, tmp_path):
    chunk_s, chunks, held = 0.25, 2 * 3600 * 4, {}
    with RecordingWriter(tmp_path / "a.mcap", {"seeds": [1]}, linear_bundle.spec) as writer:
        for number in range(chunks):
            t_s = number * chunk_s
            writer.step(t_s, Step(t_s, 0, number, [0.0] * 6, [0.0] * 2, False, [], 1.0))
            if number in (100, chunks - 1):
                held[number] = objects()
    assert held[chunks - 1] - held[100] < 100  # the index of the file has some ten for each chunk


@pytest.mark.slow
def test_memory_does_not_grow_with_the_minutes_of_a_soak(clock, board, linear_bundle, tmp_path, monkeypatch):
    episode_s, minutes, held = 0.05, 60, []
    monkeypatch.setattr(sys.modules["balance_hil.running.soak"], "MINUTE_S", episode_s)
    config = RunConfig(seeds=[3], max_steps=round(episode_s / 0.005), check_tflm=False)
    soak_config = SoakConfig(duration_s=minutes * episode_s, first_seed=3, run=config, folder=tmp_path)

    def measure(result):
        counted.append(result.minutes[-1]["steps"])
        if len(counted) in (10, 40):
            held.append(objects())

    counted = []
    with open_plant(linear_bundle, config) as plant:
        result = soak(board, linear_bundle, soak_config, plant, on_minute=measure)
    assert [minute["steps"] for minute in result.minutes] == counted
    assert held[1] - held[0] < 300  # the statistics of a minute are 30
