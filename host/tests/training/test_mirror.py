"""The mirror: what is said about the robot's symmetry is true of its simulation."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'balance-hil[train]'")

import torch

from balance_hil.envs import config_for, spec_for
from balance_hil.envs.balance import BalanceEnv
from balance_hil.envs.config import SensorNoise
from balance_hil.training.mirror import mirror_every_other, mirror_of, mirrored

MIRROR = mirror_of(spec_for("Env01-v1"))


def image_of(values, name):
    return mirrored(torch.as_tensor(np.asarray([values], np.float32)), MIRROR, name)[0].numpy()


def test_wheels_change_places_and_yaw_its_sign():
    np.testing.assert_array_equal(image_of([1, 2, 3, 4, 5, 6], "observation"), [1, 2, 4, 3, 5, -6])
    np.testing.assert_array_equal(image_of([1, 2], "action"), [2, 1])


def test_every_other_row_is_mirrored_and_twice_is_the_original():
    values = torch.arange(24.0).reshape(4, 6)
    once = mirror_every_other(values, MIRROR, "observation")
    assert torch.equal(once[::2], values[::2])
    assert not torch.equal(once[1::2], values[1::2])
    assert torch.equal(mirror_every_other(once, MIRROR, "observation"), values)


def test_the_simulation_agrees():
    quiet = replace(config_for("Env01-v1"), noise=SensorNoise(pitch_rad=0.0, pitch_rate_rad_s=0.0, wheel_speed_rad_s=0.0))
    one, other = BalanceEnv(config=quiet), BalanceEnv(config=quiet)
    start = {"tilt_rad": 0.1, "speed_target_rad_s": 5.0}
    observation, _ = one.reset(seed=0, options=start | {"yaw_target_rad_s": 3.0})
    image, _ = other.reset(seed=0, options=start | {"yaw_target_rad_s": -3.0})
    rng = np.random.default_rng(0)
    for _ in range(100):
        np.testing.assert_allclose(image, image_of(observation, "observation"), atol=1e-4)
        action = np.clip(np.float32(3.0 * observation[0] + observation[1]) + rng.uniform(-0.3, 0.3, 2), -1, 1).astype(np.float32)
        observation, reward, *_ = one.step(action)
        image, same, *_ = other.step(image_of(action, "action"))
        assert same == pytest.approx(reward, abs=1e-3)
