"""Settings of a balance environment. A variant is another instance of ``BalanceConfig``, not another class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from balance_hil.envs.balance.options import NOMINAL, RobotOptions, options_from_dict
from balance_hil.settings import Settings, number
from balance_hil.spec import ActionMap, PolicySpec, Signal

EPISODE_STEPS = 6000  # 30 s
Row = tuple[str, str, float, str]  # of a signal table


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """Standard deviations of the white noise on the measurements. It reaches the observation and nothing else."""

    pitch_rad: float = 0.005
    pitch_rate_rad_s: float = 0.05
    wheel_speed_rad_s: float = 0.15


@dataclass(frozen=True, kw_only=True)
class RewardWeights(Settings):
    """Weights and widths of the reward terms; the formulas are in the docstring of ``BalanceEnv``."""

    alive: float = 0.2
    speed: float = 0.15  # once for the peak, once for the slope toward it
    speed_width_rad_s: float = number(1e-6, default=5.0)
    yaw: float = 0.1
    yaw_width_rad_s: float = number(1e-6, default=3.0)
    lean: float = 0.3
    lean_width_rad: float = number(1e-6, default=0.06)
    lean_per_speed_error_rad_per_rad_s: float = 0.005
    lean_limit_rad: float = 0.15
    action_rate: float = 0.2
    action_size: float = 0.01


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Physics, task and noise of one balance environment."""

    model: str = "balance.xml"  # in envs/assets
    physics_timestep_s: float = 0.001
    substeps_per_step: int = 5
    wheel_speed_step_rad_s: float = 2.0  # change of a wheel's commanded speed at action 1
    command_lead_rad_s: float = 8.0  # the command stays this close to the measured wheel speed
    command_limit_rad_s: float = 80.0
    start_tilt_rad: float = 0.2  # start tilt is uniform within +- this
    fall_pitch_rad: float = math.radians(50.0)
    speed_target_rad_s: float = 20.0  # targets are uniform within +- these
    wheel_speed_difference_target_rad_s: float = 10.0
    target_hold_s: tuple[float, float] = (1.5, 4.5)  # and resampled after a time uniform within this
    balance_first_s: float = 0.0  # until then both targets are 0
    speed_target_slew_rad_s2: float = 0.0  # targets move toward the sampled ones at this rate; 0: they jump
    wheel_speed_difference_target_slew_rad_s2: float = 0.0
    pitch_scale_rad: float = 0.35  # observation 1.0 means this much
    pitch_rate_scale_rad_s: float = 4.0
    wheel_speed_scale_rad_s: float = 80.0
    speed_error_scale_rad_s: float = 60.0
    wheel_speed_difference_error_scale_rad_s: float = 40.0
    noise: SensorNoise = field(default_factory=SensorNoise)
    reward: RewardWeights = field(default_factory=RewardWeights)
    options: RobotOptions = NOMINAL  # how the robot differs from the nominal one
    # For training. The range of the observation as the end of an episode: beyond it neither observation nor reward changes, and a
    # policy that spins stays there.
    end_out_of_range: bool = False  # of speed error and wheel-speed-difference error
    fall_penalty: float = 0.0  # taken from the reward of the step that ends in a fall

    def with_options(self, options: RobotOptions | Mapping[str, Any] | None) -> BalanceConfig:
        """The same with other options: all of them, or as a table those that differ from its own.

        Raises:
            ConfigError: an unknown option or a value out of range.
        """
        if options is None:
            return self
        if not isinstance(options, RobotOptions):
            options = options_from_dict(options, self.options)
        return replace(self, options=options)

    @property
    def control_period_s(self) -> float:
        """Time between two actions."""
        return self.physics_timestep_s * self.substeps_per_step

    def policy_spec(self, environment: str) -> PolicySpec:
        """Signal tables of observation and action for the environment of that Gymnasium id."""
        observation = (
            ("pitch", "rad", self.pitch_scale_rad, "tilt it forward"),
            ("pitch_rate", "rad/s", self.pitch_rate_scale_rad_s, "tilt it forward, quickly"),
            ("wheel_left_speed", "rad/s", self.wheel_speed_scale_rad_s, "turn the left wheel forward"),
            ("wheel_right_speed", "rad/s", self.wheel_speed_scale_rad_s, "turn the right wheel forward"),
            ("speed_error", "rad/s", self.speed_error_scale_rad_s, "turn both wheels backward"),
            (
                "wheel_speed_difference_error",
                "rad/s",
                self.wheel_speed_difference_error_scale_rad_s,
                "turn the left wheel forward",
            ),
        )
        action = (
            ("wheel_left_speed_step", "rad/s", self.wheel_speed_step_rad_s, "the left wheel speeds up forward"),
            ("wheel_right_speed_step", "rad/s", self.wheel_speed_step_rad_s, "the right wheel speeds up forward"),
        )
        return scaled_spec(environment, observation, action, self.control_period_s, EPISODE_STEPS)


def scaled_spec(
    environment: str,
    observation: Iterable[Row],
    action: Iterable[Row],
    control_period_s: float,
    episode_steps: int = 0,
) -> PolicySpec:
    """A table whose numbers all lie within -1..1, from rows of name, unit, physical value of 1.0, and what is positive."""
    signals = [
        tuple(
            Signal(index=i, name=name, unit=unit, min=-1.0, max=1.0, scale=scale, positive=positive)
            for i, (name, unit, scale, positive) in enumerate(rows)
        )
        for rows in (observation, action)
    ]
    ones = np.ones(len(signals[1]), np.float32)
    return PolicySpec(
        environment=environment,
        observation=signals[0],
        action=signals[1],
        control_period_s=control_period_s,
        action_map=ActionMap.of_box(-ones, ones),
        episode_steps=episode_steps,
    )
