"""Frames without a display."""

import numpy as np
import pytest

from balance_hil.envs.balance import make
from balance_hil.errors import DisplayMissingError


@pytest.fixture
def env():
    env = make("balance/Balance-v0", render_mode="rgb_array", width=160, height=90)
    env.reset(seed=0, options={"tilt_rad": 0.0})
    try:
        env.render()
    except DisplayMissingError as exc:
        pytest.skip(f"no headless OpenGL here: {exc.hint}")
    yield env
    env.close()


def robot_pixels(frame):
    """How much of the middle of the frame is as dark as tyres and plates; floor and sky are light."""
    return int(np.count_nonzero(frame[20:80, 50:110].max(axis=2) < 80))


def test_a_frame_shows_the_robot(env):
    frame = env.render()
    assert frame.shape == (90, 160, 3)
    assert frame.dtype == np.uint8
    assert robot_pixels(frame) > 100


def test_the_camera_follows(env):
    near = robot_pixels(env.render())
    env.unwrapped.data.qpos[:2] = (40.0, -25.0)
    assert robot_pixels(env.render()) == pytest.approx(near, rel=0.2)


def test_the_camera_does_not_tilt_with_the_robot(env):
    def sky(frame):
        return int(np.count_nonzero(frame[:, :, 2].astype(int) - frame[:, :, 0] > 30))

    level = sky(env.render())
    env.reset(seed=0, options={"tilt_rad": 0.6})
    assert sky(env.render()) == pytest.approx(level, rel=0.05)


def test_wheels_are_seen_to_turn(env):
    before = env.render().astype(int)
    env.unwrapped.data.qpos[7:9] += 0.5
    assert np.count_nonzero(np.abs(env.render() - before) > 40) > 10


def test_rendering_does_not_touch_the_episode(env):
    plain = make("balance/Balance-v0")
    plain.reset(seed=5)
    env.reset(seed=5)
    for _ in range(5):
        action = np.array([0.2, 0.1], np.float32)
        env.render()
        np.testing.assert_array_equal(env.step(action)[0], plain.step(action)[0])


def test_closing_twice_is_harmless_and_a_closed_one_renders_again(env):
    env.close()
    env.close()
    assert env.render().shape == (90, 160, 3)


def test_a_broken_opengl_is_named(monkeypatch):
    import mujoco.egl

    def broken(width, height):
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco.egl, "GLContext", broken)
    env = make("balance/Balance-v0", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(DisplayMissingError, match="EGL device"):
        env.render()
