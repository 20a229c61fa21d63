"""The robot on a stand: wheels in the air, to record how the wheel servos answer to steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance.config import SensorNoise, scaled_spec
from balance_hil.envs.balance.options import N_SAMPLED, NOMINAL, RobotOptions, fixed, options_from_dict
from balance_hil.envs.balance.plant import MODEL_FIELDS, read_model, write_motor
from balance_hil.envs.balance.rendering import OffscreenView
from balance_hil.envs.balance.task import checked_reset_options
from balance_hil.errors import ConfigError, NonFiniteInputError, SimulationDivergedError, UsageError
from balance_hil.spec import PolicySpec

MOTOR_STAND = "balance/MotorStand-v0"
N_OBS, N_ACT = 2, 3
_WHEELS = slice(0, 2)
_STAND_M = 0.08
MAX_LOAD_KG_M2 = 0.01
_OPTION_GROUPS = ("motor", "sensors")
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MotorStandConfig:
    """Physics and sensors of the stand. The physics step is short, because a bare wheel answers within a millisecond."""

    model: str = "balance.xml"
    physics_timestep_s: float = 0.00005
    substeps_per_step: int = 20
    command_scale_rad_s: float = 80.0  # commanded wheel speed at action 1
    wheel_speed_scale_rad_s: float = 100.0  # observation 1.0 means this much
    noise: SensorNoise = field(default_factory=SensorNoise)
    options: RobotOptions = NOMINAL

    @property
    def control_period_s(self) -> float:
        """Time between two samples."""
        return self.physics_timestep_s * self.substeps_per_step

    def policy_spec(self, environment: str) -> PolicySpec:
        """Signal tables."""
        speed, command = self.wheel_speed_scale_rad_s, self.command_scale_rad_s
        sides = ("left", "right")
        speeds = [(f"wheel_{side}_speed", "rad/s", speed, f"turn the {side} wheel forward") for side in sides]
        commands = [(f"wheel_{side}_speed_command", "rad/s", command, f"the {side} wheel turns forward") for side in sides]
        return scaled_spec(
            environment,
            speeds,
            [*commands, ("drive", "1", 1.0, "")],
            self.control_period_s,
        )


@cache
def _load_model(config: MotorStandConfig, looks: bool) -> mujoco.MjModel:
    spec = read_model(config.model)
    spec.compiler.discardvisual = not looks
    spec.option.timestep = config.physics_timestep_s
    robot = spec.body("robot")
    spec.delete(robot.first_joint())
    robot.pos[2] += _STAND_M
    if looks:
        robot.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, 0.03, 0.035], pos=[0, 0, -0.07], rgba=[0.45, 0.47, 0.5, 1], mass=0
        )
    return spec.compile()


class MotorStandEnv(gym.Env[Float32Array, Float32Array]):
    r"""``balance/MotorStand-v0``: motor calibration.

    The robot is held on a stand, its wheels turn freely, their step response is recorded.

    There is nothing to learn here: the reward is 0 and an episode never terminates. `hil identify` finds the motor's parameters
    in a step response, which `--record` makes with this environment, or in a recording of a real robot.

    ## Action Space
    `Box(-1, 1, (3,), float32)`: absolute commands, not changes as in the balance environments.

    | Num | Action                                  | Min | Max | 1.0 means | Joint       | Type (Unit)   |
    |-----|-----------------------------------------|-----|-----|-----------|-------------|---------------|
    | 0   | commanded speed of the left wheel       | -1  | 1   | 80 rad/s  | wheel_left  | speed (rad/s) |
    | 1   | commanded speed of the right wheel      | -1  | 1   | 80 rad/s  | wheel_right | speed (rad/s) |
    | 2   | drive: 0 and above the servos are on, below both motors coast | -1 | 1 | | both        | switch        |

    ## Observation Space
    `Box(-1, 1, (2,), float32)`, clipped, with white noise of 0.15 rad/s.

    | Num | Observation                | Min | Max | 1.0 means | Joint       | Type (Unit)   |
    |-----|----------------------------|-----|-----|-----------|-------------|---------------|
    | 0   | speed of the left wheel    | -1  | 1   | 100 rad/s | wheel_left  | speed (rad/s) |
    | 1   | speed of the right wheel   | -1  | 1   | 100 rad/s | wheel_right | speed (rad/s) |

    ## Starting State
    At rest. `reset(options={"load_kg_m2": ...})` fastens a disc of that inertia to each wheel: without two different loads a
    step response determines the motor's parameters only up to a common factor.

    ## Episode End
    Truncation: 6000 steps of 1 ms, 6 s.

    ## Arguments
    | Parameter     | Type                   | Default      | Description                                                      |
    |---------------|------------------------|--------------|------------------------------------------------------------------|
    | `environment` | **str**                | the id       | id                                                               |
    | `options`     | **RobotOptions, dict** | nominal      | motor and sensor noise of the robot on the stand                 |
    | `render_mode` | **"rgb_array"**        | `None`       | frames without a display                                         |

    ## Version History
    * v1: initial version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1000}  # noqa: RUF012 - Gymnasium declares it as an instance attribute

    def __init__(
        self,
        environment: str = MOTOR_STAND,
        config: MotorStandConfig | None = None,
        render_mode: str | None = None,
        width: int = 960,
        height: int = 540,
        options: RobotOptions | Mapping[str, Any] | None = None,
        **groups: Any,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UsageError(f"unknown render mode {render_mode!r}", f"choose from {', '.join(self.metadata['render_modes'])}")
        self.config = config or MotorStandConfig()
        self.options = _checked(options or groups or self.config.options)
        self.policy_spec = self.config.policy_spec(environment)
        self.control_period_s = self.config.control_period_s
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (N_OBS,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (N_ACT,), np.float32)
        self.render_mode = render_mode
        self._nominal = _load_model(self.config, render_mode is not None)
        self.model = copy.copy(self._nominal)
        self.data = mujoco.MjData(self.model)
        self._noise_rad_s = 0.0
        self._frame_size = (width, height)
        self._view: OffscreenView | None = None

    @property
    def visual_model(self) -> mujoco.MjModel:
        """The model with everything that is only seen."""
        return _load_model(self.config, looks=True)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Float32Array, dict[str, Any]]:
        """Starts a recording. Raises UsageError on an unknown option or a load out of range."""
        super().reset(seed=seed)
        load = checked_reset_options(options or {}, {"load_kg_m2": (0.0, MAX_LOAD_KG_M2)}).get("load_kg_m2", 0.0)
        sampled = self.options.sampled(self.np_random.random(N_SAMPLED).tolist())
        values = {name: getattr(self.model, name) for name in MODEL_FIELDS}
        for name, value in values.items():  # the episode before left its load, and perhaps motors that coast
            value[:] = getattr(self._nominal, name)
        write_motor(values, self._nominal, sampled.motor, _WHEELS)
        self.model.dof_armature[_WHEELS] += load
        self._limit = self.model.actuator_forcerange.copy()
        self._noise_rad_s = self.config.noise.wheel_speed_rad_s * fixed(sampled.sensors.encoder_noise_scale)
        mujoco.mj_setConst(self.model, self.data)
        mujoco.mj_resetData(self.model, self.data)
        return self._observe()

    def step(self, action: Float32Array) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """One sample of 1 ms. Raises NonFiniteInputError, SimulationDivergedError, UsageError."""
        values = np.asarray(action, np.float64).reshape(-1)
        if values.size != N_ACT:
            raise UsageError(f"an action has {N_ACT} elements, this one has {values.size}", "see its table: docs/environments.md")
        if not np.isfinite(values).all():
            raise NonFiniteInputError(f"the action is not finite: {values.tolist()}", "check what commands the motors")
        left, right, drive = np.clip(values, -1.0, 1.0)
        self.data.ctrl[:] = (left * self.config.command_scale_rad_s, right * self.config.command_scale_rad_s)
        self.model.actuator_forcerange[:] = self._limit if drive >= 0.0 else 0.0
        mujoco.mj_step(self.model, self.data, nstep=self.config.substeps_per_step)
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """A frame, uint8 [height, width, 3], in mode rgb_array. Raises DisplayMissingError."""
        if self.render_mode is None:
            return None
        if self._view is None:
            self._view = OffscreenView(self.model, *self._frame_size)
        return self._view.frame(self.data)

    def close(self) -> None:
        """Closes the OpenGL context; may be called twice."""
        if self._view is not None:
            self._view.close()
        self._view = None

    def _observe(self) -> tuple[Float32Array, dict[str, Any]]:
        true = self.data.qvel[_WHEELS]
        if not np.isfinite(true).all():
            raise SimulationDivergedError(f"the simulation diverged: wheel speeds {true.tolist()}", "check the motor's options")
        measured = true + self._noise_rad_s * self.np_random.standard_normal(2)
        scaled = np.clip(measured / self.config.wheel_speed_scale_rad_s, -1.0, 1.0).astype(np.float32)
        torque = self.data.actuator_force.tolist()
        return scaled, {"wheel_speed_rad_s": true.tolist(), "measured_rad_s": measured.tolist(), "torque_nm": torque}


def _checked(options: RobotOptions | Mapping[str, Any]) -> RobotOptions:
    """Options that mean something on a stand. Raises ConfigError."""
    checked = options if isinstance(options, RobotOptions) else options_from_dict(options)
    for group in fields(RobotOptions):
        if group.name not in _OPTION_GROUPS and getattr(checked, group.name) != getattr(NOMINAL, group.name):
            raise ConfigError(
                f"options of {group.name!r} do nothing to a robot on a stand ({MOTOR_STAND})",
                f"leave them out; it takes {' and '.join(_OPTION_GROUPS)}",
            )
    if checked.motor.lag_s != 0.0 or checked.motor.dead_band_rad_s != 0.0:
        raise ConfigError(f"{MOTOR_STAND} has no lag_s and no dead_band_rad_s", "leave them out")
    return checked
