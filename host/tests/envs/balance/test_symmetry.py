"""Symmetries: what is said about the robot's symmetry is true of its simulation."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'balance-hil[train]'")

import torch

from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.config import SensorNoise
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.symmetry import symmetries_of
from balance_hil.training.gradient_steps import symmetric_rows

SYMMETRIES = symmetries_of(config_for("balance/Balance-v0").policy_spec("balance/Balance-v0"))
SIDEWAYS, FORE_AND_AFT, BOTH = 1, 2, 3


def image_of(values, name, which):
    return symmetric_rows(torch.as_tensor(np.asarray([values] * 4, np.float32)), SYMMETRIES, name)[which].numpy()


@pytest.mark.parametrize(
    ("which", "observation", "action"),
    [
        (0, [1, 2, 3, 4, 5, 6], [1, 2]),
        (SIDEWAYS, [1, 2, 4, 3, 5, -6], [2, 1]),
        (FORE_AND_AFT, [-1, -2, -3, -4, -5, -6], [-1, -2]),
        (BOTH, [-1, -2, -4, -3, -5, 6], [-2, -1]),
    ],
)
def test_each_row_has_its_image(which, observation, action):
    np.testing.assert_array_equal(image_of([1, 2, 3, 4, 5, 6], "observation", which), observation)
    np.testing.assert_array_equal(image_of([1, 2], "action", which), action)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 6, 8])
def test_images_go_round_and_twice_is_the_original(rows):
    values = torch.arange(48.0).reshape(8, 6)[:rows]
    once = symmetric_rows(values, SYMMETRIES, "observation")
    for i, row in enumerate(once):
        np.testing.assert_array_equal(row.numpy(), image_of(values[i].numpy(), "observation", i % 4))
    assert torch.equal(symmetric_rows(once, SYMMETRIES, "observation"), values)


@pytest.mark.parametrize(
    ("which", "start"),
    [
        (SIDEWAYS, {"tilt_rad": 0.1, "speed_target_rad_s": 5.0, "wheel_speed_difference_target_rad_s": -3.0}),
        (FORE_AND_AFT, {"tilt_rad": -0.1, "speed_target_rad_s": -5.0, "wheel_speed_difference_target_rad_s": -3.0}),
        (BOTH, {"tilt_rad": -0.1, "speed_target_rad_s": -5.0, "wheel_speed_difference_target_rad_s": 3.0}),
    ],
)
def test_the_simulation_agrees(which, start):
    quiet = replace(
        config_for("balance/Balance-v0"), noise=SensorNoise(pitch_rad=0.0, pitch_rate_rad_s=0.0, wheel_speed_rad_s=0.0)
    )
    one, other = BalanceEnv(config=quiet), BalanceEnv(config=quiet)
    observation, _ = one.reset(
        seed=0, options={"tilt_rad": 0.1, "speed_target_rad_s": 5.0, "wheel_speed_difference_target_rad_s": 3.0}
    )
    image, _ = other.reset(seed=0, options=start)
    rng = np.random.default_rng(0)
    for _ in range(100):
        np.testing.assert_allclose(image, image_of(observation, "observation", which), atol=1e-4)
        action = np.clip(np.float32(3.0 * observation[0] + observation[1]) + rng.uniform(-0.3, 0.3, 2), -1, 1).astype(np.float32)
        observation, reward, *_ = one.step(action)
        image, same, *_ = other.step(image_of(action, "action", which))
        assert same == pytest.approx(reward, abs=1e-3)
