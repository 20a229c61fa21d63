"""Where the recorded inputs come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.comparing.inputs import (
    golden_observations,
    make_inputs,
    observe,
    raw_observations,
    recorded_observations,
    spread,
)
from balance_hil.environment import open_environment
from balance_hil.errors import BundleError, RecordingError
from balance_hil.quantize import Normalization
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import Runtime
from balance_hil.spec import PolicySpec

from .fakes import fake_bundle


class _RandomOutputs(Runtime):
    """A policy of any environment, which moves its plant."""

    name = "random"

    def __init__(self, spec: PolicySpec) -> None:
        self.n_obs, self.n_act = spec.n_obs, spec.n_act

    def act_batch(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.sin(100 * observations[:, :1] + np.arange(self.n_act)).astype(np.float32)


@pytest.mark.parametrize("name", ["balance/Balance-v0", "CartPole-v1", "Pendulum-v1"])
def test_observations_of_a_rollout_are_those_of_the_environment_and_repeat(name: str) -> None:
    """Boxes of +-1, unbounded signals, three inputs, a Discrete action."""
    with open_environment(name, period_s=0.02 if name == "CartPole-v1" else None) as environment:
        policy = _RandomOutputs(environment.spec)
        first = observe(policy, environment, 500, seed=3)
        assert first.shape == (500, environment.spec.n_obs)
        assert first.dtype == np.float32
        assert np.array_equal(first, observe(policy, environment, 500, seed=3))
        assert not np.array_equal(first, observe(policy, environment, 500, seed=4))
        assert np.all(np.std(first, axis=0) > 0), "a policy that moves must be seen moving"


NORMALIZATION = Normalization(
    mean=np.array([0.1, -3.0, 250.0, 0.0, 1e-4, -7.5]), inverse_std=np.array([2.0, 0.5, 0.01, 31.0, 900.0, 1.0]), clip=0.9
)


def test_inputs_of_a_normalized_policy_are_equal_behind_the_normalization() -> None:
    bundle = replace(fake_bundle(), normalization=NORMALIZATION)
    observations = np.random.default_rng(0).normal(0, 3, (50, 6)).astype(np.float32)
    found = make_inputs(bundle, observations, random=4000, seed=1, source="")
    assert np.array_equal(found.raw, bundle.quantized(found.observations))
    assert np.array_equal(found.observations[4000:], observations)
    within = range(-115, 116)  # of 1/128 each, up to the clip
    assert all(set(np.unique(found.raw[:4000, i])) == set(within) for i in range(6))


@given(
    values=arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    mean=arrays(np.float32, 4, elements=st.floats(-1000, 1000, width=32)),
    factor=arrays(np.float32, 4, elements=st.floats(0.0078125, 128, width=32)),
)
def test_raw_observations_normalize_to_what_was_wanted(values, mean, factor) -> None:
    by = Normalization(mean=mean, inverse_std=factor, clip=50.0)
    raw = raw_observations(values, by)
    spacing = np.spacing(np.abs(raw) + np.abs(mean)) * factor  # of what the normalization can make of neighbors
    assert np.all(np.abs(by.apply(raw) - np.clip(values, -50, 50)) <= 2 * spacing)
    assert raw_observations(values, None) is values


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
