"""The physics of a robot that is not the nominal one: which model it needs, and the numbers of that model that are its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.options import NOMINAL, MotorOptions, RobotOptions, Uniform, fixed

Array = NDArray[Any]

BODY = 1  # the robot's chassis; its wheels follow
ROBOT_BODIES = slice(1, 4)
WHEEL_DOFS = slice(6, 8)
FLOOR = "floor"
BLOCK = "block"
BLOCK_QPOS = slice(9, 16)  # position, quaternion
BLOCK_QVEL = slice(8, 14)

# What differs between robots, of mujoco.MjModel. None of them changes the size of anything.
MODEL_FIELDS = (
    "body_mass",
    "body_inertia",
    "body_ipos",
    "body_gravcomp",
    "geom_friction",
    "geom_quat",
    "geom_size",
    "dof_armature",
    "dof_damping",
    "dof_frictionloss",
    "actuator_gainprm",
    "actuator_biasprm",
    "actuator_forcerange",
    "actuator_dynprm",
)


@dataclass(frozen=True, kw_only=True)
class ModelVariant:
    """What has to be compiled into the model; everything else is written into it later."""

    lag: bool = False  # the servo command passes a first-order filter
    slope: bool = False  # the floor may be turned
    block_size_m: float = 0.0  # edge of the largest block; 0: no blocks

    @classmethod
    def of(cls, options: RobotOptions) -> ModelVariant:
        """What ``options`` need."""
        size = options.blocks.size_m
        largest = size.high if isinstance(size, Uniform) else size
        return cls(
            lag=options.motor.lag_s != 0.0,
            slope=options.physics.ground_slope_rad != 0.0,
            block_size_m=largest if options.blocks.sides else 0.0,
        )

    def apply(self, spec: mujoco.MjSpec) -> None:
        """Changes a model that is not yet compiled."""
        if self.lag:
            for actuator in spec.actuators:
                actuator.dyntype = mujoco.mjtDyn.mjDYN_FILTEREXACT
                actuator.dynprm[0] = 0.01
                actuator.actearly = True
        if self.slope:
            # A floor that is level to the last bit is compiled as one that cannot be turned.
            spec.geom(FLOOR).quat = slope_quaternion(0.01)
        if self.block_size_m:
            _add_block(spec, self.block_size_m)


def read_model(name: str = "balance.xml") -> mujoco.MjSpec:
    """The robot as its MJCF file has it, not yet compiled."""
    return mujoco.MjSpec.from_string((resources.files("balance_hil.envs.balance") / "assets" / name).read_text())


@cache
def load_model(config: BalanceConfig, looks: bool) -> mujoco.MjModel:
    """The compiled MuJoCo model of a configuration and of what its options need. Shared: treat it as read-only.

    Without ``looks`` everything that is only seen is left out, which makes a step a sixth faster and changes no number.
    """
    spec = read_model(config.model)
    spec.compiler.discardvisual = not looks
    spec.option.timestep = config.physics_timestep_s
    ModelVariant.of(config.options).apply(spec)
    return spec.compile()


@dataclass(frozen=True)
class Plant:
    """Views of one simulation, of a ``MjData`` or of a row of a ``mujoco.batch.Batch``."""

    qpos: Array
    qvel: Array
    xfrc_applied: Array  # float64 [n_bodies, 6], force and torque in world axes
    actuator_force: Array  # float64 [2], of the latest substep
    model: Mapping[str, Array]  # MODEL_FIELDS
    set_const: Callable[[], None]  # recomputes what MuJoCo derives from MODEL_FIELDS; spoils the state


def needs_own_model(options: RobotOptions) -> bool:
    """Whether the model's numbers differ from the shared model's."""
    different = options.physics != NOMINAL.physics or options.motor != NOMINAL.motor
    return different or options.battery.voltage_v is not None or bool(options.blocks.sides)


def write_model(plant: Plant, nominal: mujoco.MjModel, sampled: RobotOptions) -> None:
    """Writes the sampled physics and motor into the plant's model."""
    physics, values = sampled.physics, plant.model
    scale = fixed(physics.mass_scale)
    values["body_mass"][ROBOT_BODIES] = nominal.body_mass[ROBOT_BODIES] * scale
    values["body_inertia"][ROBOT_BODIES] = nominal.body_inertia[ROBOT_BODIES] * scale
    values["body_ipos"][BODY, 0] = nominal.body_ipos[BODY, 0] + fixed(physics.com_offset_x_m)
    values["body_ipos"][BODY, 2] = nominal.body_ipos[BODY, 2] + fixed(physics.com_offset_z_m)
    if physics.friction is not None:
        # MuJoCo takes the larger coefficient of the two that touch.
        for geom in _ground_geoms(nominal):
            values["geom_friction"][geom, 0] = fixed(physics.friction)
    if physics.ground_slope_rad:
        values["geom_quat"][_geom(nominal, FLOOR)] = slope_quaternion(fixed(physics.ground_slope_rad))
    elif not np.array_equal(nominal.geom_quat[_geom(nominal, FLOOR)], (1.0, 0.0, 0.0, 0.0)):
        values["geom_quat"][_geom(nominal, FLOOR)] = (1.0, 0.0, 0.0, 0.0)
    write_motor(values, nominal, sampled.motor, WHEEL_DOFS)
    if nominal.nq > BLOCK_QPOS.start:
        # A block that was in the air has none. mj_setConst counts the bodies that have, and looks at no other from then on.
        values["body_gravcomp"][-1] = 1.0
    if sampled.blocks.sides:
        _write_block(values, nominal, fixed(sampled.blocks.mass_kg), fixed(sampled.blocks.size_m))
    plant.set_const()


def slope_quaternion(slope_rad: float) -> tuple[float, float, float, float]:
    """Of ground that rises in the direction of x."""
    return math.cos(slope_rad / 2), 0.0, -math.sin(slope_rad / 2), 0.0


def write_motor(values: Mapping[str, Array], nominal: mujoco.MjModel, motor: MotorOptions, wheel_dofs: slice) -> None:
    """Writes sampled motor data into a model's numbers; ``wheel_dofs`` are the wheels' degrees of freedom."""
    if motor.armature_kg_m2 is not None:
        values["dof_armature"][wheel_dofs] = fixed(motor.armature_kg_m2)
    if motor.damping_nm_s_rad is not None:
        values["dof_damping"][wheel_dofs] = fixed(motor.damping_nm_s_rad)
    if motor.torque_limit_nm is not None:
        values["actuator_forcerange"][:] = (-fixed(motor.torque_limit_nm), fixed(motor.torque_limit_nm))
    nominal_gain = float(nominal.actuator_gainprm[0, 0])
    gain = nominal_gain if motor.servo_gain_nm_s_rad is None else fixed(motor.servo_gain_nm_s_rad)
    gain *= fixed(motor.servo_gain_scale)
    values["actuator_gainprm"][:, 0] = gain
    values["actuator_biasprm"][:, 2] = -gain
    values["dof_frictionloss"][wheel_dofs] = fixed(motor.dry_friction_nm)
    if nominal.na:
        values["actuator_dynprm"][:, 0] = fixed(motor.lag_s)


def _write_block(values: Mapping[str, Array], nominal: mujoco.MjModel, mass_kg: float, size_m: float) -> None:
    body = mujoco.mj_name2id(nominal, mujoco.mjtObj.mjOBJ_BODY, BLOCK)
    values["body_mass"][body] = mass_kg
    values["body_inertia"][body] = cube_inertia(mass_kg, size_m)
    values["geom_size"][_geom(nominal, BLOCK)] = size_m / 2


def cube_inertia(mass_kg: float, size_m: float) -> tuple[float, float, float]:
    """Of a solid cube about its center, kg m2."""
    inertia = mass_kg * size_m * size_m / 6
    return inertia, inertia, inertia


def _add_block(spec: mujoco.MjSpec, size_m: float) -> None:
    # Bit 1 is wheels and ground, bit 2 is blocks: the chassis is hit by blocks and by nothing else, so that a falling robot's
    # chassis passes through the ground as it does without blocks.
    robot = spec.body("robot")
    robot.add_geom(
        name="chassis",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.032, 0.062, 0.058],
        pos=[0.0, 0.0, 0.0605],
        mass=0.0,
        group=3,
        contype=2,
        conaffinity=2,
    )
    for wheel in ("wheel_left", "wheel_right"):
        spec.geom(wheel).contype = spec.geom(wheel).conaffinity = 3
    block = spec.worldbody.add_body(name=BLOCK, pos=[0.0, 0.0, 5.0], mass=0.02, inertia=cube_inertia(0.02, size_m))
    block.explicitinertial = True
    block.gravcomp = 1.0
    block.add_freejoint(name=BLOCK)
    block.add_geom(
        name=BLOCK,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[size_m / 2] * 3,
        mass=0.0,
        rgba=[0.83, 0.24, 0.18, 1.0],
        contype=3,
        conaffinity=3,
    )


def _geom(model: mujoco.MjModel, name: str) -> int:
    return int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name))


def _ground_geoms(model: mujoco.MjModel) -> list[int]:
    return [_geom(model, name) for name in (FLOOR, "wheel_left", "wheel_right")]
