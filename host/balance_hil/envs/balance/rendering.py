"""Pictures of the robot: frames without a display (EGL), or MuJoCo's viewer window."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import DisplayMissingError

CAMERA = "follow"
_VIEWER_PERIOD_S = 1 / 60


def require_display() -> None:
    """Raises DisplayMissingError when no window can be opened."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise DisplayMissingError(
            "a viewer window was asked for and there is no display (DISPLAY and WAYLAND_DISPLAY are unset)",
            "render without one: hil evaluate ppo --video run.mp4",
        )


class OffscreenView:
    """Renders the following camera to an array. Raises DisplayMissingError when OpenGL cannot be initialized."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        self._size = (width, height)
        self._context, self._gl = _open_context(model, width, height)
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        # Software rendering: frames come 4 to 7 times as fast without shadows and samples.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, CAMERA)

    def frame(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], top row first."""
        width, height = self._size
        self._gl.make_current()
        # mj_step leaves positions one substep behind the state.
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_camlight(self._model, data)
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


class ViewerWindow:
    """MuJoCo's interactive viewer, following the robot; redrawn at most 60 times a second.

    Raises DisplayMissingError when the window cannot be opened.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        import mujoco.viewer

        require_display()
        self._check_glfw()
        self._handle = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
        with self._handle.lock():
            camera = self._handle.cam
            camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            camera.trackbodyid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "robot")
            camera.distance, camera.azimuth, camera.elevation = 0.9, 125.0, -15.0
        self._next_s = 0.0

    def update(self) -> None:
        """Shows the present state; does nothing once the user has closed the window."""
        now_s = time.perf_counter()
        if now_s >= self._next_s and self._handle.is_running():
            self._next_s = now_s + _VIEWER_PERIOD_S
            self._handle.sync()

    def close(self) -> None:
        """Closes the window."""
        self._handle.close()

    @staticmethod
    def _check_glfw() -> None:
        # launch_passive initializes GLFW in a thread of its own and would hang if that fails there.
        import glfw

        if not glfw.init():
            raise DisplayMissingError("the display cannot be opened", "check DISPLAY, or render to a file: --video run.mp4")


def _open_context(model: mujoco.MjModel, width: int, height: int) -> tuple[mujoco.MjrContext, Any]:
    try:
        if sys.platform.startswith("linux") and not os.environ.get("MUJOCO_GL"):
            # mujoco picks its OpenGL when it is first imported, by default one that needs a display. EGL needs none.
            from mujoco.egl import GLContext
        else:
            from mujoco import GLContext
        gl = GLContext(width, height)
        gl.make_current()
        samples, model.vis.quality.offsamples = model.vis.quality.offsamples, 0
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        model.vis.quality.offsamples = samples
    except (ImportError, RuntimeError, AttributeError, mujoco.FatalError) as exc:
        raise DisplayMissingError(
            f"OpenGL cannot be initialized for headless frames ({str(exc).strip() or type(exc).__name__})",
            "install EGL: sudo apt-get install libegl1",
        ) from exc
    mujoco.mjr_resizeOffscreen(width, height, context)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return context, gl
