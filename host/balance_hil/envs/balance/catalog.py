"""The environments of the balance robot: settings by Gymnasium id.

Actions, observations, reward and end of an episode are those of ``BalanceEnv``: a policy trained in one runs in all of them.
"""

from __future__ import annotations

from typing import Any

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.options import SIDES, RobotOptions, options_from_dict


def _options(**groups: dict[str, Any]) -> RobotOptions:
    return options_from_dict(groups)


_BLOCKS = {"mass_kg": [0.03, 0.1], "size_m": [0.025, 0.04], "speed_m_s": [1.5, 2.5], "interval_s": [1.5, 3.0]}

CATALOG: dict[str, BalanceConfig] = {
    "balance/Balance-v0": BalanceConfig(),
    "balance/BalanceNoisy-v0": BalanceConfig(
        options=_options(
            sensors={
                "imu_noise_scale": [1.0, 3.0],
                "encoder_noise_scale": [1.0, 3.0],
                "pitch_bias_rad": [-0.02, 0.02],
                "gyro_bias_rad_s": [-0.02, 0.02],
                "gyro_bias_walk_rad_s_sqrt_s": 0.002,
                "encoder_ticks_per_rev": 1320.0,
            }
        )
    ),
    # Balances first, then drives to targets that move as a joystick does instead of jumping.
    "balance/BalanceTargets-v0": BalanceConfig(
        balance_first_s=3.0,
        speed_target_rad_s=30.0,
        wheel_speed_difference_target_rad_s=15.0,
        speed_target_slew_rad_s2=20.0,
        wheel_speed_difference_target_slew_rad_s2=15.0,
    ),
    "balance/BalanceRandomized-v0": BalanceConfig(
        options=_options(
            physics={
                "mass_scale": [0.85, 1.15],
                "friction": [0.5, 1.2],
                "com_offset_x_m": [-0.006, 0.006],
                "com_offset_z_m": [-0.006, 0.006],
                "ground_slope_rad": [-0.03, 0.03],
            },
            motor={"servo_gain_scale": [0.6, 1.4], "dry_friction_nm": [0.0, 0.01]},
        )
    ),
    "balance/BalanceBlocks-v0": BalanceConfig(options=_options(blocks={"sides": SIDES, **_BLOCKS})),
    # From where the wheels can answer them.
    "balance/BalanceBlocksFrontBack-v0": BalanceConfig(options=_options(blocks={"sides": ("front", "back"), **_BLOCKS})),
}
