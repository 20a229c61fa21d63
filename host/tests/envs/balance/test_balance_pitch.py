"""The reward counts pitch from where this robot's center of mass is over its axle, not from the chassis's upright."""

import numpy as np
import pytest

from balance_hil.envs import balance as envs

OFFSET = {"physics": {"com_offset_x_m": 0.006}}
BALANCE_RAD = -np.arctan2(0.006, 0.055)
STILL = {"speed_target_rad_s": 0.0, "wheel_speed_difference_target_rad_s": 0.0}


def stand(tilt_rad, options, steps):
    env = envs.make("balance/Balance-v0", options=options).unwrapped
    env.reset(seed=0, options={**STILL, "tilt_rad": tilt_rad})
    return [env.step(np.zeros(2, np.float32))[4] for _ in range(steps)]


def test_the_robot_stands_still_there_and_falls_from_its_chassis_upright():
    at_balance, upright = (stand(tilt, OFFSET, 40)[-1]["pitch_rad"] for tilt in (BALANCE_RAD, 0.0))
    assert abs(at_balance - BALANCE_RAD) < 0.01
    assert upright > 0.1


def test_the_lean_term_is_full_there():
    assert stand(BALANCE_RAD, OFFSET, 1)[0]["reward_lean"] == pytest.approx(0.3, rel=0.02)
    assert stand(0.0, OFFSET, 1)[0]["reward_lean"] < 0.1


def test_the_ideal_robot_is_rewarded_as_before():
    assert stand(0.0, None, 1)[0]["reward_lean"] == pytest.approx(0.3, rel=0.02)
    assert stand(0.0, {"sensors": {"pitch_bias_rad": 0.02}}, 1) == stand(0.0, None, 1)
