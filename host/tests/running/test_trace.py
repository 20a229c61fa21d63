import numpy as np
import pytest

from balance_hil.errors import RecordingError
from balance_hil.protocol.messages import Action, Status
from balance_hil.running import trace
from balance_hil.runtimes import load_runtime


@pytest.mark.parametrize("block_rows", [1 << 16, 7])
def test_every_differing_reply_is_counted_however_the_trace_is_divided(ppo_bundle, monkeypatch, block_rows):
    monkeypatch.setattr(trace, "BLOCK_ROWS", block_rows)
    inputs = np.random.default_rng(0).integers(-128, 128, (30, ppo_bundle.spec.n_obs), dtype=np.int8)
    with load_runtime("tflm", ppo_bundle) as runtime:
        outputs = runtime.infer_raw_batch(inputs)
    outputs[[3, 4, 29], 0] ^= 1
    with trace.Trace(kept=True) as kept:
        for row, output in zip(inputs, outputs, strict=True):
            kept.add(Action(Status.OK, row, output, np.zeros(len(output), np.float32), 7, 9))
        check = kept.check(ppo_bundle, with_tflm=True)
    assert (check.checked, check.differing) == (30, 3)


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(trace.tempfile, "TemporaryFile", lambda buffering: (tmp_path / "no folder" / "file").open("w+b"))
    with pytest.raises(RecordingError, match="cannot keep what the run found"):
        trace.Trace(kept=True)
