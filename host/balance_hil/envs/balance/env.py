"""The Gymnasium environment of the self-balancing robot."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.config import BalanceConfig, RewardWeights
from balance_hil.envs.balance.lqr import LqrConfig, limited_actor
from balance_hil.envs.balance.options import RobotOptions, options_between, options_from_dict
from balance_hil.envs.balance.plant import BLOCK, FLOOR, MODEL_FIELDS, Plant, load_model
from balance_hil.envs.balance.rendering import OffscreenView, ViewerWindow, require_display
from balance_hil.envs.balance.robot import Robot
from balance_hil.envs.balance.symmetry import Symmetry, symmetries_of
from balance_hil.envs.balance.task import N_ACT, N_OBS, WHEEL_LEFT, WHEEL_RIGHT, BalanceTask, Step, start_pose
from balance_hil.errors import UsageError
from balance_hil.metrics import Metric
from balance_hil.settings import settings_from_dict

Float32Array = NDArray[np.float32]


class BalanceEnv(gym.Env[Float32Array, Float32Array]):
    r"""A two-wheeled robot that has to stay upright on flat ground while it follows a speed and a yaw target.

    ## Action Space
    `Box(-1, 1, (2,), float32)`. An action changes the commanded speed of a wheel; the command is integrated, stays within
    8 rad/s of the measured speed and within 80 rad/s, and a velocity servo (0.2 Nm per rad/s, at most 0.3 Nm) follows it.

    | Num | Action                                   | Min | Max | 1.0 means | Joint       | Type (Unit)   |
    |-----|------------------------------------------|-----|-----|-----------|-------------|---------------|
    | 0   | change of the left wheel's speed command | -1  | 1   | 2 rad/s   | wheel_left  | speed (rad/s) |
    | 1   | change of the right wheel's speed command | -1  | 1   | 2 rad/s   | wheel_right | speed (rad/s) |

    ## Observation Space
    `Box(-1, 1, (6,), float32)`, clipped. White noise of 0.005 rad, 0.05 rad/s (gyroscope) and 0.15 rad/s (each wheel) is in the
    observation only.

    | Num | Observation                                            | Min | Max | 1.0 means | Joint       | Type (Unit)   |
    |-----|--------------------------------------------------------|-----|-----|-----------|-------------|---------------|
    | 0   | pitch, forward positive                                | -1  | 1   | 0.35 rad  | root        | angle (rad)   |
    | 1   | pitch rate                                             | -1  | 1   | 4 rad/s   | root        | speed (rad/s) |
    | 2   | speed of the left wheel                                | -1  | 1   | 80 rad/s  | wheel_left  | speed (rad/s) |
    | 3   | speed of the right wheel                               | -1  | 1   | 80 rad/s  | wheel_right | speed (rad/s) |
    | 4   | speed error: target minus mean wheel speed             | -1  | 1   | 60 rad/s  | both wheels | speed (rad/s) |
    | 5   | wheel-speed-difference error: target - (right - left)  | -1  | 1   | 40 rad/s  | both wheels | speed (rad/s) |

    ## Rewards
    With speed error $e$, wheel-speed-difference error $y$, action $a$, change of action $\Delta a$, pitch $p$, counted from the
    one at which the center of mass is over the axle, and the lean for the speed error, $l = clip(0.005 e, \pm 0.15)$, all of the
    true state, one step gives the sum of

    | Term        | Value                                                  |
    |-------------|--------------------------------------------------------|
    | alive       | $0.2$                                                  |
    | speed       | $0.15 / (1 + (e/5)^2) + 0.15 (1 - min(1, \|e\|/60))$   |
    | yaw         | $0.1 / (1 + (y/3)^2) + 0.1 (1 - min(1, \|y\|/40))$     |
    | lean        | $0.3 / (1 + ((p - l)/0.06)^2)$                         |
    | action_rate | $-0.2 \|\Delta a\|^2$                                  |
    | action_size | $-0.01 \|a\|^2$                                        |

    `info` has each term as `reward_<term>`, and `pitch_rad`, `speed_error_rad_s` and `wheel_speed_difference_error_rad_s`
    without noise.

    ## Starting State
    At rest, tilted by $\mathcal{U}(\pm 0.2)$ rad. The speed target is $\mathcal{U}(\pm 20)$ rad/s and the yaw target
    $\mathcal{U}(\pm 10)$ rad/s; both are resampled every $\mathcal{U}(1.5, 4.5)$ s.
    `reset(options={"tilt_rad": ..., "speed_target_rad_s": ..., "wheel_speed_difference_target_rad_s": ...})` fixes
    any of them; a fixed target holds for the whole episode.

    ## Episode End
    Termination: the pitch leaves +-50 degrees. Truncation: 6000 steps of 5 ms, 30 s.

    ## Arguments
    | Parameter         | Type                     | Default      | Description                                                |
    |-------------------|--------------------------|--------------|------------------------------------------------------------|
    | `environment`     | **str**                  | the id       | id, also written into `policy_spec`                        |
    | `config`          | **BalanceConfig**        | the id's own | physics, task, noise and reward                            |
    | `render_mode`     | **"human", "rgb_array"** | `None`       | MuJoCo's viewer at real speed, or frames without a display |
    | `width`, `height` | **int**                  | `960`, `540` | size of a frame, pixels                                    |
    | `options`         | **RobotOptions, dict**   | the id's own | deviations from the nominal robot, or each group by its name |
    | `end_out_of_range`| **bool**                 | `False`      | for training: also ends an episode when the speed error or |
    |                   |                          |              | the wheel-speed-difference error leaves its range          |
    | `fall_penalty`    | **float**                | `0`          | for training: taken from the reward of a fall              |
    | `reward`          | **dict**                 | `None`       | for training: other weights and widths, see `RewardWeights` |

    A control loop on the wall clock uses the halves of `step`: `apply_action`, `advance` by any number of physics substeps
    (5 in all), `finish_step`.

    ## Version History
    * v1: initial version.
    """

    policy_metrics = (
        Metric(name="speed_error_rms_rad_s", unit="rad/s", source="speed_error_rad_s", reduction="rms", better="lower"),
        Metric(
            name="wheel_speed_difference_error_rms_rad_s",
            unit="rad/s",
            source="wheel_speed_difference_error_rad_s",
            reduction="rms",
            better="lower",
        ),
        Metric(name="action_rate", unit="1", source="action_rate", better="lower"),
    )
    robustness_suite = Path(__file__).with_name("robustness.yaml")
    training_configs = Path(__file__).with_name("training")
    policy_designs = ("lqr",)
    policy_trace = ("pitch_rad", "speed_error_rad_s", "wheel_speed_difference_error_rad_s")
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 200}  # noqa: RUF012 - Gymnasium declares it as an instance attribute

    def __init__(
        self,
        environment: str = "balance/Balance-v0",
        config: BalanceConfig | None = None,
        render_mode: str | None = None,
        width: int = 960,
        height: int = 540,
        options: RobotOptions | Mapping[str, Any] | None = None,
        end_out_of_range: bool = False,
        fall_penalty: float = 0.0,
        reward: Mapping[str, float] | None = None,
        **groups: Mapping[str, Any],
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UsageError(f"unknown render mode {render_mode!r}", f"choose from {', '.join(self.metadata['render_modes'])}")
        if render_mode == "human":
            require_display()
        self.config = (config or config_for(environment)).with_options(groups or None if options is None else options)
        if end_out_of_range or fall_penalty:
            self.config = replace(self.config, end_out_of_range=end_out_of_range, fall_penalty=fall_penalty)
        if reward:
            weights = settings_from_dict(RewardWeights, {**asdict(self.config.reward), **reward}, "reward.")
            self.config = replace(self.config, reward=weights)
        self.environment = environment
        self.policy_spec = self.config.policy_spec(environment)
        self.physics_timestep_s = self.config.physics_timestep_s
        self.substeps = self.config.substeps_per_step
        self.control_period_s = self.config.control_period_s
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (N_OBS,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (N_ACT,), np.float32)
        self.render_mode = render_mode
        nominal = load_model(self.config, looks=render_mode is not None)
        self.robot = None if self.config.options.is_nominal else Robot(self.config.options, self.config, nominal)
        self.model = nominal if self.robot is None else copy.copy(nominal)
        self.data = mujoco.MjData(self.model)
        self._task = BalanceTask(self.config, self.robot)
        # Attribute access on MjData builds a new array each time; these views stay valid for its whole life.
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._plant = self._own_plant()
        self._frame_size = (width, height)
        self._offscreen: OffscreenView | None = None
        self._window: ViewerWindow | None = None
        self._next_frame_s = 0.0
        self._between_steps = True  # no physics yet since finish_step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Float32Array, dict[str, Any]]:
        """Starts an episode; the same seed gives the same episode.

        Raises:
            UsageError: an unknown option or a value out of range.
        """
        super().reset(seed=seed)
        self._between_steps = True
        tilt_rad = self._task.reset(self.np_random, options)
        if self.robot is not None:
            self.robot.sample(self.np_random, self._plant)
        mujoco.mj_resetData(self.model, self.data)
        self._qpos[:] = start_pose(self.model.qpos0, tilt_rad)
        if self.robot is not None:
            self.robot.place(self._plant)
        if self.render_mode is not None:
            mujoco.mj_fwdPosition(self.model, self.data)
            self._next_frame_s = time.perf_counter()
            if self.render_mode == "human":
                self.render()
        return self._task.observe(self._qpos.tolist(), self._qvel.tolist())

    def step(self, action: Float32Array) -> Step:
        """One control step of 5 ms.

        Raises:
            NonFiniteInputError: the action is NaN or infinite.
            SimulationDivergedError: the physics is no longer finite.
        """
        self.apply_action(action)
        self.advance(self.substeps)
        outcome = self.finish_step()
        if self.render_mode == "human":
            self._pace()
            self.render()
        return outcome

    def step_substeps(self, action: Float32Array | None, before_substep: Callable[[], Float32Array | None]) -> Step:
        """One control step with a call before each physics substep, which may return a new action.

        None holds: the wheel-speed command stays where it is. Raises what ``step`` and ``before_substep`` raise.
        """
        if action is not None:
            self.apply_action(action)
        for _ in range(self.substeps):
            new = before_substep()
            if new is not None:
                self.apply_action(new)
            self.advance(1)
        return self.finish_step()

    def failed(self, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> bool:
        """Whether the robot fell."""
        return terminated

    def excite(self, rng: np.random.Generator) -> dict[str, Any]:
        """Reset options that excite the plant: a steep start, and in half of the episodes far targets that hold."""
        options: dict[str, Any] = {"tilt_rad": rng.uniform(-0.35, 0.35)}
        # Twice the task's target: large errors, saturated actions.
        far = {
            "speed_target_rad_s": rng.uniform(-40.0, 40.0),
            "wheel_speed_difference_target_rad_s": rng.uniform(-20.0, 20.0),
        }
        return options | far if rng.random() < 0.5 else options

    @property
    def policy_targets(self) -> dict[str, tuple[float, float]]:
        """The targets that ``set_target`` moves, within the limits that they are sampled from."""
        c = self.config
        limits = {
            "speed_target_rad_s": c.speed_target_rad_s,
            "wheel_speed_difference_target_rad_s": c.wheel_speed_difference_target_rad_s,
        }
        return {name: (-limit, limit) for name, limit in limits.items()}

    def set_target(self, name: str, value: float) -> None:
        """Moves a target, in rad/s, until the end of the episode."""
        self._task.set_target(name, value)

    def far_start(self, rng: np.random.Generator) -> dict[str, float]:
        """Reset options of a training episode at high wheel speeds and large errors, where a push or a block takes the robot."""
        limits = {"tilt_rad": 0.35, "speed_target_rad_s": 45.0, "wheel_speed_difference_target_rad_s": 15.0}
        return {name: rng.uniform(-limit, limit) for name, limit in limits.items()}

    def options_between(self, start: Mapping[str, Any], end: Mapping[str, Any], share: float) -> RobotOptions:
        """Options on the way from ``start`` (share 0) to ``end`` (1), for a curriculum. Raises ConfigError."""
        nominal = config_for(self.environment).options
        easy, hard = (options_from_dict(each, nominal, "the curriculum") for each in (start, end))
        return options_between(easy, hard, share)

    @property
    def visual_model(self) -> mujoco.MjModel:
        """The model with everything that is only seen, for this episode's ground and block."""
        seen = copy.copy(load_model(self.config, looks=True))
        for name in (FLOOR, BLOCK):
            geom = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_GEOM, name)
            if geom >= 0:
                seen.geom(name).quat, seen.geom(name).size = self.model.geom_quat[geom], self.model.geom_size[geom]
        return seen

    @property
    def policy_symmetries(self) -> list[Symmetry]:
        """The robot's images of itself, see ``symmetry``."""
        return symmetries_of(self.policy_spec)

    def design_policy(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The policy ``lqr`` as dense layers, see ``limited_actor``. Raises ConfigError."""
        return limited_actor(settings_from_dict(LqrConfig, settings), self.config)

    def batch(self, n: int, n_threads: int) -> BalanceBatch:
        """``n`` episodes of this environment side by side."""
        return BalanceBatch(self.environment, n, n_threads, config=self.config)

    def apply_action(self, action: Sequence[float] | Float32Array) -> None:
        """Moves the wheel-speed command by one action, float [2]; the physics sees it from the next substep on."""
        qvel, ctrl = self._qvel, self._ctrl
        ctrl[0], ctrl[1] = self._task.apply_action(action, float(qvel[WHEEL_LEFT]), float(qvel[WHEEL_RIGHT]))

    def advance(self, n_substeps: int) -> None:
        """Advances the physics alone by ``n_substeps`` of ``physics_timestep_s``."""
        if self._between_steps and self.robot is not None:
            # Not in apply_action: a control step whose action is held has none, and is pushed all the same.
            self.robot.before_physics(self._plant)
            self._between_steps = False
        mujoco.mj_step(self.model, self.data, nstep=n_substeps)

    def finish_step(self) -> Step:
        """Ends the control step and returns what ``step`` returns."""
        self._between_steps = True
        return self._task.finish_step(self._qpos.tolist(), self._qvel.tolist())

    def render(self) -> NDArray[np.uint8] | None:
        """A frame, uint8 [height, width, 3], in mode rgb_array; None otherwise.

        Raises:
            DisplayMissingError: no window or no headless OpenGL can be had.
        """
        if self.render_mode == "rgb_array":
            if self._offscreen is None:
                self._offscreen = OffscreenView(self.model, *self._frame_size)
            return self._offscreen.frame(self.data)
        if self.render_mode == "human":
            if self._window is None:
                self._window = ViewerWindow(self.model, self.data)
            self._window.update()
        return None

    def close(self) -> None:
        """Closes window and OpenGL context; may be called twice."""
        for view in (self._offscreen, self._window):
            if view is not None:
                view.close()
        self._offscreen = self._window = None

    def _own_plant(self) -> Plant:
        model, data = self.model, self.data
        return Plant(
            data.qpos,
            data.qvel,
            data.xfrc_applied,
            data.actuator_force,
            {name: getattr(model, name) for name in MODEL_FIELDS},
            lambda: mujoco.mj_setConst(model, data),
        )

    def _pace(self) -> None:
        """Waits for the wall clock, so that a watched episode runs at real speed."""
        self._next_frame_s += self.control_period_s
        wait_s = self._next_frame_s - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        else:
            self._next_frame_s -= wait_s
