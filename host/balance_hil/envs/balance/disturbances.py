"""What happens to a robot from outside: pushes and thrown blocks."""

from __future__ import annotations

import math

import numpy as np

from balance_hil.envs.balance.options import BlockOptions, PushOptions, Quantity, pick
from balance_hil.envs.balance.plant import BLOCK_QPOS, BLOCK_QVEL, BODY, Plant

# Direction in which something comes from, as an angle to the robot's forward axis.
SIDE_ANGLES_RAD = {"front": 0.0, "left": math.pi / 2, "back": math.pi, "right": -math.pi / 2}
FLIGHT_S = 0.8  # a block is taken away this long after it was thrown
HIT_HEIGHT_M = (0.05, 0.12)  # above the ground that the robot stands on: from the lower to the upper plate
GRAVITY_M_S2 = 9.81
_PARKED_POSITION = (0.0, 0.0, 5.0)
# Nothing here throws or hits a block that fast. One that is wedged between a wheel and the ground can be: the contact solver then
# adds energy step after step, until numbers overflow. The limit is far up, for episodes that end well to stay as they are: with
# 100 m/s the training of models/ppo-robust gives another policy.
_SHOT_AWAY_M_S = 1e9


class Pushes:
    """Shoves of one robot, each spread over one control step."""

    def __init__(self, options: PushOptions, control_period_s: float) -> None:
        self._options = options
        self._period_s = control_period_s
        self._pushing = False
        self._steps_left = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Starts an episode; ``rng`` gives times, sides and strengths."""
        self._rng = rng
        self._pushing = False
        self._steps_left = self._interval()

    def before_step(self, plant: Plant) -> None:
        """To be called once per control step, before its physics."""
        if self._pushing:
            plant.xfrc_applied[BODY, :2] = 0.0
            self._pushing = False
        self._steps_left -= 1
        if self._steps_left > 0:
            return
        self._steps_left = self._interval()
        side, strength, within = self._rng.random(3).tolist()
        force = pick(self._options.impulse_n_s, strength) / self._period_s
        angle = _heading(plant) + _direction(self._options.sides, side, math.pi / 4 * (2.0 * within - 1.0))
        plant.xfrc_applied[BODY, :2] = (-force * math.cos(angle), -force * math.sin(angle))  # toward the robot
        self._pushing = True

    def _interval(self) -> int:
        return _steps(self._options.interval_s, self._rng, self._period_s)


class Blocks:
    """A cube that is thrown at one robot again and again."""

    def __init__(self, options: BlockOptions, control_period_s: float) -> None:
        self._options = options
        self._period_s = control_period_s

    def reset(self, plant: Plant, sampled: BlockOptions, rng: np.random.Generator) -> None:
        """Starts an episode with the block out of reach; ``rng`` gives times, sides and speeds."""
        self._options = sampled
        self._rng = rng
        self._steps_left = _steps(sampled.interval_s, rng, self._period_s)
        self._steps_in_flight = 0
        self._park(plant)

    def before_step(self, plant: Plant) -> None:
        """To be called once per control step, before its physics."""
        if self._steps_in_flight:
            self._steps_in_flight -= 1
            if not self._steps_in_flight or max(abs(v) for v in plant.qvel[BLOCK_QVEL][:3].tolist()) > _SHOT_AWAY_M_S:
                self._steps_in_flight = 0
                self._park(plant)
        self._steps_left -= 1
        if self._steps_left <= 0:
            self._steps_left = _steps(self._options.interval_s, self._rng, self._period_s)
            self._throw(plant)
            self._steps_in_flight = round(FLIGHT_S / self._period_s)

    def _throw(self, plant: Plant) -> None:
        """Aims at where the robot will be if it goes on as it goes."""
        options = self._options
        side, speed, spread, height, spin = self._rng.random(5).tolist()
        angle = _heading(plant) + _direction(options.sides, side, pick(options.spread_rad, 0.0) * (2.0 * spread - 1.0))
        distance, horizontal = pick(options.distance_m, 0.0), pick(options.speed_m_s, speed)
        target = HIT_HEIGHT_M[0] + height * (HIT_HEIGHT_M[1] - HIT_HEIGHT_M[0])
        ahead = (math.cos(angle), math.sin(angle))
        qpos, qvel = plant.qpos, plant.qvel
        ground = qpos[2] - 0.034  # of the robot, where the ground slopes
        qpos[BLOCK_QPOS] = (
            qpos[0] + distance * ahead[0],
            qpos[1] + distance * ahead[1],
            ground + target,
            math.cos(math.pi * spin),
            0.0,
            0.0,
            math.sin(math.pi * spin),
        )
        rise = 0.5 * GRAVITY_M_S2 * distance / horizontal
        qvel[BLOCK_QVEL] = (qvel[0] - horizontal * ahead[0], qvel[1] - horizontal * ahead[1], rise, 0.0, 0.0, 0.0)
        plant.model["body_gravcomp"][-1] = 0.0

    def _park(self, plant: Plant) -> None:
        plant.qpos[BLOCK_QPOS] = (*_PARKED_POSITION, 1.0, 0.0, 0.0, 0.0)
        plant.qvel[BLOCK_QVEL] = 0.0
        plant.model["body_gravcomp"][-1] = 1.0


def _steps(interval_s: Quantity, rng: np.random.Generator, period_s: float) -> int:
    return max(1, round(pick(interval_s, float(rng.random())) / period_s))


def _direction(sides: tuple[str, ...], u: float, spread_rad: float) -> float:
    """From where, as an angle to the robot's forward axis, rad."""
    return SIDE_ANGLES_RAD[sides[int(u * len(sides))]] + spread_rad


def _heading(plant: Plant) -> float:
    """Direction of the robot's forward axis on the ground, rad; it is not upright, so its axle tells."""
    w, x, y, z = plant.qpos[3:7].tolist()
    return math.atan2(-(2.0 * (x * y - w * z)), 1.0 - 2.0 * (x * x + z * z))
