"""Draws docs/pictures/envs/ID.png, a strip of frames of each environment: ``python docs/draw_environments.py``.

Names of environments as arguments draw those alone. The robot is driven by models/ppo; every frame is rendered without a
display. Seeds are fixed, so a strip changes only when the environment or the policy does.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from balance_hil.bundle import Bundle
from balance_hil.envs import balance as envs
from balance_hil.runtimes import load_runtime

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures" / "envs"
WIDTH, HEIGHT = 300, 225
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Strip:
    """Which frames of an environment show what it is about."""

    frames: tuple[tuple[int, int], ...]  # (seed, control step)
    caption: Callable[[Any, dict[str, Any], NDArray[np.float32], int], str]  # env, info, observation, step


def _degrees(rad: float) -> str:
    return f"{math.degrees(rad):+.1f}°"


def _targets(env: Any, info: dict[str, Any], observation: NDArray[np.float32], step: int) -> str:
    left, right = env.data.qvel[6:8]
    speed, yaw = info["speed_error_rad_s"] + (left + right) / 2, info["wheel_speed_difference_error_rad_s"] + right - left
    return f"{step * env.control_period_s:.2f} s, pitch {_degrees(info['pitch_rad'])}\ntargets {speed:+.0f}, {yaw:+.0f} rad/s"


def _sensors(env: Any, info: dict[str, Any], observation: NDArray[np.float32], step: int) -> str:
    return f"{step * env.control_period_s:.2f} s, pitch {_degrees(info['pitch_rad'])}\nmeasured {_degrees(observation[0] * 0.35)}"


def _physics(env: Any, info: dict[str, Any], observation: NDArray[np.float32], step: int) -> str:
    physics = env.robot.drawn.physics
    return (
        f"mass {physics.mass_scale:.2f}, friction {physics.friction:.2f}\n"
        f"slope {_degrees(physics.ground_slope_rad)}, gain {env.robot.drawn.motor.servo_gain_scale:.2f}"
    )


def _block(env: Any, info: dict[str, Any], observation: NDArray[np.float32], step: int) -> str:
    mass, edge = env.robot.drawn.blocks.mass_kg, env.robot.drawn.blocks.size_m
    return (
        f"{step * env.control_period_s:.2f} s, pitch {_degrees(info['pitch_rad'])}\nblock {mass * 1e3:.0f} g, {edge * 1e3:.0f} mm"
    )


def _wheels(env: Any, info: dict[str, Any], observation: NDArray[np.float32], step: int) -> str:
    left, right = info["wheel_speed_rad_s"]
    return f"{step * env.control_period_s:.2f} s\nwheels {left:+.0f}, {right:+.0f} rad/s"


STRIPS = {
    "balance/Balance-v0": Strip(tuple((3, step) for step in (0, 12, 30, 80, 400)), _targets),
    "balance/BalanceNoisy-v0": Strip(tuple((3, step) for step in (0, 12, 30, 80, 400)), _sensors),
    "balance/BalanceTargets-v0": Strip(tuple((1, step) for step in (0, 300, 900, 1200, 1500)), _targets),
    "balance/BalanceRandomized-v0": Strip(tuple((seed, 100) for seed in (0, 1, 2, 3, 4)), _physics),
    "balance/BalanceBlocks-v0": Strip((), _block),
    "balance/BalanceBlocksFrontBack-v0": Strip((), _block),
    "balance/MotorStand-v0": Strip(tuple((0, step) for step in (0, 10, 40, 300, 600)), _wheels),
}


def draw(environment: str, act: Act) -> Path:
    """Draws one strip; returns its file."""
    strip = STRIPS[environment]
    frames = strip.frames or _flight(environment, act)
    pictures = []
    for seed in dict.fromkeys(seed for seed, _ in frames):
        pictures += _episode(environment, act, seed, [step for s, step in frames if s == seed], strip)
    figure = Figure(figsize=(len(pictures) * WIDTH / 150, HEIGHT / 150 + 0.42))
    for index, (pixels, caption) in enumerate(pictures):
        axes = figure.add_axes((index / len(pictures) + 0.002, 0.21, 1 / len(pictures) - 0.004, 0.79))
        axes.imshow(pixels, aspect="auto")
        axes.set_axis_off()
        figure.text((index + 0.5) / len(pictures), 0.19, caption, ha="center", va="top", fontsize=7)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / (environment.removeprefix("balance/").removesuffix("-v0") + ".png")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150)
    with Image.open(buffer) as image:  # a third of the bytes, and nobody sees the difference
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _episode(environment: str, act: Act, seed: int, steps: list[int], strip: Strip) -> list[tuple[NDArray[np.uint8], str]]:
    env: Any = envs.make(environment, render_mode="rgb_array", width=WIDTH, height=HEIGHT).unwrapped
    observation, info = env.reset(seed=seed)
    pictures = []
    for step in range(max(steps) + 1):
        if step in steps:
            pictures.append((env.render(), strip.caption(env, info, observation, step)))
        observation, _, _, _, info = env.step(act(observation))
    env.close()
    return pictures


def _flight(environment: str, act: Act) -> tuple[tuple[int, int], ...]:
    """Frames of the first two blocks of an episode that both hit: in the air, at the hit and after it."""
    for seed in range(20):
        flights = _hits(environment, act, seed)
        if len(flights) == 2:
            (first, first_hit), (second, second_hit) = flights
            return tuple((seed, step) for step in (first + 8, first_hit, first_hit + 20, (second + second_hit) // 2, second_hit))
    raise SystemExit(f"no two blocks in a row hit in {environment}")


def _hits(environment: str, act: Act, seed: int) -> list[tuple[int, int]]:
    """(thrown, hit), control steps, of each of the first two blocks that hits."""
    env: Any = envs.make(environment).unwrapped
    block = env.model.nbody - 1
    observation, _ = env.reset(seed=seed)
    thrown, hits = [], {}
    for step in range(1, 1200):
        parked = env.data.qpos[11] == 5.0
        observation = env.step(act(observation))[0]
        if parked and env.data.qpos[11] != 5.0:
            thrown.append(step)
        pairs = env.model.geom_bodyid[env.data.contact.geom].tolist() if env.data.ncon else []
        if thrown and any(block in pair and 0 not in pair for pair in pairs):
            hits.setdefault(thrown[-1], step)
        if len(thrown) > 2:
            break
    return [(start, hits[start]) for start in thrown[:2] if start in hits]


def main() -> None:
    """Draws the strips that the command line names, or all."""
    with load_runtime("tflm", Bundle.load(ROOT / "models" / "ppo")) as policy:
        for environment in sys.argv[1:] or STRIPS:
            act: Act = (
                policy.act if environment != envs.MOTOR_STAND else lambda observation: np.array([0.5, -0.5, 1.0], np.float32)
            )
            sys.stdout.write(f"{draw(environment, act)}\n")


if __name__ == "__main__":
    main()
