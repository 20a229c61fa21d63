"""A robot that differs from the nominal one: samples it at every reset, and stands between task and physics."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.disturbances import Blocks, Pushes
from balance_hil.envs.balance.options import N_SAMPLED, RobotOptions, fixed
from balance_hil.envs.balance.plant import BODY, Plant, needs_own_model, write_model
from balance_hil.envs.balance.sensors import Sensors


class Robot:
    """The robot of one episode after the other. ``BalanceEnv`` and ``BalanceBatch`` use the same.

    Its random numbers come from children of the episode's generator, so the same seed gives the same start tilt, targets and
    white noise whatever the options: episodes of two sets of options can be compared in pairs.
    """

    def __init__(self, options: RobotOptions, config: BalanceConfig, nominal: mujoco.MjModel) -> None:
        self.options = options
        self._next = options  # what the next reset samples from
        self.sampled = options  # of the present episode: without ranges, but for those of pushes and blocks
        self.sensors = Sensors(config.noise, config.control_period_s)
        self._nominal = nominal
        self._nominal_limit = float(nominal.actuator_forcerange[0, 1])
        self._own_model = needs_own_model(options)
        self._period_s = config.control_period_s
        self._dead_band = 0.0
        self.balance_pitch_rad = 0.0  # at which the present robot stands still: its center of mass is over its axle
        self._first = True
        self._adopt(options)

    def change(self, options: RobotOptions) -> None:
        """Samples from other options from the next reset on. They must need no more of the model than those given at first."""
        self._next = options

    def _adopt(self, options: RobotOptions) -> None:
        self.options = options
        self._pushes = Pushes(options.pushes, self._period_s) if options.pushes.impulse_n_s != 0.0 else None
        self._blocks = Blocks(options.blocks, self._period_s) if options.blocks.sides else None

    def sample(self, rng: np.random.Generator, plant: Plant | None) -> None:
        """First half of a reset: samples the robot and writes its model. The simulation's state is lost."""
        if self._next is not self.options:
            self._adopt(self._next)
        quantities, sensors, pushes, blocks = rng.spawn(4)
        self._streams = (pushes, blocks)
        self.sampled = sampled = self.options.sampled(quantities.random(N_SAMPLED).tolist())
        self.sensors.reset(sampled, sensors)
        self._dead_band = fixed(sampled.motor.dead_band_rad_s)
        x, _, z = self._nominal.body_ipos[BODY].tolist()
        self.balance_pitch_rad = -math.atan2(x + fixed(sampled.physics.com_offset_x_m), z + fixed(sampled.physics.com_offset_z_m))
        if plant is not None and self._own_model:
            write_model(plant, self._nominal, sampled)

    def place(self, plant: Plant) -> None:
        """Second half of a reset, at the start pose."""
        pushes, blocks = self._streams
        self._first = True
        if self.sampled.physics.ground_slope_rad:
            slope = fixed(self.sampled.physics.ground_slope_rad)
            plant.qpos[2] /= np.cos(slope)  # the wheels touch the slope beside, not below, the axle
        if self._pushes is not None:
            self._pushes.reset(pushes)
        if self._blocks is not None:
            self._blocks.reset(plant, self.sampled.blocks, blocks)

    def command(self, speed: float) -> float:
        """The wheel speed that the motor driver applies for a commanded one, rad/s."""
        return 0.0 if abs(speed) < self._dead_band else speed

    def before_physics(self, plant: Plant) -> None:
        """To be called once per control step, before its physics."""
        if self._pushes is not None:
            self._pushes.before_step(plant)
        if self._blocks is not None:
            self._blocks.before_step(plant)
        if self.sampled.battery.voltage_v is not None:
            self._limit_torque(plant)
        self._first = False

    def _limit_torque(self, plant: Plant) -> None:
        """Torque that battery and speed leave, see ``BatteryOptions``; current and speed are those of the step before."""
        battery = self.sampled.battery
        voltage, resistance = fixed(battery.voltage_v), fixed(battery.internal_resistance_ohm)
        nominal, no_load = fixed(battery.nominal_voltage_v), fixed(battery.no_load_speed_rad_s)
        motor = self.sampled.motor
        stall = self._nominal_limit if motor.torque_limit_nm is None else fixed(motor.torque_limit_nm)
        ranges = plant.model["actuator_forcerange"]
        # Before the first substep of an episode there is no force yet: the array still holds the one before.
        forces = (0.0, 0.0) if self._first else plant.actuator_force.tolist()
        current = sum(abs(force) for force in forces) / stall * fixed(battery.stall_current_a)
        terminal = max(0.0, voltage - resistance * current) / nominal
        for wheel, speed in enumerate(plant.qvel[6:8].tolist()):
            ranges[wheel, 0] = -min(stall, max(0.0, stall * (terminal + speed / no_load)))
            ranges[wheel, 1] = min(stall, max(0.0, stall * (terminal - speed / no_load)))
