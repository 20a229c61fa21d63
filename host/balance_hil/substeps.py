"""One control step of a MuJoCo environment with a call before each physics substep, so that an action takes effect in between.

The environment's own ``step`` computes observation, reward and ``info``; only the physics inside it is taken apart. Whether that
leaves every number as it was is checked when the environment is opened: see ``find_substeps``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

BeforeSubstep = Callable[[], NDArray[Any] | None]  # returns a new action of the environment, or None: the action stays

_CHECKED_STEPS = 4


class MujocoSubsteps:
    """Steps an environment with ``model``, ``data`` and ``frame_skip`` whose actuators apply the action unchanged.

    Two ways in: its ``do_simulation`` (Gymnasium's ``MujocoEnv``) is replaced for the time of the step; one with a loop of its
    own is reached by MuJoCo's control callback.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._robot = env.unwrapped
        self.substeps = int(self._robot.frame_skip)
        self.substep_s = float(self._robot.model.opt.timestep)

    def step(self, action: NDArray[Any], before_substep: BeforeSubstep) -> Any:
        """What ``env.step`` returns. Raises what ``before_substep`` raises."""
        changed = np.array(action)  # the environment's own: a control cost is taken from the action in force at the end
        with self._physics(changed, before_substep):
            return self._env.step(changed)

    @contextlib.contextmanager
    def _physics(self, action: NDArray[Any], before_substep: BeforeSubstep) -> Iterator[None]:
        def update() -> bool:
            new = before_substep()
            if new is not None:
                action[...] = new
            return new is not None

        if hasattr(self._robot, "do_simulation"):
            self._robot.do_simulation = self._simulation(action, update)
            try:
                yield
            finally:
                del self._robot.do_simulation
        else:
            with self._callback(action, update):
                yield

    def _simulation(self, action: NDArray[Any], update: Callable[[], bool]) -> Callable[[Any, int], None]:
        model, data = self._robot.model, self._robot.data

        def do_simulation(ctrl: Any, n_frames: int) -> None:
            if not np.array_equal(np.ravel(ctrl), np.ravel(action)):
                raise _OtherControlError
            for _ in range(n_frames):
                update()
                data.ctrl[:] = np.ravel(action)
                mujoco.mj_step(model, data)
            mujoco.mj_rnePostConstraint(model, data)

        return do_simulation

    @contextlib.contextmanager
    def _callback(self, action: NDArray[Any], update: Callable[[], bool]) -> Iterator[None]:
        data = self._robot.data
        calls_per_substep = 4 if self._robot.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 else 1
        calls, error = 0, None

        def control(_model: Any, _data: Any) -> None:
            nonlocal calls, error
            calls += 1
            if error is not None or (calls - 1) % calls_per_substep:
                return
            try:
                if calls == 1 and not np.array_equal(data.ctrl, np.ravel(action)):
                    raise _OtherControlError
                if update():
                    data.ctrl[:] = np.ravel(action)
            except BaseException as exc:  # an exception must not propagate through MuJoCo's C code
                error = exc

        mujoco.set_mjcb_control(control)
        try:
            yield
        finally:
            mujoco.set_mjcb_control(None)
        if error is not None:
            raise error
        if calls != self.substeps * calls_per_substep:
            raise _OtherControlError


class _OtherControlError(Exception):
    """The actuators do not take the action as it is, or the physics is not stepped ``frame_skip`` times."""


def find_substeps(env: Any) -> MujocoSubsteps | None:
    """The way to step ``env`` in substeps; None if there is none, or if it changes any number.

    A few steps are made in both ways and compared bit by bit; reset the environment afterwards.
    """
    robot = env.unwrapped
    parts = (getattr(robot, "model", None), getattr(robot, "data", None), getattr(robot, "frame_skip", None))
    if not (isinstance(parts[0], mujoco.MjModel) and isinstance(parts[1], mujoco.MjData) and isinstance(parts[2], int)):
        return None
    if parts[2] < 1 or not hasattr(env.action_space, "low"):
        return None
    stepper = MujocoSubsteps(env)
    try:
        plain = _trial(env, env.step)
        taken_apart = _trial(env, lambda action: stepper.step(action, lambda: None))
    except _OtherControlError:
        return None
    return stepper if plain == taken_apart else None


def _trial(env: Any, step: Callable[[NDArray[Any]], Any]) -> list[bytes]:
    """Results of a few steps, as bytes."""
    env.reset(seed=0)
    space, rng = env.action_space, np.random.default_rng(0)
    seen = []
    for _ in range(_CHECKED_STEPS):
        action = rng.uniform(space.low, space.high).astype(space.dtype)
        observation, reward, terminated, *_ = step(action)
        seen.append(np.asarray(observation).tobytes() + np.float64(reward).tobytes() + env.unwrapped.data.qpos.tobytes())
        if terminated:
            break
    return seen
