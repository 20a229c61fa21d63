"""What IMU and wheel encoders make of the true state, and the delay of measurements and actions."""

from __future__ import annotations

import math

import numpy as np

from balance_hil.envs.balance.config import SensorNoise
from balance_hil.envs.balance.options import RobotOptions, fixed

WHEEL_ANGLES = (7, 8)  # in qpos: left, right
Measurement = tuple[float, float, float, float]  # pitch rad, pitch rate, wheel speeds left and right rad/s


class Sensors:
    """Sensors and delays of one robot. ``reset``, then ``measure`` once per control step. The options scale ``noise``."""

    def __init__(self, noise: SensorNoise, control_period_s: float) -> None:
        self._base = noise
        self._period_s = control_period_s
        self._rng = np.random.default_rng()

    def reset(self, sampled: RobotOptions, rng: np.random.Generator) -> None:
        """Starts an episode with options that hold no range but those of events; ``rng`` gives walk and jitter."""
        sensors, delays = sampled.sensors, sampled.delays
        imu, encoder = fixed(sensors.imu_noise_scale), fixed(sensors.encoder_noise_scale)
        self._noise = (
            self._base.pitch_rad * imu,
            self._base.pitch_rate_rad_s * imu,
            self._base.wheel_speed_rad_s * encoder,
        )
        self._pitch_bias = fixed(sensors.pitch_bias_rad)
        self._gyro_bias = fixed(sensors.gyro_bias_rad_s)
        self._walk = fixed(sensors.gyro_bias_walk_rad_s_sqrt_s) * math.sqrt(self._period_s)
        ticks = fixed(sensors.encoder_ticks_per_rev)
        self._rad_per_tick = 2.0 * math.pi / ticks if ticks else 0.0
        self._ticks: tuple[int, int] | None = None
        self._delay = int(fixed(delays.observation_steps))
        self._jitter = int(fixed(delays.observation_jitter_steps))
        self._rng = rng
        self._history: list[Measurement] = []
        self._age = 0
        self._actions = [(0.0, 0.0)] * int(fixed(delays.action_steps))

    def delayed_action(self, left: float, right: float) -> tuple[float, float]:
        """The action that reaches the motors now; before the first one, zero."""
        if not self._actions:
            return left, right
        self._actions.append((left, right))
        return self._actions.pop(0)

    def measure(self, true: Measurement, qpos: list[float], white: list[float]) -> Measurement:
        """The measurement that reaches the controller in this control step; ``white`` are four standard normal numbers."""
        pitch, rate, left, right = true
        if self._walk:
            self._gyro_bias += self._walk * float(self._rng.standard_normal())
        if self._rad_per_tick:
            left, right = self._count(qpos)
        pitch_noise, rate_noise, wheel_noise = self._noise
        sample = (
            pitch + self._pitch_bias + pitch_noise * white[0],
            rate + self._gyro_bias + rate_noise * white[1],
            left + wheel_noise * white[2],
            right + wheel_noise * white[3],
        )
        return self._late(sample) if self._delay or self._jitter else sample

    def _count(self, qpos: list[float]) -> tuple[float, float]:
        """Wheel speeds from the ticks of one control period; at rest before the first."""
        left, right = (math.floor(qpos[i] / self._rad_per_tick) for i in WHEEL_ANGLES)
        before = self._ticks or (left, right)
        self._ticks = (left, right)
        scale = self._rad_per_tick / self._period_s
        return (left - before[0]) * scale, (right - before[1]) * scale

    def _late(self, sample: Measurement) -> Measurement:
        """The sample that has arrived by now. Samples do not overtake one another, so the age grows by at most one step."""
        history = self._history
        history.append(sample)
        if len(history) > self._delay + self._jitter + 1:
            history.pop(0)
        age = self._delay + (int(self._rng.integers(0, self._jitter + 1)) if self._jitter else 0)
        self._age = min(age, self._age + 1, len(history) - 1)
        return history[-1 - self._age]
