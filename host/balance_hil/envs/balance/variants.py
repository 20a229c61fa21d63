r"""The other environments of the balance robot: each is ``balance/Balance-v0`` with one thing changed.

Action, observation, reward and end of the episode are those of ``balance_hil.envs.balance.env.BalanceEnv``, so that a policy
trained in one of them runs in all. All of them take its arguments and reset options. Ranges are uniform.
"""

from __future__ import annotations

from balance_hil.envs.balance.env import BalanceEnv


class NoisySensorsEnv(BalanceEnv):
    r"""``balance/BalanceNoisy-v0``: sensors as a robot has them.

    Spaces, rewards, starting state and episode end are those of ``balance/Balance-v0``; the observation is made from
    worse sensors:

    | Option                                | Drawn per reset | Unit       | Effect                                       |
    |---------------------------------------|-----------------|------------|----------------------------------------------|
    | `sensors.imu_noise_scale`             | 1 to 3          |            | white noise of pitch and pitch rate, times   |
    | `sensors.encoder_noise_scale`         | 1 to 3          |            | white noise of the wheel speeds, times       |
    | `sensors.pitch_bias_rad`              | -0.02 to 0.02   | rad        | mounting offset of the IMU                   |
    | `sensors.gyro_bias_rad_s`             | -0.02 to 0.02   | rad/s      | gyroscope at rest, at the start              |
    | `sensors.gyro_bias_walk_rad_s_sqrt_s` | 0.002           | rad/s/√s   | random walk of the same                      |
    | `sensors.encoder_ticks_per_rev`       | 1320            | ticks      | wheel speed counted over one control step    |

    ## Version History
    * v2: initial version of the sensors; v1 is `BalanceEnv`.
    """


class DriveEnv(BalanceEnv):
    r"""``balance/BalanceTargets-v0``: balance first, then drive to targets that move.

    The action and observation spaces, rewards and episode end are those of ``balance/Balance-v0``. Both targets are 0 at first;
    then they move at a limited rate, as a person's joystick does, instead of jumping.

    | Setting                   | Value | Unit    | Effect                                                              |
    |---------------------------|-------|---------|---------------------------------------------------------------------|
    | `balance_first_s`         | 3     | s       | both targets are 0                                                  |
    | `speed_target_rad_s`      | 30    | rad/s   | targets are sampled within plus and minus this, every 1.5 s to 4.5 s  |
    | `wheel_speed_difference_target_rad_s` | 15 | rad/s | the same, of the wheel-speed difference |
    | `speed_target_slew_rad_s2`| 20    | rad/s²  | largest change of the speed target                                  |
    | `wheel_speed_difference_target_slew_rad_s2` | 15 | rad/s² | largest change of that target |

    ## Version History
    * v3: initial version of moving targets.
    """


class RandomPhysicsEnv(BalanceEnv):
    r"""``balance/BalanceRandomized-v0``: another robot on another ground at every reset.

    The action and observation spaces, rewards, starting state and episode end are those of ``balance/Balance-v0``.

    | Option                     | Drawn per reset  | Unit | Effect                                               |
    |----------------------------|------------------|------|------------------------------------------------------|
    | `physics.mass_scale`       | 0.85 to 1.15     |      | masses and inertias of body and wheels, times        |
    | `physics.friction`         | 0.5 to 1.2       |      | sliding coefficient of wheel on ground               |
    | `physics.com_offset_x_m`   | -0.006 to 0.006  | m    | body's center of mass, forward                       |
    | `physics.com_offset_z_m`   | -0.006 to 0.006  | m    | and up                                               |
    | `physics.ground_slope_rad` | -0.03 to 0.03    | rad  | uphill where the robot faces at the start            |
    | `motor.servo_gain_scale`   | 0.6 to 1.4       |      | gain of the wheel servos, times                      |
    | `motor.dry_friction_nm`    | 0 to 0.01        | N m  | Coulomb friction of the gears                        |

    ## Version History
    * v1: initial version.
    """


class ThrownBlocksEnv(BalanceEnv):
    r"""``balance/BalanceBlocks-v0``: wooden blocks are thrown at the robot from any side.

    Spaces, rewards, starting state and episode end are those of ``balance/Balance-v0``. A block is a solid
    cube, inertia $m s^2 / 6$. It starts 0.4 m away, is aimed at a height of the body between 5 cm and 12 cm where the
    robot will be if it goes on as it goes, and is taken away 0.8 s later. Mass and size are sampled per reset; time, side,
    direction, height and speed for each block; all from `self.np_random`.

    | Option               | Range          | Unit | Drawn     | Effect                                              |
    |----------------------|----------------|------|-----------|-----------------------------------------------------|
    | `blocks.sides`       | front, back, left, right | | per block | from where, each side 45 degrees to either side |
    | `blocks.mass_kg`     | 0.03 to 0.1    | kg   | per reset | the robot has 0.64 kg                               |
    | `blocks.size_m`      | 0.025 to 0.04  | m    | per reset | edge of the cube                                    |
    | `blocks.speed_m_s`   | 1.5 to 2.5     | m/s  | per block | horizontal, relative to the robot                   |
    | `blocks.interval_s`  | 1.5 to 3       | s    | per block | time to the next one                                |

    ## Version History
    * v1: initial version.
    """


class BlocksFrontBackEnv(ThrownBlocksEnv):
    r"""``balance/BalanceBlocksFrontBack-v0``: blocks come from the front or the back, where the wheels can answer them.

    As ``balance/BalanceBlocks-v0`` (`ThrownBlocksEnv`) but for

    | Option         | Range       | Unit | Drawn     | Effect                                              |
    |----------------|-------------|------|-----------|-----------------------------------------------------|
    | `blocks.sides` | front, back |      | per block | from where, each side 45 degrees to either side     |

    ## Version History
    * v2: front and back only.
    """
