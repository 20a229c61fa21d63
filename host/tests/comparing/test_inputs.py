"""Where the recorded inputs come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.comparing.inputs import golden_observations, observe, recorded_observations, spread
from balance_hil.envs.balance import config_for
from balance_hil.errors import BundleError, RecordingError
from balance_hil.runtimes import load_runtime

from .fakes import FakeFloat, fake_bundle

SPEC = config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")


def test_observations_of_a_rollout_are_those_of_the_environment_and_repeat() -> None:
    first = observe(FakeFloat("torch"), SPEC, 500, seed=3)
    assert first.shape == (500, SPEC.n_obs)
    assert first.dtype == np.float32
    assert np.array_equal(first, observe(FakeFloat("torch"), SPEC, 500, seed=3))
    assert not np.array_equal(first, observe(FakeFloat("torch"), SPEC, 500, seed=4))
    assert np.all(np.std(first, axis=0) > 0), "a policy that moves must be seen moving"


def test_golden_observations_are_spread_over_the_file(tmp_path: Path) -> None:
    bundle = replace(fake_bundle(), path=tmp_path)
    np.savez(tmp_path / GOLDEN, observations=np.arange(60, dtype=np.float32).reshape(10, 6))
    assert golden_observations(bundle, 4)[:, 0].tolist() == [0, 18, 36, 54]
    assert len(golden_observations(bundle, 99)) == 10


def test_a_golden_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bundle = replace(fake_bundle(), path=tmp_path)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        golden_observations(bundle, 4)
    (tmp_path / GOLDEN).write_bytes(b"not a zip")
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        golden_observations(bundle, 4)


def test_lost_observations_of_a_recording_are_left_out() -> None:
    rows = np.arange(18, dtype=np.float32).reshape(3, 6)
    rows[1, 2] = np.nan
    assert recorded_observations(rows, 10, "x.mcap")[:, 0].tolist() == [0, 12]
    with pytest.raises(RecordingError, match=r"x\.mcap holds no observation"):
        recorded_observations(rows[1:2], 10, "x.mcap")


def test_spread_keeps_order_and_never_repeats() -> None:
    rows = np.arange(100, dtype=np.float32).reshape(50, 2)
    for count in (0, 1, 7, 49, 50, 80):
        picked = spread(rows, count)[:, 0]
        assert len(picked) == min(count, 50)
        assert np.all(np.diff(picked) > 0)


def test_golden_observations_keep_float_networks_finite(ppo_bundle: Bundle) -> None:
    """The bundle's own vectors reach to the end of float32, where a float network answers no number."""
    with np.load(ppo_bundle.file(GOLDEN)) as golden:
        everything = golden["observations"]
    assert np.abs(everything).max() > 1e30
    observations = golden_observations(ppo_bundle, 10_000)
    assert 200 < len(observations) < len(everything)
    with load_runtime("float32", ppo_bundle) as runtime:
        assert np.all(np.isfinite(runtime.act_batch(observations)))
