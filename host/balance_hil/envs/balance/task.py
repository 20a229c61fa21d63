"""The balance task without the simulator: targets, wheel-speed command, observation, reward, end of episode.

``BalanceEnv`` steps one task with one ``MjData``, ``BalanceBatch`` many tasks with one ``mujoco.batch.Batch``; both get the same
numbers because there is one implementation. Plain floats, no numpy arithmetic: on six numbers that is several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.robot import Robot
from balance_hil.errors import NonFiniteInputError, SimulationDivergedError, UsageError
from balance_hil.files import require_known

N_OBS = 6
N_ACT = 2
REWARD_TERMS = ("alive", "speed", "yaw", "lean", "action_rate", "action_size")

# Layout of the state in envs/assets/balance.xml: free joint (position, quaternion wxyz; velocity, body-frame angular
# velocity), then the left and the right wheel.
QUATERNION = slice(3, 7)
PITCH_RATE = 4
WHEEL_LEFT = 6
WHEEL_RIGHT = 7


Observation = NDArray[np.float32]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def start_pose(start_qpos: NDArray[np.float64], tilt_rad: float) -> NDArray[np.float64]:
    """The model's start position, float64 [nq], tilted forward by ``tilt_rad`` about the axle."""
    qpos = start_qpos.copy()
    qpos[QUATERNION] = (math.cos(tilt_rad / 2), 0.0, math.sin(tilt_rad / 2), 0.0)
    return qpos


class BalanceTask:
    """One episode's task state. ``reset``, then ``apply_action`` and ``finish_step`` in turn.

    Args:
        config: task, noise and reward.
        robot: whose sensors and motor drivers are between; None: the nominal robot. It must be sampled before ``observe``.
    """

    def __init__(self, config: BalanceConfig, robot: Robot | None = None) -> None:
        self.config = config
        self._robot = robot
        noise = config.noise
        self._noise = (noise.pitch_rad, noise.pitch_rate_rad_s, noise.wheel_speed_rad_s)
        # Multiplying by the reciprocal is not the same to the last bit, so scales stay divisors.
        self._scales = (
            config.pitch_scale_rad,
            config.pitch_rate_scale_rad_s,
            config.wheel_speed_scale_rad_s,
            config.speed_error_scale_rad_s,
            config.wheel_speed_difference_error_scale_rad_s,
        )
        self._command = (config.wheel_speed_step_rad_s, config.command_lead_rad_s, config.command_limit_rad_s)
        self._weights = config.reward
        self._fall_pitch = config.fall_pitch_rad
        self._rng = np.random.default_rng()
        self._command_left = self._command_right = 0.0
        self._action = self._previous_action = (0.0, 0.0)
        self._speed_target = self._wheel_speed_difference_target = 0.0
        self._fixed: Mapping[str, float] = {}
        self._steps_to_new_targets = 0
        period_s = config.control_period_s
        self._balance_first = round(config.balance_first_s / period_s)
        self._slew = (
            config.speed_target_slew_rad_s2 * period_s or math.inf,
            config.wheel_speed_difference_target_slew_rad_s2 * period_s or math.inf,
        )
        self._moving = bool(self._balance_first) or self._slew != (math.inf, math.inf)
        self._goals = (0.0, 0.0)
        self._steps_to_balance = 0

    def reset(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> float:
        """Starts an episode and returns its start tilt in rad.

        Raises:
            UsageError: ``options`` has an unknown key or a value out of range.
        """
        speed = self.config.command_limit_rad_s
        limits = {
            "tilt_rad": self.config.fall_pitch_rad,
            "speed_target_rad_s": speed,
            "wheel_speed_difference_target_rad_s": speed,
        }
        self._fixed = checked_reset_options(options or {}, {name: (-limit, limit) for name, limit in limits.items()})
        self._rng = rng
        self._command_left = self._command_right = 0.0
        self._action = self._previous_action = (0.0, 0.0)
        # Everything is sampled whether or not it is fixed, so that fixing one thing leaves the others as they were.
        tilt = rng.uniform(-self.config.start_tilt_rad, self.config.start_tilt_rad)
        self._sample_targets()
        if self._moving:
            self._steps_to_balance = self._balance_first
            self._goals = (self._speed_target, self._wheel_speed_difference_target)
            self._speed_target = self._fixed.get("speed_target_rad_s", 0.0)
            self._wheel_speed_difference_target = self._fixed.get("wheel_speed_difference_target_rad_s", 0.0)
        return float(self._fixed.get("tilt_rad", tilt))

    def apply_action(self, action: Sequence[float] | NDArray[np.floating[Any]], left: float, right: float) -> tuple[float, float]:
        """Moves the commanded wheel speeds by one action, float [2], and returns them; all speeds are (left, right), rad/s.

        Raises:
            NonFiniteInputError: the action is NaN or infinite.
            UsageError: it does not have two elements.
        """
        a_left, a_right = _two_numbers(action)
        a_left = -1.0 if a_left < -1.0 else 1.0 if a_left > 1.0 else a_left
        a_right = -1.0 if a_right < -1.0 else 1.0 if a_right > 1.0 else a_right
        self._action = (a_left, a_right)
        robot = self._robot
        if robot is not None:
            a_left, a_right = robot.sensors.delayed_action(a_left, a_right)
        step, lead, limit = self._command
        new_left = min(left + lead, max(left - lead, self._command_left + a_left * step))
        new_right = min(right + lead, max(right - lead, self._command_right + a_right * step))
        self._command_left = min(limit, max(-limit, new_left))
        self._command_right = min(limit, max(-limit, new_right))
        if robot is not None:
            return robot.command(self._command_left), robot.command(self._command_right)
        return self._command_left, self._command_right

    def observe(self, qpos: list[float], qvel: list[float]) -> tuple[Observation, dict[str, Any]]:
        """A noisy observation, float32 [6] within +-1, and the true pitch and errors, from the simulator's state.

        Raises:
            SimulationDivergedError: the state holds a NaN or an infinity.
        """
        pitch, rate, left, right = _measure(qpos, qvel)
        pitch_scale, rate_scale, wheel_scale, speed_scale, yaw_scale = self._scales
        pitch_noise, rate_noise, wheel_noise = self._noise
        white = self._rng.standard_normal(4).tolist()
        if self._robot is None:
            n_pitch, n_rate, n_left, n_right = white
            noisy_pitch = pitch + pitch_noise * n_pitch
            noisy_rate = rate + rate_noise * n_rate
            noisy_left = left + wheel_noise * n_left
            noisy_right = right + wheel_noise * n_right
        else:
            noisy_pitch, noisy_rate, noisy_left, noisy_right = self._robot.sensors.measure(
                (pitch, rate, left, right), qpos, white
            )
        values = (
            noisy_pitch / pitch_scale,
            noisy_rate / rate_scale,
            noisy_left / wheel_scale,
            noisy_right / wheel_scale,
            (self._speed_target - 0.5 * (noisy_left + noisy_right)) / speed_scale,
            (self._wheel_speed_difference_target - (noisy_right - noisy_left)) / yaw_scale,
        )
        observation = np.array([-1.0 if v < -1.0 else 1.0 if v > 1.0 else v for v in values], dtype=np.float32)
        return observation, {
            "pitch_rad": pitch,
            "speed_error_rad_s": self._speed_target - 0.5 * (left + right),
            "wheel_speed_difference_error_rad_s": self._wheel_speed_difference_target - (right - left),
        }

    def finish_step(self, qpos: list[float], qvel: list[float]) -> Step:
        """Ends a control step: new targets when their time has come, observation, reward on the true state.

        Raises:
            SimulationDivergedError: the state holds a NaN or an infinity.
        """
        self._steps_to_new_targets -= 1
        if self._moving:
            self._move_targets()
        elif self._steps_to_new_targets <= 0:
            self._sample_targets()
        observation, info = self.observe(qpos, qvel)
        pitch = info["pitch_rad"]
        reward = self._reward(pitch, info)
        self._previous_action = self._action
        terminated = abs(pitch) > self._fall_pitch
        if terminated:
            reward -= self.config.fall_penalty
        elif self.config.end_out_of_range:
            speed_error, difference_error = info["speed_error_rad_s"], info["wheel_speed_difference_error_rad_s"]
            terminated = abs(speed_error) > self._scales[3] or abs(difference_error) > self._scales[4]
        return observation, reward, terminated, False, info

    def set_target(self, name: str, value: float) -> None:
        """Moves a target, by its name in ``reset``, until the end of the episode; it goes there at the configured rate."""
        self._fixed = {**self._fixed, name: value}
        is_speed = name == "speed_target_rad_s"
        if self._moving:
            self._goals = (value, self._goals[1]) if is_speed else (self._goals[0], value)
        elif is_speed:
            self._speed_target = value
        else:
            self._wheel_speed_difference_target = value

    def _sample_targets(self) -> None:
        c = self.config
        speed, yaw, hold = self._rng.random(3).tolist()
        self._speed_target = self._fixed.get("speed_target_rad_s", (2.0 * speed - 1.0) * c.speed_target_rad_s)
        self._wheel_speed_difference_target = self._fixed.get(
            "wheel_speed_difference_target_rad_s", (2.0 * yaw - 1.0) * c.wheel_speed_difference_target_rad_s
        )
        low, high = c.target_hold_s
        self._steps_to_new_targets = round((low + hold * (high - low)) / c.control_period_s)

    def _move_targets(self) -> None:
        """Targets that go to where they were sampled at a limited rate, once the robot had its time to balance."""
        if self._steps_to_balance > 0:
            self._steps_to_balance -= 1
            return
        speed, yaw = self._speed_target, self._wheel_speed_difference_target
        if self._steps_to_new_targets <= 0:
            self._sample_targets()
            self._goals = (self._speed_target, self._wheel_speed_difference_target)
        speed_slew, yaw_slew = self._slew
        self._speed_target = speed + min(speed_slew, max(-speed_slew, self._goals[0] - speed))
        self._wheel_speed_difference_target = yaw + min(yaw_slew, max(-yaw_slew, self._goals[1] - yaw))

    def _reward(self, pitch: float, info: dict[str, Any]) -> float:
        """Adds the terms to ``info`` and returns their sum."""
        w = self._weights
        speed_error, wheel_speed_difference_error = info["speed_error_rad_s"], info["wheel_speed_difference_error_rad_s"]
        a_left, a_right = self._action
        d_left, d_right = a_left - self._previous_action[0], a_right - self._previous_action[1]
        e = speed_error / w.speed_width_rad_s
        y = wheel_speed_difference_error / w.yaw_width_rad_s
        lean = w.lean_per_speed_error_rad_per_rad_s * speed_error
        if self._robot is not None:
            pitch -= self._robot.balance_pitch_rad
        p = (pitch - min(w.lean_limit_rad, max(-w.lean_limit_rad, lean))) / w.lean_width_rad
        info["reward_alive"] = alive = w.alive
        info["reward_speed"] = speed = w.speed * (1.0 / (1.0 + e * e) + 1.0 - min(1.0, abs(speed_error) / self._scales[3]))
        info["reward_yaw"] = yaw = w.yaw * (
            1.0 / (1.0 + y * y) + 1.0 - min(1.0, abs(wheel_speed_difference_error) / self._scales[4])
        )
        info["reward_lean"] = upright = w.lean / (1.0 + p * p)
        info["reward_action_rate"] = rate = -w.action_rate * (d_left * d_left + d_right * d_right)
        info["reward_action_size"] = size = -w.action_size * (a_left * a_left + a_right * a_right)
        return float(alive + speed + yaw + upright + rate + size)


def _two_numbers(action: Sequence[float] | NDArray[np.floating[Any]]) -> tuple[float, float]:
    values = action.tolist() if isinstance(action, np.ndarray) else action
    if len(values) != N_ACT:
        raise UsageError(f"an action has {N_ACT} elements, this one has {len(values)}", "see its table: docs/environments.md")
    left, right = values
    if not math.isfinite(left + right):
        raise NonFiniteInputError(f"the action is not finite: [{left}, {right}]", "check the policy that produced it")
    return left, right


def _measure(qpos: list[float], qvel: list[float]) -> tuple[float, float, float, float]:
    """True pitch (forward positive), pitch rate and wheel speeds (left, right)."""
    w, x, y, z = qpos[QUATERNION]
    rate, left, right = qvel[PITCH_RATE], qvel[WHEEL_LEFT], qvel[WHEEL_RIGHT]
    if not math.isfinite(w + x + y + z + rate + left + right):
        raise SimulationDivergedError(
            f"the simulation diverged: orientation {[w, x, y, z]}, wheel speeds {[left, right]} rad/s",
            "use a shorter physics time step, or check the model's masses and gains",
        )
    # The last row of the rotation matrix, in the plane of the robot's own forward axis: independent of heading.
    pitch = math.atan2(2.0 * (w * y - x * z), 1.0 - 2.0 * (x * x + y * y))
    return pitch, rate, left, right


def checked_reset_options(options: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The options of a reset as numbers. Raises UsageError on an unknown one, or one outside its ``limits``."""
    checked: dict[str, float] = {}
    for key, value in options.items():
        require_known(key, limits, "reset option", error=UsageError)
        try:
            checked[key] = float(value)
        except (TypeError, ValueError):
            checked[key] = math.nan
        low, high = limits[key]
        if not low <= checked[key] <= high:
            raise UsageError(f"reset option {key} is {value!r}", f"give a number within {low:.3g}..{high:.3g}")
    return checked
