"""A MuJoCo model as simple solids, where its bodies are, and a blow to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.recording.foxglove import WORLD, Shape

MAX_GROUP = 2  # of geoms that MuJoCo's viewer shows
PLANE_M = 40.0  # edge of a plane without limits
THICKNESS_M = 0.001  # of a plane
_STATE = int(mujoco.mjtState.mjSTATE_QPOS | mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT)
_DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)


class MujocoScene:
    """The scene of an environment with ``model`` and ``data``; see ``recording.foxglove.Scene``. Meshes are left out.

    Positions are computed in data of its own: the environment's stays as it is, to the last bit.

    Args:
        robot: the environment. Where its ``model`` lacks what is only seen, ``visual_model`` has it, with the same bodies.
    """

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        model = robot.model
        self._model = model
        self._own = mujoco.MjData(model)
        self._size = mujoco.mj_stateSize(model, _STATE)
        mocap = model.body_mocapid[model.body_rootid] >= 0
        self._bodies = np.flatnonzero((model.body_weldid != 0) | mocap)
        names = [model.body(i).name or f"body {i}" for i in range(model.nbody)]
        self._frame = [names[i] if i in self._bodies else WORLD for i in range(model.nbody)]
        self.frames = [names[i] for i in self._bodies]
        self.shapes: dict[str, list[Shape]] = {}
        self._posed: NDArray[np.float64] | None = None  # the state of ``_poses``
        self._poses: list[float] = []

    def begin_episode(self) -> None:
        """Looks at the model again: an environment may change its geometry in ``reset``."""
        model = getattr(self._robot, "visual_model", self._robot.model)
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        shapes: dict[str, list[Shape]] = {}
        for geom in np.flatnonzero(model.geom_group <= MAX_GROUP).tolist():
            shapes.setdefault(self._frame[model.geom_bodyid[geom]], []).extend(self._solids(model, data, geom))
        shapes = {frame: solids for frame, solids in shapes.items() if solids}
        if shapes != self.shapes:
            self.shapes = shapes

    def state(self) -> NDArray[np.float64]:
        """What ``poses`` needs to know of this moment."""
        state = np.empty(self._size)
        mujoco.mj_getState(self._model, self._robot.data, state, _STATE)
        return state

    def poses(self, state: NDArray[np.float64]) -> list[float]:
        """Of each frame x y z (m) and w x y z, one after the other: [7 * n_frames]."""
        if state is not self._posed:  # a recording and a live page ask for the same ones
            mujoco.mj_setState(self._model, self._own, state, _STATE)
            mujoco.mj_kinematics(self._model, self._own)
            poses = np.concatenate((self._own.xpos[self._bodies], self._own.xquat[self._bodies]), axis=1)
            self._posed, self._poses = state, [float(value) for value in poses.ravel()]
        return self._poses

    def _solids(self, model: Any, data: Any, geom: int) -> Iterator[Shape]:
        """One geom, in the frame of its body or, of a body that does not move, in the world."""
        rgba = tuple(map(float, model.geom_rgba[geom]))
        if rgba == _DEFAULT_RGBA and model.geom_matid[geom] >= 0:
            rgba = tuple(map(float, model.mat_rgba[model.geom_matid[geom]]))
        if self._frame[model.geom_bodyid[geom]] == WORLD:
            position, turned = data.geom_xpos[geom], np.empty(4)
            mujoco.mju_mat2Quat(turned, data.geom_xmat[geom])
        else:
            position, turned = model.geom_pos[geom], model.geom_quat[geom]
        quaternion = tuple(map(float, turned))
        axis = np.empty(3)
        mujoco.mju_rotVecQuat(axis, np.array([0.0, 0.0, 1.0]), turned)

        def solid(kind: Any, size_m: tuple[float, ...], along_z_m: float = 0.0) -> Shape:
            return Shape(kind, tuple(map(float, position + along_z_m * axis)), quaternion, size_m, rgba)

        a, b, c = map(float, model.geom_size[geom])
        match mujoco.mjtGeom(model.geom_type[geom]):
            case mujoco.mjtGeom.mjGEOM_PLANE:
                yield solid("cubes", (2 * a or PLANE_M, 2 * b or PLANE_M, THICKNESS_M), -THICKNESS_M / 2)
            case mujoco.mjtGeom.mjGEOM_BOX:
                yield solid("cubes", (2 * a, 2 * b, 2 * c))
            case mujoco.mjtGeom.mjGEOM_SPHERE:
                yield solid("spheres", (2 * a, 2 * a, 2 * a))
            case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
                yield solid("spheres", (2 * a, 2 * b, 2 * c))
            case mujoco.mjtGeom.mjGEOM_CYLINDER:
                yield solid("cylinders", (2 * a, 2 * a, 2 * b))
            case mujoco.mjtGeom.mjGEOM_CAPSULE:
                yield solid("cylinders", (2 * a, 2 * a, 2 * b))
                yield solid("spheres", (2 * a, 2 * a, 2 * a), b)
                yield solid("spheres", (2 * a, 2 * a, 2 * a), -b)


def push(model: mujoco.MjModel, data: mujoco.MjData, velocity_m_s: Sequence[float]) -> None:
    """Changes the velocities as an impulse does: M dqvel = J^T p (MuJoCo's documentation, "Computation").

    Args:
        model, data: of the environment.
        velocity_m_s: [3], change of the velocity of the heaviest tree of bodies if it were free; p is this times its mass.
    """
    on_world = model.body_weldid[model.body_parentid] == 0
    roots = np.flatnonzero(on_world & (model.body_dofnum > 0)).tolist()
    if not roots:
        return
    root = max(roots, key=lambda body: model.body_subtreemass[body])
    mujoco.mj_fwdPosition(model, data)
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jac(model, data, jacobian, None, data.subtree_com[root], root)
    impulse = jacobian.T @ (model.body_subtreemass[root] * np.asarray(velocity_m_s, float))
    change = np.zeros((1, model.nv))
    mujoco.mj_solveM(model, data, change, impulse[np.newaxis])
    data.qvel[:] += change[0]
