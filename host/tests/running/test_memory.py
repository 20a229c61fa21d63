import gc
import tracemalloc

import pytest

from balance_hil.distribution import EXACT
from balance_hil.running import RunConfig, run
from balance_hil.running.trace import TflmCheck, Trace

FEW, MANY = 100, 800  # control steps between which memory is measured
ALLOWED_BYTES_PER_STEP = 2  # lists of timings and evidence and the index of the recording took 60 to 100


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
