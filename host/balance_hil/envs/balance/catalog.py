"""The environments of the balance robot: settings by Gymnasium id."""

from __future__ import annotations

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.options import (
    SIDES,
    BlockOptions,
    MotorOptions,
    PhysicsOptions,
    RobotOptions,
    SensorOptions,
    Uniform,
)

_BLOCKS = {
    "mass_kg": Uniform(low=0.03, high=0.1),
    "size_m": Uniform(low=0.025, high=0.04),
    "speed_m_s": Uniform(low=1.5, high=2.5),
    "interval_s": Uniform(low=1.5, high=3.0),
}


CATALOG: dict[str, BalanceConfig] = {
    "balance/Balance-v0": BalanceConfig(),
    "balance/BalanceNoisy-v0": BalanceConfig(
        options=RobotOptions(
            sensors=SensorOptions(
                imu_noise_scale=Uniform(low=1.0, high=3.0),
                encoder_noise_scale=Uniform(low=1.0, high=3.0),
                pitch_bias_rad=Uniform(low=-0.02, high=0.02),
                gyro_bias_rad_s=Uniform(low=-0.02, high=0.02),
                gyro_bias_walk_rad_s_sqrt_s=0.002,
                encoder_ticks_per_rev=1320.0,
            )
        )
    ),
    "balance/BalanceTargets-v0": BalanceConfig(
        balance_first_s=3.0,
        speed_target_rad_s=30.0,
        wheel_speed_difference_target_rad_s=15.0,
        speed_target_slew_rad_s2=20.0,
        wheel_speed_difference_target_slew_rad_s2=15.0,
    ),
    "balance/BalanceRandomized-v0": BalanceConfig(
        options=RobotOptions(
            physics=PhysicsOptions(
                mass_scale=Uniform(low=0.85, high=1.15),
                friction=Uniform(low=0.5, high=1.2),
                com_offset_x_m=Uniform(low=-0.006, high=0.006),
                com_offset_z_m=Uniform(low=-0.006, high=0.006),
                ground_slope_rad=Uniform(low=-0.03, high=0.03),
            ),
            motor=MotorOptions(servo_gain_scale=Uniform(low=0.6, high=1.4), dry_friction_nm=Uniform(low=0.0, high=0.01)),
        )
    ),
    "balance/BalanceBlocks-v0": BalanceConfig(options=RobotOptions(blocks=BlockOptions(sides=SIDES, **_BLOCKS))),
    "balance/BalanceBlocksFrontBack-v0": BalanceConfig(
        options=RobotOptions(blocks=BlockOptions(sides=("front", "back"), **_BLOCKS))
    ),
}
